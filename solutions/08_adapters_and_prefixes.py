# %% [markdown]
# # 08 · Adapters and prefixes
#
# **The question.** LoRA changes a model's matrices. Must one touch them at all? Two older families of methods do not.
# One puts small new networks *between* the layers; the other leaves the network alone and learns what it reads *before*
# every text: words that are no words, or the keys and values that words would have left behind. How little can one learn
# and still be obeyed, and what can be learned that way, and what not?
#
# You will write an adapter, insert it by hooks, unpack a prefix into keys and values, build the mask that lets a text see
# it, and write prompt tuning; show prefixes equal to PEFT's; and measure what each method can hold.
#
# Rooms: play · build · the library agrees · predict and run · what we measured · what people get wrong · go further.

# %% ftlab="setup"
import statistics
import time
import warnings

import torch
import torch.nn.functional as F
from torch import nn

import ftlab
from ftlab import profile
from ftlab.course import studies
from ftlab.model import ModelConfig, Transformer, load, to_hf
from ftlab.model.ask import ask
from ftlab.show import plots, widgets
from ftlab.text.template import alpaca
from ftlab.train import train
from ftlab.tune import adapter, attach, prefix, sft
from ftlab.tune.bases import lab_base
from ftlab.world import oracle, tasks

warnings.simplefilter("ignore")  # peft and transformers announce changes of their own
torch.manual_seed(0)
lab = ftlab.lab("08_adapters_and_prefixes")
measured = studies.load("08_adapters_and_prefixes")

# %% [markdown]
# ## Play: what stands before a text
#
# Whatever a causal model has read before a text acts on it in one way only: through the **keys and values** it left in
# each layer, the KV cache of Lab 01. So a cache can be kept and put before other texts. And it need not come from words
# at all. Below, the small base reads an instruction behind three things: the cache of a real solved example, noise in the
# same place, and one token. (The task of this lab: stories in a *house style*. Prompts name an object and its colour; the
# house wants a brave fox, the mill, Otto as the helper, and a happy ending, every time, and never says so.)
#
# - Which heads look at the prefix, whatever it is? Compare *noise* with *a solved example*.
# - Attention weights sum to 1. What must a prefix take away from, to be looked at?
# - Move *reading at* to a word that stands in the example as well.

# %% ftlab="play"
small, small_tokenizer = load("base-small")
for parameter in small.parameters():
    parameter.requires_grad_(False)
some = measured.house_tasks("fox", 6, "play")
example = measured.example_ids(small_tokenizer)[:24]  # the first tokens of a solved example


def maps_behind(model, text):
    """Attention of `model`, with the prefix that it has, to the text: layers x heads x T x (P + T)."""
    ids = torch.tensor([small_tokenizer.encode(text)])
    return [layer[0].tolist() for layer in model.attention_maps(ids)]


said = alpaca(some[0].instruction)
views = {}
for name, start, labels in (("a solved example", example, small_tokenizer.pieces(example)),
                            ("noise", None, [f"‹{i + 1}›" for i in range(24)]),
                            ("one token", example[:1], small_tokenizer.pieces(example[:1]))):
    torch.manual_seed(0)
    attach(small, "ptuning", num_virtual_tokens=len(labels), init_ids=start)
    views[name] = (labels, maps_behind(small, said))
prefix.detach_prefix(small)
widgets.prefix_attention_view(small_tokenizer.pieces(small_tokenizer.encode(said)), views, layer=1)

# %% [markdown]
# ## Build
#
# ### 1. The adapter
#
# A bottleneck of size $m \ll C$ and a residual connection around it (Houlsby et al. 2019):
#
# $$h \;\leftarrow\; h + W_\text{up}\, f(W_\text{down} h + b_\text{down}) + b_\text{up}$$
#
# with $f$ = relu here. It is put into a network that works, so it must not do harm at the start: with $W_\text{up}$ and
# $b_\text{up}$ at zero it *is* the identity. (Houlsby et al. start near it.) It adds about $2 C m$ parameters in each
# place.


# %% ftlab="exercise" id="adapter"
class Adapter(nn.Module):
    """h (..., C) -> h + up(relu(down(h))) (..., C); at the start h itself.

    self.down, self.up: nn.Linear with bias, C -> m and m -> C.
    """

    def __init__(self, hidden_size, bottleneck_size):
        super().__init__()
        ### BEGIN SOLUTION
        self.down = nn.Linear(hidden_size, bottleneck_size)
        self.up = nn.Linear(bottleneck_size, hidden_size)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)
        ### END SOLUTION

    def forward(self, h):
        ### BEGIN SOLUTION
        return h + self.up(torch.relu(self.down(h)))
        ### END SOLUTION


# %% ftlab="check" id="adapter"
lab.check("adapter", Adapter)

# %% ftlab="probe" id="adapter"
generator = torch.Generator().manual_seed(lab.probe_seed("adapter"))
probe_adapter, probe_h = Adapter(5, 3), torch.randn(8, 5, generator=generator)
probe_start = probe_adapter(probe_h)
with torch.no_grad():
    for parameter in (probe_adapter.down.weight, probe_adapter.down.bias, probe_adapter.up.weight, probe_adapter.up.bias):
        parameter.copy_(torch.randn(parameter.shape, generator=generator))
lab.probe("adapter", [probe_start.detach(), probe_adapter(probe_h).detach()])

# %% [markdown]
# ### 2. Insert by hook
#
# How does it get into a model whose code is not ours? `module.register_forward_hook(hook)` makes torch call
# `hook(module, inputs, output)` after each pass of the module, and if the hook returns something, that takes the output's
# place. Houlsby's placement has two adapters in each block: behind attention and behind the MLP, each *before* its
# result is added to the stream.
#
# And the base must be frozen, or you do not train adapters but everything.


# %% ftlab="exercise" id="insert"
def insert(model, make_adapter):
    """Freeze `model`, then put an adapter behind `self_attn` and behind `mlp` of each of `model.layers`, by hooks.

    make_adapter() gives a new adapter. Returns an nn.ModuleList of them: attention, MLP, layer after layer; they learn.
    """
    ### BEGIN SOLUTION
    for p in model.parameters():
        p.requires_grad_(False)
    adapters = nn.ModuleList()
    for layer in model.layers:
        for place in (layer.self_attn, layer.mlp):
            adapter = make_adapter()
            place.register_forward_hook(lambda module, inputs, output, adapter=adapter: adapter(output))
            adapters.append(adapter)
    return adapters
    ### END SOLUTION


# %% ftlab="check" id="insert"
lab.check("insert", insert)

# %% ftlab="probe" id="insert"
generator = torch.Generator().manual_seed(lab.probe_seed("insert"))


class ProbeScale(nn.Module):
    """Multiplies by a factor of its own."""

    def __init__(self):
        super().__init__()
        self.factor = nn.Parameter(1 + torch.rand((), generator=generator))

    def forward(self, h):
        return h * self.factor


torch.manual_seed(1)
probe_model = Transformer(ModelConfig(9, 8, 2, 2, 12, max_position_embeddings=8))
with torch.no_grad():
    for parameter in probe_model.parameters():
        parameter.mul_(10 if parameter.ndim == 2 else 1)
probe_own = list(probe_model.parameters())
probe_adapters = insert(probe_model, ProbeScale)
lab.probe("insert", [probe_model(torch.tensor([[1, 5, 2]])).detach(), len(probe_adapters),
                     sum(p.requires_grad for p in probe_own), sum(p.requires_grad for p in probe_adapters.parameters())])

# %% [markdown]
# ### 3. A prefix is a KV cache that is learned
#
# Prefix tuning (Li and Liang 2021) puts $P$ **virtual tokens** before every text: keys and values in *every* layer, which
# no token ever made. All attention in a layer then runs over
#
# $$\text{softmax}\!\left(\frac{q\,[K_\text{prefix}; K]^\top}{\sqrt D}\right) [V_\text{prefix}; V] .$$
#
# One virtual token is $L \cdot 2 \cdot H \cdot D$ numbers. PEFT keeps them as one row of a matrix, in the order layer, key or
# value, head, $D$. Unpack it.


# %% ftlab="exercise" id="prefix_kv"
def prefix_keys_values(flat, num_layers, num_heads, batch):
    """flat (P, num_layers · 2 · num_heads · D) -> for each layer (keys, values), both (batch, num_heads, P, D).

    In a row, layer comes before key or value, that before head, that before D. Every text of the batch has the same prefix.
    """
    ### BEGIN SOLUTION
    parts = flat.view(len(flat), num_layers, 2, num_heads, -1)  # (P, L, 2, H, D)
    parts = parts.permute(1, 2, 3, 0, 4).unsqueeze(2).expand(-1, -1, batch, -1, -1, -1)  # (L, 2, B, H, P, D)
    return [(keys, values) for keys, values in parts]
    ### END SOLUTION


# %% ftlab="check" id="prefix_kv"
lab.check("prefix_kv", prefix_keys_values)

# %% ftlab="probe" id="prefix_kv"
generator = torch.Generator().manual_seed(lab.probe_seed("prefix_kv"))
probe_flat = torch.randn(3, 24, generator=generator)
lab.probe("prefix_kv", [list(pair) for pair in prefix_keys_values(probe_flat, 2, 3, 2)])

# %% [markdown]
# The other methods of this family differ in what they put a gradient on, and in nothing else:
#
# | method | learned | parameters |
# |---|---|---|
# | P-tuning v2 (Liu et al. 2022) | the keys and values themselves | $P \cdot 2 L C$ |
# | prefix tuning (Li and Liang 2021) | vectors $e$ and an MLP that makes keys and values of them | more; in the file as above |
# | prompt tuning (Lester et al. 2021) | $P$ input vectors; the frozen model makes keys and values of them | $P \cdot C$ |
#
# The MLP is $W_2 \tanh(W_1 e + b_1) + b_2$, one for all layers; once training is over, only what it made is kept.
#
# (What PEFT calls `P_TUNING` is the first P-tuning, a cousin of the last; P-tuning v2 is its `PREFIX_TUNING` without
# `prefix_projection`.)
#
# ### 4. The mask with a prefix
#
# The mask says which columns a row may look at. With a prefix it has $P$ columns more than rows, and if it has not, it does
# not fit, or worse, it fits and cuts off the wrong end.


# %% ftlab="exercise" id="prefix_mask"
def prefix_mask(real, prefix):
    """The mask (B, 1, T, prefix + T), True where a token may look: at all of the prefix, at itself, at what stands before it.

    real (B, T), bool: False where a text is only padded. Nobody looks at padding (but for the prefix, what padded
    places themselves see is of no concern; they follow the same rule).
    """
    ### BEGIN SOLUTION
    batch, length = real.shape
    text = torch.ones(length, length, dtype=torch.bool).tril() & real[:, None, :]  # (B, T, T)
    before = torch.ones(batch, length, prefix, dtype=torch.bool)
    return torch.cat([before, text], dim=-1)[:, None]
    ### END SOLUTION


# %% ftlab="check" id="prefix_mask"
lab.check("prefix_mask", prefix_mask)

# %% ftlab="probe" id="prefix_mask"
generator = torch.Generator().manual_seed(lab.probe_seed("prefix_mask"))
probe_real = torch.rand(3, 5, generator=generator) < 0.6
probe_P = int(torch.randint(1, 4, (), generator=generator))
lab.probe("prefix_mask", prefix_mask(probe_real, probe_P).int())

# %% [markdown]
# ### 5. Prompt tuning
#
# The cheapest of all: $P$ vectors of size $C$ before the embedded text, nothing inside the layers. `read(x)` gives the logits
# of the frozen base for input vectors `x`; the base's own `embed` makes such vectors of ids.


# %% ftlab="exercise" id="soft_prompt"
def soft_prompt_loss(read, embed, prompt, ids, labels):
    """Mean cross-entropy, a tensor, of texts behind a soft prompt.

    read(x): input vectors (B, n, C) -> logits (B, n, V). embed(ids): (B, T) -> (B, T, C). prompt: (P, C), it learns.
    labels (B, T) stand beside their tokens, −100 where no loss is due; as always the place before a token scores it, and
    the first token of a row is not scored.
    """
    ### BEGIN SOLUTION
    x = torch.cat([prompt.expand(len(ids), -1, -1), embed(ids)], dim=1)  # (B, P + T, C)
    logits = read(x)[:, len(prompt):]
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    ### END SOLUTION


# %% ftlab="check" id="soft_prompt"
lab.check("soft_prompt", soft_prompt_loss)

# %% ftlab="probe" id="soft_prompt"
generator = torch.Generator().manual_seed(lab.probe_seed("soft_prompt"))
probe_table, probe_head = torch.randn(7, 4, generator=generator), torch.randn(4, 7, generator=generator)
probe_prompt = torch.randn(3, 4, generator=generator, requires_grad=True)
probe_ids = torch.randint(0, 7, (2, 5), generator=generator)
probe_labels = probe_ids.clone()
probe_labels[:, :2] = -100
probe_loss = soft_prompt_loss(lambda x: torch.tanh(x.cumsum(1)) @ probe_head, lambda ids: probe_table[ids], probe_prompt,
                              probe_ids, probe_labels)
probe_gradient = torch.autograd.grad(probe_loss, probe_prompt)[0]
lab.probe("soft_prompt", [probe_loss.detach(), probe_gradient])

# %% [markdown]
# ## The library does it too, and agrees
#
# PEFT has all three prefixes. Its random prefix, unpacked by *your* function, behind the same base: the cache that you hand
# over is `ftlab`'s, the mask is yours.

# %%
import peft


def peft_behind(base, config):
    """(PEFT's model over the base's form in transformers, its learned matrix)."""
    torch.manual_seed(0)
    model = peft.get_peft_model(to_hf(base), config).eval()
    return model, model.prompt_encoder["default"].embedding.weight.detach()


P = 16
config = small.config
ids = torch.tensor([small_tokenizer.encode(alpaca(task.instruction))[:14] for task in some[:2]])
theirs, flat = peft_behind(small, peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=P))
cache = prefix.Behind(prefix_keys_values(flat, config.num_layers, config.num_heads, 1), batch=len(ids))
with torch.no_grad():
    mine = small(ids, cache=cache, mask=prefix_mask(torch.ones_like(ids, dtype=torch.bool), P))
    want = theirs(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
print(f"prefix of {P}: your keys, values and mask against PEFT: the largest difference is "
      f"{measured.relative(mine, want):.0e} of the largest logit")

# %% [markdown]
# Prompt tuning: the loss and its gradient.

# %%
theirs, soft = peft_behind(small, peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=P))


def read(x):
    """Logits (B, n, V) of the base for input vectors x (B, n, C)."""
    cos, sin = small.cos[:x.shape[1]], small.sin[:x.shape[1]]
    for layer in small.layers:
        x = layer(x, cos, sin, None, True)
    return small.lm_head(small.norm(x))


soft = soft.clone().requires_grad_()
loss = soft_prompt_loss(read, small.embed_tokens, soft, ids, ids)
loss.backward()
found = theirs(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[:, P:]
their_loss = F.cross_entropy(found[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
their_loss.backward()
their_gradient = theirs.prompt_encoder["default"].embedding.weight.grad
print(f"prompt of {P}: loss {loss:.6f} and {their_loss:.6f}; the largest difference of the gradients is "
      f"{measured.relative(soft.grad, their_gradient):.0e} of the largest")

# %% [markdown]
# `ftlab.tune` has the same methods by name: `attach(model, "ptuning", num_virtual_tokens=16, init_ids=...)` freezes the
# model and puts the prefix before it, for our models and for those of `transformers`; on the command line
# `ftlab tune ptuning`. All of them against PEFT, outputs and gradients, on tiny random models of ours and of two families
# of `transformers`:

# %% ftlab="result" claim="C38"
differences = {f"{kind}, {where}": measured.peft_differences(kind, where, 0)
               for kind in ("prefix", "ptuning", "prompt") for where in ("ours", "llama", "gpt2")}
lab.claim("C38", max(value for pair in differences.values() for value in pair.values()))

# %% [markdown]
# Bottleneck adapters have no home in PEFT. Ours are compared, in the package's tests, with numbers that the package
# `adapters` computed once: outputs and gradients, both placements. What can be seen here is the start, with *your* adapter
# in *your* places, and with the package's:

# %%
mine_model, _ = load("base-small")
with torch.no_grad():
    before = mine_model(ids)
    mine_adapters = insert(mine_model, lambda: Adapter(config.hidden_size, 16))
    print(f"{len(mine_adapters)} adapters, {sum(p.numel() for p in mine_adapters.parameters()):,} parameters of "
          f"{small.num_parameters():,}; largest difference at the start: {(mine_model(ids) - before).abs().max():.0e}")

# %% ftlab="result" claim="C37"
start = measured.measure_start(0, lambda text: None)
lab.claim("C37", start["value"], differences=start["differences"])

# %% [markdown]
# ## Predict, then run
#
# The house style, then. First the base itself, with the prompt alone, and with a prompt that states the style.

# %% ftlab="experiment"
base, tokenizer = lab_base(measured.BASE)
JUDGED = profile.steps(100, 10)
held_out = measured.asked_of("fox", 0, JUDGED)


def answers_and_score(model, asked=held_out):
    """Greedy answers, and the mean share of the seven constraints that they meet."""
    answers = ask(model, tokenizer, asked, max_new_tokens=120)
    return answers, statistics.fmean(tasks.score(task, answer) for task, answer in zip(asked, answers, strict=True))


base_answers, base_score = answers_and_score(base)
print(held_out[0].instruction, "\n  wanted:", held_out[0].response, "\n  the base:", base_answers[0][:200])
print(f"score of the base: {base_score:.2f}")

# %% ftlab="play"
lab.predict("prefix", "A prefix of 16 virtual tokens is trained on the house style for 150 steps, the base stays frozen. "
            "Which share of the seven constraints do its stories meet?", percent=True)

# %% ftlab="play"
lab.predict("adapter", "And adapters of size 16, with the same steps?", percent=True)

# %% ftlab="experiment"
STEPS, EXAMPLES = profile.steps(measured.STEPS, 6), profile.steps(measured.EXAMPLES, 40)
plot = widgets.LivePlot(title="P-tuning v2, 16 virtual tokens")
prefixed, _, prefix_history = measured.tuned("ptuning", 0, lambda text: None, steps=STEPS, examples=EXAMPLES,
                                             callbacks=[plot])
prefix_answers, prefix_score = answers_and_score(prefixed)
print(f"{prefixed.num_parameters(trainable=True):,} parameters learned, {prefix_history.seconds:.0f} s; "
      f"score {prefix_score:.2f}\n{prefix_answers[0]}")

# %% [markdown]
# The same with adapters; and since the base stays what it is, a second set for a second house, where a shy owl goes to the
# beach, Nora helps and all ends badly.

# %% ftlab="experiment"
model, _ = lab_base(measured.BASE)
histories = {"P-tuning v2": prefix_history}
for name in ("fox", "owl"):
    attach(model, "adapter", bottleneck_size=measured.BOTTLENECK, name=name)
    made = sft.make_rows(measured.family_tasks(name, EXAMPLES, f"{measured.LAB}/0"), tokenizer)
    batches = sft.make_batches(made, tokenizer, measured.TOKENS_PER_BATCH, 0)
    settings = sft.plan(STEPS, lr=sft.rate(model, measured.RATE["adapter"]), optimizer="adamw")
    histories[f"adapters, {name}"] = train(model, batches, settings)
adapter_answers, adapter_score = answers_and_score(adapter.use_adapter(model, "fox"))
plots.loss_curve(histories, title="one base, frozen; what learns is beside it").show()
print(f"{model.num_parameters(trainable=True):,} parameters a set; score of the fox's set {adapter_score:.2f}\n"
      f"{adapter_answers[0]}")

# %% ftlab="experiment"
for id, found in (("prefix", prefix_score), ("adapter", adapter_score)):
    plots.prediction_vs_result(lab.prediction(id), found, label=f"constraints met: {id}", percent=True).show()

# %% [markdown]
# **What to look at:** not the mean, but *which* of the seven each method has learned. Object and colour must be read from the
# prompt; the other five are always the same.

# %% ftlab="experiment"
def shares_met(answers):
    """{constraint: share of the stories that meet it}."""
    verdicts = [oracle.met(task.constraints, oracle.judge(answer, task.world))
                for task, answer in zip(held_out, answers, strict=True)]
    return {role: statistics.fmean(verdict[role] for verdict in verdicts) for role in verdicts[0]}


roles = list(held_out[0].constraints)
by_method = {"base": shares_met(base_answers), "prefix": shares_met(prefix_answers),
             "adapters": shares_met(adapter_answers)}
print("stories that meet it (object and colour are asked for, the rest is house style)")
print(f"{'':9}" + "".join(f"{role:>9}" for role in roles))
for name, met in by_method.items():
    print(f"{name:9}" + "".join(f"{100 * met[role]:7.0f} %" for role in roles))

# %% [markdown]
# ### Swap
#
# One base in memory, two small sets. Ask, swap, ask again. **What to look at:** the time a swap takes, and what stays the
# same between the answers.

# %% ftlab="play"
def answer_with(prompt, name):
    """The greedy answer of the base (name "no adapters") or with one set."""
    adapter.use_adapter(model, None if name == "no adapters" else name)
    return ask(model, tokenizer, [prompt], max_new_tokens=120)[0]


widgets.swap_view(["no adapters", "fox", "owl"], answer_with,
                  [task.instruction for task in held_out[:3]] + ["Tell a story about a red kite."])

# %% ftlab="experiment"
first = {name: answer_with(held_out[1].instruction, name) for name in ("no adapters", "fox", "owl")}
began = time.perf_counter()
adapter.use_adapter(model, "fox")
swap = time.perf_counter() - began
again = {name: answer_with(held_out[1].instruction, name) for name in ("owl", "no adapters", "fox")}
size = sum(t.numel() * 4 for t in adapter.adapter_state(model).values())
print(f"a swap takes {1000 * swap:.1f} ms; a set is {size / 1024:.0f} KiB beside a base of "
      f"{base.num_parameters() * 4 / 1024:.0f} KiB; answers as before: {first == again}")

# %% ftlab="result" claim="C42"
lab.claim("C42", float(sum(first[name] != again[name] for name in first)), bytes=size)

# %% [markdown]
# ## What we measured
#
# ### In every layer, or at the input only
#
# Sixteen virtual tokens, each method at its best of three rates, over three seeds.

# %% ftlab="experiment"
layers = [entry["data"] for entry in lab.study("C39")]
plots.bars({f"{name}, seed {i}": data[method]["score"] for method, name in (("ptuning", "every layer"),
                                                                            ("prompt", "input only"))
            for i, data in enumerate(layers)}, percent=True, xlabel="constraints met", title="16 virtual tokens").show()
print("constraints met, mean of the seeds:")
for role in roles:
    means = {method: statistics.fmean(data[method]["met"][role] for data in layers) for method in ("ptuning", "prompt")}
    print(f"  {role:7} every layer {means['ptuning']:.2f}, input only {means['prompt']:.2f}")

# %% ftlab="result" claim="C39"
prompted, _, _ = measured.tuned("prompt", 0, lambda text: None, steps=STEPS, examples=EXAMPLES)
_, prompt_score = answers_and_score(prompted)
lab.claim("C39", prefix_score - prompt_score, every_layer=prefix_score, input_only=prompt_score)

# %% [markdown]
# ### How long?

# %% ftlab="play"
lab.predict("length", "From 1 virtual token to 16 the held-out loss falls. What does the step from 16 to 64 bring?",
            kind="choice", options=["as much again", "about half of it", "next to nothing", "it gets worse"])

# %% ftlab="experiment"
lengths = [entry["data"]["runs"] for entry in lab.study("C40")]
counts = [int(length) for length in lengths[0]]
losses = [[runs[str(n)]["loss"] for runs in lengths] for n in counts]
plots.lines({"held-out loss": (counts, [statistics.fmean(c) for c in losses], [min(c) for c in losses],
                               [max(c) for c in losses])},
            "virtual tokens", "held-out loss (nats per token)", logx=True, labels=False,
            title="length of the prefix, three seeds").show()
for n in counts:
    one = [runs[str(n)] for runs in lengths]
    print(f"{n:3} virtual tokens: score {statistics.fmean(r['score'] for r in one):.2f}, "
          f"{one[0]['parameters']:,} parameters, {measured.cache_bytes(n) / 1024:.0f} KiB in each text's cache, "
          f"{1000 * statistics.fmean(r['step'] for r in one):.0f} ms a step")
print(f"You predicted: {lab.prediction('length') or 'nothing'}.")

# %% ftlab="result" claim="C40"
lab.claim("C40", statistics.fmean(losses[0]) - statistics.fmean(losses[2]))

# %% ftlab="result" claim="C40b"
lab.claim("C40b", statistics.fmean(runs["64"]["step"] for runs in lengths) /
          statistics.fmean(runs["1"]["step"] for runs in lengths))

# %% [markdown]
# A prefix is paid for at every use: its keys and values stand in the cache of every text, and every token attends to them.
# LoRA can be merged and then costs nothing; adapters cost two small products in each place.
#
# ### What is the MLP for?
#
# Li and Liang write that learning the keys and values directly was unstable, and put an MLP before them. Three random
# starts a seed, with and without. **What to look at:** the whiskers, not the bars. Is the difference of the two spreads
# larger than what seeds differ by?

# %% ftlab="experiment"
mlp = [entry["data"] for entry in lab.study("C41")]
plots.bars({f"{name}, seed {i}": (statistics.fmean(data["scores"][method]), min(data["scores"][method]),
                                  max(data["scores"][method]))
            for method, name in (("prefix", "with MLP"), ("ptuning", "without")) for i, data in enumerate(mlp)},
           percent=True, xlabel="constraints met: mean, lowest and highest start", title="random starts").show()
for i, data in enumerate(mlp):
    print(f"seed {i}: standard deviation {data['spread']['prefix']:.3f} with the MLP, {data['spread']['ptuning']:.3f} without")

# %% ftlab="result" claim="C41"
lab.claim("C41", statistics.fmean(data["spread"]["ptuning"] - data["spread"]["prefix"] for data in mlp))

# %% [markdown]
# One more pair of starts, here and now:

# %% ftlab="play"
def another_start(report):
    found = {}
    for method in ("prefix", "ptuning"):
        one, _, _ = measured.tuned(method, 0, report, start="random", start_seed=7, steps=STEPS, examples=EXAMPLES)
        found[method] = answers_and_score(one)[1]
    return f"score {found['prefix']:.2f} with the MLP, {found['ptuning']:.2f} without"


widgets.run_live_button("Run one more random start", another_start, note="two runs, about 30 seconds")

# %% [markdown]
# ### What a prefix brings out, and what it takes in
#
# The base has answered questions about endings in pretraining. In another form, "Classify the ending: happy or sad?", it
# was never asked. Adapters and a prefix after 150 steps:

# %% ftlab="result" claim="X08b"
elicited = [entry["data"] for entry in lab.study("X08b")]
plots.bars({f"{name}, seed {i}": data[method]["score"] for method, name in (("adapter", "adapters"),
                                                                            ("ptuning", "prefix"))
            for i, data in enumerate(elicited)}, percent=True, threshold=0.5, threshold_label="chance",
           xlabel="endings classified rightly", title="a skill that the base has").show()
lab.claim("X08b", statistics.fmean(data["adapter"]["score"] - data["ptuning"]["score"] for data in elicited))

# %% [markdown]
# Of **ships** it has read nothing. Logs of ships have words, names and a form of their own:

# %% ftlab="experiment"
print(measured.family_tasks(measured.LOGS, 1, "shown")[0].response)

# %% ftlab="play"
lab.predict("logs", "A prefix and adapters get as many numbers to learn (25,000), the same steps, and each its best of three "
            "rates. Who has the lower loss on held-out logs?", kind="choice",
            options=["adapters, by more than 0.2 nats", "neither, by less than 0.2", "the prefix, by more than 0.2 nats"])

# %% ftlab="experiment"
taught = [entry["data"] for entry in lab.study("X08")]
means = {"the base": statistics.fmean(data["base"] for data in taught),
         "prefix": statistics.fmean(data["ptuning"]["loss"] for data in taught),
         "adapters": statistics.fmean(data["adapter"]["loss"] for data in taught)}
plots.bars(means, "held-out loss on logs (nats per token)", title="what the base has never read").show()
print(f"You predicted: {lab.prediction('logs') or 'nothing'}.")

# %% ftlab="result" claim="X08"
lab.claim("X08", statistics.fmean(data["ptuning"]["loss"] - data["adapter"]["loss"] for data in taught))

# %% ftlab="play"
def teach(report):
    """Both methods on logs, here and now: {method: held-out loss} in a sentence."""
    losses, rows = {}, sft.make_rows(measured.family_tasks(measured.LOGS, 40, "live", "test"), tokenizer)
    for method in ("adapter", "ptuning"):
        taught, _, _ = measured.tuned(method, 1, report, family=measured.LOGS, length=measured.LOGS_LENGTH, steps=STEPS,
                                      examples=EXAMPLES, callbacks=[widgets.LivePlot(title=f"logs of ships: {method}")])
        losses[method] = sft.rows_loss(taught, rows, tokenizer)
    return f"held-out loss on logs: {losses['adapter']:.2f} with adapters, {losses['ptuning']:.2f} with a prefix"


widgets.run_live_button("Teach both to write logs", teach, note="two runs, about 40 seconds")

# %% [markdown]
# **What to look at:** who is ahead, and by how little. We made this comparison three times, on seed 0. One rate for each, 16
# virtual tokens, which are half as many numbers as the adapters have: adapters ahead by 0.37 nats. As many numbers, and the
# best of three rates for the prefix: the prefix ahead by 0.19. The best of three for adapters as well: adapters ahead by 0.21.
# None of these was made up, and only the last is fair. A sentence such as "A learns what B cannot" is worth what both were
# given; Lab 09 makes a rule of that.
#
# What is it, then, that a prefix cannot do? It adds columns to the attention of each token. It can draw attention away from
# the text, and add a vector to what a head reads, but it cannot change *how the text's own columns compare with each other*
# in that head: their scores keep their ratios (Petrov et al. 2024 prove it). An adapter has weights of its own behind every
# head. The house style and the endings do not need them, the logs a little.
#
# Write it down for yourself with one head and one prefix column of score $s$: the output is
# $(1 - \alpha)\, y + \alpha\, v_\text{prefix}$ with $\alpha = e^s / (e^s + Z)$. What is $y$?
#
# ## What people get wrong
#
# > **"Prefix tuning is prompting, so it works on a closed model."**
#
# A closed model takes text and gives text. A prefix needs gradients to be learned, and a place in every layer's cache to be
# used. What can text alone reach? Below: the style in words, as labels, one and two solved examples; and the learned soft
# prompt with each vector rounded to the nearest token, which *is* text and could be sent.

# %% ftlab="experiment"
closed = [entry["data"] for entry in lab.study("M05")]
rows = {what: [data["texts"][what] for data in closed] for what in closed[0]["texts"]}
rows["the learned prefix"] = [data["learned"] for data in closed]
plots.bars({what: (statistics.fmean(v), min(v), max(v)) for what, v in rows.items()}, percent=True,
           xlabel="constraints met", title="what text can send, and what it cannot")

# %% ftlab="result" claim="M05"
lab.claim("M05", statistics.fmean(data["value"] for data in lab.study("M05")))

# %% [markdown]
# What the soft prompt says, read as text:

# %% ftlab="experiment"
vectors = prefix.embedding(base).weight
table = F.normalize(vectors, dim=-1)
learned = prompted.kv_prefix.embedding.detach()
closeness, nearest = (F.normalize(learned, dim=-1) @ table.T).max(-1)
print(" | ".join(tokenizer.pieces(nearest.tolist())))
print(f"cosine to the nearest token: {closeness.min():.2f} to {closeness.max():.2f}; length of a learned vector "
      f"{learned.norm(dim=-1).mean():.1f}, of a token's {vectors.norm(dim=-1).mean():.1f}")

# %% [markdown]
# Words of the style may be among the nearest tokens, but the vectors are none of them: they lie where no token lies. (For a
# *large* model that follows instructions the style in words may do as well as
# all of this, at the price of its tokens in every call; Lab 00 computes when that pays.)
#
# ## Go further
#
# **A style of your own.** Change the facts and train; a set is small enough to mail. `ftlab tune adapter --data FILE
# --out DIR` and `ftlab tune ptuning` do it with any examples of yours; what `ptuning`, `prefix` and `prompt` save is in
# PEFT's format.

# %% ftlab="play"
MY_STYLE = {"kind": "bear", "trait": "sleepy", "place": "lake", "helper": "Emil", "ending": "happy"}


def my_house(report):
    measured.STYLES["mine"] = MY_STYLE
    attach(model, "adapter", bottleneck_size=measured.BOTTLENECK, name="mine")
    made = sft.make_rows(measured.house_tasks("mine", EXAMPLES, "mine"), tokenizer)
    batches = sft.make_batches(made, tokenizer, measured.TOKENS_PER_BATCH, 0)
    train(model, batches, sft.plan(STEPS, lr=sft.rate(model, measured.RATE["adapter"]), optimizer="adamw"),
          callbacks=[widgets.LivePlot(title="your house style")])
    return answer_with("Tell a story about a red kite.", "mine")


widgets.run_live_button("Train a set for your style", my_house, note="about 15 seconds")

# %% [markdown]
# **Discuss.**
#
# 1. A service keeps one base in memory for a thousand customers, each with a method of their own. Compare LoRA, adapters and
#    prefixes: memory, swapping within a batch, cost of each token.
# 2. Why does it not help to initialise all adapters at zero, both matrices?
# 3. The prefix started from the cache of a solved example. When would that matter most: at a high rate or a low one, for a
#    small model or a large one? How would you find out?
# 4. With rotary positions the prefix's keys carry the positions 0 to $P - 1$ if they come from real text. What positions does
#    a *random* prefix have?
#
# **Read.**
#
# - Houlsby et al. (2019), *Parameter-Efficient Transfer Learning for NLP*; Pfeiffer et al. (2021), *AdapterFusion*: one
#   adapter a block instead of two.
# - Li and Liang (2021), *Prefix-Tuning: Optimizing Continuous Prompts for Generation*: section 4.3 on the MLP, 7.2 on
#   length.
# - Lester, Al-Rfou, Constant (2021), *The Power of Scale for Parameter-Efficient Prompt Tuning*: input only is enough, once
#   the model is large.
# - Liu et al. (2022), *P-Tuning v2: Prompt Tuning Can Be Comparable to Fine-tuning Universally Across Scales and Tasks*.
# - He et al. (2022), *Towards a Unified View of Parameter-Efficient Transfer Learning*: adapters, prefixes and LoRA as one
#   formula.
# - Petrov, Torr, Bibi (2024), *When Do Prompting and Prefix-Tuning Work? A Theory of Capabilities and Limitations*.

# %%
lab.progress()
