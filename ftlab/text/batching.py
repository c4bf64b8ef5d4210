"""From rows of token ids to batches: label masks, grouping by length, packing without leaks, masked tokens.

A batch source is a function of the step alone: `batches(step) -> Batch`. So a run that was stopped goes on with just
the batches it would have seen. Labels stand beside their tokens, −100 where no loss is due (as in Hugging Face).
"""

import dataclasses

import torch

from ftlab.numbers import check_whole

IGNORE = -100


@dataclasses.dataclass
class Batch:
    """Tensors of one training step; all (B, T), long. `positions` and `segments` are None unless rows are packed."""

    input_ids: torch.Tensor
    labels: torch.Tensor
    positions: torch.Tensor | None = None
    segments: torch.Tensor | None = None

    def num_tokens(self):
        """Tokens on which a loss is due: the ones that count as useful. A row's first is predicted from nothing."""
        return int((self.labels[:, 1:] != IGNORE).sum())

    def to(self, device):
        """The same batch on another device."""
        return Batch(*(None if x is None else x.to(device) for x in dataclasses.astuple(self)))


def response_labels(prompt_ids, response_ids):
    """Input ids and labels of a prompt and its response: the loss sees the response only."""
    return list(prompt_ids) + list(response_ids), [IGNORE] * len(prompt_ids) + list(response_ids)


def pad(rows, value, length=None):
    """Rows of different lengths -> a (B, T) tensor, filled up on the right with `value`."""
    length = length or max(len(row) for row in rows)
    return torch.tensor([list(row) + [value] * (length - len(row)) for row in rows], dtype=torch.long)


def collate(rows, pad_id, labels=None):
    """Rows of ids (and of labels, by default the ids) -> Batch, padded on the right, no loss on padding."""
    return Batch(pad(rows, pad_id), pad(labels if labels is not None else rows, IGNORE))


def _some(rows):
    if not rows or not all(len(ids) for ids, _ in rows):
        raise ValueError("batches need at least one row, and each must hold at least one token")
    return rows


class RowBatches:
    """One document a row; rows of like length share a batch, so little is padding.

    rows: lists of ids, or (ids, labels) pairs. tokens_per_batch: upper bound of B · T of a batch.
    Each epoch cuts the rows, sorted by length with ties in random order, into batches and shuffles these.
    """

    def __init__(self, rows, tokens_per_batch, seed=0, pad_id=0):
        self.rows = _some([row if isinstance(row, tuple) else (row, row) for row in rows])
        self.tokens_per_batch, self.seed, self.pad_id = tokens_per_batch, seed, pad_id
        self.lengths = torch.tensor([len(ids) for ids, _ in self.rows])
        self.steps_per_epoch = len(self._cut(torch.arange(len(self.rows))[self.lengths.argsort(stable=True)]))
        self._epoch, self._batches = None, None

    def _cut(self, order):
        """Indices in order of length -> lists of indices whose rectangle fits tokens_per_batch."""
        batches, current = [], []
        for index, length in zip(order.tolist(), self.lengths[order].tolist()):
            if current and (len(current) + 1) * length > self.tokens_per_batch:
                batches.append(current)
                current = []
            current.append(index)
        return batches + [current]

    def _plan(self, epoch):
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        shuffled = torch.randperm(len(self.rows), generator=generator)
        order = shuffled[self.lengths[shuffled].argsort(stable=True)]
        batches = self._cut(order)
        return [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]

    def __call__(self, step):
        """The Batch of training step `step` (0, 1, …)."""
        epoch, index = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._epoch, self._batches = epoch, self._plan(epoch)
        chosen = [self.rows[i] for i in self._batches[index]]
        return collate([ids for ids, _ in chosen], self.pad_id, [labels for _, labels in chosen])


def pack(rows, seq_len):
    """First-fit packing: lists of indices whose rows together fit in `seq_len` tokens. Longest rows first."""
    bins, room = [], []
    for index in sorted(range(len(rows)), key=lambda i: -len(rows[i])):
        need = len(rows[index])
        if need > seq_len:
            raise ValueError(f"row {index} has {need} tokens, more than seq_len = {seq_len}")
        # Only the last few bins are tried: all of them would cost quadratic time for a handful of tokens saved.
        for b in range(max(0, len(bins) - 64), len(bins)):
            if room[b] >= need:
                bins[b].append(index)
                room[b] -= need
                break
        else:
            bins.append([index])
            room.append(seq_len - need)
    return bins


class PackedBatches:
    """Several documents in each row of `seq_len` tokens; none sees another (segments), each starts at position 0.

    The label of a document's first token is −100: it would be predicted from the document before.
    """

    def __init__(self, rows, seq_len, batch_size, seed=0, pad_id=0):
        self.rows = _some([row if isinstance(row, tuple) else (row, row) for row in rows])
        check_whole("seq_len", seq_len)
        check_whole("batch_size", batch_size)
        self.seq_len, self.batch_size, self.seed, self.pad_id = seq_len, batch_size, seed, pad_id
        self.bins = pack([ids for ids, _ in self.rows], seq_len)
        self.steps_per_epoch = -(-len(self.bins) // batch_size)

    def __call__(self, step):
        """The Batch of training step `step`; the last one of an epoch may be smaller."""
        epoch, index = divmod(step, self.steps_per_epoch)
        order = torch.randperm(len(self.bins), generator=torch.Generator().manual_seed(self.seed * 1_000_003 + epoch))
        chosen = order[index * self.batch_size:(index + 1) * self.batch_size].tolist()
        ids, labels, positions, segments = [], [], [], []
        for b in chosen:
            documents = [self.rows[i] for i in self.bins[b]]
            ids.append(sum((list(d) for d, _ in documents), []))
            labels.append(sum(([IGNORE] + list(y[1:]) for _, y in documents), []))
            positions.append(sum((list(range(len(d))) for d, _ in documents), []))
            segments.append(sum(([n] * len(d) for n, (d, _) in enumerate(documents)), []))
        return Batch(pad(ids, self.pad_id, self.seq_len), pad(labels, IGNORE, self.seq_len),
                     pad(positions, 0, self.seq_len), pad(segments, -1, self.seq_len))


class ChunkBatches:
    """One long stream of ids (documents end to end) cut into windows of `seq_len`; for running text of any length.

    A batch has `batch_size` windows, or all that there are where the stream fills fewer. What is left over at the end of
    the stream, and of an epoch's windows, is not used in that epoch.
    """

    def __init__(self, ids, seq_len, batch_size, seed=0):
        check_whole("seq_len", seq_len)
        check_whole("batch_size", batch_size)
        windows = len(ids) // seq_len
        if windows < 1:
            raise ValueError(f"{len(ids)} tokens do not fill one window of {seq_len}")
        self.windows = torch.tensor(ids[:windows * seq_len], dtype=torch.long).view(windows, seq_len)
        self.batch_size, self.seed = min(batch_size, windows), seed
        self.steps_per_epoch = windows // self.batch_size

    def __call__(self, step):
        """The Batch of training step `step`."""
        epoch, index = divmod(step, self.steps_per_epoch)
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        order = torch.randperm(len(self.windows), generator=generator)
        ids = self.windows[order[index * self.batch_size:(index + 1) * self.batch_size]]
        return Batch(ids, ids)


def mask_tokens(batch, mask_id, vocab_size, probability=0.15, generator=None, keep=(0, 1, 2)):
    """BERT's masking (Devlin et al. 2019, section 3.1): 15 % of tokens are to be guessed; of these 80 % are shown as
    <mask>, 10 % as a random token, 10 % as themselves. Ids in `keep` (the special tokens) are never chosen."""
    ids = batch.input_ids
    allowed = torch.isin(ids, torch.tensor(keep), invert=True) & (batch.labels != IGNORE)
    chosen = (torch.rand(ids.shape, generator=generator) < probability) & allowed
    if not chosen.any():
        # A short batch may draw none; a loss over nothing is no number, so its first allowed token is taken.
        chosen.view(-1)[allowed.view(-1).nonzero()[:1]] = True
    dice = torch.rand(ids.shape, generator=generator)
    random_ids = torch.randint(0, vocab_size, ids.shape, generator=generator)
    shown = torch.where(dice < 0.8, mask_id, torch.where(dice < 0.9, random_ids, ids))
    return Batch(torch.where(chosen, shown, ids), torch.where(chosen, ids, IGNORE), batch.positions, batch.segments)


class MaskedBatches:
    """Batches of `source` with tokens masked afresh at each step.

    suffix=True masks a suffix of random length instead, so that the model also learns to write from left to right.
    """

    def __init__(self, source, mask_id, vocab_size, seed=0, probability=0.15, suffix=False):
        self.source, self.mask_id, self.vocab_size = source, mask_id, vocab_size
        self.seed, self.probability, self.suffix = seed, probability, suffix
        self.steps_per_epoch = source.steps_per_epoch

    def __call__(self, step):
        """The Batch of training step `step`."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
        batch = self.source(step)
        if self.suffix:
            return mask_suffix(batch, self.mask_id, generator)
        return mask_tokens(batch, self.mask_id, self.vocab_size, self.probability, generator)


def mask_suffix(batch, mask_id, generator=None):
    """From a random place on everything is <mask>; only the first masked token is to be guessed.

    That is the situation in which a masked model stands when it is made to write from left to right.
    """
    ids = batch.input_ids
    lengths = (batch.labels != IGNORE).sum(1)
    cut = 1 + (torch.rand(len(ids), generator=generator) * (lengths - 1)).long()  # (B,): between 1 and length − 1
    places = torch.arange(ids.shape[1])
    labels = torch.where(places == cut[:, None], ids, IGNORE)
    hidden = (places >= cut[:, None]) & (batch.labels != IGNORE)
    return Batch(torch.where(hidden, mask_id, ids), labels, batch.positions, batch.segments)
