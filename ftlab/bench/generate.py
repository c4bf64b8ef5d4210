"""`ftlab bench generate`: our generation against `model.generate` of transformers, one text at a time, on the CPU.

The peer is the same model as a LlamaForCausalLM: float32, its default cache, no end token, so that both write every
token asked for. Sampling is at temperature 1 with top-k 50 (transformers' default) on both sides.
"""

import functools
import time

import torch

from ftlab import profile
from ftlab.bench.common import paired, take_turns, tell
from ftlab.library_messages import quiet_libraries
from ftlab.model import ModelConfig, Transformer, generate, hub, load, to_hf

TOP_K = 50


def run(report=None, quick=False):
    """Tokens per second for one text, greedy and sampled, and for a batch (to inform)."""
    model, shape = _model(quick)
    tell(report, f"model: {shape}, {model.num_parameters():,} parameters")
    new, rounds = (8, 2) if quick else (200, 7)
    rows = []
    with quiet_libraries():
        theirs = to_hf(model)
        theirs.generation_config.eos_token_id = None
        for name, greedy, batch in (("greedy", True, 1), ("sampled", False, 1), ("sampled, 16 texts at once", False, 16)):
            prompts = torch.randint(4, model.config.vocab_size, (batch, 8),
                                    generator=torch.Generator().manual_seed(0)).tolist()
            runners = {"ours": functools.partial(_rate, _ours, model, prompts, new, greedy),
                       "model.generate": functools.partial(_rate, _peer, theirs, prompts, new, greedy)}
            if greedy and _ours(model, prompts, new, True) != _peer(theirs, prompts, new, True):
                raise RuntimeError("our greedy text differs from that of model.generate: rates would compare nothing")
            take_turns(runners, 1)  # to warm up
            results = take_turns(runners, rounds, report, name)
            rows.append(paired(f"generate, {shape}, {name}, against model.generate", results["ours"],
                               results["model.generate"], "tokens/s"))
    return {"machine": profile.machine(measure=not quick), "rows": rows}


def _model(quick):
    """The shipped base, or a random model of its shape where none is shipped."""
    if quick:
        torch.manual_seed(0)
        return Transformer(ModelConfig(64, 16, 2, 2, 24, max_position_embeddings=64)).eval(), "tiny random model"
    if (hub.ASSETS / "base").is_dir():
        return load("base")[0], "base"
    torch.manual_seed(0)
    return Transformer(ModelConfig(1024, 160, 4, 8, 432)).eval(), "random model of the base's shape"


def _rate(function, model, prompts, new, greedy):
    began = time.perf_counter()
    rows = function(model, prompts, new, greedy)
    seconds = time.perf_counter() - began
    return sum(map(len, rows)) / seconds


def _ours(model, prompts, new, greedy):
    return generate(model, prompts, new, temperature=0 if greedy else 1.0, top_k=None if greedy else TOP_K, seed=0)


def _peer(theirs, prompts, new, greedy):
    ids = torch.tensor(prompts)
    sampling = {"do_sample": False} if greedy else {"do_sample": True, "temperature": 1.0, "top_k": TOP_K}
    torch.manual_seed(0)
    out = theirs.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=new, pad_token_id=0, **sampling)
    return out[:, ids.shape[1]:].tolist()
