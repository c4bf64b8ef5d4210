"""Number formats by hand: what the bits of a weight mean, and what becomes of a weight that is rounded to them.

    float:  (−1)^sign · 1.mantissa · 2^(exponent − bias)      bias = 2^(exponent bits − 1) − 1   (IEEE 754, section 3.4)
    int8:   code · scale                                      code in two's complement
    nf4:    codebook[code] · scale                            (Dettmers et al. 2023, equation 4)

Formats of 8 and 4 bits have no range of their own to speak of, so a scale goes with them. Left out: rounding modes other
than to the nearest (ties to the even code), signalling NaNs, the scale that blocks of MX formats share.
"""

import dataclasses
import math

from ftlab.errors import UsageError
from ftlab.tune import nf4


@dataclasses.dataclass(frozen=True)
class Format:
    """fields: ((name, bits), ...), the highest bits first. kind: "float", "int" or "code". special: what an exponent of
    all ones means: "ieee" (infinity, NaN) or "nan" (ordinary numbers, but NaN where the mantissa is all ones, too)."""

    name: str
    fields: tuple
    kind: str = "float"
    special: str = "ieee"

    @property
    def bits(self):
        """Width of a number."""
        return sum(width for _, width in self.fields)


def _float(name, exponent, mantissa, special="ieee"):
    return Format(name, (("sign", 1), ("exponent", exponent), ("mantissa", mantissa)), "float", special)


FORMATS = {made.name: made for made in (
    _float("float32", 8, 23), _float("bfloat16", 8, 7), _float("float16", 5, 10), _float("float8_e5m2", 5, 2),
    _float("float8_e4m3fn", 4, 3, "nan"), Format("int8", (("two's complement", 8),), "int"),
    Format("nf4", (("code", 4),), "code"))}


def get(name):
    """The Format called `name`. Raises UsageError for another name."""
    if name not in FORMATS:
        raise UsageError(f"no number format is called {name!r}; choose one of {', '.join(FORMATS)}")
    return FORMATS[name]


# -- bits to value

def decode_float(bits, exponent_bits, mantissa_bits, special="ieee"):
    """The value of a float's bits, a string such as "01000" (sign, exponent, mantissa). special: see `Format`."""
    sign = -1.0 if bits[0] == "1" else 1.0
    exponent, mantissa = int(bits[1:1 + exponent_bits], 2), int(bits[1 + exponent_bits:], 2)
    bias, ones = 2 ** (exponent_bits - 1) - 1, 2**exponent_bits - 1
    if exponent == ones and special == "ieee":
        return math.nan if mantissa else sign * math.inf
    if exponent == ones and mantissa == 2**mantissa_bits - 1:
        return math.nan
    if exponent == 0:  # subnormal: no hidden one, and the exponent of the smallest normal number
        return sign * mantissa / 2**mantissa_bits * 2.0 ** (1 - bias)
    return sign * (1 + mantissa / 2**mantissa_bits) * 2.0 ** (exponent - bias)


def decode(bits, name, scale=1.0):
    """The value of a bit string in the format `name`; scale: of the formats that have one (int8, nf4)."""
    form = get(name)
    if len(bits) != form.bits or set(bits) - {"0", "1"}:
        raise UsageError(f"{name} has {form.bits} bits, each 0 or 1; you gave {bits!r}")
    if form.kind == "int":
        return scale * (int(bits, 2) - (256 if bits[0] == "1" else 0))
    if form.kind == "code":
        return scale * nf4.NF4_VALUES[int(bits, 2)]
    return decode_float(bits, form.fields[1][1], form.fields[2][1], form.special)


# -- value to bits

def values(name, scale=1.0):
    """[(value, bits), ...] of all finite numbers of a format of up to 16 bits, from the lowest up; of the two zeros the
    positive one."""
    form = get(name)
    if form.bits > 16:
        raise UsageError(f"{name} has 2^{form.bits} numbers: too many to list")
    made = [(decode(bits, name, scale), bits) for bits in (f"{i:0{form.bits}b}" for i in range(2**form.bits))]
    return sorted((value, bits) for value, bits in made if math.isfinite(value) and not _minus_zero(value))


def _minus_zero(value):
    return value == 0 and math.copysign(1, value) < 0


def encode(value, name, scale=1.0):
    """The bits of the number of a format that is nearest to `value`, ties to the even code; what is too large for a float
    becomes what the format has for it (infinity, or NaN), in the others the outermost code."""
    form = get(name)
    if form.kind == "float":
        return _encode_float(float(value), form)
    every = values(name, scale)
    lowest, highest = every[0][0], every[-1][0]
    clipped = min(max(float(value), lowest), highest) if value == value else 0.0
    return min(every, key=lambda pair: (abs(pair[0] - clipped), int(pair[1], 2) % 2))[1]


def _encode_float(value, form):
    """By the formula, read backwards: the exponent is that of the value, the mantissa what is left, rounded."""
    exponent_bits, mantissa_bits = form.fields[1][1], form.fields[2][1]
    bias, ones = 2 ** (exponent_bits - 1) - 1, 2**exponent_bits - 1
    sign = "1" if math.copysign(1, value) < 0 else "0"
    beyond = (ones << mantissa_bits) + (0 if form.special == "ieee" else 2**mantissa_bits - 1)  # infinity, or NaN
    if value != value:
        code = (ones << mantissa_bits) + (2 ** (mantissa_bits - 1) if form.special == "ieee" else 2**mantissa_bits - 1)
    elif math.isinf(value):
        code = beyond
    else:
        exponent = max(math.frexp(value)[1] - 1, 1 - bias) if value else 1 - bias
        steps = round(abs(value) / 2.0 ** (exponent - mantissa_bits))  # of the gap at this exponent; ties to even
        # The hidden one carries into the exponent by itself: 2^mantissa_bits steps are exponent field 1.
        code = min(((exponent + bias - 1) << mantissa_bits) + steps, beyond)
    return sign + f"{code:0{exponent_bits + mantissa_bits}b}"


def neighbours(bits, name, scale=1.0):
    """(the next number below, the next above) of a finite number of the format; None where there is none."""
    value = decode(bits, name, scale)
    if not math.isfinite(value):
        return None, None
    if get(name).kind != "float":
        every = [number for number, _ in values(name, scale)]
        place = every.index(value)
        return (every[place - 1] if place else None), (every[place + 1] if place + 1 < len(every) else None)
    size = len(bits) - 1
    code = int(bits[1:], 2) * (-1 if bits[0] == "1" else 1)  # floats of one sign are in the order of their codes

    def at(number):
        if abs(number) >= 2**size:
            return None
        found = decode(("1" if number < 0 else "0") + f"{abs(number):0{size}b}", name)
        return found if math.isfinite(found) else None

    return at(code - 1), at(code + 1)


def look(bits, name, scale=1.0):
    """What is to be said of a number: dict(value: text, lines: the formula with these bits in it and the neighbours,
    below, above: floats or None)."""
    form, value = get(name), decode(bits, name, scale)
    below, above = neighbours(bits, name, scale)
    lines = [_formula(bits, form, value, scale)]
    if math.isfinite(value):
        lines.append(f"next below: {_text(below)} · next above: {_text(above)}")
    if below is not None and above is not None:
        lines.append(f"steps here: {value - below:.4g} and {above - value:.4g}")
    return {"value": _text(value), "lines": lines, "below": below, "above": above}


def _text(value):
    return "none" if value is None else f"{value:.10g}"


def _formula(bits, form, value, scale):
    """The format's formula with the bits of this number in it."""
    if form.kind == "int":
        code = int(bits, 2) - (256 if bits[0] == "1" else 0)
        return f"code {code} (two's complement) · scale {scale:.4g}"
    if form.kind == "code":
        return f"codebook[{int(bits, 2)}] = {nf4.NF4_VALUES[int(bits, 2)]:.6g} · scale {scale:.4g}"
    exponent_bits = form.fields[1][1]
    exponent, mantissa = int(bits[1:1 + exponent_bits], 2), bits[1 + exponent_bits:]
    bias = 2 ** (exponent_bits - 1) - 1
    if not math.isfinite(value):
        return f"exponent {exponent}, all ones: " + ("not a number" if value != value else "infinity")
    if exponent == 0:
        return f"(−1)^{bits[0]} · 0.{mantissa} · 2^(1 − {bias}): subnormal, no hidden one"
    return f"(−1)^{bits[0]} · 1.{mantissa} · 2^({exponent} − {bias})"


# -- a weight that is rounded

def rounded(weight, name, block_size=64):
    """A float32 tensor as it comes back from the format `name`. int8: one absmax scale a row; nf4: one a block."""
    import torch

    if get(name).kind == "int":
        scale = weight.abs().amax(-1, keepdim=True).clamp(min=1e-12) / 127
        return (weight / scale).round().clamp(-127, 127) * scale
    if get(name).kind == "code":
        return nf4.round_trip(weight, block_size=block_size)["back"]
    return weight.to(getattr(torch, name)).float()


def bits_a_weight(name, columns=1, block_size=64):
    """Bits that a weight takes, its share of a float32 scale included (columns: of a row, for int8)."""
    scales = {"int8": 32 / columns, "nf4": 32 / block_size}
    return get(name).bits + scales.get(name, 0.0)
