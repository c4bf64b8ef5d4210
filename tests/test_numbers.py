"""Numbers and options that cannot be meant raise ValueError or UsageError: no call makes a plausible result of them."""

import copy
import math

import pytest
import torch

from ftlab import numbers
from ftlab.align import dpo, ppo, reward
from ftlab.errors import UsageError
from ftlab.measure import claims
from ftlab.model import ModelConfig, Transformer, beam_search, choose, filter_logits, generate, sequence_logprobs
from ftlab.text.batching import ChunkBatches, PackedBatches, RowBatches, collate
from ftlab.train import TrainConfig, optim, rates, schedule, train
from ftlab.tune import nf4

NAN, INF = math.nan, math.inf
ERRORS = (ValueError, UsageError)
LOGITS = torch.tensor([[0.5, 2.0, -1.0, 1.0]])


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return Transformer(ModelConfig(20, 16, 2, 2, 32, 32)).eval()


@pytest.fixture(scope="module")
def broken(model):
    """The same model after a training that diverged."""
    model = copy.deepcopy(model)
    with torch.no_grad():
        model.norm.weight.fill_(NAN)
    return model


def test_the_checks():
    for value in (1, 0, -3, 2.5, torch.tensor(1.0).item()):
        assert numbers.finite(value)
    for value in (NAN, INF, -INF, True, "1", None, [1], 10 ** 400, 1j):
        assert not numbers.finite(value)
    assert numbers.whole(3) and not any(map(numbers.whole, (0, 2.0, True, "2", None, NAN)))


@pytest.mark.parametrize("options", [
    {"temperature": value} for value in (-1, -1e-9, NAN, INF, "1", None, True)] + [
    {"top_k": value} for value in (-1, 2.5, "3", True, NAN)] + [
    {"top_p": value} for value in (-0.1, 1.5, NAN, INF, "0.5", True)], ids=str)  # fmt: skip
def test_ways_to_choose_that_are_none(options, model):
    for call in (lambda: filter_logits(LOGITS, **options), lambda: choose(LOGITS, **options),
                 lambda: generate(model, [[1]], 2, **options)):
        with pytest.raises(ERRORS):
            call()


def test_ways_to_choose_at_the_edge_are_as_they_were():
    assert choose(LOGITS, 0).tolist() == [1]
    for options in ({"top_k": 0}, {"top_k": 99}, {"top_p": 1.0}, {"top_k": None, "top_p": None}):
        assert torch.equal(filter_logits(LOGITS, **options), LOGITS)
    assert filter_logits(LOGITS, top_p=0).isfinite().sum() == 1
    banned = LOGITS.masked_fill(LOGITS > 1.5, -INF)  # a token that is left out is no damage
    assert choose(banned, 0).tolist() == [3] and choose(banned, 1e-3).tolist() == [3]


@pytest.mark.parametrize("temperature", [0, 1.0, 1e-40])
@pytest.mark.parametrize("bad", [NAN, INF, "all out"])
def test_logits_that_are_none(bad, temperature):
    logits = LOGITS.repeat(2, 1)
    if bad == "all out":
        logits[1] = -INF
    else:
        logits[1, 2] = bad
    with pytest.raises(ValueError, match="NaN or infinity"):
        choose(logits, temperature)


def test_a_temperature_near_zero():
    for temperature in (1e-40, 5e-324):
        with pytest.raises(ValueError, match="temperature"):
            filter_logits(LOGITS, temperature)
    assert choose(LOGITS, 1e-6).tolist() == [1]


def test_a_model_whose_weights_are_none(broken, model):
    for call in (lambda: generate(broken, [[1, 2]], 3), lambda: generate(broken, [[1, 2]], 12, temperature=0),
                 lambda: beam_search(broken, [1, 2], 3), lambda: sequence_logprobs(broken, [[1, 2, 3]])):
        with pytest.raises(ValueError, match="NaN"):
            call()
    assert not broken.training
    one = sequence_logprobs(model, [[1, 2, 3], [1, 2]], [1, 1])
    torch.testing.assert_close(one[:1], sequence_logprobs(model, [[1, 2, 3]]))


@pytest.mark.parametrize("call", [
    lambda m: generate(m, [[25]], 2), lambda m: generate(m, [[-1]], 2), lambda m: generate(m, [[1]], -1),
    lambda m: generate(m, [[1]], 2.5), lambda m: generate(m, [], 2), lambda m: generate(m, [[]], 2),
    lambda m: beam_search(m, [1], 0), lambda m: beam_search(m, [], 2), lambda m: beam_search(m, [1], 2, num_beams=0),
    lambda m: beam_search(m, [25], 2), lambda m: beam_search(m, [1], 2, length_penalty=NAN),
    lambda m: sequence_logprobs(m, []), lambda m: sequence_logprobs(m, [[]]), lambda m: sequence_logprobs(m, [[1, 20]]),
    lambda m: ppo.sharpened(m, 0), lambda m: ppo.sharpened(m, -1), lambda m: ppo.sharpened(m, NAN),
    lambda m: ppo.sharpened(m, INF), lambda m: ppo.sharpened(m, 1e-40),
])
def test_prompts_and_lengths_that_are_none(call, model):
    with pytest.raises(ERRORS):
        call(model)


def test_batches_of_nothing():
    for call in (lambda: PackedBatches([], 64, 2), lambda: PackedBatches([[1]], 64, 0), lambda: RowBatches([], 64),
                 lambda: RowBatches([[1], []], 64), lambda: ChunkBatches(range(9), 0, 2), lambda: ChunkBatches(range(9), 4, 0),
                 lambda: ChunkBatches(range(9), 10, 2)):  # fmt: skip
        with pytest.raises(ValueError):
            call()
    assert len(ChunkBatches(range(100), 8, 32)(0).input_ids) == 12  # as its docstring says


@pytest.mark.parametrize("x", [[0.3, 0.3, 0.3, 9.0], [0.0, 0.0, 0.0, 9.0], [0.3, 0.3 + 3e-8, 0.3 - 3e-8, 9.0], [NAN, 1, 2, 9],
                               [INF, 1, 2, 9]], ids=str)  # fmt: skip
def test_advantages_without_a_spread(x):
    mask = torch.tensor([[True, True], [True, False]])
    with pytest.raises(UsageError):
        ppo.whitened(torch.tensor(x).view(2, 2), mask)
    with pytest.raises(UsageError):  # one token has no spread
        ppo.whitened(torch.ones(1, 1), torch.ones(1, 1, dtype=torch.bool))


@pytest.mark.parametrize("changes", [{"lr": NAN}, {"lr": -1}, {"lr": INF}, {"clip": 0}, {"gamma": 1.5}, {"lam": NAN},
                                     {"answers": 0}, {"minibatch": 0}, {"epochs": 0}, {"target_kl": 0}, {"kl_coef": NAN},
                                     {"max_new_tokens": 0}, {"iterations": -1}], ids=str)  # fmt: skip
def test_ppo_takes_no_such_config(changes, model):
    with pytest.raises(ERRORS, match=next(iter(changes))):
        ppo.ppo(model, None, [1] * 99, [[1]] * 99, None, ppo.PPOConfig(**changes))


def test_rewards_that_are_none():
    rollout = ppo.Rollout([1, 2], ["", ""], [([1, 2], 1)] * 2, torch.ones(2), torch.ones(2, 2), torch.ones(2, 1))
    for scores in (torch.tensor([1.0, NAN]), torch.tensor([INF, 0.0]), torch.zeros(3), torch.zeros(2, 1), torch.tensor(1.0)):
        with pytest.raises(UsageError, match="one finite number an answer"):
            ppo._checked(scores, rollout)
    assert ppo._checked(torch.tensor([1, 2]), rollout).dtype == torch.float32


@pytest.mark.parametrize("changes", [{"kind": "hinge"}, {"kind": None}, {"kind": ["ipo"]}, {"beta": 0}, {"beta": NAN},
                                     {"beta": -1}, {"label_smoothing": 1.5}, {"label_smoothing": NAN},
                                     {"kind": "ipo", "label_smoothing": 0.1}], ids=str)  # fmt: skip
def test_a_loss_of_dpo_that_is_none(changes, model):
    four = [torch.zeros(2)] * 4
    for call in (lambda: dpo.dpo_loss(*four, **changes), lambda: dpo.pair_loss(**changes),
                 lambda: dpo.dpo(model, None, [], **changes)):
        with pytest.raises(ValueError, match="kind|beta|label_smoothing"):
            call()


def test_levels_and_bins_that_are_none(model):
    scores = reward.RewardModel(copy.deepcopy(model))
    for rewards in ([], [NAN], [1.0, INF]):
        with pytest.raises(ValueError, match="finite"):
            reward.centred(scores, rewards)
    assert scores.shift == 0
    with pytest.raises(ValueError, match="bins"):
        reward.calibration(scores, None, [], bins=0)


@pytest.mark.parametrize("changes", [
    {"lr": NAN}, {"lr": INF}, {"lr": -1e-3}, {"muon_lr": NAN}, {"optimizer": "sgd"}, {"optimizer": None}, {"schedule": "cosin"},
    {"steps": 2.5}, {"steps": -1}, {"warmup": NAN}, {"warmup": -1}, {"final_lr": NAN}, {"clip": 0}, {"clip": NAN},
    {"accumulate": 0}, {"weight_decay": INF}, {"eval_every": -1}, {"save_every": 0.5}], ids=str)
def test_a_training_that_cannot_be_meant(changes, model):
    copied = copy.deepcopy(model)
    with pytest.raises(ERRORS, match=next(iter(changes))):
        train(copied, lambda step: collate([[1, 2, 3]], 0), TrainConfig(**{"steps": 1} | changes))
    assert all(torch.equal(a, b) for a, b in zip(copied.parameters(), model.parameters(), strict=True))


def test_rates_and_schedules_that_are_none(model):
    for call in (lambda: optim.make(model, "Adam", 1e-3), lambda: optim.make(model, "adamw", NAN),
                 lambda: optim.make(model, "muon", 1e-3, muon_lr=INF), lambda: schedule.factor(0, 10, "linaer", warmup=5),
                 lambda: rates.range_test(model, None, TrainConfig(1), high=INF),
                 lambda: rates.range_test(model, None, TrainConfig(1), low=NAN), lambda: rates.running_mean([1.0], 1.0),
                 lambda: rates.running_mean([1.0], NAN)):
        with pytest.raises(ERRORS):
            call()


def test_weights_that_have_no_code():
    for bad in (NAN, INF):
        x = torch.ones(128)
        x[70] = bad
        for quantised in (lambda x: nf4.quantise(x, nf4.codebook("nf4")), nf4.quantise_affine, nf4.round_trip):
            with pytest.raises(UsageError, match="NaN or infinity"):
                quantised(x)


def test_intervals_of_what_was_not_measured():
    for values in ([], [NAN], [1.0, INF, 2.0], [1.0, None]):
        with pytest.raises(UsageError, match="finite"):
            claims.t_interval(values)
    assert claims.t_interval([2.0, 2.0, 2.0]) == (2.0, 2.0, 2.0)
