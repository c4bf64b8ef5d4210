import math

import numpy as np
import pytest
import torch

from ftlab.teach.compare import describe, difference, kind


class EqualToAll:
    def __eq__(self, other):
        return True

    def __hash__(self):
        return 0

    def __len__(self):
        return 2


class EqualTensor(torch.Tensor):
    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        if function.__name__ in ("isclose", "eq", "allclose", "numpy", "double"):
            return torch.ones(2)
        return super().__torch_function__(function, types, args, kwargs or {})


@pytest.mark.parametrize(
    "value",
    [None, True, 3, 2.5, -math.inf, math.nan, "text", [1, [2.0]], (1, 2), {"a": 1}, {1, 2}, torch.ones(2, 3),
     torch.tensor([True]), torch.tensor([1, 2]), torch.tensor([math.nan, -math.inf]), np.eye(2), np.float32(2.0)],
)  # fmt: skip
def test_a_value_matches_itself_and_no_impostor(value):
    assert difference(value, value) is None
    assert difference(EqualToAll(), value) is not None


def test_a_tensor_with_its_own_comparison_does_not_pass():
    fake = torch.zeros(2).as_subclass(EqualTensor)
    assert difference(fake, torch.ones(2)) is not None


@pytest.mark.parametrize(
    ("got", "want", "words"),
    [
        ([1.0, 2.0], torch.ones(2, 5), "you returned a list of length 2, a tensor of shape (2, 5) is asked for"),
        (torch.ones(5, 2), torch.ones(2, 5), "a tensor of shape (5, 2), a tensor of shape (2, 5)"),
        (torch.ones(2), torch.ones(2, dtype=torch.bool), "floating-point values"),
        (None, 3, "is a `return` missing?"),
        (True, 1, "a bool, an int"),
        (1, True, "an int, a bool"),
        (1.0, 1, "a float, an int"),
        ([1, 2], (1, 2), "a list of length 2, a tuple of length 2"),
        ([1, 3], [1, 2], "at [1]: expected 2, got 3"),
        ({"a": 1}, {"b": 1}, "keys missing"),
        (torch.tensor([1.0, math.nan]), torch.ones(2), "NaN"),
        (torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 3.0]]), "at [0, 1] expected 3, got 2"),
        (math.nan, 1.0, "expected 1, got nan"),
        ("a", "b", "expected 'b', got 'a'"),
    ],
)
def test_differences_are_said_in_words(got, want, words):
    assert words in difference(got, want)


def test_tolerances_and_numbers_of_other_kinds():
    assert difference(1.00001, 1.0) is None
    assert difference(1.01, 1.0) is not None
    assert difference(1, 1.0) is None, "an int does where a float is asked for"
    assert difference(torch.tensor(2.0), 2.0) is None, "so does a tensor with one number"
    assert difference(np.int64(3), 3) is None
    assert difference(torch.ones(2, dtype=torch.float64), torch.ones(2)) is None


def test_describe_is_short_and_survives_a_bad_repr():
    class Bad:
        def __repr__(self):
            raise ValueError

    assert "shape (300, 300)" in describe(torch.zeros(300, 300))
    assert len(describe(list(range(10_000)))) < 400
    assert "ValueError" in describe(Bad())
    assert kind(torch.tensor(1.0)) == "a tensor with one number (shape ())"
