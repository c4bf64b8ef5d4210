"""The micro-world's generator: facts, stories, and the exact probability of each story.

A story is told slot by slot. First a plot and an ending are drawn; then, in each slot, a template (or none, where the
slot may be left out), and a word for every role that the template names and that no earlier sentence has named. So

    log p(story) = log p(plot) + log p(ending) + sum over slots [ log p(template or none) + sum log p(new words) ]

is exact, and every text has at most one derivation: the words of different roles differ, and no sentence can be read
in two ways (a test counts the derivations). Held-out combinations are refused after they are drawn; `logp` is the
probability before that.
"""

import hashlib
import itertools
import math
import random
import re
from bisect import bisect
from dataclasses import dataclass, fields
from functools import cache, lru_cache

from ftlab.errors import UsageError

SPLITS = ("train", "valid", "test", "all")
ENDINGS = ("happy", "sad")
# The class whose words a role is filled with: hero and helper are both names, and so on.
ROLE_CLASS = {
    "hero": "name", "helper": "name", "kind": "kind", "helper_kind": "kind", "trait": "trait", "object": "object",
    "colour": "colour", "place": "place", "place2": "place", "weather": "weather", "food": "food",
}  # fmt: skip
# Two roles of one class never share a word.
RIVAL = {"hero": "helper", "helper": "hero", "kind": "helper_kind", "helper_kind": "kind",
         "place": "place2", "place2": "place"}  # fmt: skip
HELD_OUT_BY = ("hero", "object", "place", "helper", "plot")
MARK = "\x01"
WORD = re.compile(r"([A-Za-z]+)")
TOKEN = re.compile(r"\w+|[^\w\s]")
_ARTICLE = re.compile(r"\b([Aa]) \{(\w+)\}")
_ROLE = re.compile(r"\{(?:[aA]_)?(\w+)\}")
# A sentence ends with . ! or ? (and a closing quote) where a capital or an opening quote follows, or at the end.
_BREAK = re.compile(r'(?:(?<=[.!?])|(?<=[.!?]"))\s+(?=["A-Z])')


@dataclass(frozen=True)
class Facts:
    """What a story says. A role that no sentence names is None; so is anything that could not be read from a text."""

    hero: str | None = None
    kind: str | None = None
    trait: str | None = None
    object: str | None = None
    colour: str | None = None
    place: str | None = None
    helper: str | None = None
    helper_kind: str | None = None
    place2: str | None = None
    weather: str | None = None
    food: str | None = None
    plot: str | None = None
    ending: str | None = None

    def as_dict(self):
        """The facts that are known, in order: {"hero": "Mira", …}."""
        return {name: value for name in FACT_NAMES if (value := getattr(self, name)) is not None}


FACT_NAMES = tuple(field.name for field in fields(Facts))


@dataclass(frozen=True)
class Story:
    """A text, its facts, and its exact log-probability (nats) under the generator before exclusion."""

    text: str
    facts: Facts
    logp: float

    @property
    def sentences(self):
        return split_sentences(self.text)


class Template:
    """One sentence of one slot. `roles` lists its role positions from left to right, repeats included."""

    __slots__ = (
        "slot", "order", "text", "weight", "small", "plots", "ending", "format", "roles", "new_roles", "key", "length",
    )  # fmt: skip

    def __init__(self, slot, order, text, weight, small, plots, ending):
        self.slot, self.order, self.text, self.weight, self.small = slot, order, text, weight, small
        self.plots, self.ending = plots, ending
        self.format = _ARTICLE.sub(r"{\1_\2}", text)  # "a {trait}" becomes "{a_trait}": "a brave" or "an eager"
        self.roles = tuple(_ROLE.findall(text))
        self.new_roles = tuple(dict.fromkeys(self.roles))
        self.key = _ROLE.sub(lambda match: MARK + ROLE_CLASS[match.group(1)], text)
        self.length = len(TOKEN.findall(_ROLE.sub("role", text)))

    def fits(self, plot, ending):
        return (not self.plots or plot in self.plots) and self.ending in (None, ending)


def article(word):
    """ "a" or "an", as English has it before `word`."""
    return "an" if word[0] in "aeiouAEIOU" or word == "honest" else "a"


def split_sentences(text):
    """The sentences of a text, closing quotes included; linear in its length."""
    return _BREAK.split(text)


def count_tokens(text):
    """Words and punctuation marks of a text, the unit of a story's length."""
    return len(TOKEN.findall(text))


def _read_table(slot, order, table):
    plots, ending = (), None
    for line in filter(None, map(str.strip, table.splitlines())):
        if line.startswith("["):
            left, _, right = line.strip("[]").partition("/")
            plots, ending = tuple(left.split()), right.strip() or None
            continue
        small = line.startswith("*")
        weight, text = line.lstrip("* ").split(" ", 1)
        yield Template(slot, order, text.strip(), int(weight), small, plots, ending)


class World:
    """A generator of stories whose truth is known.

    `size`: "rich" (the default), "small" (the same slots, fewer words and sentences: learnt fast; every small story is
    a rich story too) or "harbour" (the second domain: ships' logs, with other words in another form).
    """

    def __init__(self, size="rich"):
        if size not in ("rich", "small", "harbour"):
            raise UsageError(f"no world is called {size!r}; choose 'rich', 'small' or 'harbour'")
        self.name = size
        source = _source(size)
        self._fill(source, small=size == "small")
        self.class_of = {word: name for name, words in self.classes.items() for word in words}
        self._articles = {word: article(word) for word in self.class_of}
        self._index = {}
        for template in self.templates:
            self._index.setdefault(template.key, []).append(template)
        self._prepare_draws()
        self._measure()

    # -- construction ------------------------------------------------------------------------------------------------

    def _fill(self, source, small):
        """Take the words and templates of a source module (all, or those of the small world)."""
        classes = {
            "name": source.NAMES, "kind": source.KINDS, "object": list(source.OBJECTS), "colour": source.COLOURS,
            "place": source.PLACES, "trait": source.TRAITS, "weather": source.WEATHERS, "food": source.FOODS,
        }  # fmt: skip
        if small:
            classes = {name: words[: source.SMALL_COUNTS[name]] for name, words in classes.items()}
        self.classes = {name: tuple(words) for name, words in classes.items()}
        self.plots = source.SMALL_PLOTS if small else tuple(source.PLOT_TAGS)
        self.endings = ENDINGS
        self.slots = tuple(source.TABLES)
        tables = enumerate(source.TABLES.items())
        templates = [t for order, (slot, table) in tables for t in _read_table(slot, order, table)]
        self.templates = [t for t in templates if t.small or not small]
        self.needs, self.joiner = source.NEEDS, source.JOINER
        self.skip = {slot: 1.0 if small else share for slot, share in source.SKIP.items()}
        self.objects_of = {
            plot: tuple(o for o in self.classes["object"] if set(source.PLOT_TAGS[plot]) <= set(source.OBJECTS[o]))
            for plot in self.plots
        }
        weights = [source.PLOT_WEIGHTS[plot] for plot in self.plots]
        self._plot_p = {plot: weight / sum(weights) for plot, weight in zip(self.plots, weights, strict=True)}

    def _prepare_draws(self):
        """For each (plot, ending), slot by slot: share left out, cumulated probabilities, templates, log p of each."""
        self._plan, self._logp_of, self._logp_skip = {}, {}, {}
        for plot in self.plots:
            for ending in self.endings:
                plan = []
                for slot in self.slots:
                    skip = self.skip.get(slot, 0.0)
                    fitting = [t for t in self.templates if t.slot == slot and t.fits(plot, ending)]
                    total = sum(t.weight for t in fitting)
                    shares = [(1 - skip) * t.weight / total for t in fitting]
                    cumulated = [skip + sum(shares[: i + 1]) for i in range(len(shares))]
                    for template, share in zip(fitting, shares, strict=True):
                        self._logp_of[plot, ending, template] = math.log(share)
                    self._logp_skip[plot, ending, slot] = math.log(skip) if skip else -math.inf
                    plan.append((self.needs.get(slot), skip, cumulated, fitting))
                self._plan[plot, ending] = plan
        self._cumulated_plots = [sum(list(self._plot_p.values())[: i + 1]) for i in range(len(self.plots))]

    def _measure(self):
        """Least and greatest length (tokens) of a story, and how often it names hero and object at least."""
        least, most, hero, thing = [], [], [], []
        for plan in self._plan.values():
            told = [(skip, fitting) for _, skip, _, fitting in plan if fitting]
            always = [fitting for skip, fitting in told if not skip]
            least.append(sum(min(t.length for t in fitting) for fitting in always))
            most.append(sum(max(t.length for t in fitting) for skip, fitting in told if skip < 1))
            hero.append(sum(min(t.roles.count("hero") for t in fitting) for fitting in always))
            thing.append(sum(min(t.roles.count("object") for t in fitting) for fitting in always))
        self.min_length, self.max_length = min(least), max(most)
        self.min_heroes, self.min_objects = min(hero), min(thing)

    # -- words -------------------------------------------------------------------------------------------------------

    names = property(lambda self: self.classes["name"])
    kinds = property(lambda self: self.classes["kind"])
    objects = property(lambda self: self.classes["object"])
    colours = property(lambda self: self.classes["colour"])
    traits = property(lambda self: self.classes["trait"])
    places = property(lambda self: self.classes["place"])
    weathers = property(lambda self: self.classes["weather"])
    foods = property(lambda self: self.classes["food"])

    def words(self):
        """All words that a story of this world can contain, sorted."""
        words = set(self.class_of) | set(self._articles.values())
        for template in self.templates:
            words.update(WORD.findall(_ROLE.sub(" ", template.format)))
        return sorted(words)

    def count_facts(self):
        """How many combinations of the facts that every story tells (those of `Facts` up to helper_kind) there are."""
        size = {name: len(words) for name, words in self.classes.items()}
        per_object = size["name"] * (size["name"] - 1) * size["kind"] * (size["kind"] - 1)
        per_object *= size["trait"] * size["colour"] * size["place"] * len(self.endings)
        return per_object * sum(len(objects) for objects in self.objects_of.values())

    # -- drawing -----------------------------------------------------------------------------------------------------

    def split_of(self, facts):
        """ "train" (90 %), "valid" (5 %) or "test" (5 %), by a hash of hero, object, place, helper and plot."""
        key = "|".join(getattr(facts, role) or "" for role in HELD_OUT_BY)
        return _split_of_key(key)

    def sample(self, n, seed=0, split="train"):
        """`n` stories of a split, the same for the same seed on every machine. The first k of n are `sample(k, …)`."""
        if split not in SPLITS:
            raise UsageError(f"no split is called {split!r}; choose one of {', '.join(SPLITS)}")
        rng = random.Random(f"{self.name}/{seed}")
        stories = []
        while len(stories) < n:
            words, templates, logp = self._draw(rng)
            if split != "all":
                held_out_key = "|".join([words[role] for role in HELD_OUT_BY])
                if _split_of_key(held_out_key) != split:
                    continue
            stories.append(self._tell(words, templates, logp))
        return stories

    def _draw(self, rng):
        """Facts as a dict (with "a_role" and "A_role" forms), the templates in order, and log p."""
        draw = rng.random
        plot = self.plots[bisect(self._cumulated_plots, draw() * self._cumulated_plots[-1])]
        ending = self.endings[draw() >= 0.5]
        words = {"plot": plot, "ending": ending}
        logp = math.log(self._plot_p[plot]) - math.log(len(self.endings))
        told = []
        for needs, skip, cumulated, fitting in self._plan[plot, ending]:
            if needs and (not told or told[-1].slot != needs):
                continue
            point = draw()
            if point < skip:
                logp += math.log(skip)
                continue
            template = fitting[min(bisect(cumulated, point), len(fitting) - 1)]
            logp += self._logp_of[plot, ending, template]
            told.append(template)
            for role in template.new_roles:
                if role not in words:
                    choices = self._choices(role, plot)
                    rival = words.get(RIVAL.get(role))
                    word = choices[int(draw() * len(choices))]
                    while word == rival:
                        word = choices[int(draw() * len(choices))]
                    logp -= math.log(len(choices) - (rival is not None))
                    self._put(words, role, word)
        return words, told, logp

    def _choices(self, role, plot):
        return self.objects_of[plot] if role == "object" else self.classes[ROLE_CLASS[role]]

    def _put(self, words, role, word):
        words[role] = word
        before = self._articles[word]
        words["a_" + role] = f"{before} {word}"
        words["A_" + role] = f"{before.capitalize()} {word}"

    def _tell(self, words, templates, logp):
        text = self.joiner.join([template.format.format_map(words) for template in templates])
        return Story(text, Facts(*[words.get(name) for name in FACT_NAMES]), logp)

    def tell(self, facts, templates):
        """The text that the given templates make of the facts (of which every role named must be known)."""
        return self.tell_words({role: getattr(facts, role) for role in ROLE_CLASS}, templates)

    def tell_words(self, words, templates):
        """The text that the templates make of a dict from roles to words."""
        forms = {}
        for role, word in words.items():
            if word is not None:
                self._put(forms, role, word)
        return self.joiner.join([template.format.format_map(forms) for template in templates])

    def draw_templates(self, slots, plot, ending, words, rng):
        """One template for each of the slots, drawn as the generator would; new roles are drawn into `words`."""
        drawn = []
        for slot in slots:
            fitting = [t for t in self.templates if t.slot == slot and t.fits(plot, ending)]
            template = rng.choices(fitting, [t.weight for t in fitting])[0]
            drawn.append(template)
            for role in template.new_roles:
                if role not in words:
                    rival = words.get(RIVAL.get(role))
                    words[role] = rng.choice([word for word in self._choices(role, plot) if word != rival])
        return drawn

    # -- reading -----------------------------------------------------------------------------------------------------

    def read_sentence(self, sentence):
        """Templates that the sentence could be, and the role words in it from left to right: (templates, words)."""
        if MARK in sentence:
            return (), []
        parts = WORD.split(sentence)
        found, class_of = [], self.class_of
        for i in range(1, len(parts), 2):
            word = parts[i]
            name = class_of.get(word)
            if name is None:
                continue
            found.append(word)
            parts[i] = MARK + name
            if i > 2 and parts[i - 1] == " " and parts[i - 2] in ("a", "an", "A", "An"):
                before = parts[i - 2]
                parts[i - 2] = before[0] if before.lower() == self._articles[word] else MARK
        return self._index.get("".join(parts), ()), found

    def derivations(self, text):
        """All derivations of a text, each (facts, templates, logp). There is at most one, which the tests count."""
        if len(text) > 20 * self.max_length:
            return []
        read = [self.read_sentence(sentence) for sentence in split_sentences(text)]
        if not all(templates for templates, _ in read):
            return []
        found = []
        self._extend(read, 0, 0, {}, [], found)
        told = []
        for words, templates in found:
            if self.tell_words(words, templates) != text:
                continue
            plots = [p for p in self.plots if all(p in t.plots for t in templates if t.plots)]
            endings = [e for e in self.endings if all(e == t.ending for t in templates if t.ending)]
            for plot, ending in itertools.product(plots, endings):
                logp = self._logp(plot, ending, words, templates)
                if logp > -math.inf:
                    told.append((Facts(**words, plot=plot, ending=ending), templates, logp))
        return told

    def _extend(self, read, position, slot, words, templates, found):
        if position == len(read):
            found.append((dict(words), list(templates)))
            return
        candidates, values = read[position]
        for template in candidates:
            if template.order < slot:
                continue
            bound = _bind(words, template, values)
            if bound is not None:
                self._extend(read, position + 1, template.order + 1, bound, templates + [template], found)

    def _logp(self, plot, ending, words, templates):
        logp = math.log(self._plot_p[plot]) - math.log(len(self.endings))
        told = {template.slot: template for template in templates}
        for slot in self.slots:
            template = told.get(slot)
            if slot in self.needs and self.needs[slot] not in told:
                logp += 0.0 if template is None else -math.inf
            elif template is None:
                logp += self._logp_skip[plot, ending, slot]
            else:
                logp += self._logp_of.get((plot, ending, template), -math.inf)
        seen = {}
        for template in templates:
            for role in template.new_roles:
                if role not in seen:
                    seen[role] = words[role]
                    choices = self._choices(role, plot)
                    if words[role] not in choices:
                        return -math.inf
                    logp -= math.log(len(choices) - (RIVAL.get(role) in seen))
        return logp

    def logprob(self, text):
        """Exact log-probability (nats) of a text under the generator before exclusion; -inf when it cannot tell it."""
        logps = [logp for _, _, logp in self.derivations(text)]
        if not logps:
            return -math.inf
        top = max(logps)
        return top + math.log(sum(math.exp(logp - top) for logp in logps))

    def floor(self, stories):
        """Mean of -log p over the stories, in nats per story: no model of this world can expect less."""
        return sum(-story.logp for story in stories) / len(stories)

    def entropy(self):
        """Exact entropy of the generator before exclusion, in nats per story: the mean of -log p over all stories."""
        total = 0.0
        for (plot, _), plan in self._plan.items():
            share = self._plot_p[plot] / len(self.endings)
            total += share * (self._entropy_of(plot, plan) - math.log(share))
        return total

    def _entropy_of(self, plot, plan):
        """Entropy given plot and ending: slot by slot, over the sets of roles that may be known by then."""
        entropy, states = 0.0, {(frozenset(), None): 1.0}  # (roles named so far, last slot told) -> probability
        for slot, (needs, skip, cumulated, fitting) in zip(self.slots, plan, strict=True):
            after = {}
            for (known, last), p in states.items():
                silent = 1.0 if needs and last != needs else skip
                _add(after, (known, last), p * silent)
                entropy -= p * silent * math.log(silent) if silent else 0.0
                for template, low, high in zip(fitting, [skip, *cumulated], cumulated, strict=False):
                    if silent == 1.0:
                        break
                    named, nats = set(known), -math.log(high - low)
                    for role in template.new_roles:
                        if role not in named:
                            nats += math.log(len(self._choices(role, plot)) - (RIVAL.get(role) in named))
                            named.add(role)
                    entropy += p * (high - low) * nats
                    _add(after, (frozenset(named), slot), p * (high - low))
            states = after
        return entropy

    def __repr__(self):
        return f"World({self.name!r})"


def _add(counts, key, amount):
    if amount:
        counts[key] = counts.get(key, 0.0) + amount


def _bind(words, template, values):
    """`words` with the template's roles bound to the values; None when they contradict each other."""
    bound = dict(words)
    for role, value in zip(template.roles, values, strict=True):
        if bound.setdefault(role, value) != value or bound.get(RIVAL.get(role)) == value:
            return None
    return bound


@lru_cache(maxsize=1 << 16)
def _split_of_key(key):
    share = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=4).digest(), "big") / 2**32
    return "test" if share < 0.05 else "valid" if share < 0.10 else "train"


def _source(size):
    if size == "harbour":
        from ftlab.world import harbour

        return harbour
    from ftlab.world import rich

    return rich


@cache
def get_world(size="rich"):
    """The one shared `World` of a size."""
    return World(size)
