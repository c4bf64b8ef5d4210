"""Compare what a student returned with what is asked for, and say in plain words where they differ.

Types are strict (a list is no tensor, True is no 1), so that an object that claims to equal everything equals nothing.
Works on numbers, strings, None, lists, tuples, dicts, sets, NumPy arrays and torch tensors; imports neither library.
"""

import math
import sys

WIDTH = 360  # characters of a value that is shown


def difference(got, want, rtol=1e-4, atol=1e-5):
    """None when `got` matches `want`, else one line that says how they differ.

    rtol, atol: two floats match when |got - want| <= atol + rtol * |want|. NaN matches NaN, inf matches inf.
    """
    if want is None or got is None:
        return None if want is got else _kinds(got, want)
    if is_tensor(want) or is_array(want):
        return _arrays(got, want, rtol, atol)
    if isinstance(want, bool):
        return _scalars(got, want, bool, lambda a, b: a == b)
    if isinstance(want, int):
        return _scalars(got, want, int, lambda a, b: a == b)
    if isinstance(want, float):
        return _scalars(got, want, float, lambda a, b: _close(a, b, rtol, atol))
    if isinstance(want, str):
        if not isinstance(got, str):
            return _kinds(got, want)
        return None if str.__eq__(str(got), want) else f"expected {want!r}, got {str(got)!r}"
    if isinstance(want, (list, tuple)):
        return _sequences(got, want, rtol, atol)
    if isinstance(want, dict):
        return _dicts(got, want, rtol, atol)
    if isinstance(want, (set, frozenset)):
        if not isinstance(got, (set, frozenset)):
            return _kinds(got, want)
        return None if frozenset(got) == frozenset(want) else f"expected {describe(want)}, got {describe(got)}"
    if type(got) is not type(want):
        return _kinds(got, want)
    return None if got is want or got == want else f"expected {describe(want)}, got {describe(got)}"


def kind(value):
    """A value's type and size in words: "a tensor of shape (2, 5)", "a list of 3", "an int", "None"."""
    if value is None:
        return "None"
    if is_tensor(value):
        return f"a tensor of shape {tuple(value.shape)}" if value.dim() else "a tensor with one number (shape ())"
    if is_array(value):
        return f"a NumPy array of shape {tuple(value.shape)}"
    if isinstance(value, (list, tuple, dict, set, frozenset)):
        return f"a {type(value).__name__} of length {len(value)}"
    name = type(value).__name__
    if callable(value) and not isinstance(value, type):
        return f"a function ({getattr(value, '__name__', name)})" if name == "function" else f"an object of {name}"
    return f"an {name}" if name[0].lower() in "aeiou" else f"a {name}"


def describe(value, width=WIDTH):
    """A value as the student would write it, with its shape where it has one, cut to `width` characters."""
    try:
        if is_tensor(value):
            return f"tensor of shape {tuple(value.shape)}: {_cut(_nested(value), width)}"
        if is_array(value):
            return f"array of shape {tuple(value.shape)}: {_cut(_nested(value), width)}"
        if isinstance(value, float):
            return f"{value:.6g}"
        return _cut(repr(value), width)
    except Exception as error:  # a student's object may fail in its own repr
        return f"an object of {type(value).__name__} whose repr raises {type(error).__name__}"


def is_tensor(value):
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def is_array(value):
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(value, numpy.ndarray)


def plain_number(value):
    """The Python number in a NumPy scalar, a zero-dimensional array or a tensor with one number; else `value`."""
    numpy = sys.modules.get("numpy")
    if (is_tensor(value) or is_array(value)) and tuple(value.shape) == ():
        return _values(value)[()].item()
    if numpy is not None and isinstance(value, numpy.generic):
        return value.item()
    return value


def _scalars(got, want, type_, same):
    number = plain_number(got)
    allowed = (int, float) if type_ is float else (type_,)
    if not isinstance(number, allowed) or (isinstance(number, bool) and type_ is not bool):
        return _kinds(got, want)
    number = type_(number)
    return None if same(number, want) else f"expected {describe(want)}, got {describe(number)}"


def _close(a, b, rtol, atol):
    if math.isnan(a) or math.isnan(b):
        return math.isnan(a) and math.isnan(b)
    if math.isinf(a) or math.isinf(b):
        return a == b
    return abs(a - b) <= atol + rtol * abs(b)


def _arrays(got, want, rtol, atol):
    right_type = is_tensor(got) if is_tensor(want) else is_array(got)
    if not right_type or tuple(got.shape) != tuple(want.shape):
        return _kinds(got, want)
    if _sort(got) != _sort(want):
        return f"you returned {_sort(got)} values ({got.dtype}), {_sort(want)} values ({want.dtype}) are asked for"
    import numpy

    a, b = _values(got), _values(want)
    if _sort(want) == "floating-point":
        with numpy.errstate(invalid="ignore"):
            same = numpy.isclose(a, b, rtol=rtol, atol=atol, equal_nan=True)
    else:
        same = a == b
    if same.all():
        return None
    where = tuple(int(i) for i in numpy.argwhere(~same)[0])
    count = int((~same).sum())
    if _sort(want) == "floating-point" and numpy.isnan(a).any() and not numpy.isnan(b).any():
        return f"your result holds NaN (not a number) in {int(numpy.isnan(a).sum())} of {a.size} places"
    place = f"at [{', '.join(map(str, where))}] " if where else ""
    return (
        f"{place}expected {_short(b[where])}, got {_short(a[where])}"
        + (f" ({count} of {a.size} values differ)" if a.size > 1 else "")
    )


def _sequences(got, want, rtol, atol):
    base = list if isinstance(want, list) else tuple
    if not isinstance(got, base) or len(got) != len(want):
        return _kinds(got, want)
    for index, (a, b) in enumerate(zip(got, want, strict=True)):
        problem = difference(a, b, rtol, atol)
        if problem:
            return f"at [{index}]: {problem}"
    return None


def _dicts(got, want, rtol, atol):
    if not isinstance(got, dict):
        return _kinds(got, want)
    missing, extra = [k for k in want if k not in got], [k for k in got if k not in want]
    if missing or extra:
        parts = {"keys missing": missing, "keys too many": extra}
        return "; ".join(f"{name}: {_cut(keys, 80)}" for name, keys in parts.items() if keys)
    for key in want:
        problem = difference(got[key], want[key], rtol, atol)
        if problem:
            return f"at [{key!r}]: {problem}"
    return None


def _kinds(got, want):
    if got is None:
        return f"you returned None, {kind(want)} is asked for: is a `return` missing?"
    return f"you returned {kind(got)}, {kind(want)} is asked for"


def _sort(array):
    name = str(array.dtype).replace("torch.", "")
    known = {"bool": "boolean", "float": "floating-point", "int": "integer"}
    return next((sort for part, sort in known.items() if part in name), name)


def _values(array):
    """The values as a NumPy array; floats in double precision. Drops subclasses, which may redefine comparison."""
    import numpy

    if is_tensor(array):
        import torch

        plain = array.detach().as_subclass(torch.Tensor).cpu()
        return (plain.double() if plain.is_floating_point() else plain).numpy()
    plain = numpy.asarray(array).view(numpy.ndarray)
    return plain.astype(numpy.float64) if _sort(plain) == "floating-point" else plain


def _nested(array):
    def text(value):
        if isinstance(value, list):
            if len(value) > 12:
                return "[" + ", ".join(map(text, value[:6])) + ", ..., " + ", ".join(map(text, value[-2:])) + "]"
            return "[" + ", ".join(map(text, value)) + "]"
        return _short(value)

    return text(_values(array).tolist())


def _short(value):
    value = plain_number(value)
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _cut(value, width):
    text = value if isinstance(value, str) else str(value)
    return text if len(text) <= width else text[: width - 4] + " ..."
