"""The memory formula: its counts against real tensors, its total against a fresh process."""

import pytest
import torch

from ftlab.errors import UsageError
from ftlab.measure import cost
from ftlab.measure.cost import Shape, memory
from ftlab.text.batching import Batch
from ftlab.tune import attach, qlora

SHAPE = Shape(512, 128, 4, 4, 352)


def kept_by_the_graph(method, batch=3, tokens=40):
    """Numbers that a forward pass keeps for the backward pass, without the logits and the weights."""
    torch.manual_seed(0)
    model = attach(cost._model(SHAPE, tokens, False), method)
    weights = {t.untyped_storage().data_ptr() for t in [*model.parameters(), *model.buffers()]}
    sizes = {}

    def keep(tensor):
        if tensor.untyped_storage().data_ptr() not in weights and tensor.is_floating_point():
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes() / 4, tensor
        return tensor

    ids = torch.randint(0, SHAPE.vocab_size, (batch, tokens))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = model.loss(Batch(ids, ids))
    del loss
    return sum(size for size, _ in sizes.values()) - batch * (tokens - 1) * SHAPE.vocab_size  # log-probabilities


@pytest.mark.parametrize("method", ["full", "lora", "qlora"])
def test_activations_are_those_that_the_graph_keeps(method):
    wanted = kept_by_the_graph(method)
    assert memory(SHAPE, method, batch=3, tokens=40).activations / 4 == pytest.approx(wanted, rel=0.03)


@pytest.mark.parametrize("method", ["full", "lora", "qlora"])
def test_weights_and_what_learns_are_counted_as_they_are(method):
    torch.manual_seed(0)
    model = attach(cost._model(SHAPE, 40, False), method, **({} if method == "full" else {"r": 8}))
    found = memory(SHAPE, method)
    assert found.trainable == model.num_parameters(trainable=True)
    assert found.gradients == 4 * found.trainable and found.optimizer == 8 * found.trainable
    held = sum(qlora.weight_bytes(model).values()) + (4 * found.trainable if method != "full" else 0)
    assert found.weights == pytest.approx(held, rel=0.01)


def test_sizes_are_those_of_the_models_names():
    for name, shape in cost.SIZES.items():
        assert shape.parameters / 1e9 == pytest.approx(float(name.split("B")[0]), rel=0.25), name
    assert cost.SIZES["7B (Llama 2)"].parameters == 6_738_415_616
    assert cost.SIZES["8B (Llama 3.1)"].parameters == 8_030_261_248
    assert cost.SIZES["1B (Llama 3.2)"].parameters == 1_235_814_400
    assert [50e6 < s.parameters < 320e6 for s in cost.MEASURED.values()] == [True] * 3


def test_sixteen_bytes_a_parameter_and_the_paper():
    seven = cost.SIZES["7B (Llama 2)"]
    full = memory(seven, "full", "mixed", tokens=1)
    assert (full.weights + full.optimizer + full.gradients) / seven.parameters == 16
    big = memory(cost.SIZES["70B (Llama 3.1)"], "qlora", "bfloat16", tokens=512, checkpointing=True)
    assert big.peak < 48 * 2**30  # a 65 B model on one GPU of 48 GB (Dettmers et al. 2023, abstract)
    assert memory(cost.SIZES["70B (Llama 3.1)"], "lora", "bfloat16", tokens=512, checkpointing=True).peak > 130 * 2**30


def test_what_makes_it_smaller_does_and_parts_add_up():
    def peak(method="full", **settings):
        found = memory(cost.SIZES["1B (Llama 3.2)"], method, **{"batch": 4, "tokens": 1024} | settings)
        assert sum(found.parts().values()) == pytest.approx(found.peak)
        return found.peak

    assert peak("qlora") < peak("lora") < peak("full")
    assert peak("lora", checkpointing=True) < peak("lora") and peak("lora", tokens=512) < peak("lora")
    assert peak(optimizer="paged_adamw") < peak(optimizer="adamw_8bit") < peak(optimizer="adamw")
    assert peak(precision="bfloat16") < peak(precision="mixed") < peak()
    assert peak("lora", r=4) < peak("lora", r=64)
    for method in cost.METHODS:
        assert memory(SHAPE, method).trainable > 0 and peak(method) > 0


@pytest.mark.full
def test_the_formula_agrees_with_a_fresh_process():
    """Small, so that it is quick; the course's claim takes random models of 50 to 300 million parameters."""
    shape = Shape(4096, 512, 6, 8, 1376)
    for method, checkpointing in (("full", False), ("lora", True)):
        found = cost.compare(shape, method, batch=4, tokens=256, checkpointing=checkpointing)
        assert abs(found["error"]) < 0.2, (method, found)


@pytest.mark.full
def test_other_methods_can_be_measured_with_their_config():
    shape = Shape(2048, 256, 2, 4, 688)
    found = {method: cost.measure_peak(shape, method, batch=4, tokens=64, config=config) for method, config in
             (("full", {}), ("adapter", {"bottleneck_size": 4}), ("prompt", {"num_virtual_tokens": 8}))}
    assert found["full"] > found["adapter"] > 0 and found["full"] > found["prompt"] > 0  # weights, gradients, moments


def test_what_cannot_be_is_said():
    with pytest.raises(UsageError, match="full, lora, qlora"):
        memory(SHAPE, "half")
    with pytest.raises(UsageError, match="float32, mixed"):
        memory(SHAPE, precision="int3")
    with pytest.raises(UsageError, match="at least 1"):
        memory(SHAPE, tokens=0)
    with pytest.raises(UsageError, match="cannot be measured"):
        cost.measure_peak(SHAPE, "boosting")


def test_bytes_as_text():
    assert cost.gib(3.25 * 2**30) == "3.2 GiB" and cost.gib(410 * 2**20) == "410 MiB"
