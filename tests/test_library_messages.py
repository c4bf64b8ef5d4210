"""Nothing of what libraries print reaches a student's cells or the command line, but for what is really wrong."""

import json
import logging
import os
import pathlib
import subprocess
import sys
import warnings

import pytest

from ftlab import library_messages

TESTS = pathlib.Path(__file__).parent
HARMLESS = {
    "bitsandbytes.backends.cpu.ops": "Failed to load CPU gemm_4bit_forward from kernels-community: no route. Please …",
    "bitsandbytes.cextension": "No prebuilt binary for CUDA 12.9, loading CUDA 12.8 instead. Set …",
    "matplotlib.font_manager": "Matplotlib is building the font cache; this may take a moment.",
    "matplotlib": "Matplotlib created a temporary cache directory at /tmp/x because …",
    "transformers.modeling_utils": "`loss_type=None` was set in the config but it is unrecognized. Using the default …",
    "transformers.configuration_utils": "`torch_dtype` is deprecated! Use `dtype` instead!",
    "transformers.tokenization_utils_base": "Token indices sequence length is longer than the specified maximum …",
    "transformers.trainer_utils": "The tokenizer has new PAD/BOS/EOS tokens that differ from the model config …",
    "transformers.generation.configuration_utils": "The following generation flags are not valid and may be ignored: …",
    "transformers.generation.utils": "Setting `pad_token_id` to `eos_token_id`:0 for open-end generation.",
}


class Heard(logging.Handler):
    """Keeps the texts that come to a logger's handlers."""

    def __init__(self):
        super().__init__()
        self.texts = []

    def emit(self, record):
        self.texts.append(record.getMessage())


@pytest.mark.parametrize("name", library_messages.LOGS)
def test_a_known_message_is_hidden_and_any_other_of_its_library_is_not(name):
    logger, heard = logging.getLogger(name), Heard()
    level = logger.level
    logger.addHandler(heard)
    logger.setLevel(logging.INFO)
    try:
        logger.warning("%s", HARMLESS[name])
        logger.warning("the gradients are wrong")
        logger.error("%s", HARMLESS[name])
    finally:
        logger.removeHandler(heard)
        logger.setLevel(level)
    assert heard.texts == ["the gradients are wrong", HARMLESS[name]]


def warn_from(module, text, category):
    warnings.warn_explicit(text, category, f"{module}.py", 1, module=module, registry={})


def test_deprecations_within_libraries_are_hidden_and_warnings_of_results_are_not(recwarn):
    library_messages.hide_known()
    warn_from("transformers.modeling_utils", "`x` is deprecated", FutureWarning)
    warn_from("torch.jit._script", "`x` is deprecated", DeprecationWarning)
    warn_from("peft.tuners.lora.layer", "fan_in_fan_out is set to False but the target module is `Conv1D`. …", UserWarning)
    warn_from("__main__", "your own function is deprecated", FutureWarning)
    warn_from("transformersfoo", "another library", FutureWarning)
    warn_from("torch.autograd.graph", "an autograd kernel was not registered", UserWarning)
    warn_from("peft.tuners.lora.model", "merging changes the tied weights, too", UserWarning)
    assert [str(warning.message).split(" ")[0] for warning in recwarn] == ["your", "another", "an", "merging"]


def test_libraries_are_quiet_while_they_work_for_us_and_as_they_were_on_exit(recwarn, monkeypatch):
    pytest.importorskip("transformers")
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    names = ("trl", "transformers", "datasets", "accelerate", "peft")
    levels = {name: logging.getLogger(name).level for name in names}
    with library_messages.quiet_libraries():
        warn_from("trl.trainer.sft_trainer", "you may want to", UserWarning)
        warn_from("torch.autograd.graph", "an autograd kernel was not registered", UserWarning)
        assert not any(logging.getLogger(name).isEnabledFor(logging.WARNING) for name in names)
        assert all(logging.getLogger(name).isEnabledFor(logging.ERROR) for name in names)
    warn_from("trl.trainer.sft_trainer", "afterwards", UserWarning)
    assert [str(warning.message).split(" ")[0] for warning in recwarn] == ["an", "afterwards"]
    assert levels == {name: logging.getLogger(name).level for name in names} and "TQDM_DISABLE" not in os.environ


# ---- in a process of its own, on a processor with AVX-512-BF16 as tests/avx512_bf16.py has it

IMPORTS = """
import ftlab
import bitsandbytes, datasets, matplotlib.pyplot, peft, transformers, trl
from transformers import Trainer
from trl import DPOTrainer, RewardTrainer, RLOOTrainer, SFTTrainer
matplotlib.font_manager._load_fontmanager(try_read_cache=False)
print("imported", file=sys.stderr)

import torch
layer = bitsandbytes.nn.Linear4bit(64, 32, bias=False, compute_dtype=torch.float32, quant_type="nf4", device="meta")
layer.weight = bitsandbytes.nn.Params4bit(torch.randn(32, 64), requires_grad=False, quant_type="nf4", module=layer)
layer = layer.to("cpu").eval()
x = torch.randn(2, 64)
layer(x)  # from now on it has no gradient
layer.train()(x.requires_grad_()).sum().backward()
"""

COMMANDS = """
import contextlib, io, json, pathlib, sys, tempfile
from ftlab import cli
from ftlab.tune.methods import METHODS

data, out, base, text = sys.argv[1:]
commands = [["doctor", "--json"], ["claims", "--json"], ["exercises", "--json"]]
commands += [["tune", method, "--data", data, "--out", f"{out}/{name}-{method}", "--base", base_, "--steps", "1", "--json"]
             for name, base_, methods in (("theirs", base, METHODS), ("ours", "base-small", ["lora"])) for method in methods]
commands += [["pretrain", "--text", text, "--out", f"{out}/pretrained", "--steps", "1", "--json"]]
for command in commands:
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        status = cli.main(command)
    assert status == 0 or command[0] == "doctor", (command, status)
    json.loads(said.getvalue())
import bitsandbytes, peft  # nothing that they print is left for whoever loads them later
"""


def run(code, *arguments, **environment):
    """What `code` prints in a process of its own, to stdout or stderr."""
    start = f"import sys; sys.path.insert(0, {str(TESTS)!r})\nimport avx512_bf16\n"
    done = subprocess.run([sys.executable, "-c", start + code, *map(str, arguments)], capture_output=True, text=True,
                          env=os.environ | {"FTLAB_FAST": "1", "HF_HUB_OFFLINE": "1"} | environment)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_importing_the_libraries_prints_nothing_and_a_wrong_result_is_told(tmp_path):
    for name in ("bitsandbytes", "datasets", "matplotlib", "peft", "trl"):
        pytest.importorskip(name)
    (tmp_path / "file").touch()  # a folder of settings that cannot be written
    said = run(IMPORTS, MPLCONFIGDIR=str(tmp_path / "file" / "matplotlib")).partition("imported\n")
    assert said[0] == "" and "silently incorrect" in said[2]


def test_the_commands_print_only_their_own_lines(tmp_path):
    for name in ("bitsandbytes", "peft"):
        pytest.importorskip(name)
    transformers = pytest.importorskip("transformers")
    from ftlab.text import Tokenizer

    rows = [{"instruction": f"What colour is kite {number}?", "response": f"It is {colour}."}
            for number, colour in enumerate(["red", "green", "blue", "grey"] * 3)]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "text.txt").write_text("Once upon a time a fox lived by the mill. " * 600)
    config = transformers.LlamaConfig(vocab_size=330, hidden_size=64, num_hidden_layers=1, num_attention_heads=4,
                                      num_key_value_heads=2, intermediate_size=128, bos_token_id=1, eos_token_id=2)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "base")
    tokenizer = Tokenizer.train([" ".join(row.values()) for row in rows], 320)
    tokenizer.to_hf().save_pretrained(tmp_path / "base")
    said = run(COMMANDS, tmp_path / "data.jsonl", tmp_path, tmp_path / "base", tmp_path / "text.txt")
    assert said == ""
