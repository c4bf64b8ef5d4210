"""Pretrain a small model on the user's own text, from nothing, and save what `transformers` loads.

The tokenizer is learnt from the same text. Left out: deduplication and filtering, which matter for scraped text.
"""

import dataclasses
import hashlib
import math
import pathlib
import random
import shutil

import torch

from ftlab import files
from ftlab.errors import UsageError
from ftlab.model import ModelConfig, Transformer, generate, save
from ftlab.text import Tokenizer
from ftlab.text.batching import Batch, ChunkBatches
from ftlab.train.loop import TrainConfig
from ftlab.train.rates import range_test
from ftlab.train.recovery import train_safely

# Shapes by name: (hidden_size, num_layers, num_heads, intermediate_size, vocab_size, seq_len).
SIZES = {
    "tiny": (64, 2, 4, 172, 512, 128),
    "small": (128, 2, 8, 344, 1024, 256),
    "medium": (192, 4, 12, 512, 2048, 256),
    "large": (320, 6, 10, 864, 4096, 256),
}
TOKENS_PER_STEP = 2048
EPOCHS = 4
HELD_OUT = 0.05


def pretrain_from_text(texts, out, steps=None, size="small", seed=0, callbacks=(), find_rate=False):
    """Pretrain on `texts` (a list of documents) and save model and tokenizer to the folder `out`.

    size: a name in SIZES. steps: of 2,048 tokens each, by default four times through the text, 200 to 3,000.
    find_rate: a range test chooses the rate first. A run that diverges goes on from its last checkpoint at a third of
    the rates. A twentieth of the documents is held out. The folder appears when all is done; a run that was stopped
    goes on when it is started again with the same text and settings. Returns a dict of what was made and measured.
    """
    out = pathlib.Path(out)
    _check(out, size, steps)
    hidden, layers, heads, inner, vocab_size, seq_len = SIZES[size]
    training, held_out = _split(texts, seed)
    tokenizer = Tokenizer.train(training, vocab_size)
    stream = _stream(tokenizer, training)
    held = _windows(_stream(tokenizer, held_out), seq_len, most=64)
    steps = steps or min(3000, max(200, EPOCHS * len(stream) // TOKENS_PER_STEP))
    batches = ChunkBatches(stream, seq_len, TOKENS_PER_STEP // seq_len, seed)
    torch.manual_seed(seed)
    model = Transformer(ModelConfig(tokenizer.vocab_size, hidden, layers, heads, inner))
    config = TrainConfig(steps, lr=5e-3, optimizer="muon", muon_lr=0.02, warmup=min(50, steps // 10 + 1),
                         weight_decay=0.01, eval_every=max(1, steps // 10), save_every=max(1, steps // 20), seed=seed)
    if find_rate:
        config = range_test(model, batches, config).apply(config)
    partial = _partial_folder(out, texts, config, size)
    history, recoveries = train_safely(
        model, batches, config, partial, callbacks=callbacks,
        evaluate=lambda model, step: {"held_out_loss": _loss(model, held)})
    losses = history.metric("held_out_loss")[1]
    if not all(math.isfinite(loss) for loss in losses):
        raise UsageError("the held-out loss is no number: the text is too short to hold anything out; give more of it")
    sample = write(model, tokenizer, 120, seed=seed)
    save(model, tokenizer, out)
    shutil.rmtree(partial, ignore_errors=True)
    bytes_per_token = sum(len(t.encode()) for t in held_out) / max(1, len(_stream(tokenizer, held_out)))
    return {
        "out": str(out), "parameters": model.num_parameters(), "vocab_size": tokenizer.vocab_size,
        "documents": len(texts), "text_tokens": len(stream), "steps": len(history.steps), "tokens": history.tokens,
        "lr": recoveries[-1].lr if recoveries else config.lr, "recoveries": len(recoveries),
        "seconds": round(history.seconds, 1), "train_loss": sum(history.losses[-20:]) / len(history.losses[-20:]),
        "held_out_loss": losses[-1], "held_out_bits_per_byte": losses[-1] / math.log(2) / bytes_per_token,
        "sample": sample,
    }


def write(model, tokenizer, max_new_tokens=120, temperature=0.8, top_p=0.95, prompt="", seed=0):
    """A text of the model's own, after `prompt`."""
    ids = tokenizer.encode(prompt, bos=True)
    return prompt + tokenizer.decode(generate(model, [ids], max_new_tokens, temperature, top_p=top_p,
                                              eos_id=tokenizer.eos_id, seed=seed)[0])


def _check(out, size, steps):
    if size not in SIZES:
        raise UsageError(f"no size is called {size!r}; choose one of {', '.join(SIZES)}")
    if steps is not None and steps < 1:
        raise UsageError(f"--steps is {steps}; it must be at least 1")
    files.check_free(out)


def _split(texts, seed):
    """Training and held-out documents: whole documents, at least one of each."""
    if not texts:
        raise UsageError("no text to train on")
    if len(texts) == 1:  # one long document is cut: its end is held out
        cut = int(len(texts[0]) * (1 - HELD_OUT))
        return [texts[0][:cut]], [texts[0][cut:]]
    order = list(range(len(texts)))
    random.Random(seed).shuffle(order)
    count = max(1, round(HELD_OUT * len(texts)))
    return [texts[i] for i in order[count:]], [texts[i] for i in order[:count]]


def _stream(tokenizer, texts):
    """All documents as one list of ids, each with its start and end token."""
    return [i for row in tokenizer.encode_batch(texts, bos=True, eos=True) for i in row]


def _windows(ids, seq_len, most):
    """Up to `most` windows of the held-out stream as one batch; a shorter stream is one short window."""
    if len(ids) < 2:
        raise UsageError("too little text: a twentieth of it is held out, and that is empty; give more text")
    length = min(seq_len, len(ids))
    count = min(most, len(ids) // length)
    windows = torch.tensor(ids[:count * length]).view(count, length)
    return Batch(windows, windows)


@torch.no_grad()
def _loss(model, batch):
    return model.loss(batch).item()


def _partial_folder(out, texts, config, size):
    """Where checkpoints of just this run go: beside `out`, hidden, named by text and settings."""
    digest = hashlib.sha256(repr((size, dataclasses.asdict(config))).encode())
    for text in texts:
        digest.update(text.encode())
    return out.parent / f".{out.name}.{digest.hexdigest()[:10]}.partial"
