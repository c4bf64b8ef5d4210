"""What only a real GPU can show: numbers in bfloat16, bitsandbytes' kernels, memory. Skipped where torch sees none.

FTLAB_TEST_BASE, when set, is the model (a folder or Hub id); else a tiny random one. `make test-gpu` runs these first.
"""

import copy
import os

import pytest
import torch
from checkpoints import save_checkpoint, trained_tokenizer

from ftlab import profile
from ftlab.measure.score import instruction_score
from ftlab.tune import attach, bases, files, lora, nf4, qlora, sft
from ftlab.tune.methods import METHODS
from ftlab.world import World, tasks

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU here: run it where there is one")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return os.environ.get("FTLAB_TEST_BASE") or save_checkpoint(
        "llama", tmp_path_factory.mktemp("checkpoint") / "llama", trained_tokenizer())


@pytest.fixture(autouse=True)
def gpu(checkpoint, monkeypatch):
    monkeypatch.setenv("FTLAB_PROFILE", "gpu")
    monkeypatch.setenv("FTLAB_BASE", str(checkpoint))


def prepared(method):
    """(model, tokenizer) for a method, which starts near what the base says."""
    model, tokenizer = bases.lab_base("base-small")
    options = {"init_ids": tokenizer.encode("A fox.")} if "init_ids" in METHODS[method].options else {}
    return attach(model, method, **options), tokenizer


@pytest.mark.parametrize("method", METHODS)
def test_each_method_learns_on_the_gpu_and_its_adapter_loads(method, tmp_path):
    made = tasks.make(World("rich"), "extract", 64, 0)
    model, tokenizer = prepared(method)
    rows = sft.make_rows(made, tokenizer)
    before = sft.rows_loss(model, rows, tokenizer)
    assert {p.device.type for p in model.parameters()} == {"cuda"}
    history = sft.tune(model, tokenizer, made, steps=60, lr=METHODS[method].lr)
    after = sft.rows_loss(model, rows, tokenizer)
    assert len(history.losses) == 60 and after < before - 0.05, (before, after)
    instruction_score(model, tokenizer, made[:4], max_new_tokens=4)
    if METHODS[method].adapter:
        files.save_adapter(model, tmp_path / "adapter", "base")
        again = files.load_adapter(untuned(method), tmp_path / "adapter")
        assert abs(sft.rows_loss(again, rows, tokenizer) - after) < 2e-2  # bfloat16 products


def untuned(method):
    """The base that an adapter of this method is loaded beside: in 4 bits for QLoRA."""
    model, _ = bases.lab_base("base-small")
    return qlora.quantise(model, library=qlora.library_serves(model)) if method == "qlora" else model


def test_products_run_in_bfloat16_and_weights_stay_in_float32():
    if profile.current().dtype != "bfloat16":
        pytest.skip("this GPU has no bfloat16: it came with compute capability 8.0")
    model, tokenizer = bases.lab_base("base-small")
    seen = set()
    for name in lora.targets(model):
        model.get_submodule(name).register_forward_hook(lambda _, __, out: seen.add(out.dtype))
    sft.tune(attach(model, "full"), tokenizer, tasks.make(World("rich"), "extract", 8, 0), steps=1, lr=1e-3)
    assert seen == {torch.bfloat16}
    assert {p.dtype for p in model.parameters()} == {torch.float32}


@pytest.mark.parametrize("name", ["nf4", "fp4"])
def test_codes_and_values_equal_bitsandbytes_on_cuda(name):
    bnb = pytest.importorskip("bitsandbytes.functional")
    torch.manual_seed(0)
    weight = torch.randn(192, 320, device="cuda") * 0.02
    packed, state = bnb.quantize_4bit(weight, quant_type=name, blocksize=64)
    book = nf4.codebook(name).cuda()
    codes, scales = nf4.quantise(weight, book, 64)
    assert torch.equal(scales.flatten(), state.absmax)
    theirs = nf4.unpack(packed.flatten(), weight.numel()).view(weight.shape)
    # By value: FP4 has two codes for zero, of which the kernel takes the one with the number's sign. A number on the border
    # between two values may go either way.
    assert (book[codes.int()] == book[theirs.int()]).float().mean() > 0.9999
    if name == "nf4":
        assert (codes == theirs).float().mean() > 0.9999
    values = bnb.dequantize_4bit(packed, state)
    torch.testing.assert_close(nf4.dequantise(theirs, scales, book, 64), values, rtol=1e-6, atol=1e-9)


def test_the_library_serves_qlora_here_and_answers_as_our_layers_do():
    model, tokenizer = bases.lab_base("base-small")
    assert qlora.library_serves(model)
    theirs = qlora.quantise(copy.deepcopy(model), library=True)
    ours = qlora.quantise(model, library=False)
    assert {type(layer).__name__ for layer in map(theirs.get_submodule, lora.targets(theirs))} == {"Linear4bit"}
    rows = sft.make_rows(tasks.make(World("rich"), "extract", 16, 1), tokenizer)
    assert abs(sft.rows_loss(theirs, rows, tokenizer) - sft.rows_loss(ours, rows, tokenizer)) < 2e-2
    a, b = qlora.weight_bytes(theirs), qlora.weight_bytes(ours)
    assert abs(a["linear"] / b["linear"] - 1) < 0.02
    theirs, ours = qlora.unquantise(theirs), qlora.unquantise(ours)
    for name in lora.targets(theirs):
        one, two = (model.get_submodule(name).weight for model in (theirs, ours))
        further = (one - two).abs() > 0.01 * two.abs().max()  # double quantisation may take the next of 256 scales
        assert further.float().mean() < 1e-4, name


def test_a_frozen_base_in_4_bits_takes_less_memory_on_the_card_than_in_float32():
    sizes = {}
    for bits in (32, 4):
        torch.cuda.empty_cache()
        before = torch.cuda.memory_allocated()
        model, _ = bases.lab_base("base-small")
        if bits == 4:
            qlora.quantise(model, library=qlora.library_serves(model))
        sizes[bits] = torch.cuda.memory_allocated() - before
        expected = sum(qlora.weight_bytes(model).values())
        assert 0.9 * expected < sizes[bits] < 1.2 * expected + 2**22, (bits, sizes, expected)
        del model
    assert sizes[4] < sizes[32]
