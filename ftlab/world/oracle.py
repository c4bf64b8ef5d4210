"""The oracle: reads any text sentence by sentence, role by role, and says which rules of the world hold.

The rules (`RULES`), each true or false:

well_formed   every sentence is one that the grammar can tell, and the sentences stand in the order of the slots
hero_kept     the introduction could be read; every place where a sentence names the hero (or the hero's kind or trait)
              agrees with it; the hero is named as often as in the world's most silent story; and no sentence that could
              not be read has a name other than the hero's and the helper's
object_kept   the same for the object and its colour, from the sentence that gives the hero the object
helper_kept   the meeting could be read; the helper (name and kind) stays the same and is neither the hero nor of the
              hero's kind
places_kept   the outing could be read; the place, and the second place where there is one, stay the same and differ
details_kept  weather and food, where they are named, stay the same
plot_kept     problem and resolution could be read; every sentence fits one plot, and so does the object
ending_kept   resolution and ending could be read, and with all after them are of one kind, happy or sad
length_ok     the number of words and punctuation marks is one that a story of this world can have
complete      it starts with the introduction, no slot that must be told is missing, the last sentence is whole

`every_rule` is all of these together; then, and only then, `world.logprob(text)` is finite (white space at both ends
of the text is ignored). `hero_and_object` is hero_kept and object_kept.
"""

from dataclasses import dataclass, field

from ftlab.world.grammar import MARK, RIVAL, WORD, Facts, World, count_tokens, get_world, split_sentences

RULES = (
    "well_formed", "hero_kept", "object_kept", "helper_kept", "places_kept", "details_kept", "plot_kept", "ending_kept",
    "length_ok", "complete",
)  # fmt: skip
# The rule that a role breaks when it is told in two ways.
RULE_OF = {
    "hero": "hero_kept", "kind": "hero_kept", "trait": "hero_kept", "object": "object_kept", "colour": "object_kept",
    "helper": "helper_kept", "helper_kind": "helper_kept", "place": "places_kept", "place2": "places_kept",
    "weather": "details_kept", "food": "details_kept",
}  # fmt: skip
_NEEDED_SLOTS = {
    "helper_kept": ("meeting",), "places_kept": ("outing",), "plot_kept": ("problem", "resolution"),
    "ending_kept": ("resolution", "ending"),
}  # fmt: skip
MAX_CHARACTERS = 8000


@dataclass
class Verdict:
    """What the oracle found. `facts` holds what could be read; `problems` says in words what is wrong."""

    well_formed: bool
    hero_kept: bool
    object_kept: bool
    helper_kept: bool
    places_kept: bool
    details_kept: bool
    plot_kept: bool
    ending_kept: bool
    length_ok: bool
    complete: bool
    ending: str | None
    facts: Facts
    problems: list = field(default_factory=list)
    sentences: list = field(default_factory=list)  # (sentence, its slot or None) in order

    @property
    def rules(self):
        return {rule: getattr(self, rule) for rule in RULES}

    @property
    def hero_and_object(self):
        return self.hero_kept and self.object_kept

    @property
    def every_rule(self):
        return all(getattr(self, rule) for rule in RULES)


def judge(text, world=None):
    """The `Verdict` on any string, against a `World` (or its name; the rich one by default). Raises for no string.

    A text of the small world is judged by the rich one just as well: its words and templates are among the rich ones.
    """
    if world is None or isinstance(world, str):
        world = get_world(world or "rich")
    reading = _Reading(world)
    body = text.strip()
    sentences = split_sentences(body[:MAX_CHARACTERS]) if body else []
    for sentence in sentences:
        reading.add(sentence)
    if world.joiner.join(sentences) != body[:MAX_CHARACTERS]:
        reading.broken["well_formed"].append(f"sentences are not set apart by {world.joiner!r} everywhere")
    return reading.verdict(body)


# The rule that a constraint needs besides the fact itself: a story about a fox that turns into a bear is about no fox.
_NEEDS = {**RULE_OF, "ending": "ending_kept", "plot": "plot_kept"}


def met(constraints, verdict):
    """{role: bool}: which constraints a judged text meets. The fact must be read, right, and kept throughout."""
    return {
        role: getattr(verdict.facts, role) == value and getattr(verdict, _NEEDS[role])
        for role, value in constraints.items()
    }


class _Reading:
    """The state of reading one text: what is known so far, and what has gone wrong."""

    def __init__(self, world: World):
        self.world = world
        self.facts = {}
        self.broken = {rule: [] for rule in RULES}
        self.told = {}  # slot -> the first template read for it
        self.plots = set(world.plots)
        self.endings = set()
        self.counts = {"hero": 0, "object": 0}
        self.last_slot = -1
        self.unread = []
        self.sentences = []

    def add(self, sentence):
        templates, values = self.world.read_sentence(sentence)
        if not templates:
            self.unread.append(sentence)
            self.sentences.append((sentence, None))
            self.broken["well_formed"].append(f"this is no sentence of the world: {_short(sentence)}")
            return
        template = templates[0] if len(templates) == 1 else min(templates, key=lambda t: self._clashes(t, values))
        self.sentences.append((sentence, template.slot))
        self._check_order(template, sentence)
        self._take_roles(template, values)
        self._take_plot(template, sentence)

    def _clashes(self, template, values):
        """How badly a template fits what was read so far: (contradicted roles, wrong place)."""
        wrong = sum(self.facts.get(role, value) != value for role, value in zip(template.roles, values, strict=True))
        wrong += bool(template.plots) and not self.plots & set(template.plots)
        wrong += template.ending is not None and bool(self.endings - {template.ending})
        return wrong, template.order <= self.last_slot

    def _check_order(self, template, sentence):
        if template.order <= self.last_slot:
            what = "told twice" if template.slot in self.told else "told too late"
            self.broken["well_formed"].append(f"the {template.slot} is {what}: {_short(sentence)}")
        needs = self.world.needs.get(template.slot)
        if needs and needs not in self.told:
            self.broken["well_formed"].append(f"a {template.slot} without a {needs}: {_short(sentence)}")
        self.last_slot = max(self.last_slot, template.order)
        self.told.setdefault(template.slot, template)

    def _take_roles(self, template, values):
        facts = self.facts
        for role, value in zip(template.roles, values, strict=True):
            known = facts.get(role)
            if known is None:
                facts[role] = value
            elif known != value:
                name = "second place" if role == "place2" else role.replace("_", "'s ")
                self.broken[RULE_OF[role]].append(f"the {name} was {known} and is now {value}")
            if role in RIVAL and facts.get(RIVAL[role]) == value:
                rule = "places_kept" if role.startswith("place") else "helper_kept"
                self.broken[rule].append(f"{value} plays two parts")
            if role in self.counts:
                self.counts[role] += 1

    def _take_plot(self, template, sentence):
        if template.plots:
            if not self.plots & set(template.plots):
                self.broken["plot_kept"].append(f"this belongs to another plot: {_short(sentence)}")
            else:
                self.plots &= set(template.plots)
        if template.ending:
            if self.endings and template.ending not in self.endings:
                self.broken["ending_kept"].append(f"the ending turns {template.ending} here: {_short(sentence)}")
            self.endings.add(template.ending)

    # -- the verdict -------------------------------------------------------------------------------------------------

    def verdict(self, body):
        self._check_kept("hero", "introduction", self.world.min_heroes)
        self._check_kept("object", "possession", self.world.min_objects)
        self._check_unread()
        for rule, slots in _NEEDED_SLOTS.items():
            missing = [slot for slot in slots if slot not in self.told]
            self.broken[rule].extend(f"no {slot} could be read" for slot in missing)
        self._check_plot()
        self._check_whole(body)
        ending = self._ending()
        facts = Facts(**self.facts, plot=self._plot(), ending=ending)
        problems = list(dict.fromkeys(line for lines in self.broken.values() for line in lines))
        rules = {rule: not lines for rule, lines in self.broken.items()}
        return Verdict(**rules, ending=ending, facts=facts, problems=problems, sentences=self.sentences)

    def _check_kept(self, role, slot, least):
        if slot not in self.told:
            self.broken[role + "_kept"].append(f"no {slot} could be read")
        if self.counts[role] < least:
            self.broken[role + "_kept"].append(f"the {role} is named {self.counts[role]} times, not {least} or more")

    def _check_unread(self):
        """Sentences outside the grammar must not bring in other names, objects, or another colour for the object."""
        facts, class_of = self.facts, self.world.class_of
        people = {facts.get("hero"), facts.get("helper")}
        for sentence in self.unread:
            words = WORD.findall(sentence)
            for before, word in zip([None, *words], words, strict=False):
                kind = class_of.get(word)
                if kind == "name" and word not in people:
                    self.broken["hero_kept"].append(f"somebody else turns up: {word}")
                elif kind == "object" and word != facts.get("object"):
                    self.broken["object_kept"].append(f"another object turns up: {word}")
                elif kind == "object" and class_of.get(before) == "colour" and before != facts.get("colour"):
                    self.broken["object_kept"].append(f"the {word} is suddenly {before}")

    def _check_plot(self):
        thing, problem = self.facts.get("object"), self.told.get("problem")
        if problem and thing and not any(thing in self.world.objects_of[plot] for plot in problem.plots):
            self.broken["plot_kept"].append(f"this cannot happen to a {thing}")

    def _check_whole(self, body):
        world, broken = self.world, self.broken
        length = count_tokens(body[:MAX_CHARACTERS])
        if len(body) > MAX_CHARACTERS or not world.min_length <= length <= world.max_length:
            broken["length_ok"].append(f"{length} words and marks, not {world.min_length} to {world.max_length}")
        if len(body) > MAX_CHARACTERS:
            broken["well_formed"].append("it goes on for far too long")
        if not self.sentences:
            broken["well_formed"].append("there is no sentence")
            broken["complete"].append("there is no sentence")
            return
        if self.sentences[0][1] != world.slots[0]:
            broken["complete"].append(f"it does not start with the {world.slots[0]}")
        missing = [slot for slot in world.slots if slot not in world.skip and slot not in self.told]
        broken["complete"].extend(f"there is no {slot}" for slot in missing)
        if not self.sentences[-1][0].rstrip('"').endswith((".", "!", "?")):
            broken["complete"].append("the last sentence breaks off")

    def _plot(self):
        problem = self.told.get("problem")
        if problem:
            return problem.plots[0]
        return next(iter(self.plots)) if len(self.plots) == 1 else None

    def _ending(self):
        for slot in ("ending", "resolution"):
            if slot in self.told:
                return self.told[slot].ending
        return None


def _short(sentence):
    sentence = sentence.replace(MARK, " ")
    return sentence if len(sentence) <= 80 else sentence[:77] + "..."

