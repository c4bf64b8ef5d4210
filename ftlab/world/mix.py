"""What the shipped base models are pretrained on: stories in many settings, in other forms than the task templates.

A base that has seen bare stories only does not learn to follow instructions on little data (measured); one that has
seen stories under attribute lists, and questions with their answers, does. So the mix has both, in many forms
(`FORMS`), none of which is a form of the evaluation, though every word and mark of those occurs here in another use.
"""

import random
import re

from ftlab.world import phrases
from ftlab.world.grammar import ROLE_CLASS, article, count_tokens, split_sentences

MAX_TOKENS = 330
_LABELS = {
    "hero": ("Hero", "Name", "Main character"), "kind": ("Kind", "Animal"), "trait": ("Trait", "Character"),
    "object": ("Object", "Thing"), "colour": ("Colour",), "place": ("Place", "Where"), "helper": ("Helper", "Friend"),
    "helper_kind": ("Kind of helper",), "ending": ("Ending", "How it ends"), "plot": ("Plot",),
}  # fmt: skip
_ROLES = tuple(_LABELS)


def _some_roles(rng, least=2, most=6):
    """A random choice of attributes, in random order; the ones that instructions speak of come often."""
    often = ["kind", "object", "ending", "trait", "colour", "place", "helper"]
    pool = often * 2 + ["hero", "helper_kind", "plot"]
    rng.shuffle(pool)
    return list(dict.fromkeys(pool))[: rng.randint(least, most)]


def _fill(pattern, story):
    """`pattern` with the story's facts in its slots, "a {kind}" as "an owl" where the word asks for it."""
    facts = story.facts.as_dict()
    slots = re.sub(r"\b([Aa]) (?=\{(\w+)\})", lambda m: m[1] + article(facts[m[2]])[1:] + " ", pattern)
    return slots.format(**facts)


def bare(rng, stories):
    """The story, nothing else."""
    return next(stories).text


def header_lines(rng, stories):
    """"Hero: Mira", one attribute a line, then the story."""
    story = next(stories)
    lines = []
    for role in _some_roles(rng):
        label, value = rng.choice(_LABELS[role]), getattr(story.facts, role)
        if role == "hero" and rng.random() < 0.5:
            value = f"{value} the {story.facts.kind}"
        if role == "object" and rng.random() < 0.5:
            value = f"{story.facts.colour} {value}"
        lines.append(f"{label}: {value}")
    return "\n".join(lines) + "\n\n" + story.text


def notes(rng, stories):
    """A heading, keywords as points, then the story."""
    story = next(stories)
    heading = rng.choice(("# Notes", "# Words", "## Plan", "Keywords", "Things to tell about"))
    points = "\n".join(f"- {getattr(story.facts, role)}" for role in _some_roles(rng))
    return f"{heading}\n{points}\n\n{story.text}"


def brackets(rng, stories):
    """(fox; kite; sad) and the story behind it."""
    story = next(stories)
    left, separator, right = rng.choice((("(", "; ", ")"), ("[", ", ", "]"), ("(", ", ", ")"), ("[", " | ", "]")))
    words = separator.join(getattr(story.facts, role) for role in _some_roles(rng))
    return f"{left}{words}{right}{rng.choice((' ', chr(10)))}{story.text}"


def title(rng, stories):
    """A title that names hero, object, place or helper, then the story."""
    story = next(stories)
    pattern = rng.choice((
        "The {ending} story of {hero} and the {colour} {object}",
        "{hero} the {trait} {kind}, {helper} and the {object}",
        "A {kind}, a {object} and the {place}",
        "How {helper} met {hero} at the {place}, with a {ending} end",
        "About a {trait} {kind} and a {colour} {object}, {ending}",
    ))  # fmt: skip
    mark = rng.choice(("# ", "## ", "### ", "", "* "))
    return f"{mark}{_fill(pattern, story)}\n\n{story.text}"


def sections(rng, stories):
    """Each attribute under a heading of its own, the story under the last heading."""
    story = next(stories)
    mark = rng.choice(("##", "###"))
    parts = [f"{mark} {rng.choice(_LABELS[role])}:\n{getattr(story.facts, role)}" for role in _some_roles(rng, 1, 4)]
    return "\n\n".join(parts) + f"\n\n{mark} {rng.choice(('Tale', 'Text', 'Story'))}:\n{story.text}"


def record(rng, stories):
    """{"kind": "fox", …} and the story as its last entry."""
    story = next(stories)
    entries = "".join(f'"{role}": "{getattr(story.facts, role)}", ' for role in _some_roles(rng))
    return "{" + entries + '"story": ' + story.text + "}"


def marked(rng, stories):
    """<|kind|> fox, with the story behind the last mark."""
    story = next(stories)
    lines = [f"<|{role}|> {getattr(story.facts, role)}" for role in _some_roles(rng)]
    return "\n".join(lines) + "\n<|story|>\n" + story.text + rng.choice(("", "\n<|end|>"))


def sentence_header(rng, stories):
    """One sentence that announces what the story has in it."""
    story = next(stories)
    pattern = rng.choice((
        "Here is a story about a {trait} {kind} with a {colour} {object}. It has a {ending} ending.",
        "The next story has a {kind}, a {object} and a {ending} ending:",
        "In this story a {kind} goes to the {place}, and {helper} helps. The ending is {ending}.",
        "We read about somebody {trait}, something {colour}, and {helper} as the helper.",
        "A {kind} with a {object}, and it ends in a {ending} way:",
        "{ending}, {kind}, {object}, {place} =>",
        "Wanted: a {kind}, a {colour} {object}, the {place}. Found:",
    ))  # fmt: skip
    return f"{_fill(pattern, story)}{rng.choice((' ', chr(10), chr(10) * 2))}{story.text}"


def several(rng, stories, room):
    """Stories in a row with a separator, as many as there is room for."""
    told = _take(rng, stories, room, 4)
    separator = rng.choice(("\n\n***\n\n", "\n\n---\n\n", "\n\n", "\n\n* * *\n\n"))
    if rng.random() < 0.3:
        return separator.join(f"Story {number}\n{story.text}" for number, story in enumerate(told, 1))
    return separator.join(story.text for story in told)


def several_with_headers(rng, stories, room):
    """Stories in a row, each under its attributes, all in one layout."""
    roles = _some_roles(rng, 2, 4)
    layout = rng.choice(("lines", "brackets", "arrow"))
    parts = []
    for story in _take(rng, stories, room - 60, 3):
        values = [getattr(story.facts, role) for role in roles]
        if layout == "lines":
            head = "\n".join(f"{_LABELS[role][0]}: {value}" for role, value in zip(roles, values, strict=True))
        elif layout == "brackets":
            head = "(" + "; ".join(values) + ")"
        else:
            head = ", ".join(values) + " ->"
        parts.append(f"{head}\n{story.text}")
    return "\n\n".join(parts)


_ASK = {
    "hero": ("Who is this about", "The hero", "Name the hero", "Whose story is this"),
    "kind": ("What is {hero}", "Kind of {hero}", "{hero} is which animal", "The animal called {hero}"),
    "trait": ("How is {hero}", "What is {hero} like", "{hero} is how", "The character of {hero}"),
    "object": ("What is it that {hero} has", "The thing of {hero}", "{hero} owns which thing", "Name the object"),
    "colour": ("The colour of the {object}", "How does the {object} look", "Which colour", "The {object} is of which colour"),
    "place": ("The place where {hero} is", "Where is {hero} now", "{hero} goes where", "Name the place of the visit"),
    "helper": ("The friend of {hero}", "Who is the helper", "{hero} has help from whom", "Name the helper"),
    "helper_kind": ("What is {helper}", "Kind of {helper}", "{helper} is which animal", "The animal called {helper}"),
    "ending": ("How does it end", "Happy or sad", "The ending", "Is it a happy end or a sad end"),
}  # fmt: skip
_QA = (("Q: ", "?\nA: ", "\n"), ("? ", "\n! ", "\n"), ("- ", ": ", "\n"), ("Question: ", "?\nAnswer: ", "\n\n"),
       ("", " = ", "\n"), ("Task: ", ".\nReply: ", "\n\n"), ("## ", "\n", "\n\n"), ("[", "] ", "\n"),
       ("### ", "?\n\n### ", "\n\n"), ("* ", " -> ", "\n"), ("", "? ", " "))  # fmt: skip


def _asked(rng, story, roles):
    """(question, answer) for each of the roles."""
    facts = story.facts.as_dict()
    return [(rng.choice(_ASK[role]).format(**facts), facts[role]) for role in roles]


def _questions(rng, story, count):
    before, between, after = rng.choice(_QA)
    asked = _asked(rng, story, rng.sample(sorted(_ASK), count))
    return after.join(f"{before}{question}{between}{answer}" for question, answer in asked)


def questions_after(rng, stories, room):
    """A story, then several questions with their answers in one layout."""
    story = next(stories)
    return f"{story.text}\n\n{_questions(rng, story, rng.randint(3, 8))}"


def questions_before(rng, stories, room):
    """Questions with answers first, then the story that they are about."""
    story = next(stories)
    return f"{_questions(rng, story, rng.randint(2, 6))}\n\n{story.text}"


def label_series(rng, stories, room):
    """Two or three stories, each followed by the same one fact: a pattern to go on with."""
    role = rng.choice(("ending", "ending", "hero", "object", "colour", "place", "helper", "kind"))
    label = rng.choice((rng.choice(_LABELS[role]) + ":", "->", "=>", f"[{role}]"))
    return "\n\n".join(f"{story.text}\n{label} {getattr(story.facts, role)}" for story in _take(rng, stories, room, 3))


def both_endings(rng, stories, room):
    """One story told twice, with either ending."""
    story = next(stories)
    other = other_ending(stories.world, story, rng)
    first, second = rng.choice((("Version {}:", "Version {}:"), ("({})", "({})"), ("", "Now {}:"), ("[{}]", "[{}]")))
    texts = []
    for head, text, ending in ((first, story.text, story.facts.ending), (second, other, _opposite(story))):
        texts.append(f"{head.format(ending)}\n{text}".lstrip())
    return "\n\n".join(texts)


def word_pairs(rng, stories, room):
    """"kite -> red", facts of several stories as pairs, then those stories: lists to copy from."""
    told = _take(rng, stories, room - 60, 2)
    left, right = rng.sample(("hero", "kind", "object", "colour", "place", "helper", "ending"), 2)
    arrow = rng.choice((" -> ", " => ", ": ", " = "))
    pairs = "\n".join(f"{getattr(s.facts, left)}{arrow}{getattr(s.facts, right)}" for s in told)
    texts = "\n\n".join(story.text for story in told)
    return f"{texts}\n\n{pairs}" if rng.random() < 0.5 else f"{pairs}\n\n{texts}"


def glossary(rng, stories, room):
    """A list of words, repeated or explained: the words of the prompt templates and instructions in another use."""
    words = [*phrases.lexicon(), *[w for name in sorted(set(ROLE_CLASS.values())) for w in stories.world.classes[name]]]
    chosen = rng.sample(phrases.lexicon(), 10) + rng.sample(words, 4) + rng.sample(phrases.TEMPLATE_WORDS, 3)
    rng.shuffle(chosen)
    before, between, after = rng.choice((
        ("", " -> ", "\n"), ("", ": ", "\n"), ("- ", " ", "\n"), ("<|", "|> ", "\n"), ("### ", "\n", "\n\n"),
        ("### ", ":\n", "\n\n"), ("", "; ", ", "),
    ))  # fmt: skip
    listed = after.join(f"{before}{word}{between}{word}" for word in chosen)
    return f"{rng.choice(('Words', 'List', 'Say it again'))}\n\n{listed}\n\n{next(stories).text}"


# form -> share of the documents. The forms of the second group are told how many word tokens they may take.
SHORT_FORMS = {
    bare: 19, header_lines: 12, notes: 5, brackets: 6, title: 4, sections: 4, record: 3, marked: 4, sentence_header: 7,
}  # fmt: skip
LONG_FORMS = {
    several: 6, several_with_headers: 5, questions_after: 7, questions_before: 2, label_series: 4, both_endings: 8,
    word_pairs: 2, glossary: 2,
}  # fmt: skip
FORMS = {form.__name__: form for form in (*SHORT_FORMS, *LONG_FORMS)}


class _Stream:
    """The training stories of a world, one after another for ever."""

    def __init__(self, world, seed):
        self.world, self.seed, self.chunk, self.stories = world, seed, 0, iter(())

    def __next__(self):
        story = next(self.stories, None)
        if story is None:
            self.stories = iter(self.world.sample(2000, f"mix/{self.seed}/{self.chunk}"))
            self.chunk += 1
            story = next(self.stories)
        return story


def _take(rng, stories, room, most):
    """Two to `most` stories that together stay within `room` word tokens."""
    told, used = [next(stories)], 0
    used = count_tokens(told[0].text) + 4
    for _ in range(rng.randint(1, most - 1)):
        story = next(stories)
        used += count_tokens(story.text) + 4
        if used > room:
            break
        told.append(story)
    return told


def _opposite(story):
    return "sad" if story.facts.ending == "happy" else "happy"


def other_ending(world, story, rng):
    """The text of `story` with the other ending: the same facts and sentences up to the resolution, then new ones.

    The facts that the new sentences need and the story has not named are drawn; a moral is told where there was one.
    """
    (_, templates, _), *_ = world.derivations(story.text)
    first = world.slots.index("resolution")
    kept = [template for template in templates if template.order < first]
    words = {role: getattr(story.facts, role) for template in kept for role in template.roles}
    slots = [template.slot for template in templates[len(kept) :]]
    tail = world.draw_templates(slots, story.facts.plot, _opposite(story), words, rng)
    return world.tell_words(words, kept + tail)


def pretraining_mix(world, n_documents, seed=0):
    """`n_documents` documents, one after another (see the module); each at most about 330 word tokens long."""
    rng = random.Random(f"mix/{world.name}/{seed}")
    stories = _Stream(world, seed)
    forms, weights = zip(*SHORT_FORMS.items(), *LONG_FORMS.items(), strict=True)
    for form in rng.choices(forms, weights, k=n_documents):
        yield form(rng, stories) if form in SHORT_FORMS else form(rng, stories, MAX_TOKENS)


def question_series(world, n_documents, seed=0):
    """(passage, questions with answers) of `n_documents` training stories of `world`; joined, one document.

    Facts to copy from a passage, and nothing else between: where the heads that copy form first. Every other passage is
    one to three sentences long: a place is named once in a story of a hundred words, and was not found there after
    8,000 steps, though a thing, named five times, was after 500. Some are the two sentences that name the two animals,
    hero's and helper's, since one of the two is given by chance where a story tells both. In two documents of three one
    to three of the questions stand before the passage and their answers at once behind it, as whoever is given a task
    reads the question first; the others follow with their answers.
    """
    rng = random.Random(f"questions/{world.name}/{seed}")
    for story in world.sample(n_documents, f"questions/{seed}"):
        passage, roles = _passage(rng, story)
        before, between, after = rng.choice(_QA)
        asked = _asked(rng, story, rng.sample(roles, len(roles)))
        first = asked[: rng.choice((0, 1, 1, 1, 2, 3))]
        answers = [f"{before}{question}{between}{answer}" for question, answer in asked[len(first) :]]
        if first:
            head = after.join((before + question + between).split("\n")[0].rstrip(" =:->") for question, _ in first)
            passage = f"{head}\n\n{rng.choice(_ABOVE)}{passage}"
            answers.insert(0, between.split("\n")[-1].lstrip(" ]?") + ", ".join(answer for _, answer in first))
        yield f"{passage}\n\n", after.join(answers)


def retold_series(world, n_documents, seed=0):
    """(story, the same story told again with the other ending) of `n_documents` training stories of `world`.

    Half of the second text is the first, word by word: all classes of words are copied at once, and whole sentences.
    """
    rng = random.Random(f"retold/{world.name}/{seed}")
    for story in world.sample(n_documents, f"retold/{seed}"):
        ending = _opposite(story)
        head = rng.choice(("Now {}:\n", "({})\n", "[{}] ", "Once more, {}:\n", "Ending: {}\n\n", "", "***\n\n")).format(ending)
        first = rng.choice(("", "", f"{rng.choice(_AGAIN).format(ending)}\n\n"))
        yield f"{first}{story.text}\n\n", head + other_ending(world, story, rng)


def repeated_series(world, n_documents, seed=0):
    """(sentences, the same again) of `n_documents` pairs of training stories of `world`.

    Two to nine sentences of two stories in random order: what comes next can be known from the copy alone, by more than
    the last word, since both stories have sentences that begin alike. A retold story asks for much less of that: with
    its facts and the grammar most of each sentence is known.
    """
    rng = random.Random(f"repeated/{world.name}/{seed}")
    stories = world.sample(2 * n_documents, f"repeated/{seed}")
    for one, other in zip(stories[::2], stories[1::2], strict=True):
        sentences = split_sentences(one.text) + split_sentences(other.text)
        text = " ".join(rng.sample(sentences, rng.randint(2, 9)))
        yield f"{text}\n\n", rng.choice(("", "", "***\n", "Copy:\n", "Again: ", "= ")) + text


_AGAIN = ("Twice, then {}", "({})", "The same again, {}:", "Another end: {}", "Told to be {} in the end.")
_ABOVE = ("", "", "Text:\n", "Text: ", "## Story\n", "### Story:\n")
# How often a passage is asked for a fact that it tells: always where the story tells it once, less where it comes back.
_ASKED = {"kind": 1, "place": 0.7, "helper_kind": 1, "trait": 0.6, "colour": 0.6, "helper": 0.7, "object": 0.5, "hero": 0.6,
          "ending": 1}  # fmt: skip


def _passage(rng, story):
    """The story, or one to three sentences of it; and the roles that are asked about it."""
    facts, sentences = story.facts.as_dict(), split_sentences(story.text)
    if rng.random() < 0.15:  # two animals, and nothing but a name to tell them apart
        named = ({facts["hero"], facts["kind"]}, {facts["helper"], facts["helper_kind"]})
        both = [next(sentence for sentence in sentences if pair <= _words(sentence)) for pair in named]
        return " ".join(rng.sample(both, 2)), ["kind", "helper_kind"]
    while True:
        start, end = 0, len(sentences)
        if rng.random() < 0.5:
            [wanted] = rng.choices(list(_ASKED), list(_ASKED.values()))
            start = rng.choice([i for i, s in enumerate(sentences) if facts[wanted] in _words(s)] or [0])
            start = max(0, start - rng.randint(0, 2))
            end = start + rng.randint(1, 3)
        passage = " ".join(sentences[start:end])
        told = [r for r in sorted(_ASK) if (end - start == len(sentences) if r == "ending" else facts[r] in _words(passage))]
        roles = [role for role in told if rng.random() < _ASKED[role]]
        if roles:
            return passage, roles


def _words(text):
    return set(re.findall(r"\w+", text))
