"""Number formats by hand: bits to value and back, neighbours, and what a rounded weight becomes; torch is the judge."""

import math
import struct

import pytest
import torch

from ftlab.errors import UsageError
from ftlab.measure import formats
from ftlab.tune import nf4

TORCH = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float8_e5m2": torch.float8_e5m2,
         "float8_e4m3fn": torch.float8_e4m3fn}  # fmt: skip


def test_a_third_in_float32_by_hand_is_what_the_machine_stores():
    bits = f"{struct.unpack('>I', struct.pack('>f', 1 / 3))[0]:032b}"
    assert formats.encode(1 / 3, "float32") == bits
    assert formats.decode(bits, "float32") == struct.unpack(">f", struct.pack(">f", 1 / 3))[0]


@pytest.mark.parametrize("name", ["float8_e5m2", "float8_e4m3fn"])
def test_every_pattern_of_eight_bits_has_torchs_value(name):
    theirs = torch.arange(256).to(torch.uint8).view(TORCH[name]).float().tolist()
    for code, value in enumerate(theirs):
        ours = formats.decode(f"{code:08b}", name)
        assert ours == value or (math.isnan(ours) and math.isnan(value)), code


@pytest.mark.parametrize("name", TORCH)
def test_rounding_to_a_format_is_torchs(name):
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(300, generator=generator) * 10.0 ** torch.randint(-9, 3, (300,), generator=generator)
    for value in [*drawn.tolist(), 0.0, -0.0, 1.0, -1.0, 2.5, 3.5, 1e-30]:
        theirs = torch.tensor(value).to(TORCH[name]).float().item()
        ours = formats.decode(formats.encode(value, name), name)
        assert ours == theirs and math.copysign(1, ours) == math.copysign(1, theirs), value


def test_what_is_too_large_becomes_infinite_or_nan():
    assert formats.decode(formats.encode(70000.0, "float16"), "float16") == math.inf
    assert formats.decode(formats.encode(70000.0, "bfloat16"), "bfloat16") == 70144.0
    assert math.isnan(formats.decode(formats.encode(1e6, "float8_e4m3fn"), "float8_e4m3fn"))
    assert formats.decode(formats.encode(-math.inf, "float32"), "float32") == -math.inf
    assert math.isnan(formats.decode(formats.encode(math.nan, "float8_e5m2"), "float8_e5m2"))


def test_int8_is_twos_complement_times_a_scale_and_clips():
    assert formats.decode("11111111", "int8", 0.5) == -0.5 and formats.decode("10000000", "int8", 0.5) == -64.0
    assert formats.encode(-0.5, "int8", 0.5) == "11111111" and formats.encode(1e9, "int8", 0.5) == "01111111"
    for value in (-1.0, -0.31, 0.0, 0.7):
        code = round(value / 0.01)
        assert formats.decode(formats.encode(value, "int8", 0.01), "int8", 0.01) == pytest.approx(0.01 * code)


def test_nf4_is_the_codebooks_nearest_entry():
    for value in (-1.0, -0.6, -0.01, 0.05, 0.5, 0.99):
        code = nf4.nearest(torch.tensor([value]), nf4.codebook("nf4")).item()
        assert int(formats.encode(value, "nf4"), 2) == code
        assert formats.decode(f"{code:04b}", "nf4") == nf4.NF4_VALUES[code]


@pytest.mark.parametrize("name", [*TORCH, "int8", "nf4"])
def test_neighbours_are_the_next_of_all_values(name):
    every = formats.values(name, 0.25)
    numbers = [value for value, _ in every]
    assert numbers == sorted(set(numbers))
    for place in (0, 1, len(every) // 2 - 1, len(every) // 2, len(every) // 2 + 1, len(every) - 1):
        below, above = formats.neighbours(every[place][1], name, 0.25)
        assert below == (numbers[place - 1] if place else None)
        assert above == (numbers[place + 1] if place + 1 < len(numbers) else None)


def test_the_gap_doubles_with_each_power_of_two():
    gaps = [formats.neighbours(formats.encode(x, "bfloat16"), "bfloat16")[1] - x for x in (1.0, 2.0, 4.0, 256.0)]
    assert gaps == [2**-7, 2**-6, 2**-5, 2.0]
    assert formats.neighbours(formats.encode(math.inf, "float16"), "float16") == (None, None)


def test_a_rounded_weight_is_what_the_formats_hold():
    weight = torch.randn(8, 64, generator=torch.Generator().manual_seed(1))
    assert torch.equal(formats.rounded(weight, "float32"), weight)
    assert torch.equal(formats.rounded(weight, "bfloat16"), weight.bfloat16().float())
    errors = [(formats.rounded(weight, name) - weight).abs().mean().item() for name in
              ("float16", "bfloat16", "int8", "float8_e4m3fn", "nf4")]
    assert errors == sorted(errors)
    assert formats.bits_a_weight("nf4") == 4.5 and formats.bits_a_weight("int8", 64) == 8.5
    assert formats.bits_a_weight("bfloat16") == 16


def test_look_writes_the_formula_of_these_bits():
    seen = formats.look("0011111110000000", "bfloat16")
    assert seen["value"] == "1" and seen["lines"][0] == "(−1)^0 · 1.0000000 · 2^(127 − 127)"
    assert seen["above"] == 1.0078125 and seen["below"] == 0.99609375
    assert seen["lines"][2] == "steps here: 0.003906 and 0.007812"
    assert "subnormal" in formats.look("1000000000000001", "float16")["lines"][0]
    assert formats.look("0111110000000000", "float16")["lines"] == ["exponent 31, all ones: infinity"]
    assert formats.look("0111110000000001", "float16")["lines"] == ["exponent 31, all ones: not a number"]
    assert formats.look("11111110", "int8", 0.5)["lines"][0] == "code -2 (two's complement) · scale 0.5"
    assert formats.look("1111", "nf4", 2.0)["value"] == "2" and formats.look("1111", "nf4", 2.0)["above"] is None


def test_bad_input_is_said_in_a_line():
    with pytest.raises(UsageError, match="choose one of float32"):
        formats.decode("0", "float7")
    with pytest.raises(UsageError, match="has 4 bits"):
        formats.decode("012", "nf4")
    with pytest.raises(UsageError, match="too many to list"):
        formats.values("float32")
