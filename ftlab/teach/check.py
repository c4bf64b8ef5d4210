"""Run a check on what the student wrote and tell apart: not attempted, right, a known mistake, wrong, an error.

A check is a function of the student's objects. It returns when they are right; else it raises, through helpers:

`against(reference, cases, mistakes=...)` makes a whole check from a reference, which is what most exercises need.
`call(function, *args)` runs student code on copies of its arguments, with its errors explained.
`expect(condition, message)`, `expect_close(got, want)` say "wrong"; `mistake(id)` says "wrong in this known way".
"""

import contextlib
import copy
import dataclasses
import functools
import inspect
import io
import linecache
import random
import sys
import traceback

from ftlab.teach.compare import describe, difference

NOT_ATTEMPTED, RIGHT, MISTAKE, WRONG, ERROR = "not attempted", "right", "mistake", "wrong", "error"


@dataclasses.dataclass(frozen=True)
class Result:
    """What a check found. status: one of the five above; mistake: the id of a known mistake or None."""

    id: str
    status: str
    mistake: str | None
    message: str

    def as_json(self):
        return dataclasses.asdict(self)


class CheckFailed(Exception):
    """Raised inside a check; carries the status, the mistake's id and a message for the student."""

    def __init__(self, status, message="", mistake=None):
        super().__init__(message)
        self.status, self.message, self.mistake = status, message, mistake


def run_check(exercise, objects):
    """The Result of `exercise.check(*objects)`. Never raises (but for KeyboardInterrupt), never prints."""
    try:
        if not objects:
            raise CheckFailed(ERROR, f'nothing to check: write lab.check("{exercise.id}", what_you_wrote)')
        if any(value is None or value is Ellipsis for value in objects):
            raise CheckFailed(NOT_ATTEMPTED)
        with quiet(), kept_random_state():
            exercise.check(*objects)
        status, name, message = RIGHT, None, ""
    except CheckFailed as found:
        status, name, message = found.status, found.mistake, found.message
    except (Exception, SystemExit) as error:
        found = _stopped(error)
        status, name, message = found.status, None, found.message
    if status == MISTAKE:
        message = f"{exercise.mistakes[name]}{' ' + message if message else ''}"
    if status == NOT_ATTEMPTED:
        message = f'Fill the gap, run its cell, then run this one. For a nudge: lab.hint("{exercise.id}")'
    return Result(exercise.id, status, name, message)


def call(function, *args, **kwargs):
    """`function(*args, **kwargs)` on copies of the arguments, with fixed seeds.

    An exception in the student's code becomes "error" with its line; NotImplementedError becomes "not attempted".
    """
    try:
        return _seeded(function, *args, **kwargs)
    except CheckFailed:
        raise
    except (Exception, SystemExit) as error:
        raise _stopped(error, _given(function, args, kwargs)) from error


def mistake(id, message=""):
    """End the check: the student made the known mistake `id`; `message` adds to its line."""
    raise CheckFailed(MISTAKE, message, id)


def expect(condition, message):
    """End the check with "wrong" and `message` unless `condition` holds."""
    if not condition:
        raise CheckFailed(WRONG, message)


def expect_close(got, want, rtol=1e-4, atol=1e-5, given=""):
    """End the check with "wrong" unless `got` matches `want` (types, shapes, values); `given` describes the input."""
    problem = difference(got, want, rtol, atol)
    if problem:
        raise CheckFailed(WRONG, _report(problem, got, want, given))


def against(reference, cases, mistakes=None, using=None, rtol=1e-4, atol=1e-5):
    """A check that compares the student's function with `reference` on `cases`, from small to large.

    reference: function of one case's arguments that returns what is right.
    cases: list of tuples of arguments, or a function that returns it (so that torch is only imported when checking).
    mistakes: {mistake id: function of one case's arguments that returns what that mistake would give}. The student is
        told of a mistake when their results equal the mistake's on every case (an exception of the same type counts).
    using: `using(*student's objects, *case)` gets the result out of other objects than one function, such as a class.
    """
    mistakes = mistakes or {}

    def check(*objects):
        student = functools.partial(using, *objects) if using else objects[0]
        expect(callable(student), f"a function is asked for, this is {describe(student)}")
        all_cases = [_arguments(case) for case in (cases() if callable(cases) else cases)]
        wants = [_seeded(reference, *case) for case in all_cases]
        outcomes = [_outcome(student, case) for case in all_cases]
        same = [_same(got, want, rtol, atol) for got, want in zip(outcomes, wants, strict=True)]
        if all(same):
            return
        for name, model in mistakes.items():
            pairs = zip(outcomes, all_cases, strict=True)
            if all(_same(got, _outcome(model, case), rtol, atol) for got, case in pairs):
                mistake(name)
        first = same.index(False)
        given = _given(reference, all_cases[first], {})
        if isinstance(outcomes[first], _Raised):
            raise CheckFailed(ERROR, f"{outcomes[first].text}\nGiven: {given}")
        expect_close(outcomes[first], wants[first], rtol, atol, given)

    return check


def answer(want, mistakes=None, rtol=1e-3, atol=1e-6):
    """A check of a value that the student worked out.

    want: the right value, or a function without arguments that gives it.
    mistakes: {mistake id: the value that this mistake gives, or a function that gives it}.
    """

    def check(value):
        right = want() if callable(want) else want
        if difference(value, right, rtol, atol) is None:
            return
        for name, wrong in (mistakes or {}).items():
            if difference(value, wrong() if callable(wrong) else wrong, rtol, atol) is None:
                mistake(name)
        problem = difference(value, right, rtol, atol)
        # The right value stays unsaid: the student is to find it.
        message = problem if problem.startswith("you returned") else f"{describe(value)} is not the answer"
        raise CheckFailed(WRONG, message.replace("you returned", "your answer is"))

    return check


def explain_error(error):
    """One line for an exception in the student's code: its type, its text, the line of their code it came from."""
    text = " ".join(str(error).split())[:300]
    name = type(error).__name__
    where = _student_line(error)
    if isinstance(error, SystemExit):
        text, name = "your code called exit()", "SystemExit"
    return f"{name}: {text}{where}" if text else f"{name}{where}"


@contextlib.contextmanager
def quiet():
    """Swallow what the student's code prints or warns while it is checked."""
    import warnings

    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield


@contextlib.contextmanager
def kept_random_state():
    """A check leaves the random generators as it found them, so a rerun of the notebook gives the same numbers."""
    torch, numpy = sys.modules.get("torch"), sys.modules.get("numpy")
    states = (random.getstate(), numpy and numpy.random.get_state(), torch and torch.get_rng_state())
    try:
        yield
    finally:
        random.setstate(states[0])
        if states[1] is not None:
            numpy.random.set_state(states[1])
        if states[2] is not None:
            torch.set_rng_state(states[2])


def _stopped(error, given=""):
    """The CheckFailed for an exception in the student's code: "not attempted" for a stub's, else "error"."""
    # torch raises NotImplementedError too; a stub's is empty or names the exercise.
    if isinstance(error, NotImplementedError) and (not str(error) or str(error).startswith("exercise")):
        return CheckFailed(NOT_ATTEMPTED)
    return CheckFailed(ERROR, explain_error(error) + (f"\nGiven: {given}" if given else ""))


class _Raised:
    """An outcome of student code: it raised."""

    def __init__(self, error):
        self.type, self.text = type(error), explain_error(error)


def _outcome(function, case):
    try:
        return _seeded(function, *case)
    except CheckFailed:
        raise
    except (Exception, SystemExit) as error:
        if _stopped(error).status == NOT_ATTEMPTED:
            raise
        return _Raised(error)


def _same(got, want, rtol, atol):
    if isinstance(got, _Raised) or isinstance(want, _Raised):
        return isinstance(got, _Raised) and isinstance(want, _Raised) and got.type is want.type
    return difference(got, want, rtol, atol) is None


def _seeded(function, *args, **kwargs):
    """Call on copies (the function may change its arguments) with the same seeds each time."""
    random.seed(0)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)
    return function(*map(_copied, args), **{name: _copied(value) for name, value in kwargs.items()})


def _copied(value):
    try:
        return copy.deepcopy(value)
    except Exception:  # a tensor inside a graph, a lock, an open file: shared rather than copied
        return value


def _arguments(case):
    return case if isinstance(case, tuple) else (case,)


def _report(problem, got, want, given):
    lines = [problem[0].upper() + problem[1:] + "."]
    if given:
        lines.append(f"Given:    {given}")
    lines.append(f"Expected: {describe(want)}")
    if got is not None:
        lines.append(f"Got:      {describe(got)}")
    return "\n".join(lines)


def _given(function, args, kwargs):
    try:
        names = inspect.signature(function).bind(*args, **kwargs).arguments
    except (TypeError, ValueError):
        names = {f"argument {i + 1}": value for i, value in enumerate(args)} | kwargs
    return ", ".join(f"{name} = {describe(value, 160)}" for name, value in names.items())


def _student_line(error):
    """", line 3 of your code: `...`" for the deepest frame of the notebook in the traceback; "" when there is none."""
    if isinstance(error, SyntaxError) or error.__traceback__ is None:
        return ""
    frames = [f for f, _ in traceback.walk_tb(error.__traceback__) if f.f_globals.get("__name__") == "__main__"]
    found = [(f, n) for f, n in traceback.walk_tb(error.__traceback__) if f in frames]
    if not found:
        return ""
    frame, number = found[-1]
    line = linecache.getline(frame.f_code.co_filename, number).strip()
    return f" (line {number} of your code: `{line}`)" if line else f" (line {number} of your code)"
