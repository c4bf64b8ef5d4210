"""Adapters of PEFT's: every field of its configs gives PEFT's output here, or a refusal in one line; so does every tensor."""

import dataclasses
import json
import shutil

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

from ftlab.errors import UsageError
from ftlab.model import ModelConfig, Transformer, hub
from ftlab.train import TrainConfig
from ftlab.tune import adapter, attach, files, lora, methods, peft_config, prefix, qlora
from ftlab.tune.bases import lab_base, load_base
from ftlab.tune.run import card

IDS = torch.arange(3, 36).view(3, 11)
SAME, REFUSED = "same", "refused"
Q1 = "model.layers.1.self_attn.q_proj"


def llama(tie=False, kind="Llama", **more):
    """A tiny random causal LM of transformers with grouped heads."""
    import transformers

    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=97, hidden_size=36, intermediate_size=50, num_hidden_layers=2, num_attention_heads=6, num_key_value_heads=2,
        max_position_embeddings=64, tie_word_embeddings=tie, initializer_range=0.3, **more)  # fmt: skip
    return getattr(transformers, f"{kind}ForCausalLM")(config).eval()


def ours(tie=False, kind=None):
    torch.manual_seed(0)
    return Transformer(ModelConfig(97, 36, 2, 3, 50, 64, tie_word_embeddings=tie)).eval()


@torch.no_grad()
def logits(model):
    if isinstance(model, Transformer):
        return model(IDS)
    return model(input_ids=IDS, attention_mask=torch.ones_like(IDS)).logits[:, -IDS.shape[1]:]


def made(folder, config, base=None):
    """An adapter of PEFT's in the new folder, B and prompts shaken, so that it is not the base."""
    model = peft.get_peft_model(base or llama(), config)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    model.save_pretrained(folder)
    return folder


def changed(folder, **fields):
    """The adapter with other fields in its config; DROP takes one out."""
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text()) | fields
    path.write_text(json.dumps({name: value for name, value in config.items() if value != "DROP"}))
    return folder


def retensored(folder, change):
    """The adapter with other tensors: change({key: tensor}) changes the dict."""
    state = load_file(folder / "adapter_model.safetensors")
    change(state)
    save_file(state, folder / "adapter_model.safetensors")
    return folder


def plain_lora(folder, **more):
    return made(folder, peft.LoraConfig(**{"r": 4, "lora_alpha": 9, "target_modules": ["q_proj", "v_proj"],
                                           "task_type": "CAUSAL_LM"} | more))  # fmt: skip


def refused(folder, words="", model=None):
    """Loading says no in one line, and leaves the model as it was."""
    model = model or llama()
    before, state = logits(model), list(model.state_dict())
    with pytest.raises(UsageError) as error:
        files.load_adapter(model, folder)
    assert "\n" not in str(error.value) and words in str(error.value)
    assert torch.equal(logits(model), before) and list(model.state_dict()) == state


def same(folder, base=llama):
    want = logits(peft.PeftModel.from_pretrained(base(), folder).eval())
    torch.testing.assert_close(logits(files.load_adapter(base(), folder).eval()), want, atol=1e-4, rtol=1e-4)
    assert (want - logits(base())).abs().max() > 0.01
    return want


# ---- every field of LoraConfig

# {field: [(value, how it ends)]}. In a list `made` the adapter is trained with the field by PEFT, in `edited` the field is
# put into the file of a plain one: where PEFT needs data, a GPU or other packages to make it.
MADE = {
    "r": [(3, SAME)], "lora_alpha": [(1, SAME), (2.5, SAME)], "lora_dropout": [(0.3, SAME)],
    "target_modules": [(["q_proj", "up_proj"], SAME), (r".*layers\.1\..*_proj", SAME), ("all-linear", SAME), ([Q1], SAME),
                       (["q_proj", "embed_tokens"], REFUSED), (["lm_head"], SAME)],
    "exclude_modules": [(["layers.0.self_attn.q_proj"], SAME), (r".*\.0\..*", SAME)],
    "layers_to_transform": [([1], SAME), (0, SAME)], "layers_pattern": [("layers", SAME)],
    "rank_pattern": [({"v_proj": 2}, SAME), ({Q1: 7}, SAME), ({r"layers\.0\..*": 1}, SAME)],
    "alpha_pattern": [({"v_proj": 1}, SAME), ({Q1: 70}, SAME), ({"proj": 3}, SAME)],
    "fan_in_fan_out": [(True, SAME)], "bias": [("all", REFUSED), ("lora_only", REFUSED)], "use_rslora": [(True, REFUSED)],
    "modules_to_save": [(["lm_head"], REFUSED), (["norm"], REFUSED)],
    "init_lora_weights": [(False, SAME), ("gaussian", SAME), ("orthogonal", SAME), ("pissa", REFUSED), ("olora", REFUSED),
                          ("pissa_niter_4", REFUSED), ("mica", REFUSED)],
    "trainable_token_indices": [([5, 6], REFUSED)], "use_dora": [(True, REFUSED)],
    "alora_invocation_tokens": [([95, 96], REFUSED)], "layer_replication": [([[0, 2], [1, 2]], REFUSED)],
    "inference_mode": [(True, SAME)], "revision": [("main", SAME)], "task_type": [(None, SAME)],
    "base_model_name_or_path": [("somebody/model", SAME)], "megatron_core": [("other.core", SAME)],
    "qalora_group_size": [(8, SAME)], "ensure_weight_tying": [(True, SAME)], "eva_config": [({"rho": 3.0}, SAME)],
    "corda_config": [({"verbose": True}, SAME)], "lora_ga_config": [({"stable_gamma": 8}, SAME)],
    "loftq_config": [({"loftq_bits": 8}, SAME)], "kasa_config": [({}, REFUSED)], "velora_config": [({}, REFUSED)],
}  # fmt: skip
EDITED = {
    "init_lora_weights": [("eva", SAME), (None, SAME), ("corda", REFUSED), ("loftq", REFUSED), ("lora_ga", REFUSED),
                          ("later_idea", REFUSED), (1, REFUSED), (["pissa"], REFUSED)],
    "auto_mapping": [({"parent_library": "transformers"}, SAME)], "peft_version": [("99.1", SAME), ("DROP", SAME)],
    "peft_type": [("IA3", REFUSED), (["LORA"], REFUSED), (None, REFUSED), ("DROP", REFUSED)],
    "task_type": [("SEQ_CLS", REFUSED), ("SEQ_2_SEQ_LM", REFUSED), ("FEATURE_EXTRACTION", REFUSED), (["CAUSAL_LM"], REFUSED)],
    "r": [(8, REFUSED), ("DROP", REFUSED), ("4", REFUSED), (True, REFUSED), (4.0, REFUSED), (0, REFUSED), (None, REFUSED)],
    "lora_alpha": [("DROP", SAME), (-3, SAME), (None, REFUSED), ("16", REFUSED), (True, REFUSED), (float("nan"), REFUSED),
                   (float("inf"), REFUSED), (10 ** 400, REFUSED), ([9], REFUSED)],
    "lora_dropout": [("DROP", SAME), (2.0, REFUSED), (-0.1, REFUSED), ("0.1", REFUSED), (float("nan"), REFUSED)],
    "rank_pattern": [({}, SAME), ({"q_proj": 5}, REFUSED), ([4], REFUSED), ({"q_proj": "4"}, REFUSED), ({"(": 4}, REFUSED)],
    "alpha_pattern": [({"q_proj": 3}, SAME), ({"o_proj": 3}, SAME), ({"q_proj": None}, REFUSED), ("q_proj", REFUSED)],
    "target_modules": [(["q_proj"], REFUSED), (["q_proj", "v_proj", "o_proj"], REFUSED), ("q_proj", REFUSED),
                       (r".*\.(q|v)_proj", SAME), ("(", REFUSED), ([1], REFUSED), ({"q_proj": 1}, REFUSED)],
    "exclude_modules": [([], SAME), (["up_proj"], SAME), (["q_proj"], REFUSED), (r".*\.0\..*", REFUSED)],
    "layers_to_transform": [([], SAME), ([0, 1], SAME), ([0], REFUSED), ("0", REFUSED), ([0.5], REFUSED)],
    "layers_pattern": [("h", REFUSED)], "use_dora": [(False, SAME), (None, SAME)], "bias": [(None, SAME)],
    "megatron_config": [({"a": 1}, REFUSED)], "monteclora_config": [({"num_samples": 4}, REFUSED)],
    "use_qalora": [(True, REFUSED)], "lora_bias": [(True, REFUSED)], "use_bdlora": [({"nblocks": 2}, REFUSED)],
    "target_parameters": [(["mlp.experts.down_proj"], REFUSED), ([], SAME)], "arrow_config": [({"top_k": 2}, REFUSED)],
    "modules_to_save": [([], SAME), (["score"], REFUSED)], "runtime_config": [({"ephemeral_gpu_offload": True}, SAME)],
    "trainable_token_indices": [({"embed_tokens": [1]}, REFUSED)], "velora_config": [({"num_groups": 4}, REFUSED)],
    "kasa_config": [({"beta": 0.1}, REFUSED)], "alora_invocation_tokens": [([], REFUSED)],
    "a_field_of_tomorrow": [({"scale": 2}, REFUSED), (True, REFUSED), (16, REFUSED), (None, SAME), (False, SAME)],
}  # fmt: skip
BESIDE = {"layers_pattern": {"layers_to_transform": [1]}}  # what a field needs beside it
PROMPTS = {
    "num_virtual_tokens": [(6, REFUSED), ("5", REFUSED)], "token_dim": [(37, REFUSED), (None, SAME)],
    "num_transformer_submodules": [(2, REFUSED), (None, SAME)], "num_layers": [(3, REFUSED), (None, SAME)],
    "num_attention_heads": [(1, REFUSED), (True, REFUSED)], "modules_to_save": [([], SAME), (["lm_head"], REFUSED)],
    "task_type": [("SEQ_CLS", REFUSED), (None, REFUSED), ("DROP", REFUSED)], "inference_mode": [(False, SAME)],
    "peft_type": [("MULTITASK_PROMPT_TUNING", REFUSED), ("CPT", REFUSED)], "peft_version": [("99.1", SAME)],
    "auto_mapping": [({"parent_library": "transformers"}, SAME)], "revision": [("main", SAME)],
    "base_model_name_or_path": [("somebody/model", SAME)], "a_field_of_tomorrow": [({"gate": True}, REFUSED), (None, SAME)],
}  # fmt: skip
PREFIX = PROMPTS | {"init_weights": [("zero", SAME)], "encoder_hidden_size": [(9, SAME)], "prefix_projection": [(True, SAME)]}
PROMPT = PROMPTS | {"prompt_tuning_init": [("SAMPLE_VOCAB", SAME)], "prompt_tuning_init_text": [("Say", SAME)],
                    "tokenizer_name_or_path": [("somebody/tokenizer", SAME)], "tokenizer_kwargs": [({}, SAME)]}  # fmt: skip
P_TUNING = PROMPTS | {"encoder_reparameterization_type": [("LSTM", SAME)], "encoder_hidden_size": [(9, SAME)],
                      "encoder_num_layers": [(3, SAME)], "encoder_dropout": [(0.2, SAME)]}  # fmt: skip
PROMPT_KINDS = {"prefix": (peft.PrefixTuningConfig, PREFIX, {}),
                "projected": (peft.PrefixTuningConfig, {}, {"prefix_projection": True, "encoder_hidden_size": 8}),
                "prompt": (peft.PromptTuningConfig, PROMPT, {}), "ptuning-v1": (peft.PromptEncoderConfig, P_TUNING, {})}


def lists(table):
    return [pytest.param(field, value, end, id=f"{field}-{json.dumps(value)[:30]}")
            for field, values in table.items() for value, end in values]


def test_every_field_of_pefts_configs_has_a_rule_and_a_value_here():
    for kind, config, tried in (("LORA", peft.LoraConfig, MADE | EDITED), ("PREFIX_TUNING", peft.PrefixTuningConfig, PREFIX),
                                ("PROMPT_TUNING", peft.PromptTuningConfig, PROMPT),
                                ("P_TUNING", peft.PromptEncoderConfig, P_TUNING)):
        fields = {field.name for field in dataclasses.fields(config)}
        assert fields == set(peft_config.FIELDS[kind]), "PEFT has new fields: honour or refuse them in ftlab.tune.peft_config"
        assert fields <= set(tried), "give the new fields a value in this test"


@pytest.mark.parametrize(("field", "value", "end"), lists(MADE))
def test_a_field_that_peft_trained_with(field, value, end, tmp_path):
    folder = plain_lora(tmp_path / "a", **{field: value} | BESIDE.get(field, {}))
    if end == REFUSED:
        refused(folder)
    else:
        same(folder)


@pytest.mark.parametrize(("field", "value", "end"), lists(EDITED))
@pytest.mark.filterwarnings("ignore")
def test_a_field_that_is_put_into_the_file(field, value, end, tmp_path):
    folder = changed(plain_lora(tmp_path / "a"), **{field: value})
    if end == REFUSED:
        refused(folder)
    elif (field, value) in [("bias", None)]:  # PEFT itself cannot read it
        assert logits(files.load_adapter(llama(), folder)).isfinite().all()
    else:
        same(folder)


# ---- prefixes and prompts


@pytest.fixture(scope="module")
def prompts(tmp_path_factory):
    """{kind: folder of an adapter that PEFT made}; P-tuning v1 among them, whose result is a prompt."""
    folder = tmp_path_factory.mktemp("prompts")
    for name, (config, _, more) in PROMPT_KINDS.items():
        torch.manual_seed(0)
        made(folder / name, config(num_virtual_tokens=5, task_type="CAUSAL_LM", **more))
    return folder


@pytest.mark.parametrize("kind", PROMPT_KINDS)
def test_what_pefts_prompt_learning_made(kind, prompts):
    same(prompts / kind)


@pytest.mark.parametrize(("kind", "field", "value", "end"), [
    pytest.param(kind, field, value, end, id=f"{kind}-{field}-{json.dumps(value)[:30]}")
    for kind, (_, table, _) in PROMPT_KINDS.items() for field, values in table.items() for value, end in values])
def test_a_field_of_prompt_learning(kind, field, value, end, prompts, tmp_path):
    folder = changed(shutil.copytree(prompts / kind, tmp_path / "a"), **{field: value})
    if end == REFUSED:
        refused(folder)
    else:
        same(folder)


@pytest.mark.parametrize(("change", "words"), [
    (lambda state: state.update(more=torch.zeros(1)), "more"),
    (lambda state: state.update(prompt_embeddings=state["prompt_embeddings"] * float("nan")), "NaN"),
    (lambda state: state.update(prompt_embeddings=state["prompt_embeddings"][:, :-1].contiguous()), "another base"),
    (lambda state: state.update(prompt_embeddings=state["prompt_embeddings"][0].clone()), "another base"),
    (lambda state: state.update(prompt_embeddings=state["prompt_embeddings"].int()), "no floating-point"),
    (lambda state: state.update(prompt_embeddings=torch.zeros(64, 36)), "num_virtual_tokens"),
    (lambda state: state.update(other=state.pop("prompt_embeddings")), "prompt_embeddings"),
])
def test_tensors_that_are_no_prompt(change, words, prompts, tmp_path):
    model = attach(llama(), "ptuning", num_virtual_tokens=3)  # stays where the new one is refused
    refused(retensored(shutil.copytree(prompts / "prompt", tmp_path / "a"), change), words, model)


# ---- LoRA: tensors, keys, files


A0 = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"


def rename(state, old, new):
    for key in [key for key in state if old in key]:
        state[key.replace(old, new)] = state.pop(key)


@pytest.mark.parametrize(("change", "words"), [
    (lambda s: s.pop(A0), "no LoRA"),
    (lambda s: [s.pop(key) for key in list(s) if "layers.1" in key], "incomplete"),
    (lambda s: s.update({A0: s[A0][:2].clone()}), "another base"),
    (lambda s: s.update({A0: s[A0][:, :-1].clone()}), "another base"),
    (lambda s: s.update({A0: s[A0].flatten()}), "another base"),
    (lambda s: s.update({A0: s[A0] / 0}), "NaN"),
    (lambda s: s.update({A0: s[A0].int()}), "floating-point"),
    (lambda s: s.update({A0.replace("lora_A", "lora_magnitude_vector"): torch.ones(36)}), "DoRA"),
    (lambda s: s.update({A0.replace("lora_A.weight", "lora_B.bias"): torch.ones(36)}), "lora_bias"),
    (lambda s: s.update({"base_model.model.model.norm.weight": torch.ones(36)}), "norm.weight"),
    (lambda s: rename(s, ".weight", ".default.weight"), "save_pretrained"),
    (lambda s: rename(s, "base_model.model.", ""), "no LoRA"),
    (lambda s: rename(s, "model.layers", "model.decoder.layers"), "another base"),
    (lambda s: rename(s, "q_proj", "o_proj"), "config"),
    (lambda s: s.clear(), "no LoRA"),
])
def test_tensors_that_are_no_such_lora(change, words, tmp_path):
    model = lora.attach_lora(llama(), r=3)
    refused(retensored(plain_lora(tmp_path / "a"), change), words, model)
    assert {layer.r for layer in lora.layers(model).values()} == {3}  # the LoRA that was there is there


def test_a_base_of_another_depth_or_kind(tmp_path):
    folder = plain_lora(tmp_path / "a")
    deeper = llama()
    deeper.model.layers.append(type(deeper.model.layers[0])(deeper.config, 2))
    refused(folder, "incomplete, or made for another base", deeper)
    with pytest.raises(UsageError, match="another base"):
        files.load_adapter(ours(), folder)  # its keys have as many heads as its queries


def test_weights_of_the_old_format(tmp_path):
    folder = plain_lora(tmp_path / "a")
    want = same(folder)
    torch.save(load_file(folder / "adapter_model.safetensors"), folder / "adapter_model.bin")
    (folder / "adapter_model.safetensors").unlink()
    assert torch.equal(logits(files.load_adapter(llama(), folder)), want) or torch.allclose(same(folder), want)
    (folder / "adapter_model.bin").write_bytes(b"no pickle")
    refused(folder, "damaged")
    torch.save([1], folder / "adapter_model.bin")
    refused(folder, "no dict")
    (folder / "adapter_model.bin").unlink()
    refused(folder, "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text("[1]")
    torch.save({}, folder / "adapter_model.bin")
    refused(folder, "not a dict")
    plain_lora(tmp_path / "b").rename(folder / "mine")
    (folder / "adapter_config.json").unlink()
    refused(folder, "subfolder mine")


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_tensors_in_half_precision(half, tmp_path):
    folder = plain_lora(tmp_path / "a")
    same(retensored(folder, lambda state: state.update({key: value.to(half) for key, value in state.items()})))


# ---- LoRA: the head, the embedding, several ranks


def test_the_head_of_an_untied_transformer_has_transformers_name(tmp_path):
    model = lora.attach_lora(ours(), 4, 8, target_modules=["q_proj", "lm_head"])
    for layer in lora.layers(model).values():
        torch.nn.init.normal_(layer.lora_B, std=0.2)
    files.save_adapter(model, tmp_path / "a", base="x")
    keys = load_file(tmp_path / "a" / "adapter_model.safetensors")
    assert "base_model.model.lm_head.lora_A.weight" in keys and A0 in keys
    theirs = peft.PeftModel.from_pretrained(hub.to_hf(ours()), tmp_path / "a").eval()
    torch.testing.assert_close(logits(theirs), logits(model), atol=1e-4, rtol=1e-4)
    theirs.save_pretrained(tmp_path / "b")  # with the base's own head beside the LoRA
    assert "base_model.model.lm_head.base_layer.weight" in load_file(tmp_path / "b" / "adapter_model.safetensors")
    for folder in ("a", "b"):
        torch.testing.assert_close(logits(files.load_adapter(ours(), tmp_path / folder)), logits(model), atol=1e-4, rtol=1e-4)
    retensored(tmp_path / "b", lambda state: state["base_model.model.lm_head.base_layer.weight"].add_(1))
    refused(tmp_path / "b", "its own lm_head.weight", ours())


def test_the_head_that_is_the_embedding(tmp_path):
    folder = made(tmp_path / "a", peft.LoraConfig(target_modules=["q_proj", "lm_head"], task_type="CAUSAL_LM"), llama(tie=True))
    refused(folder, "shares its weights", llama(tie=True))


def test_ranks_and_alphas_of_single_layers_are_saved_again(tmp_path):
    folder = plain_lora(tmp_path / "a", rank_pattern={"v_proj": 2, Q1: 7}, alpha_pattern={r"layers\.0\..*": 1})
    want = same(folder)
    model = files.load_adapter(llama(), folder)
    assert {layer.r for layer in lora.layers(model).values()} == {2, 4, 7}
    files.save_adapter(model, tmp_path / "b")
    torch.testing.assert_close(same(tmp_path / "b"), want, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(logits(lora.merge(model)), want, atol=1e-4, rtol=1e-4)
    model = ours()
    lora.load_adapter_state(model, lora.adapter_state(lora.attach_lora(ours(), 4)), {"r": 4, "alpha_pattern": {"q_proj": 100}})
    assert {layer.lora_alpha for name, layer in lora.layers(model).items() if name.endswith("q_proj")} == {100}
    again = lora.load_adapter_state(ours(), lora.adapter_state(model), lora.adapter_config(model))
    assert {n: one.lora_alpha for n, one in lora.layers(again).items()} == {
        n: one.lora_alpha for n, one in lora.layers(model).items()}


# ---- bottlenecks


def bottlenecks(folder):
    model = adapter.attach_adapter(llama(), 4)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if ".up." in name:
                value.normal_(std=0.1)
    files.save_adapter(model, folder)
    return folder


@pytest.mark.parametrize("fields", [
    {"bottleneck_size": 5}, {"bottleneck_size": "4"}, {"placement": "pfeiffer"}, {"placement": ["houlsby"]},
    {"non_linearity": "tanh"}, {"non_linearity": ["relu"]}, {"residual": "no"}, {"task_type": "SEQ_CLS"}])
def test_a_config_that_is_no_bottlenecks(fields, tmp_path):
    refused(changed(bottlenecks(tmp_path / "a"), **fields))


def test_tensors_that_are_no_bottlenecks(tmp_path):
    bottlenecks(tmp_path / "a")
    key = "base_model.model.model.layers.0.self_attn.o_proj.adapter.up.weight"
    for change in (lambda s: s.pop(key), lambda s: s.update({key: s[key] / 0}), lambda s: s.update(more=torch.ones(1)),
                   lambda s: s.update({key: s[key].T.contiguous()})):  # fmt: skip
        refused(retensored(shutil.copytree(tmp_path / "a", tmp_path / "b", dirs_exist_ok=True), change))


# ---- bases in half precision, and with experts


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("make", [llama, ours])
@pytest.mark.parametrize("method", [name for name, method in methods.METHODS.items() if method.adapter])
def test_beside_a_base_in_half_precision_float32_learns(method, make, half, tmp_path):
    torch.manual_seed(0)
    model = attach(make().to(half), method)
    learns = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert {parameter.dtype for parameter in learns} == {torch.float32}
    read = (lambda model: model(IDS)) if make is ours else (lambda model: model(input_ids=IDS).logits)
    made = read(model)
    assert made.dtype == half
    (made.float().square().sum() * 100).backward()  # small gradients are lost in float16
    if make is ours and half == torch.float16:
        return  # the gradient of its norms leaves the range of float16, LoRA or not
    assert any(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in learns)
    files.save_adapter(model, tmp_path / "a")
    assert {value.dtype for value in load_file(tmp_path / "a" / "adapter_model.safetensors").values()} == {torch.float32}
    if method != "qlora":  # whose base is another than the one that is loaded
        torch.testing.assert_close(logits(files.load_adapter(make().to(half), tmp_path / "a")), logits(model))


def test_a_half_base_is_merged_as_peft_does(tmp_path):
    folder = plain_lora(tmp_path / "a")
    theirs = peft.PeftModel.from_pretrained(llama().bfloat16(), folder).merge_and_unload()
    model = files.load_adapter(llama().bfloat16(), folder)
    weight = model.get_submodule(Q1).weight
    assert weight.dtype == torch.bfloat16
    torch.testing.assert_close(lora.detach_lora(lora.merge(model)).get_submodule(Q1).weight, theirs.get_submodule(Q1).weight)
    model = qlora.unquantise(qlora.attach_qlora(llama().bfloat16()))
    assert logits(model).dtype == torch.bfloat16


def test_experts_that_no_layer_holds_are_not_passed_over():
    for kind, more in (("Mixtral", {"num_local_experts": 4}),
                       ("Qwen3Moe", {"num_experts": 4, "moe_intermediate_size": 24, "head_dim": 6})):
        for method in ("lora", "qlora"):
            model = llama(kind=kind, **more)
            with pytest.raises(UsageError, match=r"% of this model's weights are experts .*target_modules"):
                attach(model, method)
            assert not lora.layers(model)
        attach(llama(kind=kind, **more), "lora", target_modules=["q_proj"])


# ---- what is no LoRA at all


@pytest.mark.parametrize("config", [{"r": True}, {"r": "8"}, {"lora_alpha": "16"}, {"lora_alpha": float("nan")},
                                    {"lora_alpha": float("inf")}, {"lora_alpha": True}, {"lora_dropout": "0"},
                                    {"lora_dropout": float("nan")}, {"target_modules": None}, {"target_modules": 7},
                                    {"target_modules": [1]}])  # fmt: skip
@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_numbers_and_names_that_are_none(method, config):
    model = llama()
    before = list(model.state_dict())
    with pytest.raises(UsageError):
        attach(model, method, **config)
    assert list(model.state_dict()) == before  # nothing was quantised either
    assert prefix.shape_of(model).heads == 2


# ---- an adapter named where a whole model is needed


def test_an_adapter_that_is_named_as_base_is_told_so(tmp_path, monkeypatch):
    folder = changed(plain_lora(tmp_path / "a"), base_model_name_or_path="somebody/model")
    said = rf"{folder} is an adapter \(LORA\), made beside somebody/model, and no whole model: merge it"
    calls = [lambda: load_base(str(folder)), lambda: hub.load(str(folder)),
             lambda: load_base(str(folder / "adapter_model.safetensors"))]
    for call in calls:
        with pytest.raises(UsageError, match=said) as error:
            call()
        assert "\n" not in str(error.value)
    llama().save_pretrained(folder)  # transformers would read the adapter's base here, not this model
    with pytest.raises(UsageError, match="is an adapter"):
        load_base(str(folder))
    monkeypatch.setenv("FTLAB_BASE", str(folder))
    with pytest.raises(UsageError, match=f"FTLAB_BASE={folder}: .* is an adapter"):
        lab_base("base-small")
    for config in ("[1]", "{", json.dumps({"peft_type": "PREFIX_TUNING"})):
        (folder / "adapter_config.json").write_text(config)
        assert "is an adapter" in hub.adapter_line(folder)
    plain_lora(tmp_path / "named" / "mine")
    assert str(tmp_path / "named" / "mine") in hub.adapter_line(tmp_path / "named")
    llama().save_pretrained(tmp_path / "whole")
    assert hub.adapter_line(tmp_path / "whole") is None and hub.adapter_line(tmp_path / "nowhere") is None


def test_an_adapters_readme_ends_at_the_tokenizers_token():
    result = {"method": "lora", "base": "x", "parameters": 1, "trainable": 1, "examples": 1, "template": "chat", "steps": 1,
              "tokens": 1, "loss_first": 1.0, "loss_last": 1.0, "held_out_loss": None}
    config = TrainConfig(1)
    assert "max_new_tokens=200, eos_token_id=tokenizer.eos_token_id)" in card(result, config, True, adapter=True)
    assert "max_new_tokens=200)" in card(result, config, True)
