"""Bottleneck adapters: the numbers of the package `adapters`, the start, sets, hooks, what learns, what is saved."""

import copy
import importlib.util
import json
import pathlib

import pytest
import torch

from ftlab.errors import UsageError
from ftlab.model import Transformer, from_hf, generate, to_hf
from ftlab.text.batching import collate
from ftlab.train import TrainConfig, train
from ftlab.tune import adapter, sft

HERE = pathlib.Path(__file__).parent
IDS = [[1, 7, 9, 30, 12, 40], [1, 8, 3, 3, 50, 60]]


def script():
    """The module that made the numbers; it is no test, so it is loaded by its path."""
    spec = importlib.util.spec_from_file_location("adapters_numbers", HERE / "adapters_numbers.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def theirs(kind):
    """A function that loads a tiny causal LM of transformers."""
    from transformers import AutoModelForCausalLM

    return lambda bases: AutoModelForCausalLM.from_pretrained(bases[kind]).eval()


@pytest.fixture(params=["ours", "llama", "gpt2", "qwen2"])
def model(request, tiny, bases):
    return tiny() if request.param == "ours" else theirs(request.param)(bases)


def logits_of(model, rows=IDS):
    ids = torch.tensor(rows)
    with torch.no_grad():
        return model(ids) if isinstance(model, Transformer) else model(input_ids=ids).logits


def disturb(model, seed=0):
    """Give the adapters that learn a second matrix that is not zero."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.add_(0.1 * torch.randn_like(p))
    return model


@pytest.mark.parametrize("number", range(4))
def test_numbers_of_the_package_adapters(number):
    made = script()
    case = json.loads((HERE / "data" / "adapters_package.json").read_text())["cases"][number]
    model = adapter.attach_adapter(made.base(case["model"]), made.BOTTLENECK, case["placement"])
    # Places come attention first, and a bottleneck's parameters as there: down, then up, weight before bias.
    own = [p for _, p in model.named_parameters() if p.requires_grad]
    assert [list(p.shape) for p in own] == case["shapes"]
    assert sum(p.numel() for p in own) == case["trainable"]
    made.fill([(f"{i:03d}", p) for i, p in enumerate(own)], salt=5.0)
    ids = torch.tensor(made.IDS)
    logits = model(input_ids=ids).logits
    loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    loss.backward()
    assert loss.item() == pytest.approx(case["loss"], abs=1e-5)
    torch.testing.assert_close(logits[:, -1, :12], torch.tensor(case["logits"]), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(torch.stack([p.grad.norm() for p in own]), torch.tensor(case["gradients"]), atol=1e-5,
                               rtol=1e-4)


@pytest.mark.parametrize("placement", adapter.PLACEMENTS)
def test_the_start_is_the_base_and_training_leaves_the_base_alone(model, placement):
    before, weights = logits_of(model), {name: value.clone() for name, value in model.state_dict().items()}
    adapter.attach_adapter(model, 6, placement)
    assert torch.equal(logits_of(model), before)
    learning = {name for name, p in model.named_parameters() if p.requires_grad}
    assert learning and all(".adapter_slot.sets.default." in name for name in learning)
    history = train(model, lambda step: collate(IDS, 0), TrainConfig(10, lr=0.02), sft.loss_of(model))
    assert history.losses[-1] < history.losses[0] - 0.02
    after = model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in weights.items())
    assert (logits_of(model) - before).abs().max() > 1e-3
    assert torch.equal(logits_of(adapter.use_adapter(model, None)), before)
    assert torch.equal(logits_of(adapter.remove_adapters(model)), before)
    assert set(model.state_dict()) == set(weights)


def test_houlsby_has_two_places_a_block_and_pfeiffer_one(tiny):
    counts = {}
    for placement in adapter.PLACEMENTS:
        model = adapter.attach_adapter(tiny(), 6, placement)
        counts[placement] = sum(p.numel() for p in model.parameters() if p.requires_grad)
    one = 32 * 6 + 6 + 6 * 32 + 32
    assert counts == {"houlsby": 2 * 2 * one, "pfeiffer": 2 * one}


def test_a_block_by_the_formula(tiny):
    """The whole model by the slow and obvious way: every sub-layer's output through h + up(f(down(h)))."""
    for placement in adapter.PLACEMENTS:
        base, model = tiny(), disturb(adapter.attach_adapter(tiny(), 6, placement, "gelu"))
        ids = torch.tensor(IDS)
        cos, sin = base.cos[:6], base.sin[:6]

        def through(place, h):
            one = place.adapter_slot.sets["default"]
            inner = torch.nn.functional.gelu(h @ one.down.weight.T + one.down.bias)
            return h + inner @ one.up.weight.T + one.up.bias

        with torch.no_grad():
            x = base.embed_tokens(ids)
            for plain, block in zip(base.layers, model.layers, strict=True):
                made = plain.self_attn(plain.input_layernorm(x), cos, sin, None, True)
                x = x + (through(block.self_attn.o_proj, made) if placement == "houlsby" else made)
                made = plain.mlp(plain.post_attention_layernorm(x))
                x = x + through(block.mlp.down_proj, made) if placement == "houlsby" else through(block, x + made)
            want = base.lm_head(base.norm(x))
        torch.testing.assert_close(logits_of(model), want, atol=1e-6, rtol=1e-5)


def test_sets_swap_on_one_base_and_swap_back(model):
    plain = logits_of(model)
    adapter.attach_adapter(model, 4, "houlsby", name="one")
    first = logits_of(disturb(model, 1))
    adapter.attach_adapter(model, 6, "pfeiffer", name="two")
    assert not any(p.requires_grad for name, p in model.named_parameters() if ".sets.one." in name)
    second = logits_of(disturb(model, 2))
    assert adapter.adapter_names(model) == ["one", "two"] and adapter.active_adapter(model) == "two"
    assert (first - second).abs().max() > 1e-3
    for name, want in (("one", first), ("two", second), (None, plain), ("one", first)):
        assert torch.equal(logits_of(adapter.use_adapter(model, name)), want)


def test_a_copy_has_its_own_adapters(tiny):
    model = disturb(adapter.attach_adapter(tiny(), 4))
    want, other = logits_of(model), disturb(copy.deepcopy(model), 5)
    assert (logits_of(other) - want).abs().max() > 1e-3
    assert torch.equal(logits_of(model), want)
    assert torch.equal(logits_of(adapter.use_adapter(other, None)), logits_of(tiny()))


@pytest.mark.parametrize("placement", adapter.PLACEMENTS)
def test_state_and_config_go_to_a_new_base_and_to_the_hf_form(tiny, placement):
    model = disturb(adapter.attach_adapter(tiny(), 4, placement, "gelu"))
    state, config = adapter.adapter_state(model), adapter.adapter_config(model)
    assert config["peft_type"] == "BOTTLENECK" and config["bottleneck_size"] == 4
    assert len(state) == 4 * 2 * (2 if placement == "houlsby" else 1)
    for base in (tiny(), to_hf(tiny())):
        again = adapter.load_adapter_state(base, state, config)
        torch.testing.assert_close(logits_of(again), logits_of(model), atol=1e-5, rtol=1e-5)
        assert {k: v.tolist() for k, v in adapter.adapter_state(again).items()} == {
            k: v.tolist() for k, v in state.items()}
    assert from_hf(to_hf(tiny())).config == tiny().config


def test_writing_with_adapters(tiny):
    """With a cache or without one, the same tokens; and not the base's."""
    model = disturb(adapter.attach_adapter(tiny(), 8), 3)
    prompts = [[1, 5, 6, 7, 8], [1, 9]]
    with_cache = generate(model, prompts, 12, temperature=0)
    assert with_cache == generate(model, prompts, 12, temperature=0, use_cache=False)
    assert with_cache != generate(tiny(), prompts, 12, temperature=0)


def test_what_cannot_be_is_refused_in_one_line(tiny):
    wrong = adapter.adapter_state(adapter.attach_adapter(tiny(), 4))
    wrong.popitem()
    for attach, words in (
        (lambda: adapter.attach_adapter(tiny(), placement="serial"), "houlsby, pfeiffer"),
        (lambda: adapter.attach_adapter(tiny(), non_linearity="step"), "relu, gelu, swish"),
        (lambda: adapter.attach_adapter(tiny(), 0), "at least 1"),
        (lambda: adapter.attach_adapter(tiny(), name="a.b"), "without a dot"),
        (lambda: adapter.use_adapter(tiny(), "mine"), "none"),
        (lambda: adapter.adapter_state(tiny()), "in use"),
        (lambda: adapter.load_adapter_state(tiny(), {"prompt_embeddings": torch.zeros(2, 2)}), "no set"),
        (lambda: adapter.load_adapter_state(tiny(), wrong), "another base"),
    ):
        with pytest.raises(UsageError, match=words) as error:
            attach()
        assert "\n" not in str(error.value)
