"""Quantisation by hand: equal to bitsandbytes code for code, and what each format is good for."""

import math

import pytest
import torch

from ftlab.errors import UsageError
from ftlab.tune import nf4


def weights(seed=0, shape=(96, 160), std=0.02):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * std


def theirs(x, block_size=64, name="nf4", double=False):
    bnb = pytest.importorskip("bitsandbytes.functional")
    return bnb.quantize_4bit(x, blocksize=block_size, quant_type=name, compress_statistics=double)


def their_values(packed, state):
    """What bitsandbytes makes of its codes. Its kernel for the CPU takes the rows of a matrix to be whole blocks and
    misreads others, so it is handed the same bytes as rows of one block."""
    import bitsandbytes.functional as bnb

    shape = state.shape
    state.shape = torch.Size([shape.numel() // state.blocksize, state.blocksize])
    return bnb.dequantize_4bit(packed, state).view(shape)


@pytest.mark.parametrize("name", ["nf4", "fp4"])
@pytest.mark.parametrize("block_size", [32, 64, 1024])
@pytest.mark.parametrize("shape", [(96, 160), (256, 512), (5, 77)])
def test_codes_scales_and_values_equal_bitsandbytes(name, block_size, shape):
    x = weights(1, shape)
    packed, state = theirs(x, block_size, name)
    codes, scales = nf4.quantise(x, nf4.codebook(name), block_size)
    assert torch.equal(codes.view(-1), nf4.unpack(packed.view(-1), x.numel()))
    assert torch.equal(nf4.pack(codes)[:x.numel() // 2], packed.view(-1)[:x.numel() // 2])
    assert torch.equal(scales, state.absmax)
    if x.numel() % block_size == 0:
        assert torch.equal(nf4.dequantise(codes, scales, nf4.codebook(name), block_size), their_values(packed, state))


def test_codebooks_equal_bitsandbytes_and_nf4_is_made_of_normal_quantiles():
    bnb = pytest.importorskip("bitsandbytes.functional")
    for name in ("nf4", "fp4"):
        assert torch.equal(nf4.codebook(name), bnb.get_4bit_type(name, device="cpu"))
    assert torch.equal(nf4.dynamic_codebook(), bnb.create_dynamic_map())
    torch.testing.assert_close(nf4.normal_codebook(4), nf4.codebook("nf4"), rtol=0, atol=2e-7)
    assert (nf4.normal_codebook(3) == 0).sum() == 1 and len(nf4.normal_codebook(3)) == 8
    with pytest.raises(UsageError, match="nf4, fp4, int4"):
        nf4.codebook("nf5")


@pytest.mark.parametrize("shape", [(512, 1024), (96, 160)])
def test_double_quantisation_equals_bitsandbytes(shape):
    x = weights(2, shape)
    packed, state = theirs(x, double=True)
    codes, scales = nf4.quantise(x, nf4.codebook("nf4"))
    scale_codes, outer, offset = nf4.double_quantise(scales)
    assert torch.equal(offset, state.offset) and torch.equal(outer, state.state2.absmax)
    # Asked in float64 they look for the nearest entry, as we do ...
    exact, _ = torch.ops.bitsandbytes.quantize_blockwise.default(
        (scales - offset).double(), nf4.dynamic_codebook(), nf4.SCALE_BLOCK)
    assert torch.equal(scale_codes, exact)
    # ... in float32 their kernel looks the entry up in a table, which near the middle of two may give the further one.
    values = nf4.in_blocks(scales - offset, nf4.SCALE_BLOCK) / outer[:, None]
    book, values = nf4.dynamic_codebook(), values.view(-1)[:len(scales)]
    further = (values - book[state.absmax.int()]).abs() - (values - book[scale_codes.int()]).abs()
    assert 0 <= further.min() and further.max() < 1e-4 and (further > 0).float().mean() < 0.02
    back = nf4.undo_double(state.absmax, outer, offset)
    torch.testing.assert_close(nf4.dequantise(codes, back, nf4.codebook("nf4")), their_values(packed, state),
                               rtol=1e-6, atol=1e-9)


def test_values_of_the_codebook_come_back_as_they_were():
    for name in ("nf4", "fp4", "int4"):
        book = nf4.codebook(name)
        x = 3 * torch.cat([book, book.flip(0)])
        codes, scales = nf4.quantise(x, book, 16)
        assert torch.equal(nf4.dequantise(codes, scales, book, 16), x)
        assert scales.tolist() == [3.0] * (-(-len(x) // 16))


def test_no_value_is_further_from_its_code_than_from_another():
    x = weights(3, (64,))
    for name in ("nf4", "fp4", "int4"):
        book = nf4.codebook(name)
        codes, scales = nf4.quantise(x, book)
        distance = (x[:, None] - scales * book[None]).abs()
        torch.testing.assert_close(distance.gather(1, codes.long()[:, None])[:, 0], distance.amin(1))


def test_asymmetric_integers_reach_both_ends_and_err_by_half_a_step():
    x = weights(4, (7, 50)) + 0.05
    codes, steps, lows = nf4.quantise_affine(x, 4, 64)
    back = nf4.dequantise_affine(codes, steps, lows, 64)
    assert codes.max() == 15 and codes.min() == 0 and len(steps) == math.ceil(x.numel() / 64)
    bound = steps.repeat_interleave(64)[:x.numel()].view(x.shape) / 2
    assert ((back - x).abs() <= bound * 1.001).all()
    torch.testing.assert_close(back.max(), x.max())
    symmetric, scales = nf4.quantise(x, nf4.codebook("int4"))
    assert (back - x).square().mean() < 0.5 * (nf4.dequantise(symmetric, scales, nf4.codebook("int4")) - x).square().mean()


def test_an_outlier_spoils_its_block_only():
    x = weights(5, (64, 64))
    x[0, 0] = 5.0
    book = nf4.codebook("nf4")
    errors = {}
    for block_size in (None, 64):
        codes, scales = nf4.quantise(x, book, block_size)
        errors[block_size] = (nf4.dequantise(codes, scales, book, block_size) - x).abs().view(-1)[64:].mean()
    assert errors[64] < 0.3 * errors[None]


def test_two_codes_a_byte_and_back():
    codes = torch.tensor([1, 15, 7, 0, 9], dtype=torch.uint8)
    assert nf4.pack(codes).tolist() == [31, 112, 144]
    assert torch.equal(nf4.unpack(nf4.pack(codes), 5), codes)


def test_zeros_and_a_single_weight():
    for x in (torch.zeros(3, 5), torch.tensor([[2.5]])):
        codes, scales = nf4.quantise(x, nf4.codebook("nf4"))
        assert torch.equal(nf4.dequantise(codes, scales, nf4.codebook("nf4")), x)
        assert torch.equal(nf4.dequantise_affine(*nf4.quantise_affine(x)), x)
        again = nf4.undo_double(*nf4.double_quantise(scales))
        torch.testing.assert_close(again, scales)


def test_bits_per_parameter():
    assert nf4.bits_per_parameter(double=False) == 4.5
    assert nf4.bits_per_parameter() == pytest.approx(4.126953125)


def test_round_trip_says_what_each_codebook_makes_of_a_tensor():
    x = weights(6, (32, 64))
    book = nf4.codebook("nf4")
    seen = nf4.round_trip(x, "nf", 4, 64)
    assert torch.equal(seen["back"], nf4.dequantise(*nf4.quantise(x, book), book)) and seen["bits"] == 4.5
    assert seen["scaled"].abs().amax(1).tolist() == [1.0] * 32
    errors = [(nf4.round_trip(x, "nf", bits, 64)["back"] - x).abs().mean() for bits in range(2, 9)]
    assert errors == sorted(errors, reverse=True) and errors[-1] < errors[0] / 20
    assert len(nf4.round_trip(x, "int", 3)["levels"]) == 7 and len(nf4.round_trip(x, "fp4", 3)["levels"]) == 16
    lopsided = nf4.round_trip(x, "int, asymmetric", 4, None)
    assert lopsided["levels"][[0, -1]].tolist() == pytest.approx([(x.min() / x.abs().max()).item(),
                                                                 (x.max() / x.abs().max()).item()])
    with pytest.raises(UsageError, match="asymmetric"):
        nf4.round_trip(x, "float")
