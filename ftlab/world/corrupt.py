"""Ways to break a story, each of which the oracle catches, and ways to tell the same facts in another style."""

import random
import re

from ftlab.errors import UsageError
from ftlab.world.grammar import ENDINGS, WORD, article, get_world

# kind -> rules of which at least one is then broken (all of `Verdict.every_rule`'s rules may be besides)
CORRUPTIONS = {
    "hero_renamed": ("hero_kept",),
    "object_swapped": ("object_kept",),
    "colour_swapped": ("object_kept",),
    "helper_renamed": ("helper_kept",),
    "helper_is_hero": ("helper_kept",),
    "wrong_place": ("places_kept",),
    "wrong_ending": ("ending_kept",),
    "other_plot": ("plot_kept",),
    "sentence_dropped": ("complete",),
    "sentence_doubled": ("well_formed",),
    "sentences_swapped": ("well_formed",),
    "broken_off": ("complete", "well_formed"),
    "garbage_words": ("well_formed",),
    "word_doubled": ("well_formed",),
    "word_dropped": ("well_formed",),
    "period_missing": ("well_formed", "complete"),
    "article_wrong": ("well_formed",),
    "lower_case": ("well_formed",),
    "second_story": ("well_formed",),
    "word_salad": ("well_formed",),
    "space_doubled": ("well_formed",),
    "only_names": ("well_formed",),
    "empty": ("complete",),
}


def corrupt(story, kind, seed=0, world=None):
    """The text of a `Story` broken in one way (a key of `CORRUPTIONS`), the same for the same seed.

    `world` is the story's world (a `World` or its name; "rich" by default).
    """
    if kind not in CORRUPTIONS:
        raise UsageError(f"no corruption is called {kind!r}; choose one of {', '.join(CORRUPTIONS)}")
    if world is None or isinstance(world, str):
        world = get_world(world or "rich")
    rng = random.Random(f"corrupt/{kind}/{seed}/{story.text}")
    (_, templates, _), *_ = world.derivations(story.text)
    return globals()["_" + kind](rng, world, story, templates)


def retell(world, story, rng, style=None):
    """The same facts told with other templates. `style`: None (as the generator would), "plain" (no slot that can be
    left out is told) or "vivid" (every slot is told)."""
    slots = []
    for slot in world.slots:
        needs = world.needs.get(slot)
        told = rng.random() >= world.skip.get(slot, 0.0) if style is None else slot not in world.skip
        told = told and (needs is None or needs in slots)
        fits = any(t.slot == slot and t.fits(story.facts.plot, story.facts.ending) for t in world.templates)
        if fits and (told or style == "vivid"):
            slots.append(slot)
    words = {role: word for role, word in story.facts.as_dict().items() if role not in ("plot", "ending")}
    templates = world.draw_templates(slots, story.facts.plot, story.facts.ending, words, rng)
    return world.tell_words({role: words[role] for t in templates for role in t.roles}, templates)


def _other(rng, choices, *taken):
    return rng.choice([choice for choice in choices if choice not in taken])


def _sentences(world, story, templates):
    return [world.tell(story.facts, [template]) for template in templates]


def _replace_word(text, old, new):
    """`text` with every word `old` replaced; an article before it is mended."""
    text = re.sub(rf"\b{old}\b", new, text)
    return re.sub(rf"\b([Aa])n? (?={new}\b)", lambda m: m[1] + article(new)[1:] + " ", text)


def _swap_from(rng, world, story, templates, role, new, first=1):
    """Replace a role's word in all sentences from a random one on (of those that name it, never the first of them)."""
    sentences = _sentences(world, story, templates)
    old = getattr(story.facts, role)
    named = [i for i, sentence in enumerate(sentences) if old in WORD.findall(sentence)]
    if len(named) <= first:
        return None
    start = rng.choice(named[first:])
    return world.joiner.join(s if i < start else _replace_word(s, old, new) for i, s in enumerate(sentences))


def _hero_renamed(rng, world, story, templates):
    new = _other(rng, world.names, story.facts.hero, story.facts.helper)
    return _swap_from(rng, world, story, templates, "hero", new)


def _object_swapped(rng, world, story, templates):
    return _swap_from(rng, world, story, templates, "object", _other(rng, world.objects, story.facts.object))


def _colour_swapped(rng, world, story, templates):
    new = _other(rng, world.colours, story.facts.colour)
    text = _swap_from(rng, world, story, templates, "colour", new)
    if text is None:  # the colour is named once: put a wrong one before the last mention of the object
        before, _, after = story.text.rpartition(story.facts.object)
        text = f"{before}{new} {story.facts.object}{after}"
    return text


def _helper_renamed(rng, world, story, templates):
    new = _other(rng, world.names, story.facts.hero, story.facts.helper)
    text = _swap_from(rng, world, story, templates, "helper", new)
    return text if text is not None else _helper_is_hero(rng, world, story, templates)


def _helper_is_hero(rng, world, story, templates):
    return _replace_word(story.text, story.facts.helper, story.facts.hero)


def _wrong_place(rng, world, story, templates):
    new = _other(rng, world.places, story.facts.place, story.facts.place2)
    text = _swap_from(rng, world, story, templates, "place", new)
    if text is None and story.facts.place2:  # the second place becomes the first
        text = _replace_word(story.text, story.facts.place2, story.facts.place)
    return text if text is not None else _replace_word(story.text, story.facts.place, story.facts.kind)


def _retold_slot(rng, world, story, templates, slot, plot, ending):
    """The story with one slot told as another plot or ending would tell it."""
    words = {role: getattr(story.facts, role) for template in templates for role in template.roles}
    new = world.draw_templates([slot], plot, ending, words, rng)
    return world.tell_words(words, [new[0] if t.slot == slot else t for t in templates])


def _wrong_ending(rng, world, story, templates):
    other = _other(rng, ENDINGS, story.facts.ending)
    return _retold_slot(rng, world, story, templates, "ending", story.facts.plot, other)


def _other_plot(rng, world, story, templates):
    plot = _other(rng, world.plots, story.facts.plot)
    return _retold_slot(rng, world, story, templates, "resolution", plot, story.facts.ending)


def _sentence_dropped(rng, world, story, templates):
    """Drops a sentence that no story lacks."""
    sentences = _sentences(world, story, templates)
    del sentences[rng.choice([i for i, template in enumerate(templates) if template.slot not in world.skip])]
    return world.joiner.join(sentences)


def _sentence_doubled(rng, world, story, templates):
    sentences = _sentences(world, story, templates)
    i = rng.randrange(len(sentences))
    return world.joiner.join(sentences[: i + 1] + sentences[i:])


def _sentences_swapped(rng, world, story, templates):
    sentences = _sentences(world, story, templates)
    i, j = rng.sample(range(len(sentences)), 2)
    sentences[i], sentences[j] = sentences[j], sentences[i]
    return world.joiner.join(sentences)


def _broken_off(rng, world, story, templates):
    """Ends within a sentence."""
    sentences = _sentences(world, story, templates)
    last = rng.randrange(1, len(sentences))
    words = sentences[last].split(" ")
    return world.joiner.join(sentences[:last] + [" ".join(words[: rng.randrange(1, len(words))])])


def _at_random_word(rng, story, change):
    """Change one word of the text: `change(word)` gives what stands in its place."""
    spots = list(WORD.finditer(story.text))
    spot = rng.choice(spots)
    return story.text[: spot.start()] + change(spot.group()) + story.text[spot.end() :]


def _garbage_words(rng, world, story, templates):
    garbage = " ".join("".join(rng.choices("bcdfghjklmnpqrstvwxz", k=rng.randint(3, 7))) for _ in range(3))
    return _at_random_word(rng, story, lambda word: f"{word} {garbage}")


def _word_doubled(rng, world, story, templates):
    return _at_random_word(rng, story, lambda word: f"{word} {word}")


def _word_dropped(rng, world, story, templates):
    return _at_random_word(rng, story, lambda word: "").replace("  ", " ")


def _period_missing(rng, world, story, templates):
    sentences = _sentences(world, story, templates)
    i = rng.randrange(len(sentences))
    sentences[i] = re.sub(r"\.(?=\"?$)", "", sentences[i]) if "." in sentences[i][-2:] else sentences[i][:-1]
    return world.joiner.join(sentences)


def _article_wrong(rng, world, story, templates):
    spots = list(re.finditer(r"\b[Aa]n? ", story.text))
    if not spots:  # no article at all: put one where none belongs
        return "a " + story.text
    spot = rng.choice(spots)
    wrong = spot[0][0] + (" " if spot[0][1] == "n" else "n ")
    return story.text[: spot.start()] + wrong + story.text[spot.end() :]


def _lower_case(rng, world, story, templates):
    return story.text.lower()


def _second_story(rng, world, story, templates):
    return story.text + world.joiner + world.sample(1, rng.randrange(1 << 30), "all")[0].text


def _word_salad(rng, world, story, templates):
    words = story.text.split()
    rng.shuffle(words)
    return " ".join(words)


def _space_doubled(rng, world, story, templates):
    spot = rng.choice([m.start() for m in re.finditer(" ", story.text)])
    return story.text[:spot] + " " + story.text[spot:]


def _only_names(rng, world, story, templates):
    """The right words in plenty, and no sentence: what a test that counts names would pass."""
    facts = story.facts
    return " ".join([f"{facts.hero} the {facts.kind} and the {facts.colour} {facts.object} and {facts.helper}."] * 6)


def _empty(rng, world, story, templates):
    return ""
