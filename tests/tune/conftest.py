"""Tiny models with random weights, of ours and of transformers, with a tokenizer that knows their few words."""

import json

import pytest
import torch

from ftlab.model import ModelConfig, Transformer, hub
from ftlab.text import Tokenizer
from ftlab.text.examples import Example
from ftlab.text.template import alpaca, alpaca_response

COLOURS = ("red", "green", "blue", "grey")
EXAMPLES = [Example(f"What colour is kite {number}?", f"It is {COLOURS[number % 4]}.") for number in range(24)]
SHAPE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
         "max_position_embeddings": 256}  # fmt: skip
OWN_TEMPLATE = ("{% for m in messages %}{{ '[' + m['role'] + ']' + m['content'] + eos_token }}{% endfor %}"
                "{% if add_generation_prompt %}{{ '[assistant]' }}{% endif %}")


@pytest.fixture(scope="session")
def tokenizer():
    texts = [alpaca(e.instruction, "a") + alpaca_response(e.response) for e in EXAMPLES]
    return Tokenizer.train(texts, 320)


def tiny(tokenizer, seed=0):
    """A Transformer of ours with some 30,000 parameters."""
    torch.manual_seed(seed)
    return Transformer(ModelConfig(tokenizer.vocab_size, 32, 2, 4, 48, max_position_embeddings=256))


@pytest.fixture(name="tiny")
def tiny_fixture(tokenizer):
    return lambda seed=0: tiny(tokenizer, seed)


@pytest.fixture(scope="session")
def bases(tokenizer, tmp_path_factory):
    """{name: folder} of bases: ours, and GPT-2, Qwen2 (with a chat template of its own) and Llama of transformers."""
    import transformers

    folder = tmp_path_factory.mktemp("bases")
    hub.save(tiny(tokenizer), tokenizer, folder / "ours")
    ends = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    configs = {
        "gpt2": transformers.GPT2Config(vocab_size=330, n_embd=32, n_layer=2, n_head=4, n_positions=256,
                                        bos_token_id=1, eos_token_id=2),
        "qwen2": transformers.Qwen2Config(vocab_size=330, num_key_value_heads=2, **SHAPE, **ends),
        "llama": transformers.LlamaConfig(vocab_size=330, num_key_value_heads=2, **SHAPE, **ends),
    }  # fmt: skip
    for name, config in configs.items():
        torch.manual_seed(0)
        transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder / name)
        hf = tokenizer.to_hf()
        if name == "qwen2":
            hf.chat_template = OWN_TEMPLATE
        hf.save_pretrained(folder / name)
    return {path.name: path for path in folder.iterdir()}


@pytest.fixture
def data(tmp_path):
    """A JSON-lines file of the examples."""
    path = tmp_path / "data.jsonl"
    rows = [{"instruction": e.instruction, "response": e.response} for e in EXAMPLES]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def examples():
    return list(EXAMPLES)


@pytest.fixture(autouse=True)
def one_thread():
    """Models this small gain nothing from a second thread, and lose much where the machine is busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
