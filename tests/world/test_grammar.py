"""The generator: exact probabilities, one derivation a text, splits, the same stories everywhere."""

import hashlib
import itertools
import math
import random
import re
import subprocess
import sys
from collections import Counter, defaultdict

import pytest

from ftlab.errors import UsageError
from ftlab.world import World
from ftlab.world.grammar import HELD_OUT_BY, RIVAL, Facts, count_tokens, get_world, split_sentences

SIZES = ("rich", "small", "harbour")
N = 5000


@pytest.fixture(scope="module", params=SIZES)
def world(request):
    return get_world(request.param)


@pytest.fixture(scope="module")
def stories(world):
    return world.sample(N, 1, "all")


def test_one_derivation_with_the_sampled_probability(world, stories):
    for story in stories[:2000]:
        (derivation,) = world.derivations(story.text)
        facts, _, logp = derivation
        assert facts == story.facts
        assert logp == pytest.approx(story.logp, abs=1e-9)
    assert world.logprob(stories[0].text) == pytest.approx(stories[0].logp, abs=1e-9)


def test_distinct_choices_give_distinct_texts(world, stories):
    """Equal texts would have to come from equal facts and so have equal probability; few repeat at all."""
    seen = {}
    for story in stories:
        assert seen.setdefault(story.text, story) == story


def test_role_words_are_single_words_of_one_class_and_in_no_template(world):
    words = [word for group in world.classes.values() for word in group]
    assert len(words) == len(set(words))
    assert all(re.fullmatch("[A-Za-z]+", word) for word in words)
    literal = {w for t in world.templates for w in re.findall("[A-Za-z]+", re.sub(r"\{\w+\}", " ", t.text))}
    assert not literal & set(words)


def test_no_two_templates_read_alike_in_the_same_place(world):
    """Templates of one shape are told apart by their roles or belong to no common plot, ending and slot order."""
    by_key = defaultdict(list)
    for template in world.templates:
        by_key[template.key, template.slot].append(template)
    for same in by_key.values():
        for a, b in itertools.combinations(same, 2):
            assert a.roles != b.roles or not (set(a.plots or world.plots) & set(b.plots or world.plots))


def test_choices_of_every_slot_sum_to_one(world):
    for plan in world._plan.values():
        for _, skip, cumulated, fitting in plan:
            assert (cumulated[-1] if fitting else skip) == pytest.approx(1.0)
    assert sum(world._plot_p.values()) == pytest.approx(1.0)


def test_entropy_is_the_mean_of_minus_log_p(world, stories):
    values = [-story.logp for story in stories]
    mean = sum(values) / N
    error = math.sqrt(sum((value - mean) ** 2 for value in values) / N / N)
    assert abs(mean - world.entropy()) < 4.5 * error
    assert world.floor(stories) == pytest.approx(mean)


def test_probabilities_of_all_continuations_sum_to_one():
    """All stories of the small world with the same eight words, enumerated: together they have the words' share."""
    world = get_world("small")
    total = 0.0
    facts = dict(hero="Mira", kind="fox", trait="brave", object="kite", colour="red", place="forest", helper="Otto",
                 helper_kind="bear")  # fmt: skip
    slots = [slot for slot in world.slots if slot not in world.skip]
    for plot, ending in itertools.product(world.plots, world.endings):
        fitting = [[t for t in world.templates if t.slot == s and t.fits(plot, ending)] for s in slots]
        for templates in itertools.product(*fitting):
            text = world.tell(Facts(**facts, plot=plot, ending=ending), templates)
            total += math.exp(world.logprob(text))
    assert total == pytest.approx(1 / (12 * 11 * 8 * 7 * 6 * 8 * 6 * 5), rel=1e-9)


def test_frequencies_follow_the_stated_probabilities():
    world, n = get_world("small"), 10000
    counts = Counter()
    for story in world.sample(n, 3, "all"):
        counts[story.facts.plot, story.facts.ending] += 1
        counts[story.facts.object] += 1
        counts[story.facts.hero, story.facts.helper] += 1
    for plot, ending in itertools.product(world.plots, world.endings):
        expected = n * world._plot_p[plot] / 2
        assert abs(counts[plot, ending] - expected) < 5 * math.sqrt(expected)
    for thing in world.objects:
        assert abs(counts[thing] - n / 8) < 5 * math.sqrt(n / 8)
    for pair in itertools.permutations(world.names, 2):
        assert abs(counts[pair] - n / 132) < 6 * math.sqrt(n / 132)


def test_stories_are_of_the_stated_size_and_name_their_entities(world, stories):
    vocabulary = set(world.words())
    for story in stories[:1500]:
        assert world.min_length <= count_tokens(story.text) <= world.max_length
        assert len(re.findall(rf"\b{story.facts.hero}\b", story.text)) >= world.min_heroes
        assert len(re.findall(rf"\b{story.facts.object}\b", story.text)) >= world.min_objects
        for role, rival in RIVAL.items():
            assert getattr(story.facts, role) != getattr(story.facts, rival)
        assert set(re.findall("[A-Za-z]+", story.text)) <= vocabulary
        assert split_sentences(story.text) == story.sentences


def test_rich_is_rich_and_small_is_short():
    rich, small = get_world("rich"), get_world("small")
    assert rich.count_facts() > 1e9 and len(rich.words()) > 400 and len(rich.plots) >= 5
    lengths = [count_tokens(story.text) for story in rich.sample(2000, 2)]
    assert 60 < sum(lengths) / 2000 < 90
    lengths = [count_tokens(story.text) for story in small.sample(2000, 2)]
    assert 40 < min(lengths) and max(lengths) < 60
    assert (len(small.names), len(small.kinds), len(small.objects), len(small.colours), len(small.places)) == (
        12, 8, 8, 6, 5)  # fmt: skip


def test_small_stories_are_rich_stories():
    rich = get_world("rich")
    for story in get_world("small").sample(500, 4, "all"):
        assert rich.logprob(story.text) > -math.inf
    assert set(get_world("small").words()) <= set(rich.words())


@pytest.mark.parametrize("text", ["", " ", "Mira", "\x01name was a \x01trait \x01kind.", "a" * 100_000, "\ud800"])
def test_no_derivation_no_probability(world, text):
    assert world.logprob(text) == -math.inf


def test_changed_texts_have_no_probability(world, stories):
    rng = random.Random(0)
    for story in stories[:300]:
        position = rng.randrange(len(story.text))
        changed = story.text[:position] + "q" + story.text[position:]
        assert world.logprob(changed) == -math.inf
        assert world.logprob(story.text + " ") == -math.inf


# -- splits ----------------------------------------------------------------------------------------------------------


def test_splits_are_disjoint_and_of_the_stated_shares(world, stories):
    counts = Counter(world.split_of(story.facts) for story in stories)
    for split, share in (("train", 0.9), ("valid", 0.05), ("test", 0.05)):
        assert abs(counts[split] / N - share) < 5 * math.sqrt(share * (1 - share) / N)
    keys = {}
    for split in ("train", "valid", "test"):
        for story in world.sample(100, 7, split):
            assert world.split_of(story.facts) == split
            assert keys.setdefault(tuple(getattr(story.facts, role) for role in HELD_OUT_BY), split) == split


def test_no_pair_and_no_triple_is_missing_from_training():
    """Small world: all combinations. (In the rich one every triple has at least 11 times as many completions.)"""
    world = get_world("small")
    triples, trained = set(), set()
    for plot in world.plots:
        for hero, helper in itertools.permutations(world.names, 2):
            for thing, place in itertools.product(world.objects_of[plot], world.places):
                facts = Facts(hero=hero, object=thing, place=place, helper=helper, plot=plot)
                found = set(itertools.combinations((hero, thing, place, "helper " + helper, plot), 3))
                triples |= found
                if world.split_of(facts) == "train":
                    trained |= found
    assert triples == trained


def test_no_triple_is_missing_from_training_in_the_rich_world():
    """The triples with the fewest completions (hero, place, helper), a sample; every completion is tried."""
    world = get_world("rich")
    rng = random.Random(0)
    completions = [(plot, thing) for plot in world.plots for thing in world.objects_of[plot]]
    for _ in range(300):
        hero, helper = rng.sample(world.names, 2)
        place = rng.choice(world.places)
        facts = (Facts(hero=hero, helper=helper, place=place, plot=plot, object=o) for plot, o in completions)
        assert any(world.split_of(each) == "train" for each in facts)


# -- the same everywhere ---------------------------------------------------------------------------------------------


def test_prefix_of_a_sample_is_the_shorter_sample(world):
    assert world.sample(20, 5)[:7] == world.sample(7, 5)
    assert world.sample(7, 5) != world.sample(7, 6)


def test_same_stories_in_another_process():
    code = ("import hashlib; from ftlab.world import World, tasks; w = World('rich');"
            "t = [s.text for s in w.sample(50, 9, 'test')] + list(tasks.pretraining_mix(w, 50, 3));"
            "t += [p.chosen for p in tasks.preference_pairs(w, 20, 1, noise=1.0)];"
            "t += [x.instruction + x.response for f in tasks.FAMILIES for x in tasks.make(w, f, 10, 2)];"
            "print(hashlib.sha256(chr(10).join(t).encode()).hexdigest())")  # fmt: skip
    digests = {
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                       env={"PYTHONHASHSEED": seed, "PATH": ""}).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert len(digests) == 1 and len(digests.pop()) == 65


def test_stories_have_not_changed():
    """The shipped base models are trained on these very texts: a change here means to train them anew."""
    digest = hashlib.sha256()
    for size in SIZES:
        digest.update("\n".join(story.text for story in World(size).sample(200, 0)).encode())
    assert digest.hexdigest()[:16] == "50072e0cd10dfad5"


def test_unknown_world_or_split_is_refused():
    with pytest.raises(UsageError, match="choose 'rich'"):
        World("big")
    with pytest.raises(UsageError, match="train, valid, test, all"):
        get_world("small").sample(1, 0, "dev")
