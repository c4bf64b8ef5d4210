"""Utilities and simulated annotators: validity before style, Bradley-Terry noise, bias."""

import itertools
import math

import pytest

from ftlab.errors import UsageError
from ftlab.world import oracle, tasks
from ftlab.world.grammar import count_tokens, get_world
from ftlab.world.preference import RULE_COST, STYLE

SIZES = ("rich", "small", "harbour")


def test_a_broken_rule_costs_more_than_all_style_earns():
    assert sum(STYLE.values()) < RULE_COST
    for size in SIZES:
        world = get_world(size)
        worst = min(tasks.true_utility(story.text, world) for story in world.sample(100, 1))
        assert worst >= 0
        for kind in tasks.CORRUPTIONS:
            for seed, story in enumerate(world.sample(8, 2)):
                assert tasks.true_utility(tasks.corrupt(story, kind, seed, world), world) < worst


def test_style_is_earned_once_and_only_in_sentences_of_the_grammar():
    world = get_world("rich")
    for story in world.sample(200, 3):
        verdict = oracle.judge(story.text)
        speeches = min(2, sum('"' in sentence for sentence, _ in verdict.sentences))
        trait = any(f" {story.facts.trait} " in s for s, slot in verdict.sentences if slot != "introduction")
        expected = 0.4 * speeches + 0.4 * (story.facts.ending == "happy") + 0.2 * trait
        assert tasks.true_utility(story.text) == pytest.approx(expected)
        for spam in ('"Oh no!" cried Mira.', "brave brave brave", "happy", '"Please help me," said ' + "and " * 50):
            assert tasks.true_utility(f"{story.text} {spam}") < 0
    assert tasks.true_utility("") == -RULE_COST * sum(not v for v in oracle.judge("").rules.values())


def test_unmet_constraints_cost_as_much_as_rules():
    world = get_world("rich")
    story = world.sample(1, 4)[0]
    free = tasks.true_utility(story.text, world)
    met = {"kind": story.facts.kind, "ending": story.facts.ending}
    assert tasks.true_utility(story.text, world, met) == free
    assert tasks.true_utility(story.text, world, {**met, "kind": "unicorn"}) == pytest.approx(free - RULE_COST)


def test_form_utility_likes_short_texts_in_points():
    for story in get_world("rich").sample(50, 5):
        points = tasks.as_points(story.text)
        assert points.count("\n- ") == len(story.sentences) - 1
        assert tasks.form_utility(points) > tasks.form_utility(story.text)
        assert tasks.form_utility(story.text) > tasks.form_utility(story.text + " " + story.text)


def _share(difference, noise, n=6000, **options):
    texts = {"a": difference, "b": 0.0}
    return sum(tasks.annotate(["a"] * n, ["b"] * n, texts.__getitem__, noise, **options)) / n


@pytest.mark.parametrize("difference, noise", list(itertools.product((-2.0, -0.4, 0.0, 0.8), (0.5, 1.0, 4.0))))
def test_annotators_follow_bradley_terry(difference, noise):
    p = 1 / (1 + math.exp(-difference / noise))
    assert tasks.preference_probability(difference, noise) == pytest.approx(p)
    assert abs(_share(difference, noise, seed=7) - p) < 4.5 * math.sqrt(p * (1 - p) / 6000)


def test_without_noise_the_better_text_wins_and_ties_are_even():
    assert _share(0.01, 0.0) == 1.0 and _share(-0.01, 0.0) == 0.0
    assert abs(_share(0.0, 0.0) - 0.5) < 4.5 * math.sqrt(0.25 / 6000)


def test_length_bias_shifts_the_odds_as_stated():
    long, short, n = "word " * 30, "word " * 10, 6000
    chosen = tasks.annotate([long] * n, [short] * n, lambda text: 0.0, noise=1.0, length_bias=0.5)
    p = 1 / (1 + math.exp(-0.5 * 20 / 10))
    assert abs(sum(chosen) / n - p) < 4.5 * math.sqrt(p * (1 - p) / n)
    assert tasks.annotate([long], [short], lambda text: -count_tokens(text), length_bias=50.0) == [1]
    assert tasks.annotate([long], [short], lambda text: -count_tokens(text), length_bias=0.0) == [0]


def test_annotators_refuse_what_makes_no_sense():
    with pytest.raises(UsageError, match="as many"):
        tasks.annotate(["a"], [], len)
    with pytest.raises(UsageError, match="noise"):
        tasks.annotate(["a"], ["bb"], len, noise=-1)
    with pytest.raises(UsageError, match="'true' or 'form'"):
        tasks.preference_pairs(get_world("small"), 1, utility="length")


@pytest.mark.parametrize("size", SIZES)
def test_pairs_without_noise_are_ranked_by_true_utility(size):
    world = get_world(size)
    pairs = tasks.preference_pairs(world, 100, 1, "train")
    assert all(pair.margin >= 0 and pair.chosen != pair.rejected for pair in pairs)
    assert sum(pair.margin > 0 for pair in pairs) > 50
    for pair, task in zip(pairs, tasks.make(world, "write", 100, "pairs/1"), strict=True):
        assert pair.prompt == task.instruction
        better, worse = (tasks.true_utility(t, world, task.constraints) for t in (pair.chosen, pair.rejected))
        assert better - worse == pytest.approx(pair.margin)


def test_noise_and_bias_make_pairs_wrong():
    world = get_world("rich")
    noisy = tasks.preference_pairs(world, 150, 2, noise=4.0)
    wrong = sum(pair.margin < 0 for pair in noisy)
    assert 5 < wrong < 75

    def grown(pairs):
        return sum(count_tokens(p.chosen) - count_tokens(p.rejected) for p in pairs) / len(pairs)

    biased = tasks.preference_pairs(world, 150, 2, length_bias=2.0)
    assert grown(biased) > grown(tasks.preference_pairs(world, 150, 2)) + 5


def test_pairs_of_form_are_right_stories_in_two_forms():
    world = get_world("rich")
    pairs = tasks.preference_pairs(world, 100, 3, utility="form")
    for pair in pairs:
        assert tasks.form_utility(pair.chosen) - tasks.form_utility(pair.rejected) == pytest.approx(pair.margin)
        for text in (pair.chosen, pair.rejected):
            plain = " ".join(line.removeprefix("- ") for line in text.splitlines())
            assert oracle.judge(plain).every_rule
    in_points = sum(pair.chosen.startswith("- ") and not pair.rejected.startswith("- ") for pair in pairs)
    assert in_points > 30
