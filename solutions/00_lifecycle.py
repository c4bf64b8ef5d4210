# %% [markdown]
# # 00 · From base model to assistant, and when to fine-tune at all
#
# **The question.** A model is first trained to go on with any text, then to answer instructions, then to answer as people
# like it. What does each stage add, and what does it take away? And before anybody trains anything: would a better prompt
# do, or a few examples looked up for each question? What do these cost, each time it is asked?
#
# You will watch four stages of one model answer the same prompt; take numbers apart into bits, since weights are nothing
# else; and work out from how many calls on fine-tuning is cheaper than prompting, with costs measured on your machine.
#
# Rooms: play · build · the library agrees · predict and run · what we measured · what people get wrong · go further.

# %% ftlab="setup"
import copy
import math
import random
import statistics

import torch

import ftlab
from ftlab import doctor, profile
from ftlab.course import checks, studies
from ftlab.measure import calls, cost, formats
from ftlab.model import load
from ftlab.model.ask import ask
from ftlab.show import machine, plots, widgets
from ftlab.text.examples import Example
from ftlab.text.shots import Retriever, few_shot_prompt
from ftlab.tune import sft
from ftlab.world import World, tasks

torch.manual_seed(0)
lab = ftlab.lab("00_lifecycle")
measured = studies.load("00_lifecycle")
known = checks.load("00_lifecycle")
world = World("rich")

# %% [markdown]
# ## Play: four stages, one prompt
#
# All four have the same architecture and began as the same weights. **Pretraining** read millions of tokens of stories and
# learned to go on with them. **Supervised fine-tuning** (SFT) then showed it instructions with their responses. **Alignment**
# starts from there and uses *preferences*: pairs of stories of which an annotator liked one better. PPO learns a reward model
# from the pairs and trains against it (Ouyang et al. 2022); DPO uses the pairs directly (Rafailov et al. 2023).
#
# The annotators of our world have a *true utility* that we can compute: minus 2 for each broken rule or wish, and up to 1.4
# for style (direct speech, a happy ending, a vivid hero).
#
# Choose a prompt, or write one (an instruction; then, if it needs one, an empty line and a story). **What to look at:**
#
# - Does the base answer, or does it write on as if nobody had asked?
# - SFT against the aligned ones: who keeps to what was asked? Whose story would you rather read?
# - Give all four a short task (extract, classify). Has alignment with *stories* done anything to it?

# %% ftlab="play"
models = {name: load(name) for name in measured.CHECKPOINTS}
some = {(task.instruction + (f"\n\n{task.input}" if task.input else "")): task for task in measured.asked("play", None, 1)}


def answer(prompt, name):
    """A checkpoint's greedy answer to a prompt: the instruction, an empty line, the story."""
    instruction, _, story = prompt.partition("\n\n")
    model, tokenizer = models[name]
    return ask(model, tokenizer, [Example(instruction, "", story)], max_new_tokens=120)[0]


def judged(prompt, text):
    """What the oracle says of an answer."""
    task = some.get(prompt)
    if task is not None and task.family != "write":
        return f"score {tasks.score(task, text):.2f}"
    worth = tasks.true_utility(text, world, task.constraints if task else None)
    return (f"score {tasks.score(task, text):.2f} · " if task else "") + f"true utility {worth:.1f}"


widgets.side_by_side(measured.CHECKPOINTS, answer, list(some), judged)

# %% [markdown]
# ## Play: a weight is bits
#
# What is kept of all that training is a file of numbers, and a number is a row of bits. A float has a sign, an exponent and
# a mantissa:
#
# $$(-1)^{\text{sign}} \cdot 1.\text{mantissa} \cdot 2^{\text{exponent} - \text{bias}}.$$
#
# The exponent says how large, the mantissa how exactly. bfloat16 keeps all of float32's exponent and little of its mantissa;
# float16 does the opposite. int8 and NF4 keep a code and a *scale* that a row or a block of weights shares.
#
# The number below is a weight of the model above (which was kept in a file of float16: of its 32 bits the last ones are 0).
# Click a bit to flip it, write another number, choose another format.
# **What to look at:**
#
# - Flip the lowest bit of the exponent, then the highest. Flip the lowest bit of the mantissa. Which can you afford to lose?
# - Write 70000 in float16 and in bfloat16. Then 1.003 in both. Which is right about what?
# - Go to the next number above 1, above 2, above 1024: how large are the steps?

# %% ftlab="play"
weight = models[measured.TUNED][0].layers[0].self_attn.q_proj.weight.detach()
SCALES = {"int8": weight[0].abs().max().item() / 127, "nf4": weight[0, :64].abs().max().item()}
widgets.bit_flipper({name: form.fields for name, form in formats.FORMATS.items()},
                    lambda bits, name: formats.look(bits, name, SCALES.get(name, 1.0)),
                    lambda value, name: formats.encode(value, name, SCALES.get(name, 1.0)), start=weight[0, 0].item())

# %% [markdown]
# How many of these bits does the model need? Every weight of the fine-tuned model is rounded to a format and back, and the
# loss on held-out instructions is taken. **What to look at:** where does the loss begin to move? How many bits went before
# that?

# %%
tuned, tokenizer = models[measured.TUNED]
rows = sft.make_rows(measured.asked("formats", None, profile.steps(20, 2)), tokenizer)
print(f"{'format':14} {'bits a weight':>13} {'file, KiB':>10} {'mean error / mean |w|':>22} {'loss, nats':>11}")
for name in formats.FORMATS:
    model, errors, sizes, bits = copy.deepcopy(tuned), [], [], 0.0
    for p in model.parameters():
        if p.ndim == 2:
            back = formats.rounded(p.data, name)
            errors.append((back - p.data).abs().sum().item())
            sizes.append(p.data.abs().sum().item())
            bits += p.numel() * formats.bits_a_weight(name, p.shape[-1])
            p.data.copy_(back)
    count = sum(p.numel() for p in model.parameters() if p.ndim == 2)
    print(f"{name:14} {bits / count:13.2f} {bits / 8 / 1024:10.0f} {sum(errors) / sum(sizes):22.1%} "
          f"{sft.rows_loss(model, rows, tokenizer):11.4f}")

# %% [markdown]
# ### What can this machine do?
#
# `ftlab doctor` says it in words; here it is as a picture, with the rate of a matrix product measured just now and the
# memory that fine-tuning needs by the formula of Lab 07 (one text of 512 tokens, float32). **What to look at:** is bfloat16
# faster here, as its half of the bits promises? Which is the largest model that you could fine-tune, and how?

# %%
here = profile.current().memory_gib or float("inf")
peaks = {model: {method: cost.memory(shape, method).peak / 2**30 for method in ("full", "lora", "qlora")}
         for model, shape in cost.SIZES.items()}
machine.machine_card(
    doctor.report(), {name: profile.matmul_gflops(512, 3, name) for name in ("float32", "bfloat16")},
    {model: {method: (need, need < here) for method, need in by.items()} for model, by in peaks.items()})

# %% [markdown]
# ## Build
#
# ### 1. Decode a float
#
# From the bits to the value, in a format with any number of bits for exponent and mantissa (IEEE 754):
#
# - The bias is $2^{\text{exponent bits} - 1} - 1$: 127 in float32 and bfloat16, 15 in float16.
# - Where the exponent's bits are all 0, the number is *subnormal*: $(-1)^{\text{sign}} \cdot 0.\text{mantissa} \cdot
#   2^{1 - \text{bias}}$. Zero is one of them.
# - Where they are all 1, it is infinite if the mantissa is 0, and not a number (`math.nan`) otherwise.


# %% ftlab="exercise" id="decode_float"
def decode_float(bits, exponent_bits, mantissa_bits):
    """The value of a float, a Python float. bits: a string such as "001100" (sign, then exponent, then mantissa)."""
    ### BEGIN SOLUTION
    sign = -1.0 if bits[0] == "1" else 1.0
    e = int(bits[1:1 + exponent_bits], 2)
    m = int(bits[1 + exponent_bits:], 2) / 2 ** mantissa_bits
    bias = 2 ** (exponent_bits - 1) - 1
    if e == 2 ** exponent_bits - 1:
        return math.nan if m else sign * math.inf
    if e == 0:
        return sign * m * 2.0 ** (1 - bias)
    return sign * (1 + m) * 2.0 ** (e - bias)
    ### END SOLUTION


# %% ftlab="check" id="decode_float"
lab.check("decode_float", decode_float)

# %% ftlab="probe" id="decode_float"
lab.probe("decode_float", [decode_float(bits, e, m) for e, m in ((3, 4), (4, 3), (2, 5))
                           for bits in known.random_bits(lab.probe_seed("decode_float"), e, m, 14)])

# %% [markdown]
# ### 2. What a call costs
#
# Whoever sells a model, and whoever runs one, counts tokens: those of the prompt that are *read*, and those that are
# *written*, which are dearer, since they come one at a time. Where many prompts begin alike, the keys and values of the
# common beginning are kept (Lab 01 builds that cache), and those *cached* tokens are cheap. Prices are per million tokens.


# %% ftlab="exercise" id="cost_of_call"
def cost_of_call(prompt_tokens, new_tokens, prices, cached_tokens=0):
    """What one call costs, a float. prices: per million tokens, {"read", "cached", "written"}.

    prompt_tokens: all that the prompt has; cached_tokens of them were read before.
    """
    ### BEGIN SOLUTION
    read = (prompt_tokens - cached_tokens) * prices["read"] + cached_tokens * prices["cached"]
    return (read + new_tokens * prices["written"]) / 1e6
    ### END SOLUTION


# %% ftlab="check" id="cost_of_call"
lab.check("cost_of_call", cost_of_call)

# %% ftlab="probe" id="cost_of_call"
random.seed(lab.probe_seed("cost_of_call"))
probe_prices = {name: random.uniform(low, high) for name, low, high in (("read", 2, 4), ("cached", 0.2, 1), ("written", 8, 20))}
lab.probe("cost_of_call", [cost_of_call(random.randint(2000, 9000), random.randint(100, 900), probe_prices, cached)
                           for cached in (0, random.randint(500, 1500))])

# %% [markdown]
# ### 3. Where it breaks even
#
# Fine-tuning costs something up front and then saves something at each call: the examples need no longer stand in the
# prompt. The smallest number of calls at which the sum is no dearer than before:


# %% ftlab="exercise" id="break_even"
def break_even(upfront, cost_before, cost_after):
    """From how many calls on paying `upfront` once is no dearer, an int; None where a call costs no less than before."""
    ### BEGIN SOLUTION
    if cost_after >= cost_before:
        return None
    return math.ceil(upfront / (cost_before - cost_after))
    ### END SOLUTION


# %% ftlab="check" id="break_even"
lab.check("break_even", break_even)

# %% ftlab="probe" id="break_even"
random.seed(lab.probe_seed("break_even"))
probe_saving, probe_after, probe_calls = random.randint(2, 9), random.randint(1, 9), random.randint(20, 90)
lab.probe("break_even", [break_even(probe_saving * probe_calls + rest, probe_saving + probe_after, probe_after)
                         for rest in (0, 1)] + [break_even(probe_calls, probe_after, probe_after + more) for more in (0, 1)])

# %% [markdown]
# ## The library does it too, and agrees
#
# PyTorch has these formats as dtypes. Your function on bits of each, against what torch makes of the same bits. (In
# `float8_e4m3fn` an exponent of all ones is an ordinary one, so that 8 bits reach a little further: there your function and
# torch part.)

# %%
def torchs(code, name, integer):
    """The value that torch gives to the bits of an integer."""
    width = formats.get(name).bits
    signed = code - 2**width if integer != torch.uint8 and code >= 2 ** (width - 1) else code
    return torch.tensor([signed], dtype=integer).view(getattr(torch, name)).double().item()


random.seed(0)
for name, integer in (("float32", torch.int32), ("bfloat16", torch.int16), ("float16", torch.int16),
                      ("float8_e5m2", torch.uint8), ("float8_e4m3fn", torch.uint8)):
    width, (_, (_, e), (_, m)) = formats.get(name).bits, formats.get(name).fields
    codes = range(2**width) if width == 8 else [random.randrange(2**width) for _ in range(2000)]
    differ = [code for code in codes if not measured.same(decode_float(f"{code:0{width}b}", e, m), torchs(code, name, integer))]
    where = {f"{code:0{width}b}"[1:1 + e] for code in differ}
    print(f"{name:14} {len(differ):3} of {len(codes):,} patterns differ" + (f", all with exponent {where}" if differ else ""))

# %% ftlab="result" claim="X00"
same = measured.measure_formats(0, lambda text: None)
lab.claim("X00", same["value"], differ=same["differ"])

# %% [markdown]
# ## Predict, then run
#
# One narrow task, asked again and again: **find one fact of a story.** The base is to do it, untrained for the task or trained:
#
# - **Asked in words**, in a form that it knows from pretraining: the story, `Question: …`, `Answer:`.
# - **Asked by examples** (in-context learning, Brown et al. 2020): a story, an arrow, the fact; then the story in question and
#   an arrow. The same examples stand in front of every question, so their keys and values can be **cached**.
# - **By examples that are looked up** for each question, those that share the most telling words with it (retrieval; Lewis et
#   al. 2020). Nothing to cache: they change with each call.
# - **By fine-tuning** on all the examples, a LoRA of rank 4 (Lab 06), which then gets the story and the arrow and nothing else.

# %%
ROLE = measured.ROLES[0]
pool, [task] = measured.facts(0, ROLE, measured.POOL), measured.facts("look", ROLE, 1, "test")
print(few_shot_prompt(task, [], "plain"), f"        ({task.response}?)\n\n{60 * '-'}\n")
print(few_shot_prompt(task, Retriever(pool).find(task, 1), "arrow"), f"        ({task.response}?)")

# %% ftlab="play"
lab.predict("way", "Which way without training finds this fact most often?", kind="choice",
            options=["asked in words", "1 example", "2 examples", "1 example, looked up"])

# %% ftlab="play"
lab.predict("calls", "A LoRA is stopped as soon as it is as good as the best of these. From how many calls on is it cheaper, "
            "its tuning counted in seconds of this machine?", low=0, high=20000, unit="calls")

# %% ftlab="experiment"
plot = widgets.LivePlot(title=f"LoRA, rank {measured.RANK}")
made = measured.compare(0, ROLE, None, profile.steps(measured.ASKED, 6), profile.steps(measured.STEPS, 4), [plot])
found, rival = made["ways"], made["rival"]
print(f"{'':31} {'tokens a call':^22} {'ms a call':^28}")
print(f"{'way':24} {'score':>6} {'read':>6} {'cached':>7} {'written':>8}{'by tokens':>10} {'look-up':>8} {'one call':>9}")
for name, one in found.items():
    print(f"{name:24} {one['score']:6.2f} {one['read']:6.0f} {one['reused']:7.0f} {one['written']:8.1f}"
          f"{1000 * one['cost']:10.2f} {1000 * one['lookup']:8.2f} {1000 * one['seconds']:9.2f}"
          + ("   <- the best without training" if name == rival else ""))
print(f"You predicted: {lab.prediction('way') or 'nothing'}.")

# %% [markdown]
# **What to look at:**
#
# - What does an example bring beside words? What does the second bring in score, and what does it cost in seconds? Is looking
#   up worth its price?
# - What does the cache save? A single call takes longer than its tokens: what else is in it, and who pays for that?
# - Below: what does the base take the arrow to mean, although an example shows otherwise?
# - And how many seconds of tuning does it take to be as good as the best of them? Does the curve end there?

# %%
small, small_tokenizer = load(measured.BASE)
for task in measured.facts("held out 0", ROLE, 4, "test"):
    ids = small_tokenizer.encode(few_shot_prompt(task, measured.shortest(pool, 1), "arrow"), bos=True)
    print(f"after one example: {calls.call(small, small_tokenizer, ids).text!r}; the {ROLE} is {task.response!r}, the ending "
          f"{task.facts.ending!r}, the {task.facts.object} {task.facts.colour!r}")

# %% ftlab="experiment"
plots.lines({"LoRA": ([seconds for _, seconds, _ in made["scores"]], [score for *_, score in made["scores"]])},
            "seconds of fine-tuning", "score on validation tasks", percent=True, title="the up-front cost", labels=False,
            hline=(found[rival]["score"], f"the best without training: {rival}"))

# %% ftlab="experiment"
paid = None
if made["upfront"] is None:
    print("this run was never as good as the best without training")
else:
    paid = break_even(made["upfront"], found[rival]["cost"], found["LoRA"]["cost"])
    print(f"as good as the best without training after {made['upfront']:.1f} s; "
          + ("never cheaper" if paid is None else f"cheaper from {paid:,} calls on"))
print(f"at its end, after {made['scores'][-1][1]:.1f} s, LoRA scores {found['LoRA']['score']:.2f}: "
      + (f"no prompt reaches it, the best lacks {made['gap']:.2f}" if made["gap"] > measured.TOLERANCE
         else "a prompt reaches it"))
if paid is not None:
    plots.prediction_vs_result(lab.prediction("calls"), paid, label="break-even of LoRA", unit="calls").show()

# %% [markdown]
# ### The calculator
#
# The same with numbers that you can change. Seconds a token were measured on this machine a moment ago, so was the tuning;
# put in money and other models' tokens as you like (a price list per million tokens serves in the place of seconds). The sums
# are made by *your* two functions. **What to look at:**
#
# - Make the examples ten times as long. Where does the break-even go? With the cache, too?
# - How long may tuning take, at how many calls a day, to be paid back in a week?
# - Which number would have to change for retrieval to be the cheapest?

# %% ftlab="play"
seconds = made["rates"]
two, one, bare = (found[name] for name in ("2 examples", "1 example, looked up", "LoRA"))


def costs(upfront, examples, retrieved, lookup, question, answer, read, cached, written):
    """Up-front cost and cost of a call of each way, by `cost_of_call`; break-evens by `break_even`."""
    prices = {"read": read, "cached": cached, "written": written}
    ways = {"prompting": (0.0, cost_of_call(examples + question, answer, prices)),
            "prompting, cached": (0.0, cost_of_call(examples + question, answer, prices, examples)),
            "retrieval": (0.0, cost_of_call(retrieved + question, answer, prices) + lookup),
            "fine-tuning": (upfront, cost_of_call(question, answer, prices))}
    return {"ways": ways, "tuned": "fine-tuning", "break_even": {
        name: break_even(upfront, each, ways["fine-tuning"][1]) for name, (_, each) in ways.items() if name != "fine-tuning"}}


NUMBERS = {  # name: (what it is, its first value)
    "upfront": ("fine-tuning, s", round(made["scores"][-1][1], 1)),
    "examples": ("examples in each prompt, tokens", round(two["read"] - bare["read"])),
    "retrieved": ("retrieved, tokens", round(one["read"] - bare["read"])),
    "lookup": ("looking up, s a call", round(one["lookup"], 5)),
    "question": ("question, tokens", round(bare["read"])), "answer": ("answer, tokens", round(bare["written"])),
    "read": ("a million tokens read, s", round(1e6 * seconds["read"], 1)), "cached": ("a million tokens cached, s", 0.0),
    "written": ("a million tokens written, s", round(1e6 * seconds["written"], 1)),
}
widgets.cost_calculator(costs, {name: value for name, (_, value) in NUMBERS.items()}, "s",
                        {name: words for name, (words, _) in NUMBERS.items()})

# %% [markdown]
# ## What we measured
#
# ### The stages

# %% ftlab="experiment"
number = profile.steps(20, 2)
stages = {name: measured.instruction_scores(0, name, None, number) for name in measured.CHECKPOINTS}
print(f"{'':13}" + "".join(f"{family:>10}" for family in ("mean", *tasks.FAMILIES)))
for name, one in stages.items():
    print(f"{name:13}{one['mean']:10.2f}" + "".join(f"{one['by_family'][family]:10.2f}" for family in tasks.FAMILIES))

# %% ftlab="result" claim="C01"
lab.claim("C01", stages[measured.TUNED]["mean"] - stages[measured.BASE]["mean"])

# %% ftlab="result" claim="C01b"
worth = {name: measured.utilities(0, name, None, profile.steps(60, 4)) for name in (measured.TUNED, *measured.ALIGNED)}
plots.bars({name: one["mean"] for name, one in worth.items()}, "true utility of a story at temperature 1").show()
for name, one in worth.items():
    print(f"{name:13} true utility {one['mean']:6.2f}, {one['words']:.0f} words")
lab.claim("C01b", min(worth[name]["mean"] for name in measured.ALIGNED) - worth[measured.TUNED]["mean"])

# %% [markdown]
# And what has alignment with a preference for *stories* done to the instruction score, in which four of five families are
# something else?

# %% ftlab="result" claim="C01c"
lab.claim("C01c", statistics.fmean(stages[name]["mean"] for name in measured.ALIGNED) - stages[measured.TUNED]["mean"])

# %% [markdown]
# ### Prompting against fine-tuning

# %% ftlab="result" claim="C02"
for role in measured.ROLES:
    for entry in lab.study("C02"):
        one = entry["data"]["roles"][role]
        print(f"{role}, seed {entry['seed']}: the best without training: {one['rival']}, "
              f"{one['ways'][one['rival']]['score']:.2f}. LoRA is as good "
              + ("never" if one["upfront"] is None else f"after {one['upfront']:.1f} s, and "
                 + ("never cheaper" if one["calls"] is None else f"cheaper from {one['calls']:,} calls on"))
              + (f"; at its end it is better by {one['gap']:.2f}: no prompt reaches it" if one["gap"] > measured.TOLERANCE
                 else f"; at its end a prompt is as good ({one['gap']:+.2f})"))
lab.claim("C02", -1 if paid is None else paid)

# %% [markdown]
# ## What people get wrong
#
# **"The more examples in the prompt, the better."** Mean scores over the seeds of the study, for each of the facts:

# %%
for role in measured.ROLES:
    seeds = [entry["data"]["roles"][role]["ways"] for entry in lab.study("C02")]
    if seeds:
        print(f"{role:8} " + " · ".join(f"{name} {statistics.fmean(ways[name]['score'] for ways in seeds):.2f}"
                                        for name in seeds[0] if "cached" not in name))

# %% [markdown]
# **"float16 and bfloat16 are the same size, so it does not matter which."** One of them cannot hold a loss scaled by 65,536,
# the other cannot tell 1 from 1.003.

# %%
for value in (70000.0, 1.003, 1e-6):
    print(value, {name: formats.look(formats.encode(value, name), name)["value"]
                  for name in ("float32", "float16", "bfloat16")})

# %% [markdown]
# **"Half the bits, twice the speed."** Only where the processor multiplies in that format. Look at the machine's card above:
# where there are no such instructions, each product is made in float32 anyhow, after a conversion. This course stays in
# float32 on CPUs for that reason.
#
# **"Alignment makes a model more able."** It moves the model towards what annotators prefer. What they were not asked about it
# may leave, or harm: C01c above is that change.
#
# **"Fine-tuning is expensive, prompting is free."** A prompt is paid for at every call. Which is dearer is a question of how
# many calls there will be.
#
# ## Go further
#
# - **Your own numbers.** Take a price list and a prompt of your own, and put both into the calculator. From how many calls a
#   month would you fine-tune? What costs are missing from it (labels, tests, keeping the tuned model up to date)?
# - **Your own examples.** `ftlab tune lora --data FILE --out FOLDER` makes an adapter of them; Lab 04 says what a file holds.
# - **E4M3.** Extend `decode_float` by a switch for the format in which an exponent of all ones is an ordinary one but for one
#   pattern, and make the comparison above say 0 five times.
#
# **Papers.** Brown et al. 2020, *Language Models are Few-Shot Learners* (in-context learning). Ouyang et al. 2022, *Training
# language models to follow instructions with human feedback* (SFT, reward model, PPO: the three stages). Rafailov et al. 2023,
# *Direct Preference Optimization*. Lewis et al. 2020, *Retrieval-Augmented Generation for Knowledge-Intensive NLP Tasks*.
# IEEE 754-2019, *Standard for Floating-Point Arithmetic*, and Goldberg 1991, *What Every Computer Scientist Should Know About
# Floating-Point Arithmetic*. Kalamkar et al. 2019, *A Study of BFLOAT16 for Deep Learning Training*. Micikevicius et al. 2022,
# *FP8 Formats for Deep Learning*.
#
# **To discuss.**
#
# 1. The comparison stops fine-tuning at the score of the best prompt. Who would do that, and why is it fair nevertheless?
# 2. Prompting needs two labelled examples, fine-tuning had three hundred. Where does that stand in the calculator?
# 3. A provider changes its model every half year. What becomes of your prompt, and what of your adapter?
# 4. Why can retrieval bring in a fact of this morning, and fine-tuning not (or not well)?
# 5. Both aligned models learned from the same preferences. If they write differently, what does that tell of the preferences?
