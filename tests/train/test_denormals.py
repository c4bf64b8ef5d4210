"""Denormals are zeros while a model trains, on every thread, and only then."""

import pathlib

import pytest
import torch

from ftlab.train import TrainConfig, train
from ftlab.train.denormals import _pause, flushed_denormals

TINY = 1e-39


def denormals_left():
    """How many of a million products are denormal and not zero: enough of them that all threads take part."""
    return int((torch.full((2**20,), 1e-30) * (TINY / 1e-30)).count_nonzero())


@pytest.fixture(autouse=True)
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_denormals_are_zeros_inside_on_all_threads():
    assert denormals_left() == 2**20
    with flushed_denormals() as able:
        if not able:
            pytest.skip("this processor cannot")
        inside = denormals_left()
        with flushed_denormals():
            pass
        after_nested = denormals_left()
    assert denormals_left() == 2**20
    if _pause() is None:
        assert inside < 2**20  # this thread's part at least
    else:
        assert inside == after_nested == 0


@pytest.mark.skipif(not pathlib.Path("/proc/self/maps").exists(), reason="the library is found by Linux's /proc")
def test_the_threads_are_renewed_on_linux():
    assert _pause() is not None


def test_training_flushes_and_restores_even_when_it_fails():
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(2, 2))

    class Batch:
        def to(self, device):
            return self

        def num_tokens(self):
            return 1

    left = []

    def loss(model, batch):
        left.append(denormals_left())
        if len(left) == 2:
            raise RuntimeError("enough")
        return model.weight.square().sum()

    with pytest.raises(RuntimeError, match="enough"):
        train(Model(), lambda step: Batch(), TrainConfig(3), loss)
    assert max(left) < 2**20 == denormals_left()
