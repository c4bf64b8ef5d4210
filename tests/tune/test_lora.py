"""LoRA by hand is PEFT's: outputs, gradients, files; on our Transformer and on five layouts of transformers."""

import copy

import pytest
import torch
import torch.nn.functional as F

from ftlab.errors import UsageError
from ftlab.model import generate, hub
from ftlab.model.decode import one_token_decoder
from ftlab.tune import METHODS, attach, lora, lora_fast
from ftlab.tune import files as adapter_files

SHAPE = {"vocab_size": 61, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
GLU = {"intermediate_size": 48, "num_key_value_heads": 2}


def theirs(name):
    """A tiny random causal LM of transformers in one of the layouts."""
    import transformers

    torch.manual_seed(0)
    configs = {
        "llama": lambda: transformers.LlamaConfig(**SHAPE, **GLU),
        "qwen2": lambda: transformers.Qwen2Config(**SHAPE, **GLU),
        "mistral": lambda: transformers.MistralConfig(**SHAPE, **GLU),
        "gpt2": lambda: transformers.GPT2Config(vocab_size=61, n_embd=32, n_layer=2, n_head=4, n_positions=64,
                                                resid_pdrop=0, embd_pdrop=0, attn_pdrop=0),
        "opt": lambda: transformers.OPTConfig(**SHAPE, ffn_dim=48, word_embed_proj_dim=32, dropout=0.0,
                                              max_position_embeddings=64),
    }
    return transformers.AutoModelForCausalLM.from_config(configs[name]()).train()


LAYOUTS = ("llama", "qwen2", "mistral", "gpt2", "opt")
SOME = {"gpt2": ["c_attn", "mlp.c_proj"], "opt": ["q_proj", "fc1"]}
IDS = torch.randint(0, 61, (3, 11), generator=torch.Generator().manual_seed(1))


def shake(model, seed=5):
    """Give every B a value, since at zero it hides half of the mistakes; returns the model."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in lora.layers(model).values():
            layer.lora_B.copy_(torch.randn(layer.lora_B.shape, generator=generator) * 0.1)
    return model


def peft_of(base, ours, **config):
    """PEFT's model over a copy of `base`, with the numbers of our `ours`."""
    from peft import LoraConfig, TaskType, get_peft_model, set_peft_model_state_dict

    model = get_peft_model(copy.deepcopy(base), LoraConfig(task_type=TaskType.CAUSAL_LM, **config))
    loaded = set_peft_model_state_dict(model, lora.adapter_state(ours))
    assert not loaded.unexpected_keys
    return model.train()


def gradients(model, logits):
    """{name of A or B: gradient} of a loss on logits."""
    F.cross_entropy(logits[:, :-1].flatten(0, 1), IDS[:, 1:].flatten()).backward()
    return {name: p.grad for name, p in model.named_parameters() if p.requires_grad}


def close(a, b, tolerance=1e-5):
    return (a - b).abs().max().item() <= tolerance


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("target_modules", ["all-linear", "some"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_outputs_and_gradients_are_pefts(layout, target_modules, fast):
    base = theirs(layout)
    chosen = target_modules if target_modules == "all-linear" else SOME.get(layout, ["q_proj", "v_proj"])
    config = {"r": 3, "lora_alpha": 7, "target_modules": chosen}
    ours = shake(attach(copy.deepcopy(base), "lora", **config))
    reference = peft_of(base, ours, **config)
    if fast:
        lora_fast.make_fast(ours)
    a, b = ours(input_ids=IDS).logits, reference(input_ids=IDS).logits
    assert close(a, b) and not close(a, base(input_ids=IDS).logits, 1e-3)
    mine, peer = gradients(ours, a), gradients(reference, b)
    assert len(mine) == len(peer) == 2 * len(lora.layers(ours)) > 0
    for name, gradient in mine.items():
        assert close(gradient, peer[f"base_model.model.{name}.default.weight"]), name
        assert gradient.abs().max() > 0


@pytest.mark.parametrize("fast", [False, True])
def test_our_transformer_is_pefts_llama(tiny, fast):
    model = tiny()
    base = hub.to_hf(model)
    ours = shake(attach(model, "lora", r=4, lora_alpha=8)).train()
    reference = peft_of(base, ours, r=4, lora_alpha=8, target_modules="all-linear")
    if fast:
        lora_fast.make_fast(ours)
    a, b = ours(IDS), reference(input_ids=IDS).logits
    assert close(a, b)
    mine, peer = gradients(ours, a), gradients(reference, b)
    assert len(mine) == len(peer) == 28
    assert all(close(g, peer[f"base_model.model.model.{name}.default.weight"]) for name, g in mine.items())


def test_dropout_is_pefts(tiny):
    model = tiny()
    base = hub.to_hf(model)
    ours = shake(attach(model, "lora", r=2, lora_dropout=0.4, target_modules=["q_proj", "down_proj"])).train()
    reference = peft_of(base, ours, r=2, lora_alpha=16, lora_dropout=0.4, target_modules=["q_proj", "down_proj"])
    torch.manual_seed(3)
    a = ours(IDS)
    torch.manual_seed(3)
    b = reference(input_ids=IDS).logits
    assert close(a, b) and not close(a, ours.eval()(IDS), 1e-3)
    lora_fast.make_fast(ours.train())
    torch.manual_seed(3)
    assert close(ours(IDS), b)  # with dropout the readable layer runs


def test_the_start_is_the_base_and_nothing_else_learns(tiny):
    model = tiny()
    before = model(IDS).detach()
    state = copy.deepcopy(model.state_dict())
    attach(model, "lora", r=2)
    assert torch.equal(model(IDS), before)
    learns = {name for name, p in model.named_parameters() if p.requires_grad}
    assert learns == {f"{name}.lora_{m}" for name in lora.layers(model) for m in "AB"}
    assert all(layer.lora_A.abs().max() > 0 for layer in lora.layers(model).values())
    detached = lora.detach_lora(model)
    assert all(torch.equal(detached.state_dict()[name], value) for name, value in state.items())


def test_the_number_of_parameters(tiny):
    model = attach(tiny(), "lora", r=3, target_modules=["q_proj", "down_proj"])
    assert model.num_parameters(trainable=True) == 2 * (lora.num_parameters(3, 32, 32) + lora.num_parameters(3, 48, 32))


@pytest.mark.parametrize("layout", ["ours", *LAYOUTS])
def test_merged_is_unmerged_and_unmerging_restores(layout, tiny):
    base = tiny() if layout == "ours" else theirs(layout)
    logits = (lambda model: model(IDS)) if layout == "ours" else (lambda model: model(input_ids=IDS).logits)
    weights = copy.deepcopy(base.state_dict())
    model = shake(attach(base, "lora", r=3, lora_alpha=9)).eval()
    with torch.no_grad():
        unmerged = logits(model)
        assert close(logits(lora.merge(model)), unmerged) and close(logits(lora.merge(model)), unmerged)
        assert close(logits(lora.unmerge(model)), unmerged) and close(logits(lora.unmerge(model)), unmerged)
        with lora.without(model):
            plain = logits(model)
        assert close(logits(model), unmerged) and not close(plain, unmerged, 1e-3)
        assert close(logits(lora.detach_lora(lora.merge(model))), unmerged)
    assert set(model.state_dict()) == set(weights)
    lora_free = {name: (value - weights[name]).abs().max() for name, value in model.state_dict().items()}
    assert max(lora_free.values()) > 1e-3
    assert any(value == 0 for value in lora_free.values())


def test_unmerging_restores_the_weights(tiny):
    model = shake(attach(tiny(), "lora"))
    before = {name: layer.base.weight.clone() for name, layer in lora.layers(model).items()}
    lora.unmerge(lora.merge(model))
    assert all(close(layer.base.weight, before[name], 1e-6) for name, layer in lora.layers(model).items())


def test_the_weight_of_a_layer_is_what_it_does(tiny):
    layer = shake(attach(tiny(), "lora", r=2)).layers[0].mlp.gate_proj
    x = torch.randn(5, 32)
    assert close(F.linear(x, layer.weight), layer(x), 1e-6)
    layer.merge()
    assert close(F.linear(x, layer.weight), layer(x), 1e-6)


def test_the_quick_decoder_knows_lora(tiny):
    model = shake(attach(tiny(), "lora", lora_dropout=0.5)).eval()
    assert one_token_decoder(model) is not None
    quick = generate(model, [[1, 5, 9], [1, 7]], 12, temperature=0)
    assert quick == generate(lora.detach_lora(lora.merge(model)), [[1, 5, 9], [1, 7]], 12, temperature=0)
    assert quick == generate(model, [[1, 5, 9], [1, 7]], 12, temperature=0, use_cache=False)


def test_adapters_swap_on_one_base(tiny):
    model = tiny().eval()
    base = model(IDS)
    states, answers = [], []
    for seed, rank in ((1, 2), (2, 5)):
        shake(attach(model, "lora", r=rank, lora_alpha=4), seed)
        states.append((lora.adapter_state(model), lora.adapter_config(model)))
        answers.append(model(IDS))
        lora.detach_lora(model)
    for index in (0, 1, 0):
        lora.load_adapter_state(model, *states[index])
        assert torch.equal(model(IDS), answers[index])
    assert torch.equal(lora.detach_lora(model)(IDS), base)
    assert not torch.equal(answers[0], answers[1])


# ---- files


@pytest.mark.parametrize("layout", ["ours", "llama", "gpt2", "opt"])
def test_peft_loads_the_file_and_we_load_pefts(layout, tiny, tmp_path):
    from peft import PeftModel

    base = tiny() if layout == "ours" else theirs(layout)
    hf = hub.to_hf(base) if layout == "ours" else copy.deepcopy(base).eval()
    logits = (lambda model: model(IDS)) if layout == "ours" else (lambda model: model(input_ids=IDS).logits)
    ours = shake(attach(copy.deepcopy(base), "lora", r=3, lora_alpha=5, lora_dropout=0.1)).eval()
    size = adapter_files.save_adapter(ours, tmp_path / "a", base="my/base")
    assert size == (tmp_path / "a" / "adapter_model.safetensors").stat().st_size
    peft = PeftModel.from_pretrained(copy.deepcopy(hf), tmp_path / "a").eval()
    assert close(peft(input_ids=IDS).logits, logits(ours))
    assert peft.peft_config["default"].base_model_name_or_path == "my/base"
    peft.save_pretrained(tmp_path / "b")
    back = adapter_files.load_adapter(copy.deepcopy(base), tmp_path / "b").eval()
    assert close(logits(back), logits(ours)) and lora.adapter_config(back)["lora_dropout"] == 0.1
    assert {p.requires_grad for name, p in back.named_parameters() if "lora_" not in name} == {False}


def test_single_layers_are_saved_by_their_full_names(tiny, tmp_path):
    from peft import PeftModel

    base = tiny()
    hf = hub.to_hf(base)
    ours = shake(attach(base, "lora", target_modules=["layers.1.self_attn.q_proj"])).eval()
    assert list(lora.layers(ours)) == ["layers.1.self_attn.q_proj"]
    adapter_files.save_adapter(ours, tmp_path / "a")
    assert close(PeftModel.from_pretrained(hf, tmp_path / "a").eval()(input_ids=IDS).logits, ours(IDS))


def test_files_that_do_not_fit(tiny, tmp_path):
    model = tiny()
    with pytest.raises(UsageError, match="no adapter on this model"):
        adapter_files.save_adapter(model, tmp_path / "x")
    with pytest.raises(UsageError, match="no adapter there"):
        adapter_files.load_adapter(model, tmp_path / "x")
    adapter_files.save_adapter(attach(theirs("gpt2"), "lora"), tmp_path / "gpt2")
    with pytest.raises(UsageError, match="made for another base"):
        adapter_files.load_adapter(model, tmp_path / "gpt2")
    state, config = lora.adapter_state(attach(tiny(), "lora")), {"lora_alpha": 1, "use_dora": True}
    with pytest.raises(UsageError, match="use_dora=True, which only PEFT knows"):
        lora.load_adapter_state(model, state, config)
    with pytest.raises(UsageError, match="give the adapter's config"):
        lora.load_adapter_state(model, state)
    state.pop(next(iter(state)))
    with pytest.raises(UsageError, match="these tensors are no LoRA"):
        lora.load_adapter_state(model, state, {"lora_alpha": 1})
    assert not lora.layers(model)


# ---- refusals


@pytest.mark.parametrize(("config", "part"), [
    ({"r": 0}, "at least 1"), ({"r": 2.5}, "whole number"), ({"lora_alpha": 0}, "above 0"),
    ({"lora_dropout": 1}, "below 1"), ({"lora_dropout": -0.1}, "at least 0"), ({"target_modules": []}, "empty"),
    ({"target_modules": ["q_proj", "query"]},
     "no linear layer is called 'query'; this model has q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj"),
    ({"target_modules": ["embed_tokens"]}, "no linear layer is called 'embed_tokens'"),
    ({"target_modules": ["lm_head"]}, "shares its weights with the embedding"),
])  # fmt: skip
def test_refusals(config, part, tiny):
    model = tiny()
    with pytest.raises(UsageError, match=part):
        attach(model, "lora", **config)
    assert not lora.layers(model)


def test_one_lora_at_a_time(tiny):
    model = attach(tiny(), "lora")
    with pytest.raises(UsageError, match="has a LoRA already"):
        attach(model, "lora")
    with pytest.raises(UsageError, match="has no LoRA"):
        lora.merge(tiny())
    lora.merge(model)
    with pytest.raises(UsageError, match="unmerge it"):
        lora.load_adapter_state(model, lora.adapter_state(model))


def test_it_learns_and_the_fast_layer_learns_the_same(tiny, tokenizer, examples):
    from ftlab.tune import sft

    losses = {}
    for fast in (False, True):
        model = tiny()
        frozen = model.embed_tokens.weight.clone()
        torch.manual_seed(0)
        attach(model, "lora", r=8)
        if fast:
            lora_fast.make_fast(model)
        losses[fast] = sft.tune(model, tokenizer, examples, steps=30, lr=0.02, tokens_per_batch=300).losses
        assert torch.equal(model.embed_tokens.weight, frozen)
    assert losses[False][-1] < losses[False][0] - 0.3  # the frozen random embedding leaves no more
    assert losses[True] == pytest.approx(losses[False], rel=1e-3)
    assert type(next(iter(lora.layers(lora_fast.make_readable(model)).values()))) is lora.LoRALinear


def batch_of(ids=IDS):
    from ftlab.text.batching import collate

    return collate([row.tolist() for row in ids], 0)


@pytest.mark.parametrize("target_modules", ["all-linear", ["q_proj", "down_proj"]])
def test_the_quick_gradient_knows_lora(target_modules, tiny):
    from ftlab.model import backprop

    model, batch, found = shake(attach(tiny(), "lora", r=3, target_modules=target_modules)).train(), batch_of(), []
    assert backprop.fits(model, batch)
    for loss in (model.loss(batch), backprop.loss(model, batch)):
        model.zero_grad()
        loss.backward()
        found.append((loss.item(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}))
    (a, mine), (b, quick) = found
    assert a == pytest.approx(b, abs=1e-6) and mine.keys() == quick.keys()
    assert all("lora_" in name and close(mine[name], quick[name]) for name in mine)


def test_where_the_quick_gradient_does_not_serve(tiny):
    from ftlab.model import backprop

    assert not backprop.fits(attach(tiny(), "lora", lora_dropout=0.1), batch_of())
    assert not backprop.fits(lora.merge(attach(tiny(), "lora")), batch_of())
    model = attach(tiny(), "lora")
    model.norm.weight.requires_grad_(True)
    assert not backprop.fits(model, batch_of())


def test_the_door_imports_no_torch():
    import subprocess
    import sys

    code = "import sys; from ftlab.tune import METHODS; assert 'torch' not in sys.modules; print(*METHODS)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert said == list(METHODS) and METHODS["lora"].adapter and METHODS["lora"].merges
