"""Checks of numbers and options that a caller gives: what cannot be meant is an error, never a plausible result."""

import math
import numbers


def finite(value):
    """Whether this is a finite real number (no text, no True, no NaN); numbers of numpy count as well."""
    try:
        return isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # an int beyond the floats
        return False


def whole(value, least=1):
    """Whether this is a whole number, at least `least` (True is none)."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool) and value >= least


def check_real(name, value, least=None, above=None, most=None):
    """Raise ValueError unless `value` is a finite number within the bounds. name: what the caller calls it."""
    bounds = [f"{word} {bound}" for word, bound in (("at least", least), ("above", above), ("at most", most))
              if bound is not None]
    if not (finite(value) and (least is None or value >= least) and (above is None or value > above)
            and (most is None or value <= most)):
        raise ValueError(f"{name} is {value!r}; it must be a finite number" + (f", {' and '.join(bounds)}" if bounds else ""))


def check_whole(name, value, least=1):
    """Raise ValueError unless `value` is a whole number, at least `least`."""
    if not whole(value, least):
        raise ValueError(f"{name} is {value!r}; it must be a whole number, at least {least}")


def check_known(name, value, known):
    """Raise ValueError unless the option `value` is one of `known`, which the message lists."""
    if value not in list(known):
        raise ValueError(f"{name} {value!r}; known: {', '.join(map(str, known))}")
