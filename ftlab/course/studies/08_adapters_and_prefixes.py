"""Claims of lab 08_adapters_and_prefixes and how a study measures them, one seed at a time.

The task is a *house style*: the prompt asks for a story with a coloured object, and every answer is to have a brave fox,
the mill, Otto as the helper and a happy ending as well, which no prompt says. Settings, rates and margins were fixed
after pilots on seed 101, which no study uses. Runs that serve several claims are made once a seed.

What the pilots tried, base-small, AdamW, 150 steps of 2,048 tokens (15 to 25 s), scores of greedy answers:
- the house style: base 0.01; P-tuning v2 with 16 virtual tokens 0.73 at rate 0.1, 0.97 at 0.3, 0.81 at 1; at 0.3 with 1
  virtual token 0.67, with 64 of them 0.99, from a random start 0.74; with the MLP 0.82 at 0.003, 0.73 at 0.01, 0.58 at
  0.03; prompt tuning 0.80 at 0.1, 0.72 at 0.3, 0.45 at 1; adapters 0.90 at 0.003, 0.91 at 0.01, 0.88 at 0.03. Scores fall
  in steps: kind, trait and helper are met together or not at all, by the template that greedy decoding falls into;
- classify the ending, which the base answered in pretraining, as a question of another form: P-tuning v2 1.00, adapters
  1.00. The base-small before today's (two layers, fewer questions) could not tell endings, and there P-tuning v2 stayed at
  chance while adapters reached 0.95: so what a prefix "can learn" is what its base can do;
- logs of ships, of which the base has read none (loss 11.1): full fine-tuning 1.60, adapters 2.97, P-tuning v2 4.46 at 0.1,
  3.47 at 0.3, 3.62 at 1. No method writes a log to the letter in 150 steps, so the loss is what is compared.
What the start matters, the rate hides: on write with the base of two layers, training losses ended at 0.58 (random) and 0.70
(real prompt) at rate 0.01, where full fine-tuning is at home, and at 0.51 for both at 0.1 and 0.3.
"""

import dataclasses
import functools
import random
import statistics

from ftlab.course.studies import Once, rounded
from ftlab.measure.claims import Claim

LAB = "08_adapters_and_prefixes"
BASE = "base-small"
STYLES = {"fox": {"kind": "fox", "trait": "brave", "place": "mill", "helper": "Otto", "ending": "happy"},
          "owl": {"kind": "owl", "trait": "shy", "place": "beach", "helper": "Nora", "ending": "sad"}}  # fmt: skip
EXAMPLES, STEPS, TOKENS_PER_BATCH = 1500, 150, 2048
VALIDATION, JUDGED = 100, 200  # examples that choose a rate; held-out tasks that judge
LENGTH = 16
RATES = {"ptuning": (0.1, 0.3, 1.0), "prompt": (0.1, 0.3, 1.0),  # C39, X08: each method at its own best of three
         "adapter": (0.01, 0.02, 0.04)}  # fmt: skip
RATE = {"ptuning": 0.3, "prefix": 0.01, "prompt": 0.3, "adapter": 0.01}  # where only one rate is run
LENGTHS = (1, 4, 16, 64)  # C40
STARTS = 3  # C41: random starts a seed
BOTTLENECK = 16
LOGS, LOGS_LENGTH = "logs", 33  # X08: ships' logs to write, the second domain; virtual tokens, as many numbers as adapters
SWAP_STEPS, SWAP_ASKED = 60, 20  # C42


# -- the task

def house_tasks(style, count, seed, split="train"):
    """`count` tasks of the family "write": the instruction names object and colour, the response has the house style.

    style: a name in STYLES. The stories are the generator's, told again with the style's facts; the split is that of
    the new facts.
    """
    return list(_house_tasks(style, tuple(STYLES[style].items()), count, seed, split))


@functools.lru_cache(maxsize=12)
def _house_tasks(style, facts, count, seed, split):
    from ftlab.world import World
    from ftlab.world.families import Task, write_instruction

    world, wanted, tasks_ = World("rich"), dict(facts), []
    rng = random.Random(f"house/{style}/{seed}/{split}")
    for story in _stories(world, f"house/{style}/{seed}"):
        facts = story.facts
        rivals = (facts.ending != wanted["ending"], facts.hero == wanted["helper"],
                  facts.helper_kind == wanted["kind"], facts.place2 == wanted["place"])  # fmt: skip
        if any(rivals) or facts.object is None or facts.colour is None:
            continue
        (facts, templates, _), *_ = world.derivations(story.text)
        facts = dataclasses.replace(facts, **{role: value for role, value in wanted.items()
                                              if getattr(facts, role) is not None})
        if world.split_of(facts) != split:
            continue
        asked = {"object": facts.object, "colour": facts.colour}
        tasks_.append(Task("write", write_instruction(world, asked, rng), "", world.tell(facts, templates), facts,
                           asked | wanted, world.name))
        if len(tasks_) == count:
            return tasks_


def _stories(world, seed):
    chunk = 0
    while True:
        yield from world.sample(400, f"{seed}/{chunk}", "all")
        chunk += 1


def family_tasks(family, count, seed, split="train"):
    """Tasks of one of the five families, of a house style ("fox", "owl"), or LOGS."""
    from ftlab.world import World, tasks

    if family in STYLES:
        return house_tasks(family, count, seed, split)
    if family == LOGS:
        return tasks.make(World("harbour"), "write", count, seed, split)
    return tasks.make(World("rich"), family, count, seed, split)


def example_ids(tokenizer, family="fox"):
    """Ids of a solved example, the shortest of forty: the real prompt from whose KV cache a prefix starts."""
    from ftlab.tune import sft

    made = sft.make_rows(family_tasks(family, 40, "start"), tokenizer)
    return min((ids for ids, _ in made), key=len)


# -- training and judging

def tuned(method, seed, report, family="fox", rate=None, length=LENGTH, start="example", steps=STEPS, start_seed=0,
          callbacks=(), evaluate=None, eval_every=None, examples=EXAMPLES):
    """(model, tokenizer, History) of a run of `method` from BASE; start: "example" or "random"."""
    import torch

    from ftlab.train import train
    from ftlab.tune import attach, sft
    from ftlab.tune.bases import lab_base

    model, tokenizer = lab_base(BASE)
    torch.manual_seed(1000 * seed + start_seed)
    if method == "adapter":
        attach(model, method, bottleneck_size=BOTTLENECK)
    elif method == "full":
        attach(model, method)
    else:
        ids = example_ids(tokenizer, family) if start == "example" else None
        attach(model, method, num_virtual_tokens=length, init_ids=ids)
    rows = sft.make_rows(family_tasks(family, examples, f"{LAB}/{seed}"), tokenizer)
    batches = sft.make_batches(rows, tokenizer, TOKENS_PER_BATCH, seed)
    config = sft.plan(steps, lr=sft.rate(model, rate or RATE[method]), optimizer="adamw", seed=seed, eval_every=eval_every)
    what = f"{method}, {family}, rate {config.lr:g}" + ("" if method in ("adapter", "full") else f", length {length}")
    history = train(model, batches, config, evaluate=evaluate, callbacks=[told(report, what), *callbacks])
    return model, tokenizer, history


def told(report, what):
    """A callback that says where a run is, now and then."""
    def callback(event):
        if event["kind"] == "step" and event["step"] % 25 == 0:
            report(f"{what}: step {event['step']} of {event['steps']}, loss {event['loss']:.3f}")

    return callback


def asked_of(family, seed, count=JUDGED):
    """Held-out tasks that judge."""
    return family_tasks(family, count, f"{LAB}/held out/{seed}", "test")


def judge(model, tokenizer, family, seed, count=JUDGED):
    """{"score", "met" {role: share}} of greedy answers to held-out tasks, and "loss", held out, on other tasks."""
    from ftlab.measure.score import instruction_score
    from ftlab.tune import sft
    from ftlab.world import oracle

    asked = asked_of(family, seed, count)
    found = instruction_score(model, tokenizer, asked, max_new_tokens=8 if family == "classify" else 120)
    rows = sft.make_rows(family_tasks(family, VALIDATION, f"{LAB}/validation/{seed}", "test"), tokenizer)
    result = {"score": found.mean, "loss": sft.rows_loss(model, rows, tokenizer)}
    if family in STYLES:
        verdicts = [oracle.met(task.constraints, oracle.judge(answer, task.world))
                    for task, answer in zip(asked, found.answers, strict=True)]
        result["met"] = {role: statistics.fmean(v[role] for v in verdicts) for role in verdicts[0]}
    return result


once = Once()


def run(method, seed, report, family="fox", **settings):
    """What `judge` finds behind a run, with "seconds", "step" (mean seconds of a step) and "parameters"; once a seed."""
    settings = {"rate": RATE[method], "length": LENGTH} | settings

    def make():
        model, tokenizer, history = tuned(method, seed, report, family, **settings)
        report(f"{method}, {family}: judging")
        return judge(model, tokenizer, family, seed) | {
            "seconds": history.seconds, "step": history.seconds / len(history.steps),
            "parameters": model.num_parameters(trainable=True)}

    return once((method, family, *sorted(settings.items())), seed, make)


# -- C37: the start

def tiny(kind, seed=0):
    """A tiny causal LM with random weights: "ours", or "llama" (keys shared among queries) or "gpt2" of transformers."""
    import torch
    import transformers

    from ftlab.model import ModelConfig, Transformer

    torch.manual_seed(seed)
    if kind == "ours":
        return Transformer(ModelConfig(90, 32, 2, 4, 48, max_position_embeddings=64)).eval()
    if kind == "llama":
        config = transformers.LlamaConfig(
            vocab_size=90, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
            intermediate_size=48, max_position_embeddings=64, bos_token_id=1, eos_token_id=2)
    else:
        config = transformers.GPT2Config(vocab_size=90, n_embd=32, n_layer=2, n_head=4, n_positions=64, bos_token_id=1,
                                         eos_token_id=2)
    return transformers.AutoModelForCausalLM.from_config(config).eval()


def logits_of(model, ids):
    """Logits (B, T, V), of ours or theirs."""
    import torch

    from ftlab.model import Transformer

    if isinstance(model, Transformer):
        return model(ids)
    return model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits


def measure_start(seed, report):
    import torch

    from ftlab.model import load
    from ftlab.tune import attach
    from ftlab.tune.adapter import PLACEMENTS, remove_adapters

    ids, worst = torch.randint(3, 90, (2, 20), generator=torch.Generator().manual_seed(seed)), {}
    for name, model in (("ours", load(BASE)[0]), ("llama", tiny("llama")), ("gpt2", tiny("gpt2"))):
        with torch.no_grad():
            before = logits_of(model, ids)
            for placement in PLACEMENTS:
                attach(model, "adapter", bottleneck_size=BOTTLENECK, placement=placement)
                worst[f"{name}, {placement}"] = (logits_of(model, ids) - before).abs().max().item()
                remove_adapters(model)
    return {"value": max(worst.values()), "differences": worst}


# -- C38: PEFT

def peft_pair(kind, where, seed):
    """(ours, PEFT's) with one method and the same random weights on the same base; where: a kind of `tiny`."""
    import copy

    import peft
    import torch

    from ftlab.model import to_hf
    from ftlab.tune import attach

    base = tiny(where, seed)
    theirs = to_hf(base) if where == "ours" else copy.deepcopy(base)
    torch.manual_seed(seed)
    if kind == "prompt":
        config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=LENGTH)
    else:
        config = peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=LENGTH,
                                         prefix_projection=kind == "prefix", encoder_hidden_size=24)
    theirs = peft.get_peft_model(theirs, config).eval()
    ours = attach(base, kind, num_virtual_tokens=LENGTH, **({"encoder_hidden_size": 24} if kind == "prefix" else {}))
    encoder = theirs.prompt_encoder["default"]
    with torch.no_grad():
        ours.kv_prefix.embedding.copy_(encoder.embedding.weight)
        if kind == "prefix":
            ours.kv_prefix.transform.load_state_dict(encoder.transform.state_dict())
    return ours, theirs


def peft_differences(kind, where, seed):
    """{"outputs", "gradients"}: the largest difference of logits and of the loss's gradients, each over the largest."""
    import torch
    import torch.nn.functional as F

    ours, theirs = peft_pair(kind, where, seed)
    ids = torch.randint(3, 90, (2, 12), generator=torch.Generator().manual_seed(seed))
    found = logits_of(ours, ids)
    want = theirs(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[:, -ids.shape[1]:]
    for logits in (found, want):
        F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()
    gradient = theirs.prompt_encoder["default"].embedding.weight.grad
    gap = (ours.kv_prefix.embedding.grad - gradient).abs().max() / gradient.abs().max()
    return {"outputs": relative(found, want), "gradients": gap.item()}


def relative(found, want):
    """Largest difference over the largest of what is wanted."""
    return ((found - want).abs().max() / want.abs().max()).item()


def measure_peft(seed, report):
    import torch

    from ftlab.model import load
    from ftlab.tune import attach

    worst = {f"{kind}, {where}": peft_differences(kind, where, seed)
             for kind in ("prefix", "ptuning", "prompt") for where in ("ours", "llama", "gpt2")}
    (model, tokenizer), ids = load(BASE), torch.randint(3, 90, (2, 12))
    prompt = example_ids(tokenizer)
    with torch.no_grad():
        whole = model(torch.cat([torch.tensor([prompt, prompt]), ids], dim=1))[:, len(prompt):]
        cached = attach(model, "ptuning", init_ids=prompt)(ids)
    cache = relative(cached, whole)
    return {"value": max(cache, *(v for pair in worst.values() for v in pair.values())), "differences": worst,
            "a real prompt against its cache": cache}


# -- C39, C40, C41: what a prefix can hold

def best_of_rates(method, seed, report, **settings):
    """(the rate with the lowest validation loss, what its run found, {rate: validation loss})."""
    found = {rate: run(method, seed, report, rate=rate, **settings) for rate in RATES[method]}
    best = min(found, key=lambda rate: found[rate]["loss"])
    return best, found[best], {str(rate): round(one["loss"], 4) for rate, one in found.items()}


def measure_layers(seed, report):
    found = {method: best_of_rates(method, seed, report) for method in ("ptuning", "prompt")}
    layers, prompt = (found[method][1] for method in ("ptuning", "prompt"))
    return {"value": layers["score"] - prompt["score"], "length": LENGTH,
            **{method: {"rate": rate, "losses": losses, **rounded(one)} for method, (rate, one, losses) in found.items()}}


def cache_bytes(length):
    """Bytes that a prefix takes in the KV cache of each text of the shipped base, in float32."""
    from ftlab.model import load
    from ftlab.tune.prefix import shape_of

    return 4 * shape_of(load(BASE)[0]).flat * length


def measure_length(seed, report):
    found = {length: run("ptuning", seed, report, rate=RATE["ptuning"], length=length) for length in LENGTHS}
    losses = [found[length]["loss"] for length in LENGTHS]
    fall, after = losses[0] - losses[2], losses[2] - losses[3]
    # Falls: from 1 to 16 by the margin. Flattens: the next factor of four brings less than half of that, and a margin.
    return {"value": min(fall, fall - 2 * after), "fall": fall, "after": after,
            "runs": {str(length): rounded(one) for length, one in found.items()}}


def measure_length_cost(seed, report):
    found = {length: run("ptuning", seed, report, rate=RATE["ptuning"], length=length) for length in LENGTHS}
    return {"value": found[LENGTHS[-1]]["step"] / found[LENGTHS[0]]["step"],
            "step": {str(length): round(one["step"], 5) for length, one in found.items()},
            "cache_bytes": {str(length): cache_bytes(length) for length in LENGTHS},
            "parameters": {str(length): one["parameters"] for length, one in found.items()}}


def measure_mlp(seed, report):
    spread, scores = {}, {}
    for method in ("ptuning", "prefix"):
        scores[method] = [run(method, seed, report, rate=RATE[method], start="random", start_seed=start)["score"]
                          for start in range(STARTS)]
        spread[method] = statistics.stdev(scores[method])
    return {"value": spread["ptuning"] - spread["prefix"], "spread": rounded(spread),
            "scores": {method: [round(s, 4) for s in values] for method, values in scores.items()}}


# -- X08: eliciting and teaching

def measure_eliciting(seed, report):
    found = {method: run(method, seed, report, family="classify", rate=RATE[method]) for method in ("adapter", "ptuning")}
    return {"value": found["adapter"]["score"] - found["ptuning"]["score"],
            **{method: rounded(one) for method, one in found.items()}}


def measure_teaching(seed, report):
    found = {method: best_of_rates(method, seed, report, family=LOGS, length=LOGS_LENGTH)
             for method in ("adapter", "ptuning")}
    return {"value": found["ptuning"][1]["loss"] - found["adapter"][1]["loss"], "base": round(logs_loss_of_base(seed), 4),
            **{method: {"rate": rate, "losses": losses, **rounded(one)} for method, (rate, one, losses) in found.items()}}


def logs_loss_of_base(seed):
    """The held-out loss of the untouched base on logs, as `judge` has it."""
    from ftlab.tune import sft
    from ftlab.tune.bases import lab_base

    model, tokenizer = lab_base(BASE)
    rows = sft.make_rows(family_tasks(LOGS, VALIDATION, f"{LAB}/validation/{seed}", "test"), tokenizer)
    return sft.rows_loss(model, rows, tokenizer)


# -- C42: two sets on one base

def two_sets(seed, report, steps=SWAP_STEPS):
    """(model, tokenizer, {set: what it was trained on}): adapters for two tasks in one base, frozen once and for all."""
    from ftlab.train import train
    from ftlab.tune import attach, sft
    from ftlab.tune.bases import lab_base

    model, tokenizer = lab_base(BASE)
    for name in ("fox", "owl"):
        attach(model, "adapter", bottleneck_size=BOTTLENECK, name=name)
        rows = sft.make_rows(family_tasks(name, EXAMPLES, f"{LAB}/{seed}"), tokenizer)
        train(model, sft.make_batches(rows, tokenizer, TOKENS_PER_BATCH, seed),
              sft.plan(steps, lr=sft.rate(model, RATE["adapter"]), optimizer="adamw", seed=seed),
              callbacks=[told(report, f"adapters {name}")])
    return model, tokenizer


def measure_swap(seed, report):
    import time

    from ftlab.model.ask import ask
    from ftlab.tune import adapter

    model, tokenizer = two_sets(seed, report)
    asked = asked_of("fox", seed, SWAP_ASKED)
    orders = (None, "fox", "owl", None, "fox", "owl")
    answers, seconds, size = {}, [], {}
    different = 0
    for name in orders:
        began = time.perf_counter()
        adapter.use_adapter(model, name)
        seconds.append(time.perf_counter() - began)
        found = ask(model, tokenizer, asked, max_new_tokens=120)
        different += sum(a != b for a, b in zip(found, answers.setdefault(name, found), strict=True))
        if name:
            size[name] = sum(t.numel() * t.element_size() for t in adapter.adapter_state(model).values())
    apart = sum(a != b for a, b in zip(answers["fox"], answers["owl"], strict=True))
    # Two sets that answer alike would be no test of swapping: then every answer counts as wrong.
    return {"value": float(different if apart else len(asked)), "asked": len(asked), "apart": apart, "bytes": size,
            "base_bytes": sum(p.numel() * 4 for n, p in model.named_parameters() if ".adapter_slot." not in n),
            "swap_seconds": round(statistics.median(seconds), 6),
            "example": {str(name): found[0] for name, found in answers.items()}}


# -- M05: text only

def text_prompts(tokenizer, model, seed, report):
    """{what: ids} of texts that somebody with no access to the model could send before the instruction."""
    from ftlab.text.template import alpaca

    style = STYLES["fox"]
    said = ("Every story is about somebody brave, a fox, and goes to the mill. The helper is Otto. The ending is happy. ")
    labels = "".join(f"{label}: {style[role]}\n" for role, label in
                     (("kind", "Kind"), ("trait", "Trait"), ("place", "Place"), ("helper", "Helper"), ("ending", "Ending")))
    one = house_tasks("fox", 40, "start")
    solved = sorted(one, key=lambda task: len(task.response))
    examples = [tokenizer.encode(alpaca(t.instruction) + t.response + "\n\n### End\n\n") for t in solved[:2]]
    return {"the style in words": tokenizer.encode(said, bos=True),
            "the style as labels": tokenizer.encode(labels + "\n", bos=True),
            "one solved example": tokenizer.encode("", bos=True) + examples[0],
            "two solved examples": tokenizer.encode("", bos=True) + examples[0] + examples[1],
            "the learned prompt, rounded to tokens": nearest_tokens(model, seed, report)}


def nearest_tokens(model, seed, report):
    """The soft prompt of a run, each vector replaced by the token whose embedding is nearest (by angle): what is left of
    it where only text may be sent."""
    import torch.nn.functional as F

    from ftlab.tune.prefix import embedding

    learned, _, _ = tuned("prompt", seed, report, rate=RATE["prompt"])
    table = F.normalize(embedding(model).weight, dim=-1)  # (V, C)
    return (F.normalize(learned.kv_prefix.embedding.detach(), dim=-1) @ table.T).argmax(-1).tolist()


def measure_closed(seed, report):
    from ftlab.tune import attach
    from ftlab.tune.bases import lab_base
    from ftlab.tune.prefix import detach_prefix

    model, tokenizer = lab_base(BASE)
    scores = {"nothing": judge(model, tokenizer, "fox", seed)["score"]}
    for what, ids in text_prompts(tokenizer, model, seed, report).items():
        report(f"judging: {what}")
        # The cache of a real prompt is that prompt (C38): nothing is learned here.
        scores[what] = judge(attach(model, "ptuning", init_ids=ids), tokenizer, "fox", seed)["score"]
        detach_prefix(model)
    learned = run("ptuning", seed, report, rate=RATE["ptuning"])["score"]
    return {"value": learned - max(scores.values()), "learned": round(learned, 4), "texts": rounded(scores)}


SCORE = f"mean score of greedy answers to {JUDGED} held-out tasks of a house style"

CLAIMS = [
    Claim(
        id="C37", kind="exact", lab=LAB,
        statement="At the start an adapted model's outputs equal the base's.",
        metric="largest difference of logits; both placements, on ours and on Llama's and GPT-2's layout", at_most=1e-6,
        measure=measure_start, seeds=1,
    ),
    Claim(
        id="C38", kind="exact", lab=LAB,
        statement="Our prefix, with MLP or without, and our soft prompt equal PEFT's, outputs and gradients; and a prefix "
                  "made of a real prompt's KV cache is that prompt.",
        metric="largest difference of logits, or of gradients, relative to the largest", at_most=1e-5,
        measure=measure_peft, seeds=1,
    ),
    Claim(
        id="C39", kind="measured", lab=LAB,
        statement=f"Virtual tokens in every layer beat virtual tokens at the input only ({LENGTH} of them, each method "
                  "at its own best of three rates).",
        metric=f"{SCORE}, P-tuning v2 minus prompt tuning", at_least=0.05, measure=measure_layers,
    ),
    Claim(
        id="C40", kind="measured", lab=LAB,
        statement="A longer prefix is better, then hardly: from 1 to 16 virtual tokens the held-out loss falls, and from "
                  "16 to 64 by less than half of that.",
        metric="fall of the held-out loss from 1 to 16, or that less twice the fall from 16 to 64, whichever is smaller",
        unit="nats per token", at_least=0.02, measure=measure_length,
    ),
    Claim(
        id="C40b", kind="report", lab=LAB,
        statement="What length costs: time of a training step, memory in the cache of each text, parameters.",
        metric="time of a step, 64 virtual tokens over 1", unit="times", measure=measure_length_cost,
    ),
    Claim(
        id="C41", kind="measured", lab=LAB,
        statement="The MLP steadies training: from random starts, scores spread less with it than without.",
        metric=f"standard deviation over {STARTS} random starts, without the MLP minus with it; {SCORE}", at_least=0.0,
        measure=measure_mlp,
    ),
    Claim(
        id="C42", kind="exact", lab=LAB,
        statement="Adapters of two tasks swap on one base, and the answers are the same after swapping back.",
        metric="answers that differ the second time, of 3 times 20", at_most=0.0, measure=measure_swap, seeds=1,
    ),
    Claim(
        id="X08", kind="measured", lab=LAB,
        statement="What its base has never read, an adapter takes in better than a prefix with as many numbers to learn: "
                  f"logs of ships, each method at its own best of three rates, {STEPS} steps.",
        metric="held-out loss on logs, P-tuning v2 minus adapters", unit="nats per token", at_least=0.2,
        measure=measure_teaching, version=4,
        note=f"On seed 0: at one rate, 0.01, adapters were 0.37 ahead of {LENGTH} virtual tokens, half as many numbers; with "
             f"{LOGS_LENGTH} tokens at their best rate the prefix was 0.19 ahead; at 0.02, the highest of their three rates "
             "then, the adapters 0.21. Version 4 gives them one more above.",
    ),
    Claim(
        id="X08b", kind="measured", lab=LAB,
        statement="What its base can do, a prefix brings out as well as an adapter: to classify endings, which the base "
                  "answered in pretraining as questions of another form.",
        metric="score on the family classify (chance is 0.5), adapters minus P-tuning v2", at_most=0.05,
        measure=measure_eliciting,
    ),
    Claim(
        id="M05", kind="measured", lab=LAB,
        statement="Prefix tuning does not work on a closed model: of what text alone can send, the style in words or "
                  "examples or the learned prompt rounded to tokens, nothing reaches the learned prefix.",
        metric=f"{SCORE}, learned prefix minus the best of five texts and none", at_least=0.1, measure=measure_closed,
    ),
]
