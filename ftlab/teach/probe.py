"""Probes: what the student's code gives on inputs drawn from a seed that comes from outside the notebook."""

import hashlib
import math
import os
import sys

from ftlab.errors import UsageError
from ftlab.teach.compare import is_array, is_tensor

DIGITS = 6


def probe_seed(id, secret=None):
    """The seed of exercise `id`'s probe: an int in [0, 2**31) from `secret` (default: FTLAB_PROBE_SEED, or "0") and the id."""
    secret = os.environ.get("FTLAB_PROBE_SEED", "0") if secret is None else secret
    return int.from_bytes(hashlib.sha256(f"{secret}\0{id}".encode()).digest()[:4], "big") >> 1


def to_json(value):
    """`value` as JSON: tensors and arrays as nested lists, floats at 6 significant digits, non-finite ones as text.

    Raises UsageError for any other type: what a probe compares must be data, never an object with a say of its own.
    """
    if is_tensor(value) or is_array(value):
        return to_json(value.tolist())
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(value, numpy.generic):
        return to_json(value.item())
    if value is None or type(value) in (bool, int, str):
        return value
    if type(value) is float:
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else str(value)
    if type(value) in (list, tuple):
        return [to_json(item) for item in value]
    if type(value) is dict:
        if not all(type(key) is str for key in value):
            raise UsageError("a probe's dict must have text keys")
        return {key: to_json(item) for key, item in value.items()}
    raise UsageError(f"a probe cannot show {type(value).__name__}: give numbers, text, lists, dicts, arrays or tensors")
