"""The reward model: its loss, its learning, and the same number in transformers and from TRL's trainer."""

import copy
import math

import pytest
import torch

from ftlab.align import reward, with_trl
from ftlab.align.pairs import PairBatches, pair_batch, pair_rows
from ftlab.train import TrainConfig, train
from ftlab.world.preference import Pair


def shaken(model):
    """A reward model whose score is not zero."""
    made = reward.RewardModel(model)
    torch.nn.init.normal_(made.score.weight, std=0.3)
    return made


def test_the_loss_is_that_of_bradley_and_terry():
    loss, metrics = reward.bradley_terry_loss(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 2.0]))
    want = [-math.log(1 / (1 + math.exp(-1.0))), -math.log(1 / (1 + math.exp(2.0)))]
    assert loss.item() == pytest.approx(sum(want) / 2, rel=1e-6)
    assert metrics == {"accuracy": 0.5, "margin": pytest.approx(-0.5)}


def test_the_score_stands_on_the_last_token_whatever_the_padding(tokenizer, tiny, pairs):
    model = shaken(tiny())
    chosen, rejected = pair_rows(pairs[:4], tokenizer)
    rows = chosen + rejected
    alone = [model(*(lambda b: (b.ids, b.ends))(pair_batch([row], [], tokenizer.pad_id))).item() for row in rows]
    assert reward.rewards_of(model, rows, tokenizer) == pytest.approx(alone, abs=1e-5)
    body = model.body.hidden(torch.tensor([rows[0][0]]))[0, -1]
    assert alone[0] == pytest.approx((model.score.weight[0] @ body).item(), abs=1e-5)


def test_it_learns_what_the_annotator_likes(tokenizer, tiny):
    """Annotators who like texts in which Mia is named, and nothing else."""
    made = [Pair(f"Story {i}?", f"{a} went home.", f"{b} went home.", 1.0)
            for i, (a, b) in enumerate([("Mia", "Tom"), ("Mia", "Ben"), ("Mia", "Lily")] * 8)]
    model, history = reward.train_reward_model(tiny(), tokenizer, made, lr=3e-3, steps=25, pairs_per_batch=12,
                                               optimizer="adamw")
    assert history.losses[0] == pytest.approx(math.log(2), abs=1e-5) and history.losses[-1] < 0.2
    held_out = [Pair("Another one?", "Mia went home.", "Tom went home.", 1.0)]
    assert reward.accuracy(model, tokenizer, held_out) == 1.0
    bins = reward.calibration(model, tokenizer, made * 2, bins=2)
    assert [count for _, _, count in bins] == [24, 24] and bins[0][1] == 0.0 and bins[1][1] == 1.0


def test_centring_moves_the_level_and_no_difference(tokenizer, tiny, pairs):
    model = shaken(tiny())
    rows = pair_rows(pairs[:6], tokenizer)[0]
    before = reward.rewards_of(model, rows, tokenizer)
    after = reward.rewards_of(reward.centred(model, before), rows, tokenizer)
    assert sum(after) == pytest.approx(0, abs=1e-4)
    assert [a - b for a, b in zip(after, before)] == pytest.approx([after[0] - before[0]] * 6, abs=1e-5)


def test_transformers_gives_the_same_number(tokenizer, tiny, pairs, tmp_path):
    import transformers

    model = shaken(tiny())
    chosen, _ = pair_rows(pairs[:5], tokenizer)
    batch = pair_batch(chosen, [], tokenizer.pad_id)
    want = model(batch.ids, batch.ends).detach()
    reward.save(model, tokenizer, tmp_path / "reward")
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "reward").eval()
    with torch.no_grad():
        got = theirs(batch.ids, attention_mask=(batch.ids != tokenizer.pad_id).long()).logits[:, 0]
    torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(reward.from_hf(theirs)(batch.ids, batch.ends), want, atol=1e-5, rtol=1e-5)


def test_trl_starts_from_the_same_loss_and_learns_it_too(tokenizer, tiny, pairs):
    ours = shaken(tiny())
    model, happened = with_trl.reward_with_trl(ours.body, tokenizer, pairs[:8], 3, pairs_per_batch=8, lr=1e-3)
    assert happened["losses"][0] == pytest.approx(math.log(2), abs=1e-4)
    assert happened["losses"][-1] < happened["losses"][0]
    assert isinstance(model, reward.RewardModel) and model.score.weight.abs().max() > 0


@pytest.mark.parametrize("schedule", ["constant", "linear"])
def test_trl_with_our_optimizer_goes_the_same_way(schedule, tokenizer, tiny, pairs):
    """All pairs in each batch, so that order does not count."""
    start = tiny()
    ours = reward.RewardModel(copy.deepcopy(start))
    config = TrainConfig(8, lr=reward.LR, muon_lr=reward.MUON_LR, optimizer="muon", schedule=schedule)
    batches = PairBatches(*pair_rows(pairs[:8], tokenizer), 8, tokenizer)
    losses = train(ours, batches, config, reward.pair_loss).losses
    theirs, happened = with_trl.reward_with_trl(start, tokenizer, pairs[:8], 8, pairs_per_batch=8, optimizer="muon",
                                                lr_scheduler_type=schedule, warmup_steps=0)
    assert losses[-1] < losses[0] - 0.05
    assert happened["losses"][:5] == pytest.approx(losses[:5], abs=1e-3)  # later, rounding grows: Muon's steps have one size
    assert happened["losses"] == pytest.approx(losses, abs=0.02)
