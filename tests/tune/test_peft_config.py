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
from ftlab.tune import adapter, attach, files, lora, methods, peft_config, prefix, qlora

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
    "rank_pattern": [(None, SAME), ({"q_proj": 5}, REFUSED), ([4], REFUSED), ({"q_proj": "4"}, REFUSED), ({"(": 4}, REFUSED)],
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
PEFT_REFUSES = {("bias", None), ("init_lora_weights", 1), ("target_parameters", "[]")}  # so there is nothing to compare


def lists(table):
    return [pytest.param(field, value, end, id=f"{field}-{json.dumps(value)[:30]}")
            for field, values in table.items() for value, end in values]


PROMPTS = {}


def test_every_field_of_pefts_configs_has_a_rule_and_a_value_here():
    for kind, config, tried in (("LORA", peft.LoraConfig, set(MADE) | set(EDITED)),
                                ("PREFIX_TUNING", peft.PrefixTuningConfig, set(PROMPTS) | {"encoder_hidden_size", "prefix_projection"}),
                                ("PROMPT_TUNING", peft.PromptTuningConfig, set(PROMPTS)),
                                ("P_TUNING", peft.PromptEncoderConfig, set(PROMPTS))):
        fields = {field.name for field in dataclasses.fields(config)}
        assert fields == set(peft_config.FIELDS[kind]), "PEFT has new fields: honour or refuse them in ftlab.tune.peft_config"
        assert fields <= tried, "give the new fields a value in this test"


@pytest.mark.parametrize(("field", "value", "end"), lists(MADE))
def test_a_field_that_peft_trained_with(field, value, end, tmp_path):
    folder = plain_lora(tmp_path / "a", **{field: value} | BESIDE.get(field, {}))
    if end == REFUSED:
        refused(folder, "the adapter")
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
