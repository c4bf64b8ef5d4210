"""That what the GPU profile runs keeps its tensors on one device: on a made-up second device (`fake_cuda`).

What only a real GPU can show (kernels, numbers, memory, speed, bitsandbytes) these tests leave open.
"""

import pytest
import torch
from checkpoints import save_checkpoint, trained_tokenizer
from fake_cuda import DEVICE, FakeCuda

from ftlab import profile
from ftlab.measure.score import instruction_score
from ftlab.tune import attach, bases, files, nf4, qlora, sft
from ftlab.tune.methods import METHODS
from ftlab.world import World, tasks


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_checkpoint("llama", tmp_path_factory.mktemp("checkpoint") / "llama", trained_tokenizer())


@pytest.fixture
def gpu(checkpoint, monkeypatch):
    """A process that takes itself for one with a GPU."""
    monkeypatch.setenv("FTLAB_PROFILE", "gpu")
    monkeypatch.setenv("FTLAB_BASE", str(checkpoint))
    monkeypatch.setattr(profile, "_gpu", lambda: {"memory_gib": 16.0, "bfloat16": True})
    monkeypatch.setattr(profile, "autocast", lambda device: torch.autocast("cpu", torch.bfloat16, enabled=device == "cuda"))
    bases._pristine.cache_clear()
    with FakeCuda() as mode:
        yield mode


def test_the_made_up_device_behaves_as_a_second_one(gpu):
    there, here = torch.arange(4.0).to("cuda"), torch.arange(4.0)
    assert there.device == DEVICE and there.is_cuda and here.device.type == "cpu" and not here.is_cuda
    for wrong in (lambda: there + here, lambda: torch.cat([there, here]), lambda: here[there.long()] + there,
                  lambda: torch.nn.functional.cross_entropy(there[None], torch.tensor([1]))):
        with pytest.raises(RuntimeError, match="same device"):
            wrong()
    with pytest.raises(TypeError, match="numpy"):
        there.numpy()
    assert (there + torch.tensor(1.0)).device == DEVICE and there[torch.tensor([0])].device == DEVICE  # as on a real one
    assert (there.cpu() + here).device.type == "cpu" and torch.equal(there.cpu(), here)
    assert torch.ones(2, device="cuda").device == there.new_ones(2).device == torch.zeros_like(there).device == DEVICE
    linear = torch.nn.Linear(4, 2).to("cuda")
    linear(there).sum().backward()
    assert linear.weight.device == linear.weight.grad.device == torch.nn.Parameter(there).device == DEVICE
    with pytest.raises(RuntimeError, match="same device"):
        linear(here)


@pytest.mark.parametrize("method", METHODS)
def test_training_asking_and_saving_stay_on_the_device(gpu, method, tmp_path):
    made = tasks.make(World("rich"), "extract", 4, 0)
    model, tokenizer = bases.lab_base("base-small")
    assert next(model.parameters()).device == DEVICE
    attach(model, method, **({"init_ids": tokenizer.encode("A fox.")} if "init_ids" in METHODS[method].options else {}))
    assert {p.device for p in model.parameters()} == {DEVICE}
    before = gpu.operations
    sft.tune(model, tokenizer, made, steps=2, lr=1e-3)
    assert gpu.operations > before
    sft.rows_loss(model, sft.make_rows(made, tokenizer), tokenizer)
    instruction_score(model, tokenizer, made[:2], max_new_tokens=3)
    if METHODS[method].adapter:
        files.save_adapter(model, tmp_path / "adapter", "base")
        files.load_adapter(bases.lab_base("base-small")[0], tmp_path / "adapter")


@torch.no_grad()
def test_a_lab_may_leave_its_own_tensors_on_the_cpu(gpu):
    model, tokenizer = bases.lab_base("base-small")
    ids = torch.tensor([tokenizer.encode("A fox went to the mill.")])
    mask = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool).tril()[None, None]
    for found in (model(ids), model(ids, mask=mask), model.hidden(ids, positions=torch.arange(ids.shape[1])[None])):
        assert found.device.type == "cpu"
    assert model(ids.to("cuda")).device == DEVICE


def test_quantisation_on_the_device(gpu):
    x = torch.randn(8, 64).to("cuda")
    for name in ("nf", "int", "fp4", "int, asymmetric"):
        assert nf4.round_trip(x, name)["back"].device == DEVICE
    model = qlora.unquantise(attach(bases.lab_base("base-small")[0], "qlora"))
    assert {p.device for p in model.parameters()} == {DEVICE}
