"""A tiny model with a tokenizer of the micro-world, and pairs about it."""

import pytest
import torch

from ftlab.model import ModelConfig, Transformer
from ftlab.text.tokenizer import Tokenizer
from ftlab.world import World, tasks


@pytest.fixture(scope="session")
def tokenizer():
    texts = [story.text for story in World("small").sample(150, "align")]
    return Tokenizer.train(texts + ["### Instruction:\n### Response:\n### End"], 300)


@pytest.fixture
def tiny(tokenizer):
    """tiny(seed=0, **changes) -> a Transformer for the tokenizer, far from uniform."""
    def make(seed=0, **changes):
        torch.manual_seed(seed)
        settings = {"vocab_size": tokenizer.vocab_size, "hidden_size": 32, "num_layers": 2, "num_heads": 2,
                    "intermediate_size": 48, "max_position_embeddings": 512} | changes  # fmt: skip
        model = Transformer(ModelConfig(**settings))
        with torch.no_grad():
            for p in model.parameters():
                p.mul_(4.0) if p.ndim == 2 else None
        return model.eval()

    return make


@pytest.fixture(scope="session")
def pairs():
    return [pair for pair in tasks.preference_pairs(World("small"), 40, seed=3) if pair.margin]


@pytest.fixture(autouse=True)
def one_thread():
    """Models this small gain nothing from a second thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
