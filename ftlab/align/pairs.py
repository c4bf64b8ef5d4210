"""Preference pairs -> rows -> batches, and the log-probability of whole responses: what reward models and DPO share."""

import dataclasses
import math

import torch

from ftlab.errors import UsageError
from ftlab.model import backprop
from ftlab.text.batching import pad
from ftlab.text.examples import Example
from ftlab.text.rows import rows
from ftlab.tune.sft import pad_of


@dataclasses.dataclass
class PairBatch:
    """B pairs as 2B rows: the chosen responses first, then the rejected ones in the same order.

    ids (2B, T), padded on the right. mask (2B, T − 1): true at t where token t + 1 belongs to the response. ends (2B,):
    place of the last token. reference (2B,): log-probabilities of the responses under a frozen model, or None.
    """

    ids: torch.Tensor
    mask: torch.Tensor
    ends: torch.Tensor
    reference: torch.Tensor | None = None

    def num_tokens(self):
        """Tokens of the responses."""
        return int(self.mask.sum())

    def to(self, device):
        """The same batch on another device."""
        return PairBatch(*(None if x is None else x.to(device) for x in dataclasses.astuple(self)))


def response_rows(prompts, responses, tokenizer, template="alpaca"):
    """[(ids, length of the prompt), …] of prompts (strings, or tasks with an instruction) and their responses."""
    examples = [Example(prompt if isinstance(prompt, str) else prompt.instruction, response,
                        "" if isinstance(prompt, str) else prompt.input)
                for prompt, response in zip(prompts, responses, strict=True)]
    return [(ids, sum(label == -100 for label in labels)) for ids, labels in rows(examples, tokenizer, template)]


def pair_rows(pairs, tokenizer, template="alpaca", max_length=None):
    """(chosen, rejected): two lists of rows as `response_rows` makes them, of objects with prompt, chosen, rejected."""
    if not pairs:
        raise UsageError("no preference pairs to learn from: give at least one")
    prompts = [pair.prompt for pair in pairs]
    chosen = response_rows(prompts, [pair.chosen for pair in pairs], tokenizer, template)
    rejected = response_rows(prompts, [pair.rejected for pair in pairs], tokenizer, template)
    for number, (a, b) in enumerate(zip(chosen, rejected, strict=True), 1):
        if max_length is not None and max(len(a[0]), len(b[0])) > max_length:
            raise UsageError(f"pair {number} has {max(len(a[0]), len(b[0])):,} tokens with its prompt and template, more "
                             f"than the {max_length:,} that the model takes: shorten it or leave it out")
    return chosen, rejected


def pair_batch(chosen, rejected, pad_id, reference=None):
    """The PairBatch of rows (ids, length of the prompt). reference: of the chosen, then of the rejected."""
    both = [*chosen, *rejected]
    ids = pad([row for row, _ in both], pad_id)  # (2B, T)
    lengths = torch.tensor([len(row) for row, _ in both])
    starts = torch.tensor([start for _, start in both])
    places = torch.arange(1, ids.shape[1])  # of the token that stands behind place t
    mask = (places >= starts[:, None]) & (places < lengths[:, None])
    return PairBatch(ids, mask, lengths - 1, None if reference is None else torch.tensor(reference))


class PairBatches:
    """A batch source, `batches(step) -> PairBatch`: pairs of like length together, in an order drawn anew each epoch.

    reference: (log-probabilities of the chosen, of the rejected), two lists, where the loss asks for them.
    """

    def __init__(self, chosen, rejected, pairs_per_batch, tokenizer, seed=0, reference=None):
        self.chosen, self.rejected, self.reference = chosen, rejected, reference
        self.size, self.pad_id, self.seed = pairs_per_batch, pad_of(tokenizer), seed
        self.lengths = torch.tensor([max(len(a), len(b)) for (a, _), (b, _) in zip(chosen, rejected, strict=True)])
        self.steps_per_epoch = -(-len(chosen) // pairs_per_batch)

    def __call__(self, step):
        """The PairBatch of training step `step` (0, 1, …)."""
        epoch, index = divmod(step, self.steps_per_epoch)
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        shuffled = torch.randperm(len(self.chosen), generator=generator)
        order = shuffled[self.lengths[shuffled].argsort(stable=True)]
        first = torch.randperm(self.steps_per_epoch, generator=generator)[index].item() * self.size
        return self.batch(order[first:first + self.size].tolist())

    def batch(self, indices):
        """The PairBatch of these pairs."""
        reference = None
        if self.reference is not None:
            reference = [self.reference[side][i] for side in (0, 1) for i in indices]
        return pair_batch([self.chosen[i] for i in indices], [self.rejected[i] for i in indices], self.pad_id, reference)


def over_rows(rows, tokenizer, score, batch_size=64):
    """score(PairBatch) -> (B,) of every row (ids, length of the prompt), rows of like length together: a list of numbers."""
    order, found = sorted(range(len(rows)), key=lambda i: len(rows[i][0])), [0.0] * len(rows)
    with torch.no_grad():
        for first in range(0, len(order), batch_size):
            indices = order[first:first + batch_size]
            for i, value in zip(indices, score(pair_batch([rows[i] for i in indices], [], pad_of(tokenizer))).tolist(),
                                strict=True):
                found[i] = value
    if any(math.isnan(value) for value in found):
        raise ValueError("the model gives NaN for some of these rows: its weights are damaged or diverged")
    return found


def token_logprobs(model, ids, mask):
    """log p(token t + 1 | tokens to t) where mask (B, T − 1) is true, 0 elsewhere: (B, T − 1), in nats.

    Logits are computed only where the mask asks for one.
    """
    states = backprop.hidden(model, ids)[:, :-1][mask]  # (n, C)
    chosen = model.lm_head(states).log_softmax(-1).gather(-1, ids[:, 1:][mask][:, None])[:, 0]  # (n,)
    return torch.zeros(mask.shape, dtype=chosen.dtype, device=chosen.device).masked_scatter(mask, chosen)


def sequence_logprobs(model, batch):
    """log π(response | prompt) of each row of a PairBatch: the sum over the response's tokens, (2B,), in nats."""
    return token_logprobs(model, batch.ids, batch.mask).sum(1)


def logprobs_of(model, rows, tokenizer):
    """log π(response | prompt) of rows (ids, length of the prompt), a list, in nats."""
    return over_rows(rows, tokenizer, lambda batch: sequence_logprobs(model, batch))
