"""Prefix tuning, P-tuning v2 and prompt tuning by hand: a frozen model, and what it reads before every text is learned.

Whatever stands before a text acts on it in one way only: through the keys and values it leaves in each layer. So all
three methods learn a KV cache of P virtual tokens, and differ in what they put a gradient on:

    ptuning  the keys and values themselves, in every layer       Liu et al. 2022 (P-tuning v2)
    prefix   the same through an MLP, which is thrown away after  Li and Liang 2021, section 4.3
    prompt   P input vectors; the model makes the cache of them   Lester et al. 2021

Shapes: B batch, T tokens, C hidden_size, L layers, H heads of keys and values, D head_size, P virtual tokens.
The saved form is PEFT's: one tensor "prompt_embeddings", (P, L · 2 · H · D) for a prefix and (P, C) for a prompt.
Left out: encoder–decoder models, training by P-tuning v1 (which PEFT calls P_TUNING; what it learned is a prompt, and is
read as one), its LSTM.
"""

import dataclasses

import torch
from torch import nn

from ftlab import numbers
from ftlab.errors import UsageError
from ftlab.model.transformer import Transformer, rotate, segment_mask
from ftlab.tune import peft_config

LENGTH = 16  # virtual tokens where nothing else is said
STATE_KEY = "prompt_embeddings"


@dataclasses.dataclass(frozen=True)
class Shape:
    """What a model's KV cache looks like: L layers, H heads of keys and values (fewer than the queries' where these are
    grouped), head_size D; hidden_size C and `limit`, the most positions a text may have (None: no limit known)."""

    layers: int
    heads: int
    head_size: int
    hidden_size: int
    limit: int | None = None

    @property
    def flat(self):
        """Numbers that one virtual token has in all layers together: L · 2 · H · D."""
        return self.layers * 2 * self.heads * self.head_size


def shape_of(model):
    """The Shape of our Transformer's cache, or of a causal LM's of `transformers`."""
    config = model.config
    if isinstance(model, Transformer):
        return Shape(config.num_layers, config.num_heads, config.head_size, config.hidden_size,
                     config.max_position_embeddings)
    heads = config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    return Shape(config.num_hidden_layers, getattr(config, "num_key_value_heads", None) or heads, size,
                 config.hidden_size, getattr(config, "max_position_embeddings", None))


# -- the three kinds; each gives `keys_values(model)`, L pairs (1, H, P, D)

def split(flat, shape):
    """(P, L · 2 · H · D), as PEFT lays it out, -> [(keys, values)] of each layer, (1, H, P, D) each."""
    pairs = flat.view(len(flat), shape.layers, 2, shape.heads, shape.head_size)  # (P, L, 2, H, D)
    pairs = pairs.permute(1, 2, 3, 0, 4).unsqueeze(2)  # (L, 2, 1, H, P, D)
    return [(keys, values) for keys, values in pairs]


def join(pairs):
    """The reverse of `split`: [(keys, values)] of (1, H, P, D) -> (P, L · 2 · H · D)."""
    stacked = torch.stack([torch.stack([keys[0], values[0]]) for keys, values in pairs])  # (L, 2, H, P, D)
    return stacked.permute(3, 0, 1, 2, 4).flatten(1)


class LayerPrefix(nn.Module):
    """P-tuning v2: the keys and values of every layer are the parameters, `embedding` (P, L · 2 · H · D)."""

    method, projection = "ptuning", False

    def __init__(self, shape, length, start=None):
        super().__init__()
        self.shape, self.length = shape, length
        self.embedding = nn.Parameter(torch.randn(length, shape.flat) if start is None else start.clone())

    def flat(self):
        """(P, L · 2 · H · D): what is saved."""
        return self.embedding

    def keys_values(self, model):
        """[(keys, values)] of each layer, (1, H, P, D), in the type of numbers that the model computes in."""
        return split(self.flat().to(embedding(model).weight.dtype), self.shape)


class ProjectedPrefix(LayerPrefix):
    """Li and Liang: P vectors of size H · D through W₂ tanh(W₁ e + b₁) + b₂, one MLP for all layers.

    With a `start` the MLP's last layer begins at zero and its output is added to the start, so that the prefix begins
    as just that; without one it begins where PEFT's does.
    """

    method, projection = "prefix", True

    def __init__(self, shape, length, start=None, hidden_size=None):
        nn.Module.__init__(self)
        self.shape, self.length, self.hidden_size = shape, length, hidden_size or shape.hidden_size
        size = shape.heads * shape.head_size
        self.embedding = nn.Parameter(torch.randn(length, size))
        self.transform = nn.Sequential(nn.Linear(size, self.hidden_size), nn.Tanh(),
                                       nn.Linear(self.hidden_size, shape.flat))
        self.register_buffer("start", start)
        if start is not None:
            nn.init.zeros_(self.transform[-1].weight)
            nn.init.zeros_(self.transform[-1].bias)

    def flat(self):
        made = self.transform(self.embedding)
        return made if self.start is None else self.start + made


class SoftPrompt(nn.Module):
    """Lester et al.: P input vectors, `embedding` (P, C). What they do in the layers, the frozen model decides."""

    method, projection = "prompt", False

    def __init__(self, shape, length, start=None):
        super().__init__()
        self.shape, self.length = shape, length
        self.embedding = nn.Parameter(torch.randn(length, shape.hidden_size) if start is None else start.clone())

    def flat(self):
        """(P, C): what is saved."""
        return self.embedding

    def keys_values(self, model):
        """[(keys, values)] of each layer, (1, H, P, D): the model reads the vectors once for the whole batch, since under
        a causal mask they see nothing of the texts behind them."""
        return read(model, self.embedding.unsqueeze(0).to(embedding(model).weight.dtype))


# -- reading: the KV cache of real or soft tokens

class _Recorder:
    """A cache of one layer that keeps what passes through it, gradients included."""

    def extend(self, k, v):
        self.pair = (k, v)
        return k, v


def read(model, x):
    """The KV cache that input vectors x (1, P, C) leave: [(keys, values)] of each layer, (1, H, P, D)."""
    if not isinstance(model, Transformer):
        found = type(model).forward(model, inputs_embeds=x, use_cache=True).past_key_values  # past the hook
        return [(layer.keys, layer.values) for layer in found.layers]
    cos, sin, pairs = model.cos[:x.shape[1]], model.sin[:x.shape[1]], []
    for layer in model.layers:
        recorder = _Recorder()
        x = layer(x, cos, sin, None, True, recorder)
        pairs.append(recorder.pair)
    return pairs


@torch.no_grad()
def cache_of(model, ids):
    """The KV cache of a real prompt: ids (a list) -> (P, L · 2 · H · D), a start for a prefix, in float32 at least."""
    return learnable(join(read(model, embed(model, ids).unsqueeze(0))))


def learnable(x):
    """x in float32, in which small steps are not lost, where its numbers have half precision."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


@torch.no_grad()
def embed(model, ids):
    """The input vectors of ids (a list): (P, C), a start for a soft prompt."""
    table = embedding(model)
    return table(torch.tensor(ids, device=table.weight.device))


def embedding(model):
    """The layer that makes input vectors of ids; its weight is (V, C)."""
    return model.embed_tokens if isinstance(model, Transformer) else model.get_input_embeddings()


# -- attaching

def attach_prefix(model, num_virtual_tokens=None, encoder_hidden_size=None, init_ids=None, prefix_projection=True):
    """Freeze `model` and learn a prefix of keys and values for every layer; returns the model, changed in place.

    num_virtual_tokens: P, by default as many as `init_ids`, else 16. init_ids: ids of a real prompt whose KV cache is
    the start (repeated or cut to P); without them the start is random, as in PEFT. prefix_projection: through an MLP
    with `encoder_hidden_size` hidden units (by default C). Raises UsageError where no such prefix can be.
    """
    shape, length, ids = _prepare(model, num_virtual_tokens, init_ids)
    start = None if ids is None else cache_of(model, ids)
    if prefix_projection:
        return _insert(model, ProjectedPrefix(shape, length, start, encoder_hidden_size))
    if encoder_hidden_size is not None:
        raise UsageError("encoder_hidden_size is the width of the MLP, and ptuning has none: use the method prefix")
    return _insert(model, LayerPrefix(shape, length, start))


def attach_ptuning(model, num_virtual_tokens=None, init_ids=None):
    """P-tuning v2: `attach_prefix` without the MLP."""
    return attach_prefix(model, num_virtual_tokens, init_ids=init_ids, prefix_projection=False)


def attach_prompt(model, num_virtual_tokens=None, init_ids=None):
    """Freeze `model` and learn P input vectors that stand before every text; they start as the embeddings of `init_ids`
    or at random. Otherwise as `attach_prefix`."""
    _check_width(model)
    shape, length, ids = _prepare(model, num_virtual_tokens, init_ids)
    return _insert(model, SoftPrompt(shape, length, None if ids is None else learnable(embed(model, ids))))


def _check_width(model):
    width, size = embedding(model).weight.shape[1], shape_of(model).hidden_size
    if width != size:
        raise UsageError(f"this model's input vectors have {width} numbers, its layers {size}: such a prompt fits no file of "
                         "PEFT's; choose prefix or ptuning")


@torch.no_grad()
def _check_cache(model, shape):
    """UsageError where a model of transformers keeps other keys and values than its config says (or none), as Falcon does
    with one head for all: seen by reading one token."""
    ids = torch.zeros(1, 1, dtype=torch.long, device=embedding(model).weight.device)
    with torch.random.fork_rng():  # a model in training may have dropout
        found = type(model).forward(model, input_ids=ids, use_cache=True).past_key_values
    keys = [getattr(layer, "keys", None) for layer in getattr(found, "layers", None) or ()]
    kept = {(one.shape[1], one.shape[3]) if isinstance(one, torch.Tensor) and one.ndim == 4 else None for one in keys}
    if len(keys) != shape.layers or kept != {(shape.heads, shape.head_size)}:
        raise UsageError(f"a {type(model).__name__} does not keep {shape.heads} heads of {shape.head_size} numbers in each of "
                         f"{shape.layers} layers, as a prefix needs it (PEFT's, too): choose lora")


def detach_prefix(model):
    """Take the prefix off again: the model is the base, and still frozen. Returns the prefix, for `put_prefix`."""
    prefix = _prefix(model)
    if isinstance(model, Transformer):
        model.__class__ = Transformer
    else:
        model._prefix_hook.remove()
        del model._prefix_hook
    del model.kv_prefix
    return prefix


def put_prefix(model, prefix):
    """Put a prefix that `detach_prefix` gave on `model`, in the place of the one that is there."""
    return _insert(model, prefix)


def _prepare(model, length, ids):
    """(Shape, P, ids cut or repeated to P, or None); takes off a prefix that is there, once it is known that a new one
    can be."""
    shape = shape_of(model)
    if ids is not None and not len(ids):
        raise UsageError("init_ids holds no token: give the ids of a real prompt, or None for a random start")
    if length is None:
        length = LENGTH if ids is None else len(ids)
    if not numbers.whole(length):
        raise UsageError(f"num_virtual_tokens is {length!r}; it is a whole number, and a prefix has at least one")
    if shape.limit is not None and length >= shape.limit:
        raise UsageError(f"num_virtual_tokens is {length}, but the model takes {shape.limit} tokens in all, text "
                         "included: choose fewer")
    if isinstance(model, Transformer) and not model.config.causal:
        raise UsageError("a prefix stands before a text that is written left to right; this model sees both sides")
    if not isinstance(model, Transformer):
        _check_cache(model, shape)
    if hasattr(model, "kv_prefix"):
        detach_prefix(model)
    return shape, length, None if ids is None else (list(ids) * -(-length // len(ids)))[:length]


def _insert(model, prefix):
    if hasattr(model, "kv_prefix"):
        detach_prefix(model)
    for parameter in model.parameters():
        parameter.requires_grad_(False)  # forgetting this trains everything
    model.kv_prefix = prefix.to(next(model.parameters()).device)
    if isinstance(model, Transformer):
        # The class changes, not a method of the instance: copies of the model then hold their own prefix.
        model.__class__ = PrefixedTransformer
    else:
        model._prefix_hook = model.register_forward_pre_hook(_before_forward, with_kwargs=True)
    return model


def _prefix(model):
    if not hasattr(model, "kv_prefix"):
        raise UsageError("this model has no prefix: attach one by prefix, ptuning or prompt first")
    return model.kv_prefix


# -- our Transformer behind a prefix

class PrefixedTransformer(Transformer):
    """A Transformer that reads every text behind `self.kv_prefix`: its cache is not empty to begin with.

    A KVCache made for it holds the prefix already; without one, the prefix stands in for it. Tokens then have the
    positions P, P + 1, …, as after a real prompt.
    """

    def hidden(self, input_ids, positions=None, segments=None, cache=None, mask=None):
        if cache is None:
            before = self.kv_prefix.length
            cache = Behind(self.kv_prefix.keys_values(self), len(input_ids))
            if positions is not None:
                positions = positions + before
            if segments is not None:
                mask, segments = segment_mask(segments), None
            if mask is not None:
                mask = behind_prefix(mask, before)
        return super().hidden(input_ids, positions, segments, cache, mask)

    @torch.no_grad()
    def attention_maps(self, input_ids):
        """For each layer the attention weights (B, H, T, P + T): the first P columns are the prefix."""
        batch, length = input_ids.shape
        before = self.kv_prefix.length
        pairs = self.kv_prefix.keys_values(self)
        cos, sin = self.cos[before:before + length], self.sin[before:before + length]
        allowed = torch.ones(length, before + length, dtype=torch.bool, device=input_ids.device).tril(before)
        x, maps = self.embed_tokens(input_ids), []
        for layer, (keys, values) in zip(self.layers, pairs, strict=True):
            h, attention = layer.input_layernorm(x), layer.self_attn
            q, k = (rotate(attention.split(p(h)), cos, sin) for p in (attention.q_proj, attention.k_proj))
            k = torch.cat([keys.expand(batch, -1, -1, -1), k], dim=2)  # (B, H, P + T, D)
            scores = (q @ k.transpose(-1, -2) / attention.head_size ** 0.5).masked_fill(~allowed, float("-inf"))
            maps.append(scores.softmax(-1))
            x = layer(x, cos, sin, allowed, False, _LayerBehind(keys, values, batch))
        return maps


class Behind:
    """A cache that holds a prefix of L pairs (1, H, P, D) and nothing else, for one pass over a batch."""

    def __init__(self, pairs, batch):
        self.pairs, self.batch, self.length = pairs, batch, pairs[0][0].shape[2]

    def layer(self, index):
        """The cache of one layer, as a KVCache has it."""
        return _LayerBehind(*self.pairs[index], self.batch)


class _LayerBehind:
    def __init__(self, keys, values, batch):
        self.keys, self.values = keys.expand(batch, -1, -1, -1), values.expand(batch, -1, -1, -1)

    def extend(self, k, v):
        """[prefix; k], [prefix; v] along the tokens: Li and Liang's eq. 3 in the place of attention's inputs."""
        return torch.cat([self.keys, k], dim=2), torch.cat([self.values, v], dim=2)


def behind_prefix(mask, before):
    """A mask (..., T, T) of True and False, or (B, T) of ones and zeros, with `before` open columns put before it: every
    token may see the prefix."""
    return torch.cat([mask.new_ones(*mask.shape[:-1], before), mask], dim=-1)


# -- a causal LM of transformers behind a prefix

def _before_forward(model, args, kwargs):
    """Fill an empty cache with the prefix, and let mask and positions know of it. Before every forward pass."""
    names = ("input_ids", "attention_mask", "position_ids", "past_key_values")
    kwargs = dict(zip(names, args)) | kwargs
    given = kwargs.get("input_ids") if kwargs.get("input_ids") is not None else kwargs["inputs_embeds"]
    cache, before = kwargs.get("past_key_values"), model.kv_prefix.length
    if kwargs.get("use_cache") is False:
        cache = None  # the whole text comes again, and generate() hands on the cache that held it last time
    if cache is None or not cache.get_seq_length():
        kwargs["past_key_values"] = _filled(model, len(given), cache)
    mask = kwargs.get("attention_mask")
    if mask is not None:
        if mask.ndim != 2:
            raise UsageError("a model with a prefix needs an attention mask of shape (batch, tokens)")
        kwargs["attention_mask"] = behind_prefix(mask, before)
    if kwargs.get("position_ids") is not None:
        kwargs["position_ids"] = kwargs["position_ids"] + before
    return (), kwargs


def _filled(model, batch, cache):
    """`cache` (by default a new one) with the prefix in it."""
    if cache is None:
        from transformers import DynamicCache

        cache = DynamicCache(config=model.config)
    for index, (keys, values) in enumerate(model.kv_prefix.keys_values(model)):
        cache.update(keys.expand(batch, -1, -1, -1), values.expand(batch, -1, -1, -1), index)
    return cache


# -- PEFT's form

def adapter_state(model):
    """{"prompt_embeddings": (P, L · 2 · H · D) or (P, C)}: all that is learned. An MLP is not part of it: it has done its
    work once the prefix is known."""
    return {STATE_KEY: _prefix(model).flat().detach().cpu().contiguous().clone()}


def adapter_config(model):
    """The dict of PEFT's adapter_config.json, but for the base's name."""
    prefix = _prefix(model)
    shape = prefix.shape
    config = {"task_type": "CAUSAL_LM", "inference_mode": True, "num_virtual_tokens": prefix.length,
              "num_layers": shape.layers, "num_transformer_submodules": 1}
    if prefix.method == "prompt":
        heads = getattr(model.config, "num_attention_heads", None) or model.config.num_heads
        return config | {"peft_type": "PROMPT_TUNING", "prompt_tuning_init": "RANDOM",
                         "token_dim": shape.hidden_size, "num_attention_heads": heads}
    return config | {"peft_type": "PREFIX_TUNING", "prefix_projection": prefix.projection,
                     "encoder_hidden_size": prefix.hidden_size if prefix.projection else None,
                     "token_dim": shape.heads * shape.head_size, "num_attention_heads": shape.heads}


def load_adapter_state(model, state, config=None):
    """Put the tensor of `adapter_state` on `model`, as a prefix or a prompt: by the config's peft_type, without it by its
    shape. It can be trained on as it is, without an MLP. Raises UsageError where it does not fit."""
    if STATE_KEY not in state:
        raise UsageError(f"no tensor \"{STATE_KEY}\" there: this is no prefix and no prompt")
    others = [key for key in state if key != STATE_KEY]
    if others:
        raise UsageError(f"beside \"{STATE_KEY}\" there is {others[0]}, which belongs to no prefix and no prompt")
    peft_config.check_tensors(state)
    flat, shape = state[STATE_KEY].float(), shape_of(model)
    kinds = {shape.hidden_size: SoftPrompt, shape.flat: LayerPrefix}
    if config is not None:
        wanted = _kind(config)
        kinds = {size: kind for size, kind in kinds.items() if kind is wanted}
    if flat.ndim != 2 or flat.shape[1] not in kinds:
        raise UsageError(f"a prefix for this model has {shape.flat} numbers a virtual token, a prompt "
                         f"{shape.hidden_size}; here are {tuple(flat.shape)}: it was made for another base")
    if kinds[flat.shape[1]] is SoftPrompt:
        _check_width(model)
    if config is not None:
        _check_shape(model, shape, len(flat), config)
    _prepare(model, len(flat), None)
    return _insert(model, kinds[flat.shape[1]](shape, len(flat), flat))


def _kind(config):
    """LayerPrefix or SoftPrompt, as PEFT's config says. UsageError where it asks for what is not done here."""
    kinds = {"PREFIX_TUNING": LayerPrefix, "PROMPT_TUNING": SoftPrompt, "P_TUNING": SoftPrompt}
    name = config.get("peft_type") if isinstance(config, dict) else None
    if not isinstance(name, str) or name not in kinds:
        raise UsageError(f"the adapter's peft_type is {name!r}; a prefix or a prompt is one of {', '.join(kinds)}")
    peft_config.check(config, name)
    return kinds[name]


def _check_shape(model, shape, length, config):
    """UsageError where a number in the config is not this model's or not the tensor's: the same tensor would be laid out
    in another way, or was learned beside another model."""
    prompt = _kind(config) is SoftPrompt
    heads = getattr(model.config, "num_attention_heads", None) or model.config.num_heads if prompt else shape.heads
    expected = {"num_virtual_tokens": length, "num_layers": shape.layers, "num_attention_heads": heads,
                "num_transformer_submodules": 1,
                "token_dim": shape.hidden_size if prompt else shape.heads * shape.head_size}  # fmt: skip
    for name, value in expected.items():
        if config.get(name) is not None and (config[name] != value or isinstance(config[name], bool)):
            raise UsageError(f"the adapter's config has {name}={config[name]!r}, but this model and the adapter's tensor make "
                             f"it {value}: it was made for another base, or its config was changed")
