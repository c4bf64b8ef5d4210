"""Which base a lab starts from, and that a model of `transformers` answers to our names. Tiny checkpoints of three layouts."""

import copy
import functools

import pytest
import torch
from checkpoints import LAYOUTS, save_checkpoint, trained_tokenizer

from ftlab import profile
from ftlab.errors import UsageError
from ftlab.measure.score import instruction_score
from ftlab.model import Transformer, pretrained
from ftlab.model.pretrained import Pretrained, PretrainedTokenizer
from ftlab.text.batching import collate
from ftlab.text.rows import shown
from ftlab.tune import attach, bases, files, lora, qlora, sft
from ftlab.tune.methods import METHODS
from ftlab.world import World, tasks

TEXT = "Hugo had a sled.\nHe liked it."


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    folder, tokenizer = tmp_path_factory.mktemp("checkpoints"), trained_tokenizer()
    return {layout: save_checkpoint(layout, folder / layout, tokenizer) for layout in LAYOUTS}


@pytest.fixture(autouse=True)
def cpu(monkeypatch):
    monkeypatch.setenv("FTLAB_PROFILE", "cpu")
    monkeypatch.delenv("FTLAB_BASE", raising=False)
    bases._pristine.cache_clear()
    bases._missed.clear()


@pytest.fixture(scope="module")
def once(checkpoints):
    """(model, tokenizer) of a layout as `lab_base` keeps them, read once."""
    return functools.cache(lambda layout: bases._pristine.__wrapped__(str(checkpoints[layout])))


@pytest.fixture(params=LAYOUTS)
def loaded(request, once):
    """(model, tokenizer) of each layout, to be changed at will."""
    model, tokenizer = once(request.param)
    return copy.deepcopy(model), tokenizer


@pytest.fixture(scope="module")
def made():
    return tasks.make(World("rich"), "extract", 6, 0)


def test_without_a_wish_it_is_the_shipped_base(capsys):
    model, tokenizer = bases.lab_base("base-small")
    assert type(model) is Transformer and bases.lab_tokenizer("base-small").vocab_size == tokenizer.vocab_size
    assert sft.rate(model, 0.25) == 0.25
    assert capsys.readouterr().out == ""


def test_the_gpu_profile_has_a_base_of_its_own(monkeypatch):
    assert profile.base() is None
    monkeypatch.setattr(profile, "_gpu", lambda: {"memory_gib": 15.0, "bfloat16": True})
    monkeypatch.setenv("FTLAB_PROFILE", "gpu")
    assert profile.base() == profile.DEFAULT_BASE
    monkeypatch.setenv("FTLAB_BASE", "someone/other")
    assert profile.base() == "someone/other"


def test_a_model_of_the_hub_that_cannot_be_had(monkeypatch, capsys):
    """Tried once, said once; then the shipped base stands in."""
    tried = []

    def download(name):
        tried.append(name)
        raise UsageError(f"{name}: not to be had from the Hub")

    monkeypatch.setattr(bases.hub, "_download", download)
    monkeypatch.setenv("FTLAB_BASE", "someone/other")
    for _ in range(2):
        assert type(bases.lab_base("base-small")[0]) is Transformer
    assert tried == ["someone/other"]
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and "someone/other: not to be had" in said and "shipped models" in said


def test_a_folder_that_holds_no_model_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("FTLAB_BASE", str(tmp_path))
    with pytest.raises(UsageError, match="no config.json there"):
        bases.lab_base("base-small")


def test_a_checkpoint_of_ours_may_be_named(monkeypatch):
    monkeypatch.setenv("FTLAB_BASE", "base")
    assert type(bases.lab_base("base-small")[0]) is Transformer


def test_it_is_float32_said_once_and_each_time_a_copy(checkpoints, monkeypatch, capsys):
    monkeypatch.setenv("FTLAB_BASE", str(checkpoints["llama"]))
    (one, _), (two, _) = bases.lab_base("base-small"), bases.lab_base("base")
    with torch.no_grad():
        next(one.parameters()).zero_()
    assert next(two.parameters()).abs().sum() > 0
    assert {p.dtype for p in one.parameters()} == {torch.float32}
    assert capsys.readouterr().out.count("Base: ") == 1


# ---- our names on theirs

@torch.no_grad()
def test_called_by_position_and_by_keyword(loaded):
    model, tokenizer = loaded
    ids = torch.tensor([tokenizer.encode(TEXT)])
    logits = model(ids)
    assert torch.equal(logits, model(input_ids=ids).logits)
    torch.testing.assert_close(model.get_output_embeddings()(model.hidden(ids)), logits)
    assert model.num_parameters() == sum(p.numel() for p in model.parameters())


@torch.no_grad()
def test_positions_segments_and_masks(loaded):
    """Two texts in one row are as each by itself; without segments they are not."""
    model, tokenizer = loaded
    for p in model.parameters():
        p.mul_(4)  # as they come, random weights attend to nothing in particular
    first, second = (torch.tensor([tokenizer.encode(text)]) for text in ("A brave fox went to the mill.", TEXT))
    row = torch.cat([first, second], dim=1)
    positions = torch.cat([torch.arange(first.shape[1]), torch.arange(second.shape[1])])[None]
    segments = torch.tensor([[0] * first.shape[1] + [1] * second.shape[1]])
    alone = model(second)
    packed = model(row, positions=positions, segments=segments)[:, first.shape[1]:]
    torch.testing.assert_close(packed, alone, rtol=1e-3, atol=1e-4)
    assert (model(row, positions=positions)[:, first.shape[1]:] - alone).abs().max() > 1e-2
    causal = torch.ones(row.shape[1], row.shape[1], dtype=torch.bool).tril()[None, None]
    torch.testing.assert_close(model(row, mask=causal), model(row), rtol=1e-3, atol=1e-4)


def test_loss_is_hf_loss_and_packed_rows_are_refused(loaded, made):
    model, tokenizer = loaded
    (ids, labels), = sft.make_rows(made[:1], tokenizer)
    batch = collate([ids], tokenizer.pad_id, [labels])
    theirs = model(input_ids=batch.input_ids, labels=batch.labels).loss
    torch.testing.assert_close(model.loss(batch), theirs)
    assert sft.loss_of(model) is pretrained.loss
    batch.segments = torch.zeros_like(batch.input_ids)
    with pytest.raises(UsageError, match="packed rows need our own"):
        model.loss(batch)


def test_a_checkpoint_is_written_under_its_own_name(loaded, tmp_path):
    import transformers

    model, tokenizer = loaded
    bases.save_checkpoint(model, tokenizer, tmp_path / "saved")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    assert again.config.architectures == [type(model).__name__] and not isinstance(again, Pretrained)
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / "saved")(TEXT).input_ids == tokenizer(TEXT).input_ids


# ---- training and asking

@pytest.mark.parametrize("method", METHODS)
def test_every_method_learns_at_a_rate_of_its_own(loaded, made, method):
    model, tokenizer = loaded
    assert sft.rate(model, 1.0) == pytest.approx(METHODS["full"].rate_factor)
    attach(model, method)
    assert sft.rate(model, METHODS[method].lr) == pytest.approx(METHODS[method].hf_lr)
    before = [p.clone() for p in model.parameters() if p.requires_grad]
    history = sft.tune(model, tokenizer, made, steps=3, lr=METHODS[method].lr, optimizer="muon")
    assert history.lrs[0] <= METHODS[method].hf_lr
    assert any((p != old).any() for p, old in zip((p for p in model.parameters() if p.requires_grad), before, strict=True))
    assert instruction_score(model, tokenizer, made[:2], max_new_tokens=4).mean >= 0.0


def test_adapters_are_saved_and_swapped(loaded, made, tmp_path):
    model, tokenizer = loaded
    host = copy.deepcopy(model)
    attach(model, "lora", r=2)
    for layer in lora.layers(model).values():
        torch.nn.init.normal_(layer.lora_B)
    files.save_adapter(model, tmp_path / "adapter", "base")
    ids = torch.tensor([tokenizer.encode(TEXT)])
    with torch.no_grad():
        torch.testing.assert_close(files.load_adapter(host, tmp_path / "adapter")(ids), model(ids))


def test_matrix_is_what_the_layer_multiplies_by(loaded):
    model, _ = loaded
    name = lora.targets(model)[-1]
    module, k = model.get_submodule(name), lora.sizes(model.get_submodule(name))[0]
    x = torch.randn(3, k)
    bias = 0 if module.bias is None else module.bias
    torch.testing.assert_close(x @ lora.matrix(module).T + bias, module(x))
    adapted = lora.LoRALinear(module, 2, 4)
    torch.nn.init.normal_(adapted.lora_B)
    torch.testing.assert_close(x @ lora.matrix(adapted).T + bias, adapted(x))


@pytest.mark.parametrize("loaded", ["llama"], indirect=True)
@pytest.mark.parametrize("method", METHODS)
def test_bfloat16_products_as_on_a_gpu(loaded, made, monkeypatch, method):
    """Under autocast training and asking run through: what learns stays in float32, gradients too."""
    monkeypatch.setattr(profile, "autocast", lambda device: torch.autocast(device, torch.bfloat16))
    model, tokenizer = loaded
    attach(model, method)
    losses = sft.tune(model, tokenizer, made, steps=2, lr=METHODS[method].lr).losses
    assert all(loss < 20 for loss in losses)
    learned = [p for p in model.parameters() if p.requires_grad]
    assert {p.dtype for p in learned} == {torch.float32} == {p.grad.dtype for p in learned if p.grad is not None}
    assert instruction_score(model, tokenizer, made[:2], max_new_tokens=3).mean >= 0.0


def test_bitsandbytes_is_for_gpus_where_it_can(checkpoints, monkeypatch):
    monkeypatch.setenv("FTLAB_BASE", str(checkpoints["llama"]))
    model, _ = bases.lab_base("base-small")
    assert not qlora.library_serves(model)
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed: pip install bitsandbytes")
    from bitsandbytes import cextension

    monkeypatch.setattr(torch.nn.Parameter, "is_cuda", True)
    for lib, serves in ((type("Lib", (), {"compiled_with_cuda": True}), True), (object(), False)):
        monkeypatch.setattr(cextension, "lib", lib)
        assert qlora.library_serves(model) is serves
    monkeypatch.setattr(cextension, "lib", type("Lib", (), {"compiled_with_cuda": True}))
    assert not qlora.library_serves(model, "int4") and not qlora.library_serves(model, "nf4", 32)


@pytest.mark.full
def test_trl_trains_it_too(checkpoints, monkeypatch, made):
    pytest.importorskip("trl", reason="trl is not installed: pip install trl")
    from ftlab.tune import with_trl

    monkeypatch.setenv("FTLAB_BASE", str(checkpoints["llama"]))
    model, tokenizer = bases.lab_base("base-small")
    with with_trl.quiet():
        data = with_trl.sft_trainer(model, tokenizer, made, 1, checkpoints["llama"].parent / "trainer").train_dataset
    assert [(list(row["input_ids"]), list(row["labels"])) for row in data] == sft.make_rows(made, tokenizer)
    theirs, happened = with_trl.tune_with_trl(model, tokenizer, made, 2, lr=1.0, batch_size=3)
    assert isinstance(theirs, Pretrained) and len(happened["losses"]) == 2
    assert any((a != b).any() for a, b in zip(theirs.parameters(), model.parameters(), strict=True))


# ---- tokenizer

def test_the_tokenizer_has_our_methods(loaded):
    _, tokenizer = loaded
    ids = tokenizer.encode(TEXT, bos=True, eos=True)
    assert ids == tokenizer(TEXT).input_ids + [tokenizer.eos_id]  # it begins texts with nothing
    assert tokenizer.encode_batch([TEXT, "a"], eos=True) == [ids, tokenizer.encode("a", eos=True)]
    assert tokenizer.decode(torch.tensor(ids)) == TEXT and tokenizer.decode(ids, skip_special=False) == TEXT + "<|endoftext|>"
    assert "".join(tokenizer.pieces(ids)) == TEXT + "<|endoftext|>"
    assert "".join(text for text, _ in shown((ids, ids), tokenizer)) == TEXT + "<|endoftext|>"
    assert tokenizer.behind("x\n", "y") == "y" and copy.deepcopy(tokenizer).encode(TEXT) == tokenizer.encode(TEXT)
    assert tokenizer.to_hf() is tokenizer.theirs and len(tokenizer) == tokenizer.vocab_size


def test_a_start_token_where_the_tokenizer_has_one():
    from tokenizers.processors import TemplateProcessing

    theirs = trained_tokenizer()
    start = "<|endoftext|>"
    theirs.backend_tokenizer.post_processor = TemplateProcessing(single=f"{start} $A", special_tokens=[(start, 0)])
    tokenizer = PretrainedTokenizer(theirs)
    assert tokenizer.encode("a", bos=True) == [0, *tokenizer.encode("a")] == theirs("a").input_ids


def test_tokenizers_that_will_not_do():
    theirs = trained_tokenizer()
    theirs.eos_token = None
    with pytest.raises(UsageError, match="no end token"):
        PretrainedTokenizer(theirs)
