"""Weights go to transformers and back, with the same logits and loss; what does not fit is said in one line."""

import json

import pytest
import torch

from ftlab.errors import UsageError
from ftlab.model import from_hf, generate, load, save, to_hf
from ftlab.text import Tokenizer
from ftlab.text.batching import PackedBatches, collate


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(["a red cap, a red hat"], 262)


def ids_of(shape, seed=0, vocab=60):
    return torch.randint(4, vocab, shape, generator=torch.Generator().manual_seed(seed))


SHAPES = [{}, {"tie_word_embeddings": False}, {"num_heads": 2, "num_layers": 3, "rms_norm_eps": 1e-3},
          {"rope_theta": 500.0, "hidden_size": 48, "num_heads": 3}]  # fmt: skip


@pytest.mark.parametrize("changes", SHAPES)
def test_logits_equal_llama_both_ways(random_model, changes):
    model, ids = random_model(**changes), ids_of((3, 30))
    theirs = to_hf(model)
    with torch.no_grad():
        torch.testing.assert_close(theirs(ids).logits, model(ids), atol=1e-5, rtol=0)
        torch.testing.assert_close(from_hf(theirs)(ids), model(ids), atol=0, rtol=0)
    assert theirs.num_parameters() == model.num_parameters()


@pytest.mark.parametrize("tied", [True, False])
def test_from_a_llama_of_theirs(tied):
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    theirs = LlamaForCausalLM(LlamaConfig(vocab_size=50, hidden_size=24, num_hidden_layers=3, num_attention_heads=3,
                                          intermediate_size=40, tie_word_embeddings=tied, rms_norm_eps=1e-6)).eval()
    for p in theirs.parameters():
        torch.nn.init.normal_(p, mean=1.0 if p.ndim == 1 else 0.0, std=0.3)
    ours, ids = from_hf(theirs), ids_of((2, 25), vocab=50)
    with torch.no_grad():
        torch.testing.assert_close(ours(ids), theirs(ids).logits, atol=1e-5, rtol=1e-5)


def test_loss_equals_llama(random_model):
    model = random_model()
    theirs = to_hf(model)
    batch = collate([ids_of((n,), seed=n).tolist() for n in (4, 9, 17)], 0)
    with torch.no_grad():
        mask = (batch.labels != -100).long()
        expected = theirs(input_ids=batch.input_ids, attention_mask=mask, labels=batch.labels).loss
        torch.testing.assert_close(model.loss(batch), expected, atol=1e-5, rtol=0)
        packed = PackedBatches([ids_of((n,), seed=n).tolist() for n in (4, 9, 17)], 30, 1)(0)
        torch.testing.assert_close(model.loss(packed), expected, atol=1e-5, rtol=0)


def test_gradients_equal_llama(random_model):
    model = random_model(tie_word_embeddings=False)
    theirs = to_hf(model)
    batch = collate([ids_of((12,), seed=n).tolist() for n in range(3)], 0)
    model.loss(batch).backward()
    theirs(input_ids=batch.input_ids, labels=batch.labels).loss.backward()
    gradients = dict(theirs.named_parameters())
    for name, p in model.named_parameters():
        other = gradients[name if name.startswith("lm_head") else f"model.{name}"].grad
        torch.testing.assert_close(p.grad, other, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("tied", [True, False])
def test_what_we_save_transformers_loads(random_model, tokenizer, tmp_path, tied):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, ids = random_model(vocab_size=tokenizer.vocab_size, tie_word_embeddings=tied), ids_of((2, 20))
    save(model, tokenizer, tmp_path / "m", extra={"README.md": "a card\n"})
    theirs, info = AutoModelForCausalLM.from_pretrained(tmp_path / "m", output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    with torch.no_grad():
        torch.testing.assert_close(theirs(ids).logits, model(ids), atol=1e-5, rtol=0)
    text = "a red hat"
    assert AutoTokenizer.from_pretrained(tmp_path / "m")(text)["input_ids"] == tokenizer.encode(text)
    assert theirs.generation_config.eos_token_id == tokenizer.eos_id
    again, their_tokenizer = load(tmp_path / "m")
    assert torch.equal(again(ids), model(ids)) and their_tokenizer.encode(text) == tokenizer.encode(text)
    assert (tmp_path / "m" / "README.md").read_text() == "a card\n"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m"]


@pytest.mark.parametrize("tied", [True, False])
def test_what_transformers_saves_we_load(random_model, tokenizer, tmp_path, tied):
    model, ids = random_model(vocab_size=tokenizer.vocab_size, tie_word_embeddings=tied), ids_of((2, 20))
    to_hf(model).save_pretrained(tmp_path)
    tokenizer.to_hf().save_pretrained(tmp_path)
    again, their_tokenizer = load(str(tmp_path))
    assert torch.equal(again(ids), model(ids))
    assert their_tokenizer.encode("a red hat") == tokenizer.encode("a red hat")


def test_half_precision_file_loads_as_float32(random_model, tokenizer, tmp_path):
    model, ids = random_model(vocab_size=tokenizer.vocab_size), ids_of((2, 20))
    save(model, tokenizer, tmp_path / "half", dtype=torch.float16)
    again, _ = load(tmp_path / "half")
    assert all(p.dtype == torch.float32 for p in again.parameters())
    assert (again(ids) - model(ids)).abs().max() < 0.05
    size = (tmp_path / "half" / "model.safetensors").stat().st_size
    assert size < 2.2 * model.num_parameters() + 4096


def test_a_masked_model_stays_masked(random_model, tokenizer, tmp_path):
    model, ids = random_model(vocab_size=tokenizer.vocab_size, causal=False), ids_of((2, 9))
    save(model, tokenizer, tmp_path / "m")
    again, _ = load(tmp_path / "m")
    assert not again.config.causal and torch.equal(again(ids), model(ids))
    with pytest.raises(UsageError, match="causal"):
        to_hf(model)


def test_saving_again_replaces_the_folder(random_model, tokenizer, tmp_path):
    for seed in (0, 1):
        model = random_model(seed, vocab_size=tokenizer.vocab_size)
        save(model, tokenizer, tmp_path / "m")
        again, _ = load(tmp_path / "m")
        assert torch.equal(again.embed_tokens.weight, model.embed_tokens.weight)
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


def saved(random_model, tokenizer, folder):
    save(random_model(vocab_size=tokenizer.vocab_size), tokenizer, folder)
    return folder


@pytest.mark.parametrize("change, message", [
    ({"model_type": "gpt2"}, "only 'llama'"),
    ({"num_key_value_heads": 2}, "grouped-query"),
    ({"hidden_act": "gelu"}, "hidden_act"),
    ({"attention_bias": True}, "attention_bias"),
    ({"head_dim": 16}, "head_dim"),
    ({"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0}}, "rope"),
    ({"num_hidden_layers": 3}, "do not fit"),
    ({"intermediate_size": 50}, "do not fit"),
    ({"vocab_size": None}, "config.json"),
])  # fmt: skip
def test_a_model_that_does_not_fit(random_model, tokenizer, tmp_path, change, message):
    folder = saved(random_model, tokenizer, tmp_path / "m")
    config = json.loads((folder / "config.json").read_text()) | change
    (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not None}))
    with pytest.raises(UsageError, match=message) as caught:
        load(folder)
    assert "\n" not in str(caught.value)


def test_damaged_and_missing_files(random_model, tokenizer, tmp_path):
    folder = saved(random_model, tokenizer, tmp_path / "m")
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[:200])
    with pytest.raises(UsageError, match="safetensors"):
        load(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(UsageError, match="no .safetensors"):
        load(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(UsageError, match="config.json"):
        load(folder)
    (folder / "config.json").unlink()
    with pytest.raises(UsageError, match="no config.json"):
        load(folder)
    with pytest.raises(UsageError, match="base-small"):
        load("./nowhere/at/all")


def test_a_loaded_model_generates(random_model, tokenizer, tmp_path):
    model = random_model(vocab_size=tokenizer.vocab_size)
    save(model, tokenizer, tmp_path / "m")
    again, _ = load(tmp_path / "m")
    assert generate(again, [[1, 5]], 8, temperature=0) == generate(model, [[1, 5]], 8, temperature=0)
