"""A causal language model of `transformers` in the hands of the labs: called, trained and asked as our Transformer is.

`dress` changes nothing in how the model computes; it adds our names to the model's own (`PretrainedTokenizer` does the
same for its tokenizer). What belongs to our Transformer's inside is not there: a KV cache of ours, attention maps.
"""

import functools

import torch
import torch.nn.functional as F

from ftlab import profile
from ftlab.errors import UsageError
from ftlab.model.transformer import segment_mask
from ftlab.text.batching import IGNORE
from ftlab.text.rows import starts_with_bos


def dress(model):
    """`model`, a causal LM of `transformers`, with what is in `Pretrained` besides; changed in place and returned."""
    model.__class__ = _dressed(type(model))
    return model


@functools.cache
def _dressed(kind):
    # Under its own name, which save_pretrained writes into config.json.
    return type(kind.__name__, (Pretrained, kind), {"__module__": kind.__module__})


class Pretrained:
    """What the labs ask of a model, for one of `transformers`.

    Called with ids by position, as our Transformer is, it gives logits; by keyword, as transformers does, whatever it
    gives there. The ids may lie on any device: what is computed from them goes back to where they are.
    rate_factor: by what the rates of the shipped bases are multiplied for it (see `ftlab.tune.methods.attach`).
    """

    rate_factor = 1.0

    def __call__(self, *args, **kwargs):
        if not args:
            return super().__call__(**kwargs)
        return self._read(*args, **kwargs).logits.to(args[0].device)

    def hidden(self, input_ids, positions=None, segments=None, cache=None, mask=None):
        """Last hidden state (B, T, C); arguments as in `Transformer.hidden`."""
        read = self._read(input_ids, positions, segments, cache, mask, output_hidden_states=True)
        return read.hidden_states[-1].to(input_ids.device)

    def _read(self, input_ids, positions=None, segments=None, cache=None, mask=None, **more):
        if cache is not None:
            raise UsageError("a model of transformers keeps a cache of its own kind: call it by keyword, past_key_values=...")
        if segments is not None:
            mask = segment_mask(segments)
        device = next(self.parameters()).device
        if mask is None:
            mask = torch.ones_like(input_ids)
        else:  # True and False -> what is added to the scores
            dtype = next(self.parameters()).dtype
            mask = torch.zeros(mask.shape, dtype=dtype).masked_fill(~mask.cpu(), torch.finfo(dtype).min)
        return super().__call__(input_ids=input_ids.to(device), attention_mask=mask.to(device), use_cache=False,
                                position_ids=None if positions is None else positions.to(device), **more)

    def loss(self, batch):
        """Mean cross-entropy in nats over the labels of a `Batch`; see `loss`."""
        return loss(self, batch.to(next(self.parameters()).device))

    def num_parameters(self, trainable=False, only_trainable=False, exclude_embeddings=False):
        """Number of parameters, a shared one counted once."""
        return super().num_parameters(trainable or only_trainable, exclude_embeddings)


def loss(model, batch):
    """Mean cross-entropy in nats over the labels of a `Batch`, of a causal LM of `transformers`.

    Rows are padded on the right, where a causal model does not see it from inside; packed rows are not for these.
    Weights stay in float32; on a GPU that can, matrix products run in bfloat16.
    """
    if batch.segments is not None:
        raise UsageError("packed rows need our own transformer; leave packing off for this model")
    ids = batch.input_ids
    with profile.autocast(ids.device.type):
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits  # (B, T, V)
    logits, labels = logits[:, :-1], batch.labels[:, 1:]
    wanted = labels != IGNORE
    return F.cross_entropy(logits[wanted].float(), labels[wanted])


class PretrainedTokenizer:
    """A fast tokenizer of `transformers` with the methods of our `Tokenizer`; all else is its own.

    pad_id: some id to pad with, on which no loss falls. bos=True in `encode` puts the start token first where this
    tokenizer itself begins texts with one, and nothing where it does not.
    """

    line_starts = False

    def __init__(self, theirs):
        if not theirs.is_fast:
            raise UsageError("the labs need a fast tokenizer (one with tokenizer.json): convert it with AutoTokenizer first")
        if theirs.eos_token_id is None:
            raise UsageError("the tokenizer has no end token (eos_token), so nothing would tell the model to stop: set one")
        self.theirs = theirs
        self.eos_id, self.bos_id = theirs.eos_token_id, theirs.bos_token_id
        self.pad_id = theirs.pad_token_id if theirs.pad_token_id is not None else theirs.eos_token_id
        self._start = [self.bos_id] if starts_with_bos(theirs) else []

    def encode(self, text, bos=False, eos=False):
        """Token ids of `text`, with the start and end tokens where asked for."""
        return self._start * bos + self.theirs(text, add_special_tokens=False).input_ids + [self.eos_id] * eos

    def encode_batch(self, texts, bos=False, eos=False):
        """As `encode`, for many texts at once."""
        encoded = self.theirs(list(texts), add_special_tokens=False).input_ids
        return [self._start * bos + list(ids) + [self.eos_id] * eos for ids in encoded]

    def behind(self, before, text):
        """`text`: no word of it is changed by what stands before it."""
        return text

    def decode(self, ids, skip_special=True, skip_special_tokens=None):
        """The text of `ids`."""
        skip = skip_special if skip_special_tokens is None else skip_special_tokens
        return self.theirs.decode([int(i) for i in ids], skip_special_tokens=skip)

    def pieces(self, ids):
        """The text of each id by itself, for showing."""
        return [self.theirs.decode([int(i)]) for i in ids]

    def to_hf(self):
        """The tokenizer of `transformers`."""
        return self.theirs

    def __call__(self, *args, **kwargs):
        return self.theirs(*args, **kwargs)

    def __len__(self):
        return len(self.theirs)

    def __getattr__(self, name):
        if name == "theirs" or name.startswith("__"):  # not made yet, or asked for by copy and pickle
            raise AttributeError(name)
        return getattr(self.theirs, name)
