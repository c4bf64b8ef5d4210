"""The oracle: right on thousands of stories, on every kind of corruption, and calm about any text."""

import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftlab.world import oracle, tasks
from ftlab.world.grammar import get_world

SIZES = ("rich", "small", "harbour")


@pytest.fixture(scope="module", params=SIZES)
def world(request):
    return get_world(request.param)


def test_all_rules_hold_for_generated_stories(world):
    for story in world.sample(5000, 2, "all"):
        verdict = oracle.judge(story.text, world)
        assert verdict.every_rule and verdict.hero_and_object, verdict.problems
        assert verdict.problems == []
        assert verdict.facts == story.facts and verdict.ending == story.facts.ending


def test_small_stories_pass_the_rich_oracle():
    for story in get_world("small").sample(1000, 2):
        verdict = oracle.judge(story.text)
        assert verdict.every_rule and verdict.facts == story.facts


@pytest.mark.parametrize("kind", sorted(tasks.CORRUPTIONS))
def test_every_corruption_is_caught(world, kind):
    for seed, story in enumerate(world.sample(50, 3, "all")):
        text = tasks.corrupt(story, kind, seed, world)
        verdict = oracle.judge(text, world)
        assert not verdict.every_rule, text
        assert any(not verdict.rules[rule] for rule in tasks.CORRUPTIONS[kind]), (text, verdict.rules)
        assert verdict.problems
        if kind in ("hero_renamed", "object_swapped", "colour_swapped", "only_names"):
            assert not verdict.hero_and_object


def test_a_corruption_leaves_other_rules_alone():
    """Strict, but not more: renaming the helper breaks no rule about the object, and so on."""
    world = get_world("rich")
    for seed, story in enumerate(world.sample(300, 5)):
        verdict = oracle.judge(tasks.corrupt(story, "wrong_ending", seed, world))
        assert [rule for rule, holds in verdict.rules.items() if not holds] in (["ending_kept"],
                                                                               ["plot_kept", "ending_kept"])
        verdict = oracle.judge(tasks.corrupt(story, "sentences_swapped", seed, world))
        assert verdict.hero_and_object and verdict.helper_kept and verdict.plot_kept
        verdict = oracle.judge(tasks.corrupt(story, "space_doubled", seed, world))
        assert not any("and is now" in line or "turns up" in line for line in verdict.problems)


def test_known_texts():
    good = ("Mira was a brave fox. Mira had a red kite. One day Mira took the kite to the forest. Then the kite was "
            "gone. Mira met Otto the owl. Otto found the red kite under a bush. Mira thanked Otto and took the kite "
            "home.")
    verdict = oracle.judge(f"\n {good} \n")
    assert verdict.every_rule and verdict.ending == "happy" and verdict.facts.helper_kind == "owl"
    assert oracle.judge(good, "small").every_rule

    def broken(old, new, text=good):
        assert old in text
        return {rule for rule, holds in oracle.judge(text.replace(old, new)).rules.items() if not holds}

    assert broken("Mira thanked", "Nora thanked") == {"hero_kept"}
    assert broken("the kite home", "the drum home") == {"object_kept"}
    assert broken("found the red", "found the blue") == {"object_kept"}
    assert broken("Otto found", "Nora found") == {"helper_kept"}
    assert broken("the owl", "the fox") == {"helper_kept"}
    assert broken("the owl.", "a owl.") >= {"well_formed", "helper_kept"}
    assert broken(" Then the kite was gone.", " Then the kite hung in a tree.") == {"plot_kept"}
    assert broken("thanked Otto and took the kite home", "wept for the kite") == {"ending_kept"}
    assert broken(" Then the kite was gone.", "") >= {"complete", "plot_kept"}
    assert broken("Then the kite was gone.", "The kite was not there.") >= {"well_formed", "plot_kept"}
    assert broken("Then the kite was gone.", "Then Nora laughed loudly.") >= {"well_formed", "hero_kept"}
    assert broken("Then the kite was gone.", "Then a drum was there.") >= {"well_formed", "object_kept"}
    assert broken("Then the kite was gone.", "Then a blue kite was there.") >= {"well_formed", "object_kept"}
    assert "hero_kept" not in broken("Then the kite was gone.", "Then Otto laughed at Mira.")


def test_naming_alone_is_not_enough():
    """A text that names the right hero and object often, but tells nothing, keeps neither."""
    verdict = oracle.judge("Mira red kite Mira red kite Mira. Mira had the kite. Mira, Mira and the kite.")
    assert not verdict.hero_and_object and not verdict.every_rule


def test_two_stories_are_not_one(world):
    first, second = world.sample(2, 8)
    verdict = oracle.judge(first.text + world.joiner + second.text, world)
    assert not verdict.every_rule and not verdict.well_formed


def test_constraints_are_met_only_where_the_fact_is_kept():
    world = get_world("rich")
    for seed, story in enumerate(world.sample(100, 4)):
        constraints = {"kind": story.facts.kind, "object": story.facts.object, "ending": story.facts.ending}
        assert all(tasks.met(constraints, oracle.judge(story.text)).values())
        renamed = oracle.judge(tasks.corrupt(story, "hero_renamed", seed, world))
        assert not tasks.met(constraints, renamed)["kind"]
        swapped = oracle.judge(tasks.corrupt(story, "object_swapped", seed, world))
        assert not tasks.met(constraints, swapped)["object"]


# -- any text at all -------------------------------------------------------------------------------------------------

RICH = get_world("rich")
PIECES = sorted({t.text.format_map({r: w for r, w in zip(
    ("hero", "helper", "kind", "helper_kind", "trait", "object", "colour", "place", "place2", "weather", "food"),
    ("Mira", "Otto", "fox", "owl", "brave", "kite", "red", "forest", "mill", "sunny", "bread"), strict=True)})
    for t in RICH.templates})  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.text())
def test_any_text_is_judged(text):
    verdict = oracle.judge(text)
    assert not verdict.every_rule and verdict.problems


@settings(max_examples=120, deadline=None)
@given(st.lists(st.sampled_from(PIECES + ["\x01", "\n", '"', "Mira", " a an ", ".", "\ud800", "é"]), max_size=25),
       st.sampled_from([" ", "", "\n", "  "]))
def test_any_sentences_are_judged_as_the_generator_would(pieces, joiner):
    """`every_rule` holds when, and only when, the text has a probability."""
    text = joiner.join(pieces)
    assert oracle.judge(text).every_rule == (RICH.logprob(text.strip()) > float("-inf"))


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10**6), st.data())
def test_mutated_stories_are_judged_as_the_generator_would(seed, data):
    story = RICH.sample(1, seed, "all")[0]
    words = re.split(r"(\W+)", story.text)
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(words) - 1))
        words[place] = data.draw(st.sampled_from([*words, *RICH.names[:3], *RICH.objects[:3], "", "zzz", ". "]))
    text = "".join(words)
    assert oracle.judge(text).every_rule == (RICH.logprob(text.strip()) > float("-inf"))


@pytest.mark.parametrize("text", [
    "", " \n\t", "." * 200_000, "Mira " * 100_000, '"' * 100_000, ". " * 100_000, " " * 300_000, "a\n" * 100_000,
    ".\t" * 50_000 + "x", "\x00\x01\x02", "名前。" * 1000, "".join(map(chr, range(0x10FF))),
])  # fmt: skip
def test_odd_and_huge_texts_are_judged(text):
    for size in SIZES:
        assert not oracle.judge(text, size).every_rule


def test_long_but_fine_start_is_too_long():
    story = RICH.sample(1, 0)[0]
    verdict = oracle.judge(story.text + " And so on." * 2000)
    assert not verdict.length_ok and not verdict.well_formed and verdict.facts.hero == story.facts.hero


def test_problems_are_plain_lines():
    rng = random.Random(0)
    for story in RICH.sample(50, 6):
        kind = rng.choice(sorted(tasks.CORRUPTIONS))
        for line in oracle.judge(tasks.corrupt(story, kind, 1)).problems:
            assert line and "\n" not in line and "\x01" not in line and len(line) < 140
