"""bitsandbytes on a processor with AVX-512-BF16 (as tests/avx512_bf16.py has it): the same weights, losses and gradients."""

import pathlib
import subprocess
import sys

import pytest

TESTS = pathlib.Path(__file__).parents[1]

LAYERS = """
import avx512_bf16
import torch

from ftlab.tune import qlora

linear = torch.nn.Linear(128, 96)
x = torch.randn(5, 128)
for double_quant in (False, True):
    layer = qlora.library_layer(linear, "nf4", 64, double_quant).eval()
    weight, held = qlora._library_weight(layer), layer.weight.data.clone()
    wanted = torch.nn.functional.linear(x, weight, linear.bias)
    torch.testing.assert_close(layer(x), wanted, rtol=1e-5, atol=1e-5)
    assert torch.equal(layer.weight.data, held) and not avx512_bf16.calls  # as on any other processor
    layer.support_avx512bf16_for_cpu = True  # as whoever makes the layer without us has it
    rounded = layer(x)
    assert avx512_bf16.calls.pop() == (5, 96, 128) and not torch.equal(layer.weight.data, held)
    assert 1e-4 < (rounded - wanted).abs().max() < 0.05
    # What it has left are the same codes, with scales of 8 bits of mantissa.
    read = qlora.unquantise(torch.nn.Sequential(layer))[0].weight
    torch.testing.assert_close(read, weight, rtol=2**-8, atol=0)
"""

TUNES = """
import sys

import avx512_bf16
import torch
import transformers

from ftlab.tune import attach, bases, lora, qlora

model, _ = bases.load_base(sys.argv[1])  # looks at the logits of a model in evaluation, before anything is trained
assert sum(type(module).__name__ == "Linear4bit" for module in model.modules()) == 14
plain = qlora.unquantise(bases.load_base(sys.argv[1])[0])
ids = torch.arange(3, 27).view(2, 12)
found = []
for one in (model, plain):
    torch.manual_seed(0)
    one = attach(one, "lora", r=2).train()
    for layer in lora.layers(one).values():
        torch.nn.init.normal_(layer.lora_B, std=0.1)
    loss = one(ids, labels=ids).loss
    loss.backward()
    found.append([loss] + [p.grad for p in one.parameters() if p.requires_grad])
assert len(found[0]) == len(found[1]) == 1 + 2 * 14 and not avx512_bf16.calls
for ours, theirs in zip(*found):
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-6)
"""


def run(code, *arguments):
    """Run `code` in a process of its own, since bitsandbytes looks at the processor when it is imported."""
    pytest.importorskip("bitsandbytes")
    start = f"import sys; sys.path.insert(0, {str(TESTS)!r})\n"
    done = subprocess.run([sys.executable, "-c", start + code, *map(str, arguments)], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_layer_computes_in_the_type_of_its_input():
    run(LAYERS)


def test_a_base_in_four_bits_is_trained_with_its_gradients(tmp_path, tokenizer):
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(vocab_size=330, hidden_size=64, num_hidden_layers=2, num_attention_heads=4,
                                      num_key_value_heads=2, intermediate_size=128, bos_token_id=1, eos_token_id=2)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "plain")
    pytest.importorskip("bitsandbytes")
    quantised = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "plain", quantization_config=transformers.BitsAndBytesConfig(load_in_4bit=True), device_map="cpu")
    quantised.save_pretrained(tmp_path / "base")
    tokenizer.to_hf().save_pretrained(tmp_path / "base")
    run(TUNES, tmp_path / "base")
