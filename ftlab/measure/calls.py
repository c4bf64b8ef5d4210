"""What a call to a model costs: tokens read, tokens written, seconds on this machine; one call at a time, greedy.

Simplification: a service would answer many callers in one batch, which makes each token cheaper, the read ones most.
"""

import dataclasses
import statistics
import time

import torch

from ftlab.model.generate import KVCache, choose


@dataclasses.dataclass(frozen=True)
class Call:
    """text: the answer. read, written: tokens. reused: tokens of a prefix whose keys and values were there already."""

    text: str
    read: int
    written: int
    reused: int
    seconds: float


class CachedPrefix:
    """Keys and values of the tokens with which every prompt begins, computed once; room: tokens that may follow."""

    @torch.inference_mode()
    def __init__(self, model, ids, room=384):
        self.ids, self.cache = list(ids), KVCache(model, 1, len(ids) + room)
        model.hidden(torch.tensor([self.ids]), cache=self.cache)

    def ready(self):
        """The cache with what an earlier call put behind the prefix forgotten."""
        for layer in self.cache.layers:
            layer.length = len(self.ids)
        return self.cache


@torch.inference_mode()
def call(model, tokenizer, ids, max_new_tokens=12, prefix=None):
    """One greedy answer to the prompt `ids`, up to its first line break, as a Call. prefix: a CachedPrefix that stands
    before the prompt; only the prompt is then computed."""
    began = time.perf_counter()
    cache = prefix.ready() if prefix else KVCache(model, 1, len(ids) + max_new_tokens)
    step, new = torch.tensor([list(ids)]), []
    while len(new) < max_new_tokens:
        token = choose(model.lm_head(model.hidden(step, cache=cache)[:, -1]), temperature=0)  # (1,)
        new.append(token.item())
        if new[-1] == tokenizer.eos_id or "\n" in tokenizer.decode(new).lstrip():
            break
        step = token[:, None]
    text = (tokenizer.decode(new).strip().splitlines() or [""])[0].strip()
    return Call(text, len(ids), len(new), len(prefix.ids) if prefix else 0, time.perf_counter() - began)


def summary(calls):
    """{"read", "written", "reused": mean tokens, "seconds": the median call's}."""
    means = {name: statistics.fmean(getattr(one, name) for one in calls) for name in ("read", "written", "reused")}
    return means | {"seconds": statistics.median(one.seconds for one in calls)}


@torch.inference_mode()
def rates(model, lengths=(64, 384), new_tokens=24, repeats=7):
    """{"read", "written": seconds a token on this machine}: what one more token of a prompt takes, and one more token of
    an answer behind a prompt of lengths[0]. Medians over `repeats`."""
    def prefill(length):
        began = time.perf_counter()
        cache = KVCache(model, 1, length + new_tokens)
        model.hidden(torch.full((1, length), 5), cache=cache)
        return cache, time.perf_counter() - began

    seconds, writing = {length: [] for length in lengths}, []
    for _ in range(repeats + 1):
        for length in reversed(lengths):
            cache, took = prefill(length)
            seconds[length].append(took)
        began = time.perf_counter()
        for _ in range(new_tokens):
            model.lm_head(model.hidden(torch.full((1, 1), 5), cache=cache)[:, -1])
        writing.append((time.perf_counter() - began) / new_tokens)
    short, long = (statistics.median(seconds[length][1:]) for length in lengths)  # the first ones warm up
    return {"read": max(long - short, 1e-9) / (lengths[1] - lengths[0]), "written": statistics.median(writing[1:])}
