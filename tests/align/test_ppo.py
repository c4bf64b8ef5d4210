"""Every piece of PPO against a slow, obvious version, and the whole against a bandit whose optimum is known."""

import math

import pytest
import torch

from ftlab.align import judge
from ftlab.align import ppo as p
from ftlab.align.pairs import pair_batch
from ftlab.errors import UsageError
from ftlab.model import ModelConfig, Transformer
from ftlab.world import World, tasks


def some(seed=0, rows=3, length=7):
    """(mask, two tensors): answers of different length behind prompts of different length."""
    torch.manual_seed(seed)
    mask = torch.zeros(rows, length, dtype=torch.bool)
    for row in range(rows):
        mask[row, 1 + row % 2:length - row] = True
    return mask, torch.randn(rows, length) * mask, torch.randn(rows, length) * mask


def test_gae_is_its_definition():
    """A_t = Σ_k (γ λ)^k δ_{t+k}, each δ by itself (Schulman et al. 2016, eq. 16)."""
    mask, rewards, values = some()
    advantages, returns = p.gae(rewards, values, mask, gamma=0.9, lam=0.8)
    for row in range(len(mask)):
        places = mask[row].nonzero()[:, 0].tolist()
        deltas = {t: rewards[row, t] + 0.9 * (values[row, t + 1] if t + 1 in places else 0.0) - values[row, t] for t in places}
        for t in places:
            want = sum((0.9 * 0.8) ** (k - t) * deltas[k] for k in places if k >= t)
            assert advantages[row, t].item() == pytest.approx(want.item(), abs=1e-5)
            assert returns[row, t].item() == pytest.approx((want + values[row, t]).item(), abs=1e-5)
    assert (advantages[~mask] == 0).all() and (returns[~mask] == 0).all()


def test_with_lambda_1_the_return_is_what_was_earned_from_there_on():
    mask, rewards, values = some(1)
    _, returns = p.gae(rewards, values, mask, gamma=1.0, lam=1.0)
    for row in range(len(mask)):
        for t in mask[row].nonzero()[:, 0].tolist():
            assert returns[row, t].item() == pytest.approx(rewards[row, t:].sum().item(), abs=1e-5)


def test_each_token_pays_for_its_step_away_and_the_last_one_gets_the_score():
    mask, logp, ref = some(2)
    scores = torch.tensor([1.0, -2.0, 0.5])
    rewards = p.token_rewards(scores, logp, ref, mask, kl_coef=0.3)
    for row in range(len(mask)):
        places = mask[row].nonzero()[:, 0].tolist()
        for t in range(mask.shape[1]):
            want = -0.3 * (logp[row, t] - ref[row, t]).item() if t in places else 0.0
            want += scores[row].item() if t == places[-1] else 0.0
            assert rewards[row, t].item() == pytest.approx(want, abs=1e-6)
    total = scores - 0.3 * (logp - ref).sum(1)
    torch.testing.assert_close(rewards.sum(1), total)


def test_whitening_is_over_the_mask_alone():
    mask, x, _ = some(3)
    x = x + 5 * mask
    white = p.whitened(x, mask)
    assert white[mask].mean().item() == pytest.approx(0, abs=1e-6) and white[mask].std().item() == pytest.approx(1, abs=1e-5)
    assert (white[~mask] == 0).all()


def by_differences(function, x, mask):
    """The gradient of function(x) at the places of mask, by finite differences."""
    grad = torch.zeros_like(x)
    for place in mask.nonzero().tolist():
        step = torch.zeros_like(x)
        step[tuple(place)] = 1e-4
        grad[tuple(place)] = (function(x + step) - function(x - step)) / 2e-4
    return grad


@pytest.mark.parametrize("name", ["policy", "value"])
def test_gradients_are_those_of_finite_differences(name):
    mask, x, old = some(4)
    x, old = (0.3 * x).double(), (0.3 * old).double()
    target = some(5)[1].double()
    loss = (lambda x: p.policy_loss(x, old, target, mask, 0.2)[0]) if name == "policy" else (
        lambda x: p.value_loss(x, old, target, mask, 0.2)[0])
    free = x.clone().requires_grad_()
    loss(free).backward()
    torch.testing.assert_close(free.grad, by_differences(loss, x, mask), atol=1e-6, rtol=1e-4)


def test_the_clipped_objective_token_by_token():
    mask, logp, old = some(6)
    advantages = some(7)[1]
    loss, metrics = p.policy_loss(logp, old, advantages, mask, clip=0.2)
    terms, outside = [], 0
    for row, t in mask.nonzero().tolist():
        ratio = math.exp((logp - old)[row, t])
        a = advantages[row, t].item()
        terms.append(min(ratio * a, max(0.8, min(1.2, ratio)) * a))
        outside += abs(ratio - 1) > 0.2
    assert loss.item() == pytest.approx(-sum(terms) / len(terms), rel=1e-4)
    assert metrics["clipped"] == pytest.approx(outside / len(terms))
    same, metrics = p.policy_loss(old, old, advantages, mask)
    assert same.item() == pytest.approx(-advantages[mask].mean().item(), rel=1e-4) and metrics == {"clipped": 0, "moved": 0}


def test_actor_and_critic_read_the_same_text(tokenizer, tiny):
    model = tiny()
    actor = p.ActorCritic(model)
    torch.nn.init.normal_(actor.value_head.weight)
    batch = pair_batch([([1, 5, 6, 7], 2), ([1, 9, 8], 1)], [], tokenizer.pad_id)
    logp, values, entropy = actor(batch.ids, batch.mask)
    for row, (ids, start) in enumerate([([1, 5, 6, 7], 2), ([1, 9, 8], 1)]):
        with torch.no_grad():
            states = model.hidden(torch.tensor([ids]))[0]
        want = model.lm_head(states).log_softmax(-1)
        for t in range(len(ids) - 1):
            inside = t + 1 >= start
            assert logp[row, t].item() == pytest.approx(want[t, ids[t + 1]].item() if inside else 0.0, abs=1e-4)
            assert values[row, t].item() == pytest.approx(actor.value_head(states[t]).item() if inside else 0.0, abs=1e-4)
    assert 0 < entropy.item() < math.log(model.config.vocab_size)


class Letters:
    """A tokenizer of single letters; token 2 ends a text."""

    pad_id, eos_id = 0, 2

    def decode(self, ids):
        return "".join(chr(95 + i) for i in ids)


def bandit(seed, **changes):
    """(π* of a bandit, π of a policy that PPO trained on it, π_ref): one prompt, one token, known rewards."""
    arms, beta = 8, 0.5
    torch.manual_seed(seed)
    start = Transformer(ModelConfig(vocab_size=arms, hidden_size=16, num_layers=1, num_heads=2, intermediate_size=24,
                                    max_position_embeddings=8)).eval()
    worth = torch.randn(arms, generator=torch.Generator().manual_seed(seed))
    settings = {"iterations": 200, "answers": 256, "minibatch": 128, "epochs": 2, "lr": 1e-2, "kl_coef": beta, "whiten": False,
                "max_new_tokens": 1, "no_end_penalty": 0.0, "seed": seed} | changes  # fmt: skip

    def reward(rollout):
        return worth[torch.tensor([row[-1] for row, _ in rollout.rows])]

    policy, history = p.ppo(start, Letters(), ["x"] * 256, [[1]] * 256, reward, p.PPOConfig(**settings))
    with torch.no_grad():
        before, after = (model(torch.tensor([[1]]))[0, 0].softmax(-1) for model in (start, policy))
    best = before * (worth / beta).exp()
    return best / best.sum(), after, before, history


def test_on_a_bandit_it_finds_the_optimum_that_is_known():
    """π* ∝ π_ref exp(r / β): within 0.05 in total variation, from a start that is far away.

    Without whitening: at the optimum all advantages are noise, and whitening would make it as large as any signal.
    """
    best, found, before, history = bandit(0)
    assert (best - before).abs().sum() / 2 > 0.3
    assert (best - found).abs().sum() / 2 < 0.05
    assert len(history) == 200 and history[-1]["reward"] > history[0]["reward"] + 0.5
    assert history[-1]["kl"] == pytest.approx((best * (best / before).log()).sum().item(), abs=0.15)


def test_it_stops_within_an_iteration_when_it_has_moved_too_far():
    _, _, _, history = bandit(1, iterations=3, lr=0.1, stop_kl=0.01, minibatch=32)
    assert all(one["updates"] < 16 for one in history)
    _, _, _, history = bandit(1, iterations=3, minibatch=32)
    assert all(one["updates"] == 16 for one in history)


def test_the_price_of_a_nat_is_steered_towards_a_target():
    _, _, _, history = bandit(2, iterations=12, kl_coef=0.01, target_kl=0.05)
    prices = [one["kl_coef"] for one in history]
    assert prices[-1] > prices[0] and all(b <= 1.02 * a + 1e-12 for a, b in zip(prices, prices[1:]))
    _, _, _, history = bandit(2, iterations=12, kl_coef=0.5, target_kl=50.0)
    assert history[-1]["kl_coef"] < 0.5


def test_what_is_no_run_is_refused():
    with pytest.raises(UsageError, match="256 prompts are too few"):
        bandit(0, answers=300)


def test_a_sharpened_model_is_the_model_at_that_temperature(tiny):
    model, ids = tiny(), torch.tensor([[1, 5, 9, 7]])
    torch.testing.assert_close(p.sharpened(model, 0.5)(ids), model(ids) / 0.5)
    assert p.sharpened(model, 0.5) is not model


def test_same_seed_same_run():
    runs = [bandit(3, iterations=4) for _ in range(2)]
    assert torch.equal(runs[0][1], runs[1][1]) and runs[0][3] == runs[1][3]
    assert not torch.equal(runs[0][1], bandit(4, iterations=4)[1])


def test_an_answer_that_does_not_end_is_told_from_one_that_does(tokenizer, tiny):
    asked = tasks.make(World("small"), "write", 6)
    rollout = p.collect(tiny(), tokenizer, asked, judge.asked(asked, tokenizer), p.PPOConfig(max_new_tokens=5), seed=0)
    for ended, (ids, start), mask in zip(rollout.ended.tolist(), rollout.rows, rollout.mask, strict=True):
        assert ended == (ids[-1] == tokenizer.eos_id) and mask.sum() == len(ids) - start
        assert ended or len(ids) - start == 5
