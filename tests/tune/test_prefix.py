"""Prefixes and prompts: equal to PEFT's on models of transformers, the same on ours, saved in PEFT's form."""

import copy
import json

import pytest
import torch

from ftlab.errors import UsageError
from ftlab.model import Transformer, generate, load, to_hf
from ftlab.text.batching import collate
from ftlab.train import TrainConfig, train
from ftlab.tune import prefix, sft

P, IDS = 5, [[1, 7, 9, 30, 12, 40], [1, 8, 3, 3, 50, 60]]
KINDS = {"prefix": prefix.attach_prefix, "ptuning": prefix.attach_ptuning, "prompt": prefix.attach_prompt}


@pytest.fixture(params=["llama", "gpt2", "qwen2"])
def theirs(request, bases):
    """A function that loads a tiny causal LM of transformers anew; Llama's and Qwen's share keys among queries."""
    from transformers import AutoModelForCausalLM

    return lambda: AutoModelForCausalLM.from_pretrained(bases[request.param]).eval()


def peft_model(base, kind):
    """The same method by PEFT, with random weights."""
    import peft

    torch.manual_seed(1)
    if kind == "prompt":
        config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=P)
    else:
        config = peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=P,
                                         prefix_projection=kind == "prefix", encoder_hidden_size=24)
    return peft.get_peft_model(base, config).eval()


def take_weights(ours, peft_one):
    """Put PEFT's parameters into our prefix."""
    encoder = peft_one.prompt_encoder["default"]
    with torch.no_grad():
        ours.kv_prefix.embedding.copy_(encoder.embedding.weight)
        if hasattr(encoder, "transform"):
            ours.kv_prefix.transform.load_state_dict(encoder.transform.state_dict())
            ours.kv_prefix.start = None


def attached(base, kind):
    torch.manual_seed(0)
    return KINDS[kind](base, num_virtual_tokens=P, **({"encoder_hidden_size": 24} if kind == "prefix" else {}))


@pytest.mark.parametrize("kind", KINDS)
def test_outputs_and_gradients_equal_pefts(theirs, kind):
    peft_one, ours = peft_model(theirs(), kind), attached(theirs(), kind)
    take_weights(ours, peft_one)
    ids = torch.tensor(IDS)
    labels = ids.clone()
    labels[:, :3] = -100
    logits = ours(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits
    found = peft_one(input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels)
    torch.testing.assert_close(logits, found.logits[:, -ids.shape[1]:], atol=1e-5, rtol=1e-5)
    loss = sft.hf_loss(ours, collate(IDS, 0, labels.tolist()))
    torch.testing.assert_close(loss, found.loss, atol=1e-5, rtol=1e-5)
    loss.backward()
    found.loss.backward()
    gradient = peft_one.prompt_encoder["default"].embedding.weight.grad
    assert gradient.abs().max() > 0
    torch.testing.assert_close(ours.kv_prefix.embedding.grad, gradient, atol=1e-5, rtol=1e-4)
    assert all(p.grad is None for name, p in ours.named_parameters() if not name.startswith("kv_prefix"))


@pytest.mark.parametrize("kind", KINDS)
def test_our_transformer_equals_peft_on_its_hf_form(tiny, kind):
    base = tiny()
    peft_one, ours = peft_model(to_hf(base), kind), attached(base, kind)
    take_weights(ours, peft_one)
    ids = torch.tensor(IDS)
    logits = peft_one(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[:, -ids.shape[1]:]
    torch.testing.assert_close(ours(ids), logits, atol=1e-5, rtol=1e-5)
    assert isinstance(ours, Transformer)


def test_a_prefix_from_a_real_prompt_is_that_prompt(tiny, theirs):
    prompt, text = [1, 20, 21, 22], [30, 31, 32]
    for base in (tiny(), theirs()):
        whole = logits_of(base, [prompt + text])[:, len(prompt):]
        for attach in KINDS.values():
            found = logits_of(attach(base, init_ids=prompt), [text])
            torch.testing.assert_close(found, whole, atol=1e-5, rtol=1e-5)
            assert base.kv_prefix.length == len(prompt)
        prefix.detach_prefix(base)
        torch.testing.assert_close(logits_of(base, [prompt + text])[:, len(prompt):], whole)


def logits_of(model, rows):
    ids = torch.tensor(rows)
    with torch.no_grad():
        if isinstance(model, Transformer):
            return model(ids)
        return model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits


@pytest.mark.parametrize("kind", KINDS)
def test_writing_behind_a_prefix(tiny, kind):
    """With a cache, without one, padded on the left, and step by step by hand: the same tokens."""
    model = attached(tiny(), kind)
    prompts = [[1, 5, 6, 7, 8], [1, 9], [1, 30, 31]]
    plain = []
    for prompt in prompts:
        ids = list(prompt)
        for _ in range(10):
            ids.append(logits_of(model, [ids])[0, -1].argmax().item())
        plain.append(ids[len(prompt):])
    for use_cache in (True, False):
        assert generate(model, prompts, 10, temperature=0, use_cache=use_cache) == plain
        assert generate(model, prompts[:1], 10, temperature=0, use_cache=use_cache) == plain[:1]
    assert generate(model, prompts, 4, temperature=0) == [row[:4] for row in plain]  # too few for the quick decoder


@pytest.mark.parametrize("kind", KINDS)
def test_transformers_writes_behind_a_prefix(theirs, kind):
    model = attached(theirs(), kind)
    prompts = [[1, 5, 6, 7, 8], [1, 9, 10]]
    want = []
    for prompt in prompts:
        ids = list(prompt)
        for _ in range(6):
            ids.append(logits_of(model, [ids])[0, -1].argmax().item())
        want.append(ids[len(prompt):])
    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
    options = {"attention_mask": mask, "max_new_tokens": 6, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    for use_cache in (True, False):
        assert model.generate(ids, use_cache=use_cache, **options)[:, longest:].tolist() == want


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_prefix_learns(tiny, theirs, kind):
    for base in (tiny(), theirs()):
        before = {name: value.clone() for name, value in base.state_dict().items()}
        model = attached(base, kind)
        batch = collate(IDS, 0)
        history = train(model, lambda step, batch=batch: batch, TrainConfig(12, lr=0.05), sft.loss_of(model))
        assert history.losses[-1] < history.losses[0] - 0.01
        after = model.state_dict()
        assert all(torch.equal(after[name], value) for name, value in before.items())
        assert {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad} == {"kv_prefix"}


def test_packed_texts_see_the_prefix_and_not_each_other(tiny):
    model = attached(tiny(), "ptuning")
    packed = torch.tensor([IDS[0] + IDS[1]])
    segments, positions = torch.tensor([[0] * 6 + [1] * 6]), torch.tensor([[*range(6), *range(6)]])
    with torch.no_grad():
        both = model(packed, positions, segments)
    torch.testing.assert_close(both.view(2, 6, -1), logits_of(model, IDS), atol=1e-5, rtol=1e-5)


def test_attention_maps_give_the_prefix_its_columns(tiny):
    model = attached(tiny(), "ptuning")
    maps = model.attention_maps(torch.tensor(IDS))
    assert [m.shape for m in maps] == [(2, 4, 6, P + 6)] * 2
    for m in maps:
        torch.testing.assert_close(m.sum(-1), torch.ones(2, 4, 6))
        assert (m[..., :P] > 0).all() and (m[..., P:].triu(1) == 0).all()
    # the same as a real prompt's: the prefix that is the cache of its first tokens
    model = prefix.attach_ptuning(tiny(), init_ids=IDS[0][:3])
    whole = tiny().attention_maps(torch.tensor(IDS[:1]))
    for found, want in zip(model.attention_maps(torch.tensor([IDS[0][3:]])), whole, strict=True):
        torch.testing.assert_close(found, want[:, :, 3:], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_state_goes_into_peft_and_back(tiny, theirs, kind, tmp_path):
    from peft import PeftModel
    from safetensors.torch import save_file

    for number, make in enumerate((tiny, theirs)):
        model = attached(make(), kind)
        want = logits_of(model, IDS)
        state, config = prefix.adapter_state(model), prefix.adapter_config(model)
        folder = tmp_path / str(number)
        folder.mkdir()
        save_file(state, folder / "adapter_model.safetensors")
        (folder / "adapter_config.json").write_text(json.dumps(config))
        base = make()
        peft_one = PeftModel.from_pretrained(to_hf(base) if isinstance(base, Transformer) else base, folder).eval()
        ids = torch.tensor(IDS)
        with torch.no_grad():
            found = peft_one(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[:, -ids.shape[1]:]
        torch.testing.assert_close(found, want, atol=1e-5, rtol=1e-5)
        again = prefix.load_adapter_state(make(), state, config)
        torch.testing.assert_close(logits_of(again, IDS), want, atol=1e-5, rtol=1e-5)


def test_the_mlp_begins_at_the_real_prompt_and_leaves_it(tiny):
    model = prefix.attach_prefix(tiny(), init_ids=[1, 20, 21])
    start = prefix.adapter_state(model)["prompt_embeddings"]
    torch.testing.assert_close(start, prefix.cache_of(tiny(), [1, 20, 21]))
    train(model, lambda step: collate(IDS, 0), TrainConfig(4, lr=0.05))
    assert (prefix.adapter_state(model)["prompt_embeddings"] - start).abs().max() > 0.01


def test_a_prompt_is_repeated_or_cut(tiny):
    for length, want in ((2, [4, 5]), (7, [4, 5, 6, 4, 5, 6, 4])):
        model = prefix.attach_prompt(tiny(), num_virtual_tokens=length, init_ids=[4, 5, 6])
        torch.testing.assert_close(model.kv_prefix.embedding.detach(), tiny().embed_tokens.weight.detach()[want])


def test_a_copy_has_its_own_prefix_and_taking_it_off_gives_the_base(tiny):
    base = tiny()
    plain = logits_of(base, IDS)
    model = attached(base, "ptuning")
    want, other = logits_of(model, IDS), copy.deepcopy(model)
    with torch.no_grad():
        other.kv_prefix.embedding.zero_()
    torch.testing.assert_close(logits_of(model, IDS), want)
    assert (logits_of(other, IDS) - want).abs().max() > 1e-3
    taken = prefix.detach_prefix(model)
    torch.testing.assert_close(logits_of(model, IDS), plain)
    torch.testing.assert_close(logits_of(prefix.put_prefix(model, taken), IDS), want)
    assert type(prefix.put_prefix(model, taken)).__mro__.count(Transformer) == 1  # put on twice is put on once
    prefix.detach_prefix(model)
    assert type(model) is Transformer


def test_what_cannot_be_is_refused_in_one_line(tiny):
    masked, _ = load("base-masked")
    for attach, words in (
        (lambda: prefix.attach_ptuning(tiny(), num_virtual_tokens=0), "at least one"),
        (lambda: prefix.attach_ptuning(tiny(), num_virtual_tokens=256), "256 tokens in all"),
        (lambda: prefix.attach_ptuning(tiny(), init_ids=[]), "no token"),
        (lambda: prefix.attach_prefix(tiny(), prefix_projection=False, encoder_hidden_size=8), "none"),
        (lambda: prefix.attach_ptuning(masked), "both sides"),
        (lambda: prefix.adapter_state(tiny()), "no prefix"),
        (lambda: prefix.load_adapter_state(tiny(), {"lora": torch.zeros(1)}), "prompt_embeddings"),
        (lambda: prefix.load_adapter_state(tiny(), {"prompt_embeddings": torch.zeros(2, 7)}), "another base"),
    ):
        with pytest.raises(UsageError, match=words) as error:
            attach()
        assert "\n" not in str(error.value)


def test_room_for_the_text_shrinks(tiny):
    model = attached(tiny(), "ptuning")
    assert sft.limit(model) == 256 - P
    with pytest.raises(ValueError, match="256"):
        model(torch.zeros(1, 252, dtype=torch.long))
