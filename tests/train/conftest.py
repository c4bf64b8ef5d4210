"""A model and rows so small that a step takes a millisecond."""

import random

import pytest
import torch

from ftlab.model import ModelConfig, Transformer
from ftlab.text.batching import RowBatches


def tiny_model(seed=0, **changes):
    """A Transformer of some 3,000 parameters with fixed weights."""
    torch.manual_seed(seed)
    settings = {"vocab_size": 24, "hidden_size": 16, "num_layers": 2, "num_heads": 2, "intermediate_size": 20,
                "max_position_embeddings": 32} | changes  # fmt: skip
    return Transformer(ModelConfig(**settings))


def tiny_rows(count=40, seed=0):
    """Rows that can be learnt: each counts up by one from a random start."""
    rng = random.Random(seed)
    return [[1] + [4 + (start + i) % 20 for i in range(rng.randrange(4, 12))] + [2]
            for start in (rng.randrange(20) for _ in range(count))]  # fmt: skip


@pytest.fixture(name="tiny_model")
def tiny_model_fixture():
    return tiny_model


@pytest.fixture(name="tiny_rows")
def tiny_rows_fixture():
    return tiny_rows


@pytest.fixture
def batches():
    return RowBatches(tiny_rows(), 60, seed=0)


@pytest.fixture(autouse=True)
def one_thread():
    """Models this small gain nothing from a second thread, and lose much where the machine is busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
