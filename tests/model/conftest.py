"""Small random models whose logits differ enough for choices to be clear."""

import pytest
import torch

from ftlab.model import ModelConfig, Transformer


def random_model(seed=0, **changes):
    """A model with weights large enough that the next token is far from uniform."""
    settings = {"vocab_size": 60, "hidden_size": 32, "num_layers": 2, "num_heads": 4, "intermediate_size": 48,
                "max_position_embeddings": 64} | changes  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    model = Transformer(ModelConfig(**settings))
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim == 2:
                p.normal_(std=0.35 if len(p) == settings["vocab_size"] else 0.2, generator=generator)
            else:
                p.add_(torch.randn(p.shape, generator=generator), alpha=0.1)
    return model.eval()


@pytest.fixture(name="random_model")
def random_model_fixture():
    return random_model


@pytest.fixture(autouse=True)
def one_thread():
    """Models this small gain nothing from a second thread, and lose much where the machine is busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
