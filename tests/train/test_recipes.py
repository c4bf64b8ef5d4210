"""The small recipe: stories seen once, a floor that is the held-out stories' own, and the same run for the same seed."""

import pytest
import torch

from ftlab.errors import UsageError
from ftlab.text.corpus import split_document
from ftlab.train import train
from ftlab.train.recipes import TOKENS_PER_BATCH, small_recipe, text_recipe

TINY = {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "intermediate_size": 32}


@pytest.fixture(scope="module")
def recipe():
    return small_recipe(seed=3, steps=12, **TINY)


def test_no_story_comes_twice(recipe):
    assert recipe.batches.steps_per_epoch >= recipe.config.steps
    assert 0.8 * TOKENS_PER_BATCH < recipe.batches(0).input_ids.numel() <= TOKENS_PER_BATCH


def test_the_floor_is_that_of_the_held_out_stories(recipe):
    logps = [recipe.world.logprob(text) for text in recipe.held_out]
    tokens = sum(len(recipe.tokenizer.encode(text, eos=True)) for text in recipe.held_out)
    assert recipe.floor == pytest.approx(-sum(logps) / tokens)
    facts = [story.facts for story in recipe.world.sample(len(recipe.held_out), 1, "test")]
    assert {recipe.world.split_of(fact) for fact in facts} == {"test"}


def test_held_out_loss_weighs_every_token_the_same(recipe):
    model = recipe.model().eval()
    total = tokens = 0
    for text in recipe.held_out[:120]:
        ids = torch.tensor([recipe.tokenizer.encode(text, bos=True, eos=True)])
        with torch.no_grad():
            log_probs = model(ids)[0, :-1].log_softmax(-1)
        total -= log_probs.gather(-1, ids[0, 1:, None]).sum().item()
        tokens += ids.shape[1] - 1
    some = small_recipe(seed=3, steps=12, **TINY)
    some.held_out = recipe.held_out[:120]
    assert some.held_out_loss(model) == pytest.approx(total / tokens, rel=1e-5)


def test_same_seed_same_run_and_it_learns(recipe):
    runs = []
    for _ in range(2):
        model = recipe.model()
        runs.append((train(model, recipe.batches, recipe.config, evaluate=recipe.evaluate(samples=4)), model))
    (one, first), (two, second) = runs
    assert one.losses == two.losses and one.evals == two.evals
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters()))
    assert one.losses[-1] < one.losses[0] - 0.3
    assert {"loss", "hero_and_object", "every_rule"} <= set(one.evals[-1])


def test_the_worlds_own_stories_keep_every_rule(recipe):
    texts = recipe.held_out[:30]
    assert recipe.shares(texts) == {"hero_and_object": 1.0, "every_rule": 1.0}
    assert recipe.shares(["Nobody."] * 3 + texts[:1]) == {"hero_and_object": 0.25, "every_rule": 0.25}


def test_changes_reach_model_and_run():
    recipe = small_recipe(steps=5, tokens_per_batch=256, optimizer="adamw", lr=0.5, **TINY)
    assert (recipe.config.optimizer, recipe.config.lr, recipe.model_config.hidden_size) == ("adamw", 0.5, 16)
    assert recipe.batches(0).input_ids.numel() <= 256
    with pytest.raises(TypeError):
        small_recipe(steps=5, learning_rate=1)


def test_text_of_ones_own_has_no_floor():
    text = "\n\n".join(f"The ship number {i} sailed to port {i % 7} with {i * 3} crates." for i in range(400))
    recipe = text_recipe(split_document(text, 500), steps=3, seq_len=32, **TINY)
    assert recipe.floor is None and recipe.world is None
    history = train(recipe.model(), recipe.batches, recipe.config, evaluate=recipe.evaluate())
    assert history.evals[-1].keys() == {"step", "loss"}
    assert not set(recipe.held_out) & {recipe.tokenizer.decode(ids) for ids in recipe.batches.windows.tolist()}
    with pytest.raises(UsageError, match="give more text"):
        text_recipe(["too short"], seq_len=128)
