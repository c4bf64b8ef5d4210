"""DPO against TRL, against its own definition, and on a choice whose best policy is known."""

import math

import pytest
import torch

from ftlab.align import dpo as our_dpo
from ftlab.align import with_trl
from ftlab.align.pairs import pair_rows
from ftlab.world.preference import Pair


@pytest.mark.parametrize("kind, beta", [("sigmoid", 0.1), ("sigmoid", 0.7), ("ipo", 0.1)])
def test_loss_and_gradients_are_those_of_trl(kind, beta, tokenizer, tiny, pairs):
    """To 1e-5 at beta 0.1. What differs is the angle of a rotary position, which both sides round to float32, in another
    order: some 1e-5 nats of a response's log-probability, which the loss multiplies by beta."""
    found = with_trl.compare_with_trl(tiny(), tokenizer, pairs[:6], beta, kind)
    assert found["loss"] < 1e-4 * beta and found["gradient"] < 1e-4 * beta, found


def test_the_comparison_with_trl_would_see_a_difference(tokenizer, tiny, pairs, monkeypatch):
    """Another beta on our side only; and a policy that is told apart from the default one."""
    reference, ours = tiny(), our_dpo.pair_loss
    monkeypatch.setattr(our_dpo, "pair_loss", lambda beta, **rest: ours(1.01 * beta, **rest))
    found = with_trl.compare_with_trl(reference, tokenizer, pairs[:4], 0.5, policy=with_trl.moved(reference, by=0.01))
    assert found["loss"] > 1e-4 and found["gradient"] > 1e-4


def test_a_policy_that_moved_leaves_its_start_alone(tiny):
    start = tiny()
    before = start.embed_tokens.weight.clone()
    apart = with_trl.moved(start).embed_tokens.weight - start.embed_tokens.weight
    assert torch.equal(start.embed_tokens.weight, before) and apart.std().item() == pytest.approx(0.02, rel=0.05)


def test_the_loss_says_what_its_formula_says():
    chosen, rejected = torch.tensor([-10.0, -12.0]), torch.tensor([-11.0, -9.0])
    ref_chosen, ref_rejected = torch.tensor([-11.0, -12.5]), torch.tensor([-10.0, -9.5])
    margins = [0.5 * ((-10 + 11) - (-11 + 10)), 0.5 * ((-12 + 12.5) - (-9 + 9.5))]
    value, metrics = our_dpo.dpo_loss(chosen, rejected, ref_chosen, ref_rejected, beta=0.5)
    assert value.item() == pytest.approx(sum(math.log(1 + math.exp(-m)) for m in margins) / 2, rel=1e-6)
    assert metrics == {"accuracy": 0.5, "margin": pytest.approx(0.5), "chosen": pytest.approx(0.375),
                       "rejected": pytest.approx(-0.125)}
    smooth, _ = our_dpo.dpo_loss(chosen, rejected, ref_chosen, ref_rejected, beta=0.5, label_smoothing=0.25)
    want = sum(0.75 * math.log(1 + math.exp(-m)) + 0.25 * math.log(1 + math.exp(m)) for m in margins) / 2
    assert smooth.item() == pytest.approx(want, rel=1e-6)
    ipo, _ = our_dpo.dpo_loss(chosen, rejected, ref_chosen, ref_rejected, beta=0.5, kind="ipo")
    assert ipo.item() == pytest.approx(sum((m / 0.5 - 1) ** 2 for m in margins) / 2, rel=1e-6)


def test_at_the_start_the_margin_is_zero_and_then_the_chosen_gain(tokenizer, tiny):
    start = tiny()
    made = [Pair(f"Story {i}?", f"{a} went home.", f"{b} went home.", 1.0)
            for i, (a, b) in enumerate([("Mia", "Tom"), ("Mia", "Ben"), ("Mia", "Lily")] * 8)]
    policy, history, metrics = our_dpo.dpo(start, tokenizer, made, beta=0.5, lr=3e-3, steps=20, pairs_per_batch=12)
    assert history.losses[0] == pytest.approx(math.log(2), abs=1e-4) and metrics[0]["margin"] == pytest.approx(0, abs=1e-4)
    assert metrics[-1]["accuracy"] == 1.0 and history.losses[-1] < 0.3
    chosen, rejected = pair_rows(made[:3], tokenizer)
    gained = our_dpo.implicit_rewards(policy, start, chosen, tokenizer, beta=0.5)
    lost = our_dpo.implicit_rewards(policy, start, rejected, tokenizer, beta=0.5)
    assert all(a > b for a, b in zip(gained, lost, strict=True))
    by_token = our_dpo.token_rewards(policy, start, chosen[0], beta=0.5)
    assert len(by_token) == len(chosen[0][0]) - chosen[0][1] and sum(by_token) == pytest.approx(gained[0], rel=1e-4)


def test_it_finds_the_odds_of_the_annotators(tokenizer, tiny):
    """One prompt, two answers, of which annotators prefer the first in 3 of 4 comparisons: at the optimum
    β (log-ratio of the one − of the other) = log 3."""
    start, beta = tiny(), 0.5
    made = [Pair("A story?", "Mia went home.", "Tom went home.")] * 3 + [Pair("A story?", "Tom went home.", "Mia went home.")]
    policy, _, _ = our_dpo.dpo(start, tokenizer, made, beta=beta, lr=1e-3, steps=150, pairs_per_batch=4)
    rows = pair_rows(made[:1], tokenizer)
    [a], [b] = (our_dpo.implicit_rewards(policy, start, side, tokenizer, beta) for side in rows)
    assert a - b == pytest.approx(math.log(3), abs=0.1)


def test_trl_trains_our_model_to_like_effect(tokenizer, tiny, pairs):
    start = tiny()
    policy, happened = with_trl.dpo_with_trl(start, tokenizer, pairs[:8], 4, pairs_per_batch=8, lr=1e-3)
    assert happened["losses"][0] == pytest.approx(math.log(2), abs=1e-4)
    assert happened["losses"][-1] < happened["losses"][0] and policy.config == start.config
