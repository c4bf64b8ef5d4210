"""The model: transformer, generation, loading and saving."""

from ftlab.model.generate import KVCache, beam_search, choose, filter_logits, generate, sequence_logprobs
from ftlab.model.hub import from_hf, load, save, to_hf
from ftlab.model.transformer import ModelConfig, Transformer

__all__ = ["KVCache", "ModelConfig", "Transformer", "beam_search", "choose", "filter_logits", "from_hf", "generate",
           "load", "save", "sequence_logprobs", "to_hf"]
