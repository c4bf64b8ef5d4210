"""Answers to the exercises of lab 00_lifecycle, as somebody else would write them: right ones and wrong ones."""

LAB = "00_lifecycle"
POINTS = {"decode_float": 5.0, "cost_of_call": 3.0, "break_even": 3.0}

# Right answers, written as somebody else would.
RIGHT = {
    "decode_float": """
def decode_float(bits, exponent_bits, mantissa_bits):
    negative, exponent, mantissa = bits[0] == "1", bits[1:exponent_bits + 1], bits[exponent_bits + 1:]
    fraction = sum(int(bit) * 2.0 ** -place for place, bit in enumerate(mantissa, start=1))
    bias = 2 ** (exponent_bits - 1) - 1
    if "0" not in exponent:
        value = float("nan") if "1" in mantissa else float("inf")
    elif "1" in exponent:
        value = (1 + fraction) * 2.0 ** (int(exponent, 2) - bias)
    else:
        value = fraction * 2.0 ** (1 - bias)
    return -value if negative else value
""",
    "cost_of_call": """
def cost_of_call(prompt_tokens, new_tokens, prices, cached_tokens=0):
    counts = {"cached": cached_tokens, "read": prompt_tokens - cached_tokens, "written": new_tokens}
    return sum(counts[kind] * prices[kind] / 1_000_000 for kind in counts)
""",
    "break_even": """
def break_even(upfront, cost_before, cost_after):
    saving = cost_before - cost_after
    return None if saving <= 0 else -int(-upfront // saving)
""",
}
WRONG = {
    "decode_float": "def decode_float(bits, exponent_bits, mantissa_bits):\n    return 1.0\n",
    "cost_of_call": "def cost_of_call(prompt_tokens, new_tokens, prices, cached_tokens=0):\n    return 1.0\n",
    "break_even": "def break_even(upfront, cost_before, cost_after):\n    return 1\n",
}


def instead(id, line):
    """The function of exercise `id` with `line` as its first one."""
    head, rest = RIGHT[id].split(":\n", 1)
    return f"{head}:\n    {line}\n{rest}"
