import random
import sys
import warnings

import pytest
import torch

from ftlab.errors import UsageError
from ftlab.teach import Exercise, against, answer, call, expect, expect_close, mistake
from ftlab.teach.check import run_check


def exercise(check, **changes):
    fields = {
        "id": "scale", "title": "Scale", "points": 2, "minutes": 5, "difficulty": 1, "hints": ("nudge", "x / t"),
        "mistakes": {"multiplied": "You multiplied.", "forgotten": "You did nothing.", "crashes": "You took -1."},
        "check": check,
    }  # fmt: skip
    return Exercise(**(fields | changes))


def cases():
    return [(torch.tensor([1.0]), 1.0), (torch.tensor([1.0, 2.0]), 2.0), (torch.linspace(-3, 3, 7), 0.5)]


def by_reference(**options):
    return exercise(
        against(
            lambda x, t: x / t, cases,
            mistakes={"multiplied": lambda x, t: x * t, "forgotten": lambda x, t: x, "crashes": lambda x, t: x[9]},
            **options,
        )
    )  # fmt: skip


def found(student, check=None):
    return run_check(check or by_reference(), (student,))


def in_notebook(source, name="f"):
    """`name` from source run as a notebook runs it."""
    space = {"__name__": "__main__", "torch": torch}
    exec(compile(source, "<cell>", "exec"), space)
    return space[name]


def test_right():
    assert found(lambda x, t: x / t).status == "right"


@pytest.mark.parametrize("student", [None, ...])
def test_an_empty_value_is_not_attempted(student):
    assert found(student).status == "not attempted"


def test_a_stub_is_not_attempted_but_another_not_implemented_is_an_error():
    def stub(x, t):
        raise NotImplementedError("exercise scale: your code goes here")

    def other(x, t):
        raise NotImplementedError("no kernel for this type")

    assert found(stub).status == "not attempted"
    assert found(other).status == "error"


@pytest.mark.parametrize(
    ("student", "name"),
    [(lambda x, t: x * t, "multiplied"), (lambda x, t: x, "forgotten"), (lambda x, t: x[-99], "crashes")],
)
def test_known_mistakes_are_named(student, name):
    result = found(student)
    assert (result.status, result.mistake) == ("mistake", name)
    assert by_reference().mistakes[name] in result.message


def test_an_unknown_mistake_shows_the_smallest_failing_input():
    result = found(lambda x, t: x / t if len(x) < 2 else x + 1)
    assert (result.status, result.mistake) == ("wrong", None)
    for part in ("x = tensor of shape (2,): [1, 2]", "t = 2", "Expected: tensor of shape (2,): [0.5, 1]", "[2, 3]"):
        assert part in result.message


@pytest.mark.parametrize(
    ("student", "words"),
    [
        (lambda x, t: None, "is a `return` missing?"),
        (lambda x, t: (x / t).tolist(), "you returned a list of length 1, a tensor of shape (1,) is asked for"),
        (lambda x, t: (x / t)[None], "shape (1, 1)"),
        (lambda x, t: x / t * float("nan"), "NaN"),
    ],
)
def test_types_shapes_and_nan_are_explained(student, words):
    result = found(student)
    assert result.status == "wrong"
    assert words.lower() in result.message.lower()


def test_an_error_names_the_line_of_the_student():
    result = found(in_notebook("def f(x, t):\n    y = x / t\n    return y / undefined\n"))
    assert result.status == "error"
    assert "NameError" in result.message
    assert "line 3 of your code" in result.message
    assert "Given: x = tensor of shape (1,)" in result.message
    assert "Traceback" not in result.message


def test_a_library_error_names_the_students_line_not_the_librarys():
    result = found(in_notebook("import json\ndef f(x, t):\n    return json.loads('{')\n"))
    assert "line 3 of your code" in result.message


@pytest.mark.parametrize("source", ["import sys\ndef f(x, t): sys.exit()", "def f(x, t): return f(x, t)"])
def test_exit_and_endless_recursion_do_not_escape(source):
    assert found(in_notebook(source)).status == "error"


def test_a_student_may_change_inputs_print_warn_and_draw_random_numbers(capsys):
    def student(x, t):
        print("here"), print("there", file=sys.stderr), warnings.warn("careful", stacklevel=1)
        random.random(), torch.rand(3)
        return x.div_(t)

    torch.manual_seed(1), random.seed(1)
    before = torch.get_rng_state(), random.getstate()
    assert found(student).status == "right"
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert capsys.readouterr() == ("", "")


def test_a_check_uses_fixed_seeds():
    check = exercise(against(lambda n: torch.rand(n), [2, 3]))
    assert found(lambda n: torch.rand(n), check).status == "right"


def test_something_else_than_one_function():
    class Scale(torch.nn.Module):
        def __init__(self, t):
            super().__init__()
            self.t = t

        def forward(self, x):
            return x / self.t

    check = by_reference(using=lambda scale_class, x, t: scale_class(t)(x))
    assert found(Scale, check).status == "right"
    both = by_reference(using=lambda f, g, x, t: f(x) / g(t))
    assert run_check(both, (lambda x: x, lambda t: t)).status == "right"
    assert "a function is asked for" in found(3).message


def test_an_answer_is_compared_without_being_given_away():
    check = exercise(answer(lambda: 2.75, mistakes={"multiplied": 5.5, "forgotten": lambda: 1.0}))
    assert found(2.7501, check).status == "right"
    assert found(5.5, check).mistake == "multiplied"
    assert found(1.0, check).mistake == "forgotten"
    assert found(9.0, check).status == "wrong"
    assert "2.75" not in found(9.0, check).message
    assert "a str" in found("2.75", check).message


def test_a_check_of_ones_own():
    def check(student):
        got = call(student, 3)
        if got == 6:
            mistake("multiplied", "Look at 3.")
        expect(got is not None, "Give something.")
        expect_close(got, 1.5, given="x = 3")

    own = exercise(check)
    assert found(lambda x: 1.5, own).status == "right"
    assert found(lambda x: 6, own).message == "You multiplied. Look at 3."
    assert found(lambda x: None, own).message == "Give something."
    assert "Given:    x = 3" in found(lambda x: 2.0, own).message
    assert found(lambda x: 1 / 0, own).status == "error"
    assert run_check(own, ()).status == "error"


def test_an_exercise_must_be_complete():
    for changes in ({"hints": ("one",)}, {"mistakes": {"a": "b"}}, {"difficulty": 6}, {"points": 0}, {"id": "A b"}):
        with pytest.raises(UsageError):
            exercise(lambda x: None, **changes)
