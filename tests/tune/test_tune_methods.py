"""`ftlab tune METHOD` for what is learned beside a frozen base: adapters in PEFT's format, merged models, refusals."""

import json
import pathlib

import pytest
import torch

from ftlab import cli
from ftlab.tune import METHODS
from ftlab.tune.bases import load_base
from ftlab.tune.files import load_adapter

IDS = [[1, 5, 9, 20, 7]]
ADAPTERS = [name for name, method in METHODS.items() if method.adapter]


def tune(capsys, method, *arguments):
    """(exit status, JSON result or None, line on stderr) of `ftlab tune METHOD … --json`."""
    status = cli.main(["tune", method, "--json", *map(str, arguments)])
    said = capsys.readouterr()
    return status, json.loads(said.out) if status == 0 else None, said.err


def logits(model):
    """Logits of our Transformer or of a model of transformers."""
    with torch.no_grad():
        out = model.eval()(torch.tensor(IDS))
    return out if isinstance(out, torch.Tensor) else out.logits


@pytest.mark.parametrize("base", ["ours", "gpt2", "qwen2"])
@pytest.mark.parametrize("method", ADAPTERS)
def test_an_adapter_beside_its_base(method, base, bases, data, tmp_path, capsys):
    out = tmp_path / "out"
    status, result, said = tune(capsys, method, "--data", data, "--out", out, "--base", bases[base], "--steps", 3)
    assert (status, said) == (0, "") and [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []
    assert result["method"] == method and 0 < result["trainable"] and result["steps"] == 3
    assert result["adapter_bytes"] == (out / "adapter_model.safetensors").stat().st_size
    assert result["lr"] == (METHODS[method].lr if base == "ours" else METHODS[method].hf_lr)
    assert not (out / "model.safetensors").exists() and (out / "tokenizer.json").exists()
    assert all(path.stat().st_mode & 0o044 == 0o044 for path in out.iterdir())
    readme = (out / "README.md").read_text()
    assert f"ftlab tune {method}" in readme and str(tmp_path) not in readme
    model, _ = load_base(str(bases[base]))
    before = logits(model)
    after = logits(load_adapter(model, out))
    assert not torch.equal(before, after)
    if METHODS[method].name == "adapter":
        return
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    peft = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(bases[base]), out)
    assert torch.allclose(logits(peft)[:, -len(IDS[0]):], after, atol=1e-5)  # PEFT's prompts have logits, too
    assert AutoTokenizer.from_pretrained(out).chat_template


@pytest.mark.parametrize("base", ["ours", "gpt2", "llama"])
def test_a_merged_lora_is_a_model(base, bases, data, tmp_path, capsys):
    from transformers import AutoModelForCausalLM

    made = {}
    for name, more in (("adapter", []), ("merged", ["--merge"])):
        status, made[name], _ = tune(capsys, "lora", "--data", data, "--out", tmp_path / name, "--base", bases[base],
                                     "--steps", 3, "--lr", 0.01, *more)
        assert status == 0
    assert "adapter_bytes" in made["adapter"] and "adapter_bytes" not in made["merged"]
    assert made["adapter"]["held_out_loss"] == made["merged"]["held_out_loss"] < made["merged"]["held_out_loss_before"]
    model, _ = load_base(str(bases[base]))
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert torch.allclose(logits(merged), logits(load_adapter(model, tmp_path / "adapter")), atol=1e-5)


def test_the_options_of_lora(bases, data, tmp_path, capsys):
    given = ["--data", data, "--base", bases["ours"], "--steps", 1]
    for out, names in (("a", ["--rank", 3, "--alpha", 6, "--dropout", 0.1, "--target-modules", "q_proj", "v_proj"]),
                       ("b", ["--r", 3, "--lora-alpha", 6, "--lora-dropout", 0.1, "--target-modules", "q_proj,v_proj"])):
        status, result, _ = tune(capsys, "lora", *given, "--out", tmp_path / out, *names)
        config = json.loads((tmp_path / out / "adapter_config.json").read_text())
        assert status == 0 and result["trainable"] == 2 * 2 * 3 * 64
        assert (config["r"], config["lora_alpha"], config["lora_dropout"]) == (3, 6, 0.1)
        assert config["target_modules"] == ["q_proj", "v_proj"]
        assert pathlib.Path(config["base_model_name_or_path"]) == bases["ours"]
    status, result, _ = tune(capsys, "lora", *given, "--out", tmp_path / "c", "--target-modules", "all-linear")
    assert status == 0 and result["trainable"] == 2 * 8 * (4 * 64 + 3 * 80)


@pytest.mark.parametrize(("method", "arguments", "part"), [
    ("lora", ["--rank", "0"], "r is 0; a rank is a whole number, at least 1"),
    ("lora", ["--target-modules", "query"], "no linear layer is called 'query'; this model has q_proj, k_proj"),
    ("lora", ["--num-virtual-tokens", "8"], "--num-virtual-tokens does not belong to the method lora, which takes --rank"),
    ("full", ["--rank", "8"], "--rank does not belong to the method full, which takes none of its own; it is for lora"),
    ("lora", ["--range-test", "--lr", "0.01"], "--range-test chooses the rate that --lr names"),
    ("prefix", ["--merge"], "--merge: what prefix learns cannot be added"),
    ("prefix", ["--num-virtual-tokens", "0"], "num_virtual_tokens is 0"),
    ("prompt", ["--num-virtual-tokens", "256"], "the model takes 256 tokens"),
])  # fmt: skip
def test_refusals(method, arguments, part, bases, data, tmp_path, capsys):
    status, _, said = tune(capsys, method, "--data", data, "--base", bases["ours"], "--out", tmp_path / "o", *arguments)
    assert status == 2 and part in said and said.startswith("ftlab: ") and said.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data.jsonl"]


@pytest.mark.parametrize("base", ["ours", "gpt2"])
@pytest.mark.parametrize("method", METHODS)
def test_a_range_test_chooses_the_rate_and_leaves_all_else_as_it_was(method, base, bases, data, tmp_path, capsys):
    given = ["--data", data, "--base", bases[base], "--steps", 2]
    status, tested, said = tune(capsys, method, *given, "--out", tmp_path / "tested", "--range-test")
    assert (status, said) == (0, "") and 1e-5 / 3 <= tested["lr"] <= 1 / 3
    assert tested["lr"] != (METHODS[method].lr if base == "ours" else METHODS[method].hf_lr)
    status, plain, _ = tune(capsys, method, *given, "--out", tmp_path / "plain", "--lr", tested["lr"])
    assert status == 0
    name = "adapter_model.safetensors" if METHODS[method].adapter else "model.safetensors"
    assert (tmp_path / "tested" / name).read_bytes() == (tmp_path / "plain" / name).read_bytes()


def test_an_interrupted_lora_goes_on(bases, data, tmp_path):
    from ftlab.tune.run import Wish, tune_from_data

    def interrupt(event):
        if event["kind"] == "step" and event["step"] == 3:
            raise KeyboardInterrupt

    settings = {"base": str(bases["ours"]), "wish": Wish(steps=6, config={"lora_dropout": 0.1})}
    tune_from_data("lora", data, tmp_path / "whole", **settings)
    with pytest.raises(KeyboardInterrupt):
        tune_from_data("lora", data, tmp_path / "out", **settings, callbacks=[interrupt])
    assert tune_from_data("lora", data, tmp_path / "out", **settings)["steps"] == 6
    name = "adapter_model.safetensors"
    assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
