"""Exercises of lab 00_lifecycle: texts, hints, mistakes and what each check knows."""

import math
import random

from ftlab.teach import Exercise, against

# -- the value of a float's bits


def decode_float(bits, exponent_bits, mantissa_bits):
    return _decode(bits, exponent_bits, mantissa_bits)


def _decode(bits, exponent_bits, mantissa_bits, bias_more=0, hidden=1, subnormal_hidden=0, subnormal_exponent=1,
            subnormals=True, specials=True, twos_complement=False):
    """The solution, with a switch for each mistake."""
    exponent, mantissa = int(bits[1:1 + exponent_bits], 2), int(bits[1 + exponent_bits:], 2) / 2**mantissa_bits
    bias = 2 ** (exponent_bits - 1) - 1 + bias_more
    sign = -1.0 if bits[0] == "1" else 1.0
    if exponent == 2**exponent_bits - 1 and specials:
        return math.nan if mantissa else sign * math.inf
    if twos_complement and sign < 0:
        return -2.0 + (hidden + mantissa) * 2.0 ** (exponent - bias)
    if exponent == 0 and subnormals:
        return sign * (subnormal_hidden + mantissa) * 2.0 ** (subnormal_exponent - bias)
    return sign * (hidden + mantissa) * 2.0 ** (exponent - bias)


def _wrong_decode(**switches):
    return lambda bits, exponent_bits, mantissa_bits: _decode(bits, exponent_bits, mantissa_bits, **switches)


# From what is small enough to work out by hand: 1.0 and its neighbours, the specials, then other widths.
DECODE_CASES = [
    ("001100", 3, 2), ("001110", 3, 2), ("101100", 3, 2), ("010101", 3, 2), ("000000", 3, 2), ("000001", 3, 2),
    ("000011", 3, 2), ("100010", 3, 2), ("000100", 3, 2), ("011011", 3, 2), ("011100", 3, 2), ("111100", 3, 2),
    ("011101", 3, 2), ("0100011", 2, 4), ("1000101", 2, 4), ("0011111100000000", 8, 7), ("1100000001001001", 8, 7),
    ("0011110000000001", 5, 10), ("0000001100000000", 5, 10), ("00111101110011001100110011001101", 8, 23),
]


def random_bits(seed, exponent_bits, mantissa_bits, count):
    """Bit strings of a float format: some subnormal, some special, the rest any."""
    dice, made = random.Random(seed), []
    for i in range(count):
        exponent = {0: 0, 1: 2**exponent_bits - 1}.get(i % 6, dice.randrange(1, 2**exponent_bits - 1))
        mantissa = 0 if i % 12 == 1 else dice.randrange(1, 2**mantissa_bits)
        made.append(f"{dice.randrange(2)}{exponent:0{exponent_bits}b}{mantissa:0{mantissa_bits}b}")
    return made


# -- what a call costs


def cost_of_call(prompt_tokens, new_tokens, prices, cached_tokens=0):
    paid = (prompt_tokens - cached_tokens) * prices["read"] + cached_tokens * prices["cached"]
    return (paid + new_tokens * prices["written"]) / 1e6


PRICES = {"read": 2.0, "cached": 0.5, "written": 8.0}
COST_CASES = [
    (1000, 0, PRICES), (0, 1000, PRICES), (1000, 500, PRICES), (1000, 0, PRICES, 400), (2000, 300, PRICES, 2000),
    (1500, 40, {"read": 3.0, "cached": 0.25, "written": 15.0}, 1200),
]


def _costs(formula):
    return lambda prompt_tokens, new_tokens, prices, cached_tokens=0: formula(
        prompt_tokens, new_tokens, prices["read"], prices["cached"], prices["written"], cached_tokens)


# -- from how many calls on


def break_even(upfront, cost_before, cost_after):
    if cost_after >= cost_before:
        return None
    return math.ceil(upfront / (cost_before - cost_after))




BREAK_EVEN_CASES = [
    (12.0, 3.0, 1.0), (10.0, 3.0, 0.0), (10.0, 4.0, 1.0), (7.5, 2.0, 0.5), (100.0, 0.75, 0.25), (11.0, 2.0, 0.0),
    (10.0, 1.0, 1.0), (10.0, 1.0, 3.0), (0.0, 2.0, 1.0), (500.0, 0.5, 0.125),
]


EXERCISES = [
    Exercise(
        id="decode_float", title="Decode a float", points=5, minutes=20, difficulty=2,
        hints=(
            "Cut the string in three: one character, then exponent_bits of them, then the rest. int(text, 2) reads a "
            "binary number.",
            "The bias is 2 ** (exponent_bits - 1) - 1, and the mantissa is a fraction: its integer over 2 ** mantissa_bits. "
            "Three cases: exponent all ones, exponent zero, and the rest.",
            "With sign −1 or 1, e the exponent, m the mantissa as a fraction: if e == 2 ** exponent_bits - 1, return math.nan "
            "if m else sign * math.inf. If e == 0, return sign * m * 2.0 ** (1 - bias). Else return sign * (1 + m) * 2.0 ** "
            "(e - bias).",
        ),
        mistakes={
            "bias_off_by_one": "Your bias is 2^(bits − 1); it is one less, so that 1.0 has the exponent 0111…1.",
            "no_bias": "You took the exponent as it stands; the bias is subtracted from it, or no number would be below 1.",
            "no_hidden_one": "You forgot the hidden one: a normal number is 1.mantissa, and the 1 is not stored.",
            "no_subnormals": "Where the exponent is 0 there is no hidden one: these numbers are subnormal, and zero is one of "
                             "them.",
            "subnormal_exponent": "A subnormal number has the exponent of the smallest normal one, 1 − bias, and not 0 − bias: "
                                  "so the steps go on evenly down to zero.",
            "no_specials": "Where the exponent is all ones, the value is infinite (mantissa 0) or NaN (any other).",
            "twos_complement": "You read the sign as in two's complement; a float has a sign and a size: (−1)^sign times the "
                               "same number.",
        },
        check=against(decode_float, DECODE_CASES, rtol=1e-9, atol=0.0, mistakes={
            "bias_off_by_one": _wrong_decode(bias_more=1), "no_hidden_one": _wrong_decode(hidden=0),
            "no_bias": lambda bits, exponent_bits, mantissa_bits: _decode(
                bits, exponent_bits, mantissa_bits, bias_more=1 - 2 ** (exponent_bits - 1)),
            "no_subnormals": _wrong_decode(subnormals=False),
            "subnormal_exponent": _wrong_decode(subnormal_exponent=0), "no_specials": _wrong_decode(specials=False),
            "twos_complement": _wrong_decode(twos_complement=True)}),
        withheld=("ftlab.measure.formats.decode_float", "ftlab.measure.formats.decode"),
    ),
    Exercise(
        id="cost_of_call", title="What a call costs", points=3, minutes=8, difficulty=1,
        hints=(
            "Three kinds of tokens, three prices: read anew, read before (cached), written.",
            "Of the prompt's tokens, cached_tokens are paid at the cached price and only the others at the price for reading; "
            "and prices are per million.",
            "Add up the three products and divide once: return ((prompt_tokens - cached_tokens) * prices['read'] + "
            "cached_tokens * prices['cached'] + new_tokens * prices['written']) / 1e6",
        ),
        mistakes={
            "paid_twice": "You paid for the cached tokens twice: they are part of the prompt, so take them off what is read.",
            "cached_free": "You left the cached tokens unpaid; they are cheaper, not free.",
            "one_price": "You paid for written tokens what reading costs; writing has a price of its own.",
            "no_million": "Prices are per million tokens; divide by 1e6.",
        },
        check=against(cost_of_call, COST_CASES, rtol=1e-9, atol=0.0, mistakes={
            "paid_twice": _costs(lambda p, n, r, c, w, k: (p * r + k * c + n * w) / 1e6),
            "cached_free": _costs(lambda p, n, r, c, w, k: ((p - k) * r + n * w) / 1e6),
            "one_price": _costs(lambda p, n, r, c, w, k: ((p - k) * r + k * c + n * r) / 1e6),
            "no_million": _costs(lambda p, n, r, c, w, k: (p - k) * r + k * c + n * w)}),
    ),
    Exercise(
        id="break_even", title="Where it breaks even", points=3, minutes=8, difficulty=1,
        hints=(
            "Each call saves the difference of the two costs. How many such savings make up for what was paid up front?",
            "That number need not be whole, and a call cannot be made in part: round up. And think of the case where a call "
            "saves nothing.",
            "First the case in which it never pays: if cost_after >= cost_before: return None. Otherwise return "
            "math.ceil(upfront / (cost_before - cost_after)).",
        ),
        mistakes={
            "rounded_down": "You rounded down: after that many calls the up-front cost is not yet earned back.",
            "no_difference": "You divided by the old cost of a call; what a call saves is the old cost less the new one.",
            "never_forgotten": "Where a call costs no less than before, it never pays: return None.",
            "one_more": "You went one call too far: at n = upfront / saving exactly, the totals are equal, and that is enough.",
        },
        check=against(break_even, BREAK_EVEN_CASES, mistakes={
            "rounded_down": lambda u, b, a: None if a >= b else math.floor(u / (b - a)),
            "no_difference": lambda u, b, a: None if a >= b else math.ceil(u / b),
            "never_forgotten": lambda u, b, a: math.ceil(u / (b - a)),
            "one_more": lambda u, b, a: None if a >= b else math.floor(u / (b - a)) + 1}),
    ),
]
