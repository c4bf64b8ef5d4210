"""Supervised fine-tuning: examples -> rows -> batches -> the one training loop. For our Transformer and for any causal
language model of `transformers`.
"""

import torch

from ftlab.errors import UsageError
from ftlab.model import Transformer
from ftlab.model.generate import prefix_length
from ftlab.model.pretrained import loss as hf_loss
from ftlab.numbers import check_known, check_whole
from ftlab.text.batching import PackedBatches, RowBatches, collate
from ftlab.text.examples import Example, from_tasks
from ftlab.text.rows import rows
from ftlab.text.tokenizer import Tokenizer
from ftlab.train import optim
from ftlab.train.loop import TrainConfig, train
from ftlab.tune.methods import attach

# For the shipped bases; measured on the five task families (see `ftlab.tune.assistants`).
TOKENS_PER_BATCH = 4096
OPTIMIZER, LR, MUON_LR, SCHEDULE, WARMUP = "muon", 6e-3, 0.02, "linear", 0.05
EPOCHS = 3


def tune_full(model, tokenizer, examples, *, steps=None, epochs=EPOCHS, tokens_per_batch=TOKENS_PER_BATCH, lr=LR,
              muon_lr=MUON_LR, optimizer=OPTIMIZER, schedule=SCHEDULE, warmup=WARMUP, weight_decay=0.0, clip=1.0,
              template="alpaca", loss="response", max_length=None, packed=False, seed=0, eval_every=None,
              evaluate=None, callbacks=(), out=None, stop=None, save_every=None):
    """Fine-tune every weight of `model` in place on `examples` (Examples or tasks of the world); returns the History.

    steps: by default `epochs` times through the examples. tokens_per_batch: padded tokens of a batch, at most.
    template, loss, max_length: see `ftlab.text.rows.rows`. packed: several examples in a row, none seeing another.
    optimizer "muon" (hidden matrices at `muon_lr`, the rest by AdamW at `lr`) or "adamw"; the rest is as in `train`.
    """
    return tune(attach(model, "full"), tokenizer, examples, steps=steps, epochs=epochs, tokens_per_batch=tokens_per_batch,
                lr=lr, muon_lr=muon_lr, optimizer=optimizer, schedule=schedule, warmup=warmup, weight_decay=weight_decay,
                clip=clip, template=template, loss=loss, max_length=max_length, packed=packed, seed=seed,
                eval_every=eval_every, evaluate=evaluate, callbacks=callbacks, out=out, stop=stop, save_every=save_every)


def tune(model, tokenizer, examples, *, lr, steps=None, epochs=EPOCHS, tokens_per_batch=TOKENS_PER_BATCH, muon_lr=MUON_LR,
         optimizer="adamw", schedule=SCHEDULE, warmup=WARMUP, weight_decay=0.0, clip=1.0, template="alpaca",
         loss="response", max_length=None, packed=False, seed=0, eval_every=None, evaluate=None, callbacks=(), out=None,
         stop=None, save_every=None):
    """Train what learns in `model`, which `attach` has prepared for a method, by AdamW; otherwise as `tune_full`.

    Rates are those of the shipped bases (see `rate`); Muon's are known for our Transformer only, others get AdamW.
    """
    check_known("optimizer", optimizer, optim.KNOWN)
    if steps is not None:
        check_whole("steps", steps)
    optimizer = optimizer if isinstance(model, Transformer) else "adamw"
    made = make_rows(examples, tokenizer, template, loss, max_length or limit(model))
    batches = make_batches(made, tokenizer, tokens_per_batch, seed, packed)
    config = plan(steps or epochs * batches.steps_per_epoch, lr=rate(model, lr), optimizer=optimizer, muon_lr=muon_lr,
                  schedule=schedule, warmup=warmup, weight_decay=weight_decay, clip=clip, eval_every=eval_every,
                  save_every=save_every, seed=seed)
    return train(model, batches, config, loss_of(model), evaluate, callbacks, out, stop)


def rate(model, lr):
    """`lr`, a peak rate for the shipped bases, as it is for `model`: lower for a pretrained model of `transformers`, by
    what its method asks for."""
    return lr * getattr(model, "rate_factor", 1.0)


def plan(steps, **changes):
    """The TrainConfig of `tune_full` with its defaults, and fields changed."""
    return TrainConfig(steps, **{"lr": LR, "muon_lr": MUON_LR, "optimizer": OPTIMIZER, "schedule": SCHEDULE,
                                 "warmup": WARMUP} | changes)


def make_rows(examples, tokenizer, template="alpaca", loss="response", max_length=None):
    """(ids, labels) rows of Examples or tasks."""
    examples = [e if isinstance(e, Example) else from_tasks([e])[0] for e in examples]
    if not examples:
        raise UsageError("no examples to learn from: give at least one")
    return rows(examples, tokenizer, template, loss, max_length)


def make_batches(made, tokenizer, tokens_per_batch=TOKENS_PER_BATCH, seed=0, packed=False):
    """A batch source over rows; packed rows are as long as the longest example, or 256 tokens."""
    pad_id = pad_of(tokenizer)
    if packed:
        seq_len = max(256, max(len(ids) for ids, _ in made))
        return PackedBatches(made, seq_len, max(1, tokens_per_batch // seq_len), seed, pad_id)
    return RowBatches(made, tokens_per_batch, seed, pad_id)


def loss_of(model):
    """The loss callable of `train` for `model`: None (its own) for ours, `hf_loss` for others."""
    return None if isinstance(model, Transformer) else hf_loss


@torch.no_grad()
def rows_loss(model, made, tokenizer, tokens_per_batch=8192):
    """Cross-entropy in nats per token with a label, over rows: the held-out loss."""
    one, total, count = loss_of(model) or (lambda model, batch: model.loss(batch)), 0.0, 0
    device = next(model.parameters()).device
    made = sorted(made, key=lambda row: len(row[0]))
    batches = RowBatches(made, tokens_per_batch, 0, pad_of(tokenizer))
    for indices in batches._cut(torch.arange(len(made))):
        batch = collate([made[i][0] for i in indices], pad_of(tokenizer), [made[i][1] for i in indices]).to(device)
        tokens = batch.num_tokens()
        total, count = total + one(model, batch).item() * tokens, count + tokens
    return total / count


def limit(model):
    """Tokens that the model can take in a row, or None where it says nothing of it; a learned prefix takes its part."""
    most = getattr(model.config, "max_position_embeddings", None)
    return None if most is None else most - prefix_length(model)


def pad_of(tokenizer):
    """Some id to pad with; no loss falls on it and nothing sees it."""
    if isinstance(tokenizer, Tokenizer):
        return tokenizer.pad_id
    return next((i for i in (tokenizer.pad_token_id, tokenizer.eos_token_id) if i is not None), 0)
