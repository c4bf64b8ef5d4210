"""Wrong answers to the exercises of lab 00_lifecycle: each must be named by its check, and fail its probe."""

DECODE = '''
def decode_float(bits, exponent_bits, mantissa_bits):
    sign = -1.0 if bits[0] == "1" else 1.0
    e = int(bits[1:1 + exponent_bits], 2)
    m = int(bits[1 + exponent_bits:], 2) / 2 ** mantissa_bits
    bias = {bias}
    if {special}:
        return math.nan if m else sign * math.inf
    {more}
    if {subnormal}:
        return sign * m * 2.0 ** ({least} - bias)
    return sign * ({hidden} + m) * 2.0 ** (e - bias)
'''
RIGHT_DECODE = {"bias": "2 ** (exponent_bits - 1) - 1", "special": "e == 2 ** exponent_bits - 1", "more": "pass",
                "subnormal": "e == 0", "least": "1", "hidden": "1"}  # fmt: skip

COST = '''
def cost_of_call(prompt_tokens, new_tokens, prices, cached_tokens=0):
    read = {read} * prices["read"]
    return (read + {cached} + new_tokens * prices["{written}"]) / {unit}
'''
RIGHT_COST = {"read": "(prompt_tokens - cached_tokens)", "cached": 'cached_tokens * prices["cached"]', "written": "written",
              "unit": "1e6"}  # fmt: skip

BREAK_EVEN = '''
def break_even(upfront, cost_before, cost_after):
    if {never}:
        return None
    return {calls}
'''
NEVER = "cost_after >= cost_before"

WRONG = {
    "decode_float": {
        "bias_off_by_one": DECODE.format(**RIGHT_DECODE | {"bias": "2 ** (exponent_bits - 1)"}),
        "no_bias": DECODE.format(**RIGHT_DECODE | {"bias": "0"}),
        "no_hidden_one": DECODE.format(**RIGHT_DECODE | {"hidden": "0"}),
        "no_subnormals": DECODE.format(**RIGHT_DECODE | {"subnormal": "False"}),
        "subnormal_exponent": DECODE.format(**RIGHT_DECODE | {"least": "0"}),
        "no_specials": DECODE.format(**RIGHT_DECODE | {"special": "False"}),
        "twos_complement": DECODE.format(**RIGHT_DECODE | {
            "more": "if sign < 0: return -2.0 + (1 + m) * 2.0 ** (e - bias)"}),
    },
    "cost_of_call": {
        "paid_twice": COST.format(**RIGHT_COST | {"read": "prompt_tokens"}),
        "cached_free": COST.format(**RIGHT_COST | {"cached": "0"}),
        "one_price": COST.format(**RIGHT_COST | {"written": "read"}),
        "no_million": COST.format(**RIGHT_COST | {"unit": "1"}),
    },
    "break_even": {
        "rounded_down": BREAK_EVEN.format(never=NEVER, calls="math.floor(upfront / (cost_before - cost_after))"),
        "no_difference": BREAK_EVEN.format(never=NEVER, calls="math.ceil(upfront / cost_before)"),
        "never_forgotten": BREAK_EVEN.format(never="False", calls="math.ceil(upfront / (cost_before - cost_after))"),
        "one_more": BREAK_EVEN.format(never=NEVER, calls="math.floor(upfront / (cost_before - cost_after)) + 1"),
    },
}
