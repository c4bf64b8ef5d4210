"""`ftlab bench widgets`: how long the kernel takes for a click in the next-token explorer, and for a slider's move in
the explorer of learning-rate runs. Limit: 100 ms.

Measured is the whole handler. Of a click on a candidate: the model reads the text so far and the token clicked, the
bars are computed and every widget's new value is set. Of a move: the run is looked up, both panels are drawn and sent.
What the browser then draws is not in it.
"""

import statistics
import time

import torch

from ftlab import profile
from ftlab.bench.common import alone, tell
from ftlab.model import ModelConfig, Transformer, filter_logits, hub, load
from ftlab.show import widgets
from ftlab.text import Tokenizer
from ftlab.train.sweeps import load_sweep

LIMIT_MS = 100


def run(report=None, quick=False):
    """Median and maximum over clicks from an empty text to one of some hundred tokens."""
    model, tokenizer, shape = _model(quick)
    explorer = widgets.next_token_explorer(next_probs(model, tokenizer), tokenizer.pieces, [tokenizer.bos_id],
                                           tokenizer.decode, temperature=0.8, top_k=20, top_p=0.9)
    explorer.build()
    milliseconds = []
    for click in range(5 if quick else 120):
        began = time.perf_counter()
        # Each fifth click takes another candidate than the first, as a person would.
        explorer.buttons[click % 5 == 4].click()
        milliseconds.append(1000 * (time.perf_counter() - began))
    if len(explorer.ids) != 1 + len(milliseconds):
        raise RuntimeError(f"{len(milliseconds)} clicks appended {len(explorer.ids) - 1} tokens: a handler failed")
    tell(report, f"{len(milliseconds)} clicks, model {shape}")
    rows = both(f"a click in the next-token explorer ({shape})", milliseconds)
    return {"machine": profile.machine(measure=not quick), "rows": rows + moves(report, quick)}


def both(name, milliseconds):
    """Two rows: median and maximum."""
    return [alone(f"{name}, median", statistics.median(milliseconds), "ms", LIMIT_MS),
            alone(f"{name}, maximum", max(milliseconds), "ms", LIMIT_MS)]


def moves(report=None, quick=False):
    """Every position of every slider of the explorer of learning-rate runs, as one would drag it there and back."""
    data = load_sweep()
    explorer = widgets.sweep_explorer(data)
    explorer.build()
    milliseconds = []
    for name, values in list(data["factors"].items())[:1 if quick else None]:
        for value in values:
            milliseconds.append(_moved(explorer.sliders[name], value))
            for rate in data["rates"] + data["rates"][::-1]:
                milliseconds.append(_moved(explorer.sliders["rate"], rate))
    if explorer.status.value:
        raise RuntimeError(f"a move failed: {explorer.status.value}")
    tell(report, f"{len(milliseconds)} moves over {len(data['runs'])} runs")
    return both(f"a move in the explorer of {len(data['runs'])} runs", milliseconds)


def _moved(slider, value):
    """Milliseconds that setting a slider takes, its handler included."""
    began = time.perf_counter()
    slider.value = value
    return 1000 * (time.perf_counter() - began)


def next_probs(model, tokenizer):
    """The explorer's callable: (ids, temperature, top_k, top_p) -> [(id, piece, p_raw, p_kept)] of the whole vocabulary.

    Without a cache, as in the lab: each click reads the whole text again.
    """
    @torch.inference_mode()
    def look_up(ids, temperature, top_k, top_p):
        logits = model(torch.tensor([ids]))[0, -1]
        raw, kept = logits.softmax(-1), filter_logits(logits, temperature, top_k, top_p).softmax(-1)
        places = range(len(raw))
        return list(zip(places, tokenizer.pieces(places), raw.tolist(), kept.tolist(), strict=True))

    return look_up


def _model(quick):
    if not quick and (hub.ASSETS / "base").is_dir():
        return *load("base"), "base"
    vocab = 300 if quick else 1024
    texts = [f"Ada had a red kite and {n} caps; Emil wept for the orange cap {n}." for n in range(3000)]
    tokenizer = Tokenizer.train(texts, vocab)
    torch.manual_seed(0)
    shape = (16, 2, 2, 24) if quick else (160, 4, 8, 432)
    return Transformer(ModelConfig(tokenizer.vocab_size, *shape)).eval(), tokenizer, "random model of the base's shape"
