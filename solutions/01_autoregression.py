# %% [markdown]
# # Lab 01 · One token at a time
#
# **The question.** A language model is a function: it takes the tokens so far and gives a probability for each
# possible next one. It has no plan and no memory beyond the text itself, and it says one token, then forgets that it
# spoke. How does a whole story come out of that, in which the fox that lost a kite on line two gets *the same kite*
# back on line six?
#
# You will build the loop that turns such a function into text, the ways to choose from its probabilities, the mask
# that lets it learn from every position at once, and the cache that makes it fast. Then you will put a question to it
# that two models of 2018 raised: why does GPT write, and why does BERT, which sees *both* sides of a word, not?
#
# Time: two to three hours. You need Python and a first idea of PyTorch tensors.

# %% ftlab="setup"
import functools
import math
import random
import statistics
import time

import torch

import ftlab
from ftlab import profile
from ftlab.model import ModelConfig, Transformer, load
from ftlab.show import plots, widgets
from ftlab.world import World, oracle

lab = ftlab.lab("01_autoregression")
world = World("rich")
model, tokenizer = load("base")
model.requires_grad_(False);  # we only read from it

# %% [markdown]
# `model` is a small transformer that has read one kind of text only: the short animal stories of a made-up world,
# under headings, in lists, with questions and answers. Text becomes tokens, tokens become numbers (Lab 02 builds that
# part), and the model turns $T$ numbers into $T$ rows of scores, the **logits**. Row $t$ scores every token of the
# vocabulary as the one to stand at place $t + 1$.

# %%
ids = tokenizer.encode("Once upon a time there lived a brave", bos=True)
logits = model(torch.tensor([ids]))[0]  # (T, V)
probabilities = logits[-1].softmax(-1)  # (V,): of the token after the last
best = probabilities.topk(5)

print("model:  ", f"{model.num_parameters():,} parameters")
print("tokens: ", tokenizer.pieces(ids))
print("logits: ", tuple(logits.shape), "= (tokens read, tokens in the vocabulary)")
print("next:   ", {piece: round(p, 3) for piece, p in zip(tokenizer.pieces(best.indices), best.values.tolist())})

# %% [markdown]
# ## Play
#
# Write a story with the model. Click a token to append it, or let the model choose. Try to find out:
#
# 1. Where is the model nearly certain, and where does it hesitate? Give the hero a name: how sure is it of that name
#    later?
# 2. Choose an *object* and a *colour* that the model thought unlikely. Does it keep them?
# 3. Turn the temperature down to 0.1, then up to 2. Which bars move, and which tokens does top-p drop first?
# 4. Choose the least likely of the ten, again and again. Can the story recover?


# %% ftlab="play"
from ftlab.model import filter_logits

vocabulary = tokenizer.pieces(range(tokenizer.vocab_size))


@functools.lru_cache(maxsize=512)
def last_logits(ids):
    """Logits (V,) of the token after `ids`; sliders ask about the same text again and again, so they are kept."""
    return model(torch.tensor([ids[-model.config.max_position_embeddings:]]))[0, -1]


def next_probs(ids, temperature, top_k, top_p):
    """What the explorer asks for: (id, piece, the model's own probability, the one after the filters) of each token."""
    logits = last_logits(tuple(ids))
    kept = filter_logits(logits, temperature, top_k, top_p).softmax(-1)
    return zip(range(len(vocabulary)), vocabulary, logits.softmax(-1).tolist(), kept.tolist())


widgets.next_token_explorer(next_probs, tokenizer.pieces, tokenizer.encode("Once upon a time there lived a", bos=True),
                            tokenizer.decode, end_id=tokenizer.eos_id)

# %% [markdown]
# ## Build
#
# ### The loop
#
# What you did by hand is all there is to it: **logits → choose → append → repeat**. The simplest choice is the
# likeliest token, which is called *greedy*. Each turn of the loop hands the model the whole text so far; what it wrote
# itself is treated just like what you wrote.


# %% ftlab="exercise" id="loop"
def write_greedily(model, prompt, max_new_tokens, end_id):
    """Continue `prompt` (a list of ids) by up to `max_new_tokens` tokens, each the likeliest; stop at `end_id`.

    model: maps a tensor of ids (1, T) to logits (1, T, V). Returns the list of new ids (ints), without `end_id`.
    """
    ### BEGIN SOLUTION
    ids, new = list(prompt), []
    for _ in range(max_new_tokens):
        token = model(torch.tensor([ids]))[0, -1].argmax().item()
        if token == end_id:
            break
        new.append(token)
        ids.append(token)
    return new
    ### END SOLUTION


# %% ftlab="check" id="loop"
lab.check("loop", write_greedily)

# %% ftlab="probe" id="loop"
generator = torch.Generator().manual_seed(lab.probe_seed("loop"))
table = torch.randn(9, 9, 9, generator=generator)
table.diagonal(dim1=1, dim2=2).fill_(table.min())  # no token follows itself, so to stand still is always wrong


def table_model(ids):
    return table[torch.cat([torch.zeros_like(ids[:, :1]), ids[:, :-1]], dim=1), ids]


lab.probe("loop", [write_greedily(table_model, [end_id, 3, 5], 6, end_id) for end_id in range(9)])

# %% [markdown]
# Your loop, on the real model. Run it twice: nothing changes, for there is no chance in it.


# %%
def show(text, width=100):
    """Print a text, broken at spaces, so that no line is longer than `width`."""
    line = ""
    for word in text.split():
        if len(line) + len(word) >= width:
            print("  ", line)
            line = ""
        line += (" " if line else "") + word
    print("  ", line)


def first_story(text):
    """The text up to the end of its first paragraph: the model may go on with another story."""
    return text.split("\n")[0].strip()


prompt = tokenizer.encode("Once upon a time there lived a", bos=True)
greedy_ids = write_greedily(model, prompt, 120, tokenizer.eos_id)
show(first_story(tokenizer.decode(prompt + greedy_ids)))

# %% [markdown]
# ### Choosing with chance: temperature and top-p
#
# Greedy writing always tells one story. To hear others, draw the token from the probabilities. Two knobs shape them
# first:
#
# - **Temperature** $T$ divides the logits $z$: $\;p_i = e^{z_i / T} / \sum_j e^{z_j / T}$. Below 1 the likely gets
#   likelier; towards 0 it becomes greedy; above 1 everything gets more equal.
# - **Top-p** (*nucleus sampling*, Holtzman et al. 2020) keeps the shortest list of likeliest tokens whose
#   probabilities together reach $p$, and rescales them to sum to 1. Where the model is sure the list is short, where
#   it hesitates, long. **Top-k** (Fan et al. 2018) keeps a fixed number instead.


# %% ftlab="exercise" id="sampling"
def next_token_probs(logits, temperature, top_p):
    """Probabilities (V,) to draw the next token from: temperature first, then top-p; the rest is 0.

    logits: (V,). temperature: above 0. top_p: in (0, 1]; the token with which the sum reaches top_p is kept.
    """
    ### BEGIN SOLUTION
    probs = (logits / temperature).softmax(-1)
    ordered, order = probs.sort(descending=True)
    dropped = order[ordered.cumsum(-1) - ordered >= top_p]  # what stands before them already reaches p
    probs[dropped] = 0.0
    return probs / probs.sum()
    ### END SOLUTION


# %% ftlab="check" id="sampling"
lab.check("sampling", next_token_probs)

# %% ftlab="probe" id="sampling"
generator = torch.Generator().manual_seed(lab.probe_seed("sampling"))
lab.probe("sampling", [next_token_probs(2 * torch.randn(12, generator=generator), temperature, top_p)
                       for temperature, top_p in [(0.5, 1.0), (0.6, 0.9), (1.0, 0.7), (1.7, 0.8), (2.0, 0.6)]])

# %% [markdown]
# Three temperatures, one seed. The **oracle** of the made-up world reads each story and says which rules it breaks
# (hero and object the same throughout, helper, places, plot, ending, whole sentences, ...). *Look at* what goes wrong
# first as the temperature rises.


# %%
def write_with_chance(model, prompt, max_new_tokens, end_id, temperature=1.0, top_p=1.0, seed=0):
    """The loop again; only the line that chooses has changed."""
    generator, ids = torch.Generator().manual_seed(seed), list(prompt)
    for _ in range(max_new_tokens):
        probs = next_token_probs(model(torch.tensor([ids]))[0, -1], temperature, top_p)
        token = torch.multinomial(probs, 1, generator=generator).item()
        if token == end_id:
            break
        ids.append(token)
    return ids[len(prompt):]


for temperature in (0.5, 1.0, 1.5):
    new = write_with_chance(model, prompt, profile.steps(120, 20), tokenizer.eos_id, temperature, seed=3)
    story = first_story(tokenizer.decode(prompt + new))
    print(f"\nT = {temperature}")
    show(story)
    print("   ->", "; ".join(oracle.judge(story).problems[:2]) or "every rule kept")

# %% [markdown]
# ### What a whole text is worth: the chain rule
#
# The model only ever judges the next token, yet that fixes the probability of every whole text. By the **chain rule**
#
# $$\log p(x_1, \ldots, x_T) = \sum_{t} \log p(x_t \mid x_1, \ldots, x_{t-1}).$$
#
# Each term, with its sign turned, is a token's **surprisal** in nats. Their sum is what the text costs; their mean is
# the loss that training brings down; and $\exp$ of the mean is the **perplexity**: the number of equally likely tokens
# among which the model might as well have been choosing. A model that is always certain and right has perplexity 1.


# %% ftlab="exercise" id="perplexity"
def surprisals(model, ids):
    """−log p of each token of `ids` given those before it, in nats: a tensor (len(ids) − 1,), for tokens 1, 2, ...

    (Token 0 is the start token <s>: nothing stands before it that could foretell it.)
    """
    ### BEGIN SOLUTION
    logp = model(torch.tensor([ids]))[0].log_softmax(-1)  # (T, V)
    return -logp[torch.arange(len(ids) - 1), torch.tensor(ids[1:])]  # row t forecasts token t + 1
    ### END SOLUTION


def perplexity(model, ids):
    """The perplexity of `ids` under the model: a float, 1 or more."""
    ### BEGIN SOLUTION
    return math.exp(surprisals(model, ids).mean().item())
    ### END SOLUTION


# %% ftlab="check" id="perplexity"
lab.check("perplexity", surprisals, perplexity)

# %% ftlab="probe" id="perplexity"
generator = torch.Generator().manual_seed(lab.probe_seed("perplexity"))
table = torch.randn(9, 9, 9, generator=generator)
sentence = torch.randint(9, (7,), generator=generator).tolist()
lab.probe("perplexity", {"surprisals": surprisals(table_model, sentence),
                         "perplexity": perplexity(table_model, sentence)})

# %% [markdown]
# Our world has a luxury that real language lacks: the stories come from a known generator, which can say the *exact*
# probability of each. So we can hold the model's sum of one hundred small forecasts against the truth. *Look at* how
# close the points are to the line of equality. They lie above it: the model also has to pay for not knowing that a
# bare story will come, rather than a list or a heading, and for what it has not learned.

# %%
stories = world.sample(profile.steps(60, 8), seed=11, split="test")
true = [-story.logp for story in stories]
ours = [surprisals(model, tokenizer.encode(story.text, bos=True, eos=True)).sum().item() for story in stories]
line = [min(true) + (max(true) - min(true)) * i / 40 for i in range(41)]
plots.scatter({"a story each": (true, ours), "equality": (line, line)}, xlabel="true −log p of the story (nats)",
              ylabel="the model's −log p (nats)", title="The sum of its forecasts against the truth")

# %% [markdown]
# ### Is the likeliest text the best one?
#
# Greedy takes the likeliest *token* each time, which need not give the likeliest *text*. **Beam search** keeps several
# unfinished texts at a time and follows the best of all their continuations; that is no guarantee either, only a wider
# search. *Look at* the cost of each text, its $-\log p$ from the same prompt on, and then at the last line: what the
# stories cost that the world's own generator tells. Which way of choosing lands where those are? (Holtzman et al. 2020
# found the same in English: people do not write the likeliest text.)

# %%
from ftlab.model import beam_search

length = profile.steps(100, 16)
start = len(prompt)
found = {
    "greedy": write_greedily(model, prompt, length, tokenizer.eos_id),
    "beam search, 5 beams": beam_search(model, prompt, length, num_beams=5, eos_id=tokenizer.eos_id)[0],
    "drawn at T = 1": write_with_chance(model, prompt, length, tokenizer.eos_id, seed=5),
}
for name, new in found.items():
    values = surprisals(model, prompt + new)[start - 1:]
    print(f"\n{name}: {values.sum():.1f} nats over {len(new)} tokens")
    show(first_story(tokenizer.decode(prompt + new)))
sizes = [len(tokenizer.encode(story.text)) for story in stories]
print(f"\nstories of the world itself: {statistics.fmean(ours):.1f} nats over {statistics.fmean(sizes):.0f} tokens")

# %% [markdown]
# ### Why the past stays put: the causal mask
#
# In attention each token reads from others: row $t$ of the weights says how much token $t$ takes from each token $s$.
# If it could read from $s > t$, the answer to "what comes next?" would stand in its input. So the scores of the future
# are set to $-\infty$ *before* the softmax,
#
# $$A_{ts} = \frac{e^{S_{ts}}}{\sum_{r \le t} e^{S_{tr}}} \text{ for } s \le t, \qquad A_{ts} = 0 \text{ for } s > t .$$
#
# One mask has three gifts: every position of a training text is an honest exercise, all at once; the same function
# serves training and writing; and what was computed for a token never has to be computed again.


# %% ftlab="exercise" id="causal_mask"
def causal_attention(scores):
    """Attention weights from raw scores (..., T, T): each row a softmax over the columns that it may see.

    Row t may see the columns 0 to t, itself included.
    """
    ### BEGIN SOLUTION
    length = scores.shape[-1]
    allowed = torch.ones(length, length, dtype=torch.bool).tril()
    return scores.masked_fill(~allowed, float("-inf")).softmax(-1)
    ### END SOLUTION


# %% ftlab="check" id="causal_mask"
lab.check("causal_mask", causal_attention)

# %% ftlab="probe" id="causal_mask"
generator = torch.Generator().manual_seed(lab.probe_seed("causal_mask"))
lab.probe("causal_mask", causal_attention(torch.randn(2, 5, 5, generator=generator)))

# %%
scores = torch.randn(12, 12, generator=torch.Generator().manual_seed(0))
plots.heatmap(causal_attention(scores).tolist(), tokenizer.pieces(tokenizer.encode(stories[0].text)[:12]),
              title="Your mask: no token reads a later one")

# %% [markdown]
# ### The contrast: BERT
#
# **BERT** (Devlin et al. 2019) is the same body *without* the mask. It cannot be trained to guess the next token,
# which it would see; instead some tokens are hidden behind `<mask>` and it learns to guess those from both sides.
# `base-masked` is our small BERT, pretrained on the same text. Below is a gap whose answer is told only afterwards.
# *Look at* what each model makes of it: one sees both sides of the gap, the other only what stands before it.

# %%
masked_model, masked_tokenizer = load("base-masked")
masked_model.requires_grad_(False)
before, after = "Ines was a shy goat. Ines had a green", ". One day Ines took the map to the village."
left = masked_tokenizer.encode(before, bos=True)
gap = left + [masked_tokenizer.mask_id] + masked_tokenizer.encode(after, eos=True)
views = {
    "masked": (masked_tokenizer, masked_model(torch.tensor([gap]))[0, len(left)].softmax(-1)),
    "causal": (tokenizer, model(torch.tensor([tokenizer.encode(before, bos=True)]))[0, -1].softmax(-1)),
}
bars = {f"{name}: {cut.pieces([i])[0].strip()}": probs[i].item()
        for name, (cut, probs) in views.items() for i in probs.topk(4).indices.tolist()}
plots.bars(bars, xlabel="probability of the token in the gap", percent=True,
           title="“Ines had a green ___ . One day Ines took the map to the village.”")

# %% [markdown]
# ### Never compute twice: the KV cache
#
# Your loop makes the model read the whole text again for every token: a text of $n$ tokens costs $1 + 2 + \dots + n$
# token readings. Under the causal mask that is waste: the keys and values of the old tokens cannot have changed. So
# keep them. At each step only the *new* token goes through the model; its query meets the stored keys and values.
# Queries of old tokens are not needed again, hence a *KV* cache.
#
# Our model asks a cache for two things: its `length`, and for each layer something with `extend(k, v)`, to which the
# layer hands the keys and values of the tokens that it is just reading, and from which it gets back all so far.

# %% ftlab="setup"
class Cache:
    """One layer cache for each layer, as the model asks for it."""

    def __init__(self, model, layer_cache):
        self.layers = [layer_cache() for _ in range(model.config.num_layers)]

    @property
    def length(self):
        keys = self.layers[0].keys
        return 0 if keys is None else keys.shape[2]

    def layer(self, index):
        return self.layers[index]


# %% [markdown]
# The frame is given; write what stands in it, and the loop that uses it. (The house's version, `ftlab.model.KVCache`,
# makes room in advance instead of joining tensors.)


# %% ftlab="exercise" id="kv_cache"
class LayerCache:
    """The keys and values of one layer: tensors (B, H, t, D) of the t tokens read so far, None before the first."""

    def __init__(self):
        self.keys = self.values = None

    def extend(self, k, v):
        """Store k and v (B, H, T, D) behind what is there; return all keys and all values, (B, H, t + T, D) each."""
        ### BEGIN SOLUTION
        if self.keys is not None:
            k = torch.cat([self.keys, k], dim=2)
            v = torch.cat([self.values, v], dim=2)
        self.keys, self.values = k, v
        return k, v
        ### END SOLUTION


def write_with_cache(model, prompt, max_new_tokens, end_id, cache):
    """As `write_greedily`, but the model reads every token only once.

    cache: new and empty; model(ids, cache=cache) reads ids (1, T) as the tokens that follow those in the cache.
    """
    ### BEGIN SOLUTION
    unread, new = list(prompt), []
    for _ in range(max_new_tokens):
        token = model(torch.tensor([unread]), cache=cache)[0, -1].argmax().item()
        if token == end_id:
            break
        new.append(token)
        unread = [token]
    return new
    ### END SOLUTION


# %% ftlab="check" id="kv_cache"
lab.check("kv_cache", LayerCache, write_with_cache)

# %% ftlab="probe" id="kv_cache"
probe_seed = lab.probe_seed("kv_cache")
generator = torch.Generator().manual_seed(probe_seed)
one_layer = LayerCache()
pieces = [one_layer.extend(*torch.randn(2, 1, 2, count, 3, generator=generator)) for count in (3, 1)]
reads = []
hook = model.register_forward_pre_hook(lambda _, arguments: reads.append(arguments[0].shape[1]))
start_ids = tokenizer.encode(world.sample(1, probe_seed)[0].text[:60], bos=True)
written = write_with_cache(model, start_ids, 6, None, Cache(model, LayerCache))
hook.remove()
lab.probe("kv_cache", {"keys": pieces[-1][0], "values": pieces[-1][1], "text": written, "reads": reads[:6]})

# %%
again = write_with_cache(model, prompt, 120, tokenizer.eos_id, Cache(model, LayerCache))
print("same text as without the cache:", again == greedy_ids)

# %% [markdown]
# ## The library does it too, and agrees
#
# `transformers` is the library that most of the world writes with. Our model is of the Llama architecture, so it can
# carry our weights. Your loop and its `generate` must choose the same token every time; your filters must keep what
# its filters keep; your mask must be the one in PyTorch's attention kernel.

# %% ftlab="experiment"
from ftlab.model import to_hf

hf_model = to_hf(model)


def theirs_greedily(prompt, max_new_tokens):
    """The same by transformers, greedy."""
    ids = torch.tensor([prompt])
    out = hf_model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=max_new_tokens,
                            eos_token_id=tokenizer.eos_id, pad_token_id=tokenizer.pad_id)
    new = out[0, len(prompt):].tolist()
    return new[:-1] if new and new[-1] == tokenizer.eos_id else new


length = profile.steps(80, 20)
openings = [story.text[:story.text.index(".") + 1] for story in stories[:profile.steps(8, 2)]]
openings += ["", "### Title", "Question:"]
different = tokens = 0
for text in openings:
    start_ids = tokenizer.encode(text, bos=True)
    mine, theirs = write_greedily(model, start_ids, length, tokenizer.eos_id), theirs_greedily(start_ids, length)
    tokens += len(mine)
    different += sum(a != b for a, b in zip(mine, theirs)) + abs(len(mine) - len(theirs))
print(f"{len(openings)} prompts, {tokens} tokens, {different} of them differ")

# %%
from transformers import TemperatureLogitsWarper, TopPLogitsWarper

generator = torch.Generator().manual_seed(0)
worst = 0.0
for temperature, top_p in [(0.7, 0.9), (1.0, 0.5), (1.5, 0.8)]:
    z = 2 * torch.randn(200, generator=generator)
    theirs = TopPLogitsWarper(top_p)(None, TemperatureLogitsWarper(temperature)(None, z[None]))[0].softmax(-1)
    worst = max(worst, (theirs - next_token_probs(z, temperature, top_p)).abs().max().item())
print(f"temperature and top-p: probabilities differ by at most {worst:.1e}")

q, k, v = torch.randn(3, 1, 1, 6, 8, generator=generator)  # (B, H, T, D) each
kernel = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
by_hand = causal_attention(q @ k.mT / math.sqrt(8)) @ v
print(f"causal attention: outputs differ by at most {(kernel - by_hand).abs().max():.1e}")

# %% [markdown]
# ## Predict, then the experiment
#
# ### A token is changed. Who notices?
#
# We replace one token in the middle of a story, and look at the logits of all *earlier* places, in the causal and in
# the bidirectional model.

# %% ftlab="play"
lab.predict("notices", "One token in the middle of a text is replaced. Whose logits at the places before it change?",
            kind="choice", options=["in both models", "in the bidirectional model only", "in the causal model only",
                                    "in neither"])


# %% ftlab="experiment"
def change_of_earlier_logits(model, ids, place, token):
    """Largest change of any logit before `place` when the token there is replaced."""
    other = list(ids)
    other[place] = token
    before, after = model(torch.tensor([ids]))[0, :place], model(torch.tensor([other]))[0, :place]
    return (before - after).abs().max().item()


draw = random.Random(0)
changes = {"causal": [], "bidirectional": []}
for story in stories[:profile.steps(20, 4)]:
    for name, reader, cut in [("causal", model, tokenizer), ("bidirectional", masked_model, masked_tokenizer)]:
        story_ids = cut.encode(story.text, bos=True, eos=True)
        place = draw.randrange(2, len(story_ids) - 1)
        token = draw.choice([t for t in range(4, cut.vocab_size) if t != story_ids[place]])
        changes[name].append(change_of_earlier_logits(reader, story_ids, place, token))
for name, values in changes.items():
    print(f"{name:14} change of earlier logits: {min(values):.4f} to {max(values):.4f} over {len(values)} stories")
print("You predicted:", lab.prediction("notices") or "nothing")

# %% [markdown]
# ### What a token costs
#
# The time for one more token, against the length of the text that stands before it: once with the whole text read
# anew, once with your cache. *Look at* the shape of the two curves, not at the milliseconds, which are this machine's.

# %% ftlab="play"
lab.predict("growth", "Without a cache: how many times as long does token 448 take as token 32?", low=1, high=50,
            unit="times")

# %% ftlab="experiment"
lengths = (32, 64, 128, 192, 256, 320, 384, 448)
long_text = tokenizer.encode("\n\n".join(s.text for s in world.sample(20, 5, "test")), bos=True)[:lengths[-1]]
seconds = {"without a cache": [], "with your cache": []}
largest = 0.0
with torch.inference_mode():
    for length in lengths:
        text = torch.tensor([long_text[:length]])
        plain, cached = [], []
        cache = Cache(model, LayerCache)
        model(text[:, :-1], cache=cache)
        past = [(layer.keys, layer.values) for layer in cache.layers]
        for _ in range(profile.steps(15, 2)):
            began = time.perf_counter()
            full = model(text)[0, -1]
            plain.append(time.perf_counter() - began)
            for layer, (keys, values) in zip(cache.layers, past):
                layer.keys, layer.values = keys, values  # forget the last token again
            began = time.perf_counter()
            last = model(text[:, -1:], cache=cache)[0, -1]
            cached.append(time.perf_counter() - began)
            largest = max(largest, (full - last).abs().max().item())
        seconds["without a cache"].append(statistics.median(plain))
        seconds["with your cache"].append(statistics.median(cached))
print(f"the two ways' logits differ by at most {largest:.1e}")
plots.lines({name: (lengths, [1000 * s for s in values]) for name, values in seconds.items()},
            xlabel="length of the text (tokens)", ylabel="time for one more token (ms)", ylim=(0, None),
            title="Without a cache every token pays for the whole past")

# %%
grows = {name: values[-1] / values[0] for name, values in seconds.items()}
plots.prediction_vs_result(lab.prediction("growth"), grows["without a cache"], unit="times",
                           label="growth of the time per token without a cache, from length 32 to 448")

# %% [markdown]
# ### GPT against BERT: who can write?
#
# The main experiment. Two models of the same size see the same stories of a smaller world, in the same batches, for
# the same number of steps, and then both must write from nothing, left to right:
#
# - the **causal** model, trained to guess every next token;
# - a **masked** model, made as good a writer as we know how. It was trained on *suffix masks*: from a random place on
#   everything is hidden, and it guesses the first hidden token, which is just the situation it will be in when it
#   writes. It is also told how long the story is to be: one `<mask>` for each token still to come.
#
# A third, trained on BERT's scattered masks, waits in the committed study, with three ways of making it write.

# %% ftlab="play"
lab.predict("masked", "After 800 steps the causal model tells whole stories, and most of them keep every rule. What share "
            "of the masked model's stories, with suffix masks, will keep every rule?", low=0, high=1, percent=True)

# %% ftlab="experiment"
from ftlab.model import generate  # your loop with your cache and your filters, for many texts at a time
from ftlab.model.masked import generate_masked
from ftlab.text.batching import MaskedBatches, RowBatches
from ftlab.train import TrainConfig, recipes, train

steps, samples = profile.steps(recipes.STEPS, 4), profile.steps(200, 4)
small, small_tokenizer = World("small"), recipes.small_tokenizer()
small_stories = small.sample(profile.steps(16_500, 400), seed=0, split="train")
rows = small_tokenizer.encode_batch([story.text for story in small_stories], bos=True, eos=True)
floor = sum(-story.logp for story in small_stories) / sum(len(row) - 1 for row in rows)  # nats per token


def train_model(masks=None, title=""):
    """Train a model of 0.46 M parameters: causal, or masked with "suffix" or "scattered" masks. Draws its loss."""
    torch.manual_seed(0)
    fresh = Transformer(ModelConfig(small_tokenizer.vocab_size, **recipes.MODEL, causal=masks is None))
    batches = RowBatches(rows, recipes.TOKENS_PER_BATCH, seed=0)
    if masks:
        batches = MaskedBatches(batches, small_tokenizer.mask_id, small_tokenizer.vocab_size, suffix=masks == "suffix")
    config = TrainConfig(steps, lr=recipes.LR, optimizer="muon", muon_lr=recipes.MUON_LR, warmup=recipes.WARMUP)
    # The floor is that of a next token; scattered masks ask other questions.
    plot = widgets.LivePlot(floor=None if masks == "scattered" else floor, title=title)
    train(fresh, batches, config, callbacks=[plot])
    return fresh


def judge_all(new_rows):
    """(every rule kept, hero and object kept) as shares, and the texts."""
    texts = [small_tokenizer.decode(row) for row in new_rows]
    verdicts = [oracle.judge(text, small) for text in texts]
    every, kept = ([getattr(v, name) for v in verdicts] for name in ("every_rule", "hero_and_object"))
    return statistics.fmean(every), statistics.fmean(kept), texts


def write_masked(masked, **how):
    """Stories from nothing by a masked model, which is told lengths drawn from the training stories."""
    lengths = [len(row) for row in random.Random(0).choices(rows, k=samples)]
    return generate_masked(masked, [[small_tokenizer.bos_id]] * samples, lengths, small_tokenizer.mask_id,
                           small_tokenizer.eos_id, seed=0, **how)


causal = train_model(title="causal: every next token")
nothing = [[small_tokenizer.bos_id]] * samples  # the prompt: the start token alone
causal_result = judge_all(generate(causal, nothing, 100, eos_id=small_tokenizer.eos_id, seed=0))

# %% ftlab="experiment"
suffix = train_model("suffix", title="masked: the first token of a hidden suffix")
suffix_result = judge_all(write_masked(suffix))

# %%
for name, (every, kept, texts) in {"causal": causal_result, "masked, suffix masks": suffix_result}.items():
    print(f"\n{name}: every rule kept {every:.0%}, hero and object kept {kept:.0%}")
    show(texts[0])
plots.prediction_vs_result(lab.prediction("masked"), suffix_result[0], percent=True,
                           label="stories with every rule kept: masked model, suffix masks")

# %% [markdown]
# *Look at* the two loss curves above. They may be compared: both are the mean surprisal of a next token of a story,
# and the dashed floor is the entropy of the world's generator. (The masked model is told the length, so its own floor
# lies a little lower.) Below: all ways in the committed study, and a button that trains the third model here.

# %%
from ftlab.measure.claims import t_interval


def ways_of_the_study():
    """Share of stories with every rule kept, for each model and way of writing, over the committed seeds."""
    runs = [run["data"]["every_rule"] for run in lab.study("C05")]
    shares = {name: t_interval([run[name] for run in runs]) for name in (runs[0] if runs else {})}
    return plots.bars(shares, percent=True, xlabel="stories with every rule kept",
                      title=f"The study: means and 95 % intervals, {len(runs)} seeds")


ways_of_the_study()


# %% ftlab="play"
def third_model():
    """Train on BERT's scattered masks, then write in three ways."""
    scattered = train_model("scattered", title="masked: 15 % scattered masks")
    shares = {"causal": causal_result[0], "suffix masks": suffix_result[0]}
    for name, how in {"all places to come masked": {"end_shown": True}, "one mask at the end": {"window": 1},
                      "one mask, then the end": {"end_shown": True, "window": 1}}.items():
        shares[f"BERT's masks, {name}"] = judge_all(write_masked(scattered, **how))[0]
    return plots.bars(shares, percent=True, xlabel="stories with every rule kept", title="This run")


widgets.run_live_button("Train the model with BERT's masks, and let it write (about a minute)", third_model)

# %% [markdown]
# Does one of them fall behind, and why? One reason can be counted: how many questions a training step asks, that is,
# how many tokens have a loss.

# %%
source = RowBatches(rows, recipes.TOKENS_PER_BATCH, seed=0)
masking = {"masked, BERT's masks": False, "masked, suffix masks": True}
asked = {"causal": source(0).num_tokens() - len(source(0).input_ids)}  # nothing foretells a row's first token
for name, as_suffix in masking.items():
    batch = MaskedBatches(source, small_tokenizer.mask_id, small_tokenizer.vocab_size, suffix=as_suffix)(0)
    asked[name] = batch.num_tokens()
plots.bars(asked, xlabel="tokens with a loss in one training step", title="The same stories, the same cost")

# %% [markdown]
# Under the causal mask one pass asks about *every* token of a story, and each time the question is the one that
# writing asks. With suffix masks it is the right question, but one a story. BERT's masks ask more of them, but never
# with the whole future hidden. When writing, the masked model also has to compute everything anew for each token: with
# its view to both sides a new token changes all the old ones (C04), so there is nothing to cache.

# %% [markdown]
# ### Diversity against validity
#
# Which temperature is best? That depends on what you want. We let the causal model that you have just trained write at
# several settings and measure two things: **validity**, the share of stories in which the oracle finds every rule
# kept, and **diversity**, the share of four-word sequences that are distinct (*distinct-4*, after Li et al. 2016), per
# hundred stories.

# %% ftlab="play"
lab.predict("valid", "You know the share of stories with every rule kept at temperature 1. What is it at 0.5?", low=0,
            high=1, percent=True)

# %% ftlab="experiment"
count = profile.steps(100, 6)


def distinct_4(texts):
    """Distinct sequences of four words over all of them."""
    grams = [gram for text in texts for w in [text.split()] for gram in zip(w, w[1:], w[2:], w[3:])]
    return len(set(grams)) / max(1, len(grams))


def tell(temperature, top_p=None):
    """(diversity, validity) of `count` stories."""
    found = generate(causal, [[small_tokenizer.bos_id]] * count, 100, temperature, top_p=top_p,
                     eos_id=small_tokenizer.eos_id, seed=1)
    every, _, texts = judge_all(found)
    return distinct_4(texts), every


cool, fair, hot, nucleus = tell(0.5), tell(1.0), tell(1.3), tell(1.0, top_p=0.5)
own = distinct_4([story.text for story in small_stories[:count]])
print(f"distinct-4 of {count} stories of the world itself: {own:.2f}")
plots.frontier({"temperature (top-p off)": [(*cool, "T = 0.5"), (*fair, "1.0"), (*hot, "1.3")],
                "top-p (T = 1)": [(*nucleus, "p = 0.5"), (*fair, "")]},
               xlabel=f"diversity: distinct-4 of {count} stories", ylabel="validity: every rule kept", percent_y=True,
               best="better: up and to the right", title="This run")

# %%
plots.prediction_vs_result(lab.prediction("valid"), cool[1], percent=True,
                           label="stories with every rule kept at T = 0.5")

# %% [markdown]
# The committed study has more settings, three trained models and three times the stories. *Look at* each line from its
# careful end to its free end. Where does it run down and to the right, as a trade should? Is there a setting that is
# worse than another in *both* ways, so that nobody should use it? And set the printed diversity of the world itself
# beside it: variety beyond that is not the world's.


# %%
def frontier_of_the_study():
    """Mean over the committed runs of each setting's diversity and validity."""
    points = {}
    for run in lab.study("C07"):
        for row in run["data"]["settings"]:
            points.setdefault((row["kind"], row["setting"]), []).append((row["diversity"], row["valid"]))
    middle = {key: tuple(map(statistics.fmean, zip(*values))) for key, values in points.items()}
    series = {"temperature (top-p off)": [(*middle[k], f"{k[1]:g}") for k in middle if k[0] == "temperature"],
              "top-p (T = 1)": [(*middle[k], f"{k[1]:g}") for k in middle if k[0] == "top-p"]}
    return plots.frontier(series, xlabel="diversity: distinct-4 per 100 stories", ylabel="validity: every rule kept",
                          percent_y=True, best="better: up and to the right", title="The study: means over its seeds")


frontier_of_the_study()

# %% [markdown]
# ## What we measured
#
# A loop of eight lines is what `generate` does.

# %% ftlab="result" claim="C03"
lab.claim("C03", different, prompts=len(openings), tokens=tokens)

# %% [markdown]
# Under the mask the past cannot depend on the future. That is why one pass over a text trains on all its places, and
# why a cache is possible.

# %% ftlab="result" claim="C04"
lab.claim("C04", statistics.fmean(c <= 1e-5 and b >= 0.01 for c, b in zip(*changes.values())),
          largest_causal=max(changes["causal"]), smallest_bidirectional=min(changes["bidirectional"]))

# %% [markdown]
# At equal size, data and steps, which is the better writer? (This run's number sets the causal model against suffix
# masks alone; the study sets it against the best of four ways of writing with a masked model.)

# %% ftlab="result" claim="C05"
lab.claim("C05", causal_result[0] - suffix_result[0], causal=causal_result[0], suffix=suffix_result[0])

# %% [markdown]
# With a cache a token hardly costs more at the end of a long text than at the start of it; without one it does.

# %% ftlab="result" claim="C06"
ratio = grows["without a cache"] / grows["with your cache"]
lab.claim("C06", ratio if largest <= 1e-4 else 0.0, largest_difference=largest)

# %% [markdown]
# Do both knobs trade, over their whole range? The claim asks it of both, from end to end; its note says what the study
# found.

# %% ftlab="result" claim="C07"
lab.claim("C07", min(cool[1] - hot[1], hot[0] - cool[0], nucleus[1] - fair[1], fair[0] - nucleus[0]))

# %% [markdown]
# ## What people get wrong
#
# - *“Greedy (or beam search) writes the best text, since it is the likeliest.”* You measured it: the world's own
#   stories cost more nats than greedy ones. To be typical is not to be likeliest.
# - *“The KV cache trades accuracy for speed.”* It stores what would be computed again. You measured the difference of
#   the logits: rounding.
# - *“Temperature makes the model more creative.”* It flattens the same forecasts: no fact is in them that was not
#   there. Look at the study's line from T = 1 to 1.3, and at what goes out as variety comes in.
# - *“BERT sees more, so it must be the better language model.”* For filling a gap, seeing more helps; for writing, its
#   training asked too few of the right questions.
# - *“A lower perplexity is a better model.”* Only on the same text *and* the same tokenizer: perplexity is per token,
#   and the same $-\log p$ of a text, spread over twice as many tokens, gives its square root. (Question 3 below.)

# %% [markdown]
# ## Your own text
#
# Type something. Under each token stands its **surprisal** in nats: 0 means foreseen, 0.7 a coin toss, above 7 one in
# a thousand. The model knows nothing but its little world, so ordinary English will astonish it; begin with a story of
# that world, then change a name half-way, or the colour, or the word order, and see *which* token gives you away.

# %% ftlab="play"
def token_surprisals(text):
    """[(piece, its surprisal as text)] for the box."""
    text_ids = tokenizer.encode(text, bos=True)[:model.config.max_position_embeddings]
    if len(text_ids) < 2:
        return []
    return list(zip(tokenizer.pieces(text_ids[1:]), (f"{s:.1f}" for s in surprisals(model, text_ids).tolist())))


widgets.tokenizer_box(token_surprisals, "Sami was a shy goat. Sami loved a red kite. One day Sami took the kite to the "
                      "river. Then the blue kite was gone.")

# %% [markdown]
# Now the perplexity of a text of yours, and of the same words in a random order. Before you run it: by what factor
# will the order matter?

# %%
my_text = "Sami was a shy goat. Sami loved a red kite. One day Sami took the kite to the river."

words = my_text.split()
random.Random(0).shuffle(words)
variants = {"as written": my_text, "words in random order": " ".join(words),
            "backwards": " ".join(my_text.split()[::-1])}
plots.bars({name: perplexity(model, tokenizer.encode(text, bos=True)) for name, text in variants.items()},
           xlabel="perplexity (equally likely tokens)", title="The same words in another order")

# %% [markdown]
# ## Go further
#
# - Vaswani et al. (2017), [Attention Is All You Need](https://arxiv.org/abs/1706.03762): the mask is in section 3.2.3.
# - Devlin et al. (2019), [BERT](https://arxiv.org/abs/1810.04805), and Wang and Cho (2019), [BERT has a Mouth, and It
#   Must Speak](https://arxiv.org/abs/1902.04094): how one makes it write after all.
# - Holtzman et al. (2020), [The Curious Case of Neural Text Degeneration](https://arxiv.org/abs/1904.09751): why
#   likely text is bad text; top-p.
# - Pope et al. (2023), [Efficiently Scaling Transformer Inference](https://arxiv.org/abs/2211.05102): what the cache
#   costs in memory when models are large.
# - Karpathy (2023), [Let's build GPT: from scratch, in code, spelled
#   out](https://www.youtube.com/watch?v=kCc8FmEb1nY), a talk.
#
# **To discuss**
#
# 1. The masked model with suffix masks could be trained until it writes well. Estimate from the loss curves how many
#    times as many steps it needs. What would you change in its training so that one pass asks it more than one
#    question, and what do you have then?
# 2. The cache of our model holds 2 · layers · width numbers a token. How much is that for a model of 32 layers and
#    width 4096, at 8,000 tokens, in 16 bits? What does it mean for serving a hundred users at once?
# 3. Two models with different tokenizers have perplexities 4 and 9 on the same text. Which is better? What would you
#    need to know, and which number would you compare instead?

# %%
lab.progress()
