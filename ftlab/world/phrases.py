"""How the tasks put their questions into words: every phrasing of every family, in one place."""

import re
from dataclasses import dataclass

WRITE_OPENERS = ("Write a story", "Tell a story", "Write a short story", "Please write a story", "Make up a story")
# {…} are slots for the constraints' own words; the list styles name them one by one.
WRITE_LISTS = ("{opener} with {items}.", "{opener}. Use these: {items}.", "{opener} that has {items}.")
ITEM = {
    "kind": "a {kind}", "trait": "somebody {trait}", "object": "a {object}", "colour": "something {colour}",
    "place": "the {place}", "ending": "a {ending} ending", "helper": "{helper} as the helper",
}  # fmt: skip
CLAUSE = {
    "place": (" It takes place at the {place}.", " Somebody goes to the {place}."),
    "ending": (" The ending should be {ending}.", " It ends in a {ending} way."),
    "helper": (" The helper is called {helper}.", " {helper} should help."),
}
# family answer: what is asked for -> questions (the answer is the fact itself)
QUESTIONS = {
    "hero": ("Who is the hero of the story?", "Who has the {object}?"),
    "kind": ("What kind of animal is {hero}?", "Which animal is {hero}?"),
    "object": ("What does {hero} have?", "Which thing does {hero} own?"),
    "colour": ("What colour is the {object}?", "Which colour does the {object} have?"),
    "place": ("Where does {hero} go?", "Which place does {hero} visit?"),
    "helper": ("Who helps {hero}?", "What is the name of the helper?"),
    "helper_kind": ("What kind of animal is {helper}?", "Which animal is {helper}?"),
}
ANSWER = ("{question}", "Answer the question. {question}", "Read the story and answer: {question}")
EXTRACT = {
    "hero": ("Extract the name of the hero.", "Copy the name of the hero."),
    "object": ("Extract the object.", "Copy the thing that the hero owns."),
    "colour": ("Extract the colour of the object.", "Copy the colour of the thing."),
    "place": ("Extract the place.", "Copy the place that the hero visits."),
    "helper": ("Extract the name of the helper.", "Copy the name of the helper."),
}
REWRITE = (
    "Rewrite the story with a {ending} ending.", "Change the ending of the story to {ending}.",
    "Tell the same story, but make the ending {ending}.",
)  # fmt: skip
CLASSIFY = (
    "Is the ending of the story happy or sad?", "Classify the ending: happy or sad?",
    "Does the story end in a happy or a sad way?",
)  # fmt: skip
TEMPLATE_WORDS = ("Instruction", "Input", "Response", "End", "user", "assistant", "system")


def lexicon():
    """Every word that an instruction or a prompt template uses besides the words of the world, sorted."""
    texts = [*WRITE_OPENERS, *WRITE_LISTS, *ITEM.values(), *ANSWER, *REWRITE, *CLASSIFY]
    for table in (CLAUSE, QUESTIONS, EXTRACT):
        texts += [text for group in table.values() for text in group]
    words = set(TEMPLATE_WORDS)
    for text in texts:
        words.update(re.findall(r"[A-Za-z]+", re.sub(r"\{\w+\}", " ", text)))
    return sorted(words)


@dataclass(frozen=True)
class Phrases:
    """The phrasings of one domain; see the constants above for what each holds."""

    openers: tuple
    lists: tuple
    about: str
    whole: str
    nobody: str
    item: dict
    clause: dict
    question: dict
    answer: tuple
    extract: dict
    rewrite: tuple
    classify: tuple


STORY = Phrases(
    openers=WRITE_OPENERS, lists=WRITE_LISTS, about="{opener} about {hero}{object}.", whole=" with {object}",
    nobody="somebody", item=ITEM, clause=CLAUSE, question=QUESTIONS, answer=ANSWER, extract=EXTRACT, rewrite=REWRITE,
    classify=CLASSIFY,
)  # fmt: skip
HARBOUR = Phrases(
    openers=("Write a log", "Keep a log", "Write the log of a voyage"),
    lists=("{opener} with {items}.", "{opener}. Use these: {items}."),
    about="{opener} about {hero}{object}.",
    whole=" that carries {object}",
    nobody="a ship",
    item={
        "kind": "a {kind}", "trait": "a {trait} ship", "object": "{object}", "colour": "cargo in {colour}",
        "place": "the port {place}", "ending": "a {ending} ending", "helper": "the {helper} as the helper",
    },  # fmt: skip
    clause={
        "place": (" The port is {place}.", " It sails for {place}."),
        "ending": (" The ending should be {ending}.", " It ends in a {ending} way."),
        "helper": (" The helper is the {helper}.", " The {helper} should help."),
    },
    question={
        "hero": ("Whose log is it?", "Which ship carries the {object}?"),
        "kind": ("What kind of ship is the {hero}?", "Which kind is the {hero}?"),
        "object": ("What does the {hero} carry?", "What is the cargo?"),
        "colour": ("What is the {object} packed in?", "In what does the {object} travel?"),
        "place": ("Where does the {hero} sail?", "For which port is the {hero} bound?"),
        "helper": ("Which ship helps the {hero}?", "What is the name of the helper?"),
        "helper_kind": ("What kind of ship is the {helper}?", "Which kind is the {helper}?"),
    },
    answer=("{question}", "Answer the question. {question}", "Read the log and answer: {question}"),
    extract={
        "hero": ("Extract the name of the ship.", "Copy the name of the ship."),
        "object": ("Extract the cargo.", "Copy what the ship carries."),
        "colour": ("Extract the packing.", "Copy what the cargo is packed in."),
        "place": ("Extract the port.", "Copy the port that the ship is bound for."),
        "helper": ("Extract the name of the helper.", "Copy the name of the ship that helps."),
    },
    rewrite=("Rewrite the log with a {ending} ending.", "Change the ending of the log to {ending}."),
    classify=("Is the ending of the log happy or sad?", "Classify the ending: happy or sad?"),
)


def of(world_name):
    """The `Phrases` of a world."""
    return HARBOUR if world_name == "harbour" else STORY
