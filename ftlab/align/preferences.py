"""The user's own preferences, read into a list of `Pair`: from a table of any kind (`ftlab.text.tables`) or a Hub dataset.

Columns `prompt, chosen, rejected`, as text or as lists of messages {"role", "content"}; the prompt may also stand at the
head of both texts, as TRL calls it an implicit prompt. The other forms of published preferences are the tables below
(docs/data.md). A journal of `Ratings` is read as well.
"""

import itertools
import math
import re

from ftlab.align.ratings import check_rating, is_rating, rated_pairs
from ftlab.errors import UsageError
from ftlab.text import forms
from ftlab.text.reading import LeftOut, Row, Table, collect
from ftlab.text.tables import MAX_BYTES, kind, text_of, written
from ftlab.world.preference import Pair

# Columns that hold the two answers, the better one first, as TRL, Argilla, OpenAI, Stack Exchange and ms-swift name them.
SIDES = (("chosen", "rejected"), ("chosen_response", "rejected_response"), ("preferred_output", "non_preferred_output"),
         ("response_j", "response_k"), ("accepted", "rejected"), ("preferred", "dispreferred"),
         ("response", "rejected_response"), ("output", "rejected_output"),
         ("messages", "rejected_response"), ("messages", "rejected_messages"))  # fmt: skip
# Names under which data sets keep the prompt; "input" where there is none of the others beside it.
PROMPTS = ("prompt", "instruction", "question", "query", "problem")
_FIRST, _SECOND = ("a", "model_a", "response_a", "left", "1st"), ("b", "model_b", "response_b", "right", "2nd")
# Two answers in no order, and the column that says which is better: its names, and what it holds for the first and second.
VERSUS = (
    (("human_ref_a", "human_ref_b"), ("labels",), (1,), (0,)),  # SHP
    (("response_0", "response_1"), ("better_response_id",), (0,), (1,)),  # PKU-SafeRLHF
    (("response_a", "response_b"), ("winner", "preference", "choice"), _FIRST, _SECOND),
    (("conversation_a", "conversation_b"), ("winner",), _FIRST, _SECOND),  # Chatbot Arena
    (("answer_a", "answer_b"), ("winner", "preference", "choice"), _FIRST, _SECOND),
    (("response1", "response2"), ("overall_preference",), (-1, -2, -3), (1, 2, 3)),  # HelpSteer
)
# Two answers with a score each, a higher one for the better.
SCORED = ((("answer_0", "answer_1"), ("score_0", "score_1")),
          (("response_a", "response_b"), ("winner_model_a", "winner_model_b")))
# Answers in a list, each with a score (a higher one is better) or a rank (a lower one is).
RANKED = ("answers", "completions", "responses", "candidates")
_SCORES, _RANKS = ("pm_score", "overall_score", "score", "rating"), ("rank",)
# How the texts of Anthropic's hh-rlhf mark who speaks (Bai et al. 2022).
_SPEAKERS = {"Human": "user", "Assistant": "assistant"}
_SPEAKER = re.compile(r"(?:\A|\n\n)(Human|Assistant):[ ]?")


def read_preferences(source, *, max_bytes=MAX_BYTES, progress=None, warn=None) -> list[Pair]:
    """The pairs in `source`: a file, a folder of files, or a Hub dataset ("owner/name" or "owner/name:config", its split
    "train").

    Texts lose the white space around them. A number in a column "margin" becomes the Pair's; without one it is 0. A
    prompt of one user's message is that message; a longer talk is written out (`talk`). Answers that have a label each
    (unpaired preference) become pairs where one prompt has a good and a bad one. Rows that are no pairs are passed over
    and counted. progress: called with lines of text; warn (default: progress): with those that name what was not used.
    Raises UsageError, one line that says where and what to do, also where most rows are no pairs.
    """
    say = progress or (lambda line: None)
    warn = warn or say
    table = Table.read(source, max_bytes, say, warn)
    first = next((row for _, row in table.rows if isinstance(row, Row)), None)
    if first is not None and is_rating(first.cells):
        pairs = _rated(table, warn)
        say(f"{len(pairs):,} pairs")
        return pairs
    if _is_unpaired(table):
        return _unpaired(table, say, warn)
    return collect(table, lambda row: [_pair(row)], "pairs", '{"prompt": …, "chosen": …, "rejected": …}', say, warn,
                   "preferences")


def talk(messages):
    """Messages [(role, content), …] that end with the user's, as one prompt: a single one as it stands, a longer talk
    with "User:" and "Assistant:" before each turn, after what the system message says."""
    turns = [m for m in messages if m[0] != "system"]
    if len(messages) == 1:
        return messages[0][1].strip()
    system = [content.strip() for role, content in messages if role == "system"]
    said = [content.strip() if len(turns) == 1 else f"{role.capitalize()}: {content.strip()}" for role, content in turns]
    return "\n\n".join(system + said)


def _rated(table, warn):
    records = []
    for where, row in table.rows:
        if not isinstance(row, (Row, dict)) and hasattr(row, "why"):
            raise UsageError(f"{table.source}: {where} {row.why}")
        records.append(check_rating(table.source, where, row.cells if isinstance(row, Row) else row))
    if table.torn is not None:  # a kill in mid-writing; `Ratings` mends it when it next opens the file
        warn(f"{table.torn}; passed over")
    pairs = rated_pairs(records)
    if not pairs:
        raise UsageError(f"{table.source}: none of its {len(records)} ratings decides between two texts: rate some pairs first")
    return pairs


# ---- a label beside each answer


def _is_unpaired(table):
    """Whether the table has answers with a label each, and no two answers in a row."""
    names = set(table.names)
    if any(set(sides) <= names for sides in SIDES) or any(set(sides) <= names for sides, *_ in VERSUS):
        return False
    return forms.label_column(table, "completion") is not None


def _unpaired(table, say, warn):
    """Pairs of the good and the bad answers to one prompt, in the order of the table."""
    answers = collect(table, lambda row: [_answer(row)], "answers", '{"prompt": …, "completion": …, "label": true}', say, warn,
                      "preferences")
    by_prompt = {}
    for prompt, answer, good in answers:
        by_prompt.setdefault(prompt, ([], []))[not good].append(answer)
    pairs = [Pair(prompt, good, bad) for prompt, sides in by_prompt.items() for good, bad in zip(*sides, strict=False)
             if good != bad]
    if not pairs:
        raise UsageError(f"{table.source}: unpaired preferences, and no prompt has both an answer with a true label and one "
                         "with a false: a pair needs two answers to one prompt")
    alone = len(answers) - 2 * len(pairs)
    (warn if alone else say)(f"{len(pairs):,} pairs of a good and a bad answer to one prompt"
                             + (f"; {alone:,} answers have no other to be compared with" if alone else ""))
    return pairs


def _answer(row):
    """(prompt, answer, whether it is a good one) of a row with a label."""
    form, columns = forms.form_of(row, forms.FORMS)
    label = forms.label_column(row.table, form.name)
    good = None if label is None else forms.truth(row.get((label,)))
    if good is None:
        raise UsageError(f"{row.where} has no label that is true or false: add it or delete the row")
    fields = form.build(row, columns)
    if fields["form"] == "messages":
        messages = list(fields["messages"])
        if len(messages) < 2 or messages[-1][0] != "assistant":
            raise UsageError(f"{row.where}: the talk must end with the assistant's answer, after a prompt: mend or delete it")
        return talk(messages[:-1]), messages[-1][1].strip(), good
    prompt = forms.with_input(fields.get("instruction", "").strip(), fields.get("input", ""))
    return prompt, fields["response"].strip(), good


# ---- two answers in a row


def _pair(row):
    forms.check_marks(row, "preference")
    chosen, rejected, names = _answers(row)
    place = row.where
    if chosen == rejected:
        raise UsageError(f"{place}: \"chosen\" and \"rejected\" are the same: delete the row")
    given, system = _given(row, names), forms.system_of(row).strip()
    inside, chosen, rejected = _split(place, chosen, rejected, given is None)
    prompt = _prompt(place, given, inside, system)
    if chosen == rejected:
        raise UsageError(f"{place}: \"chosen\" and \"rejected\" differ in white space alone: delete the row")
    return Pair(prompt, chosen, rejected, _margin(row))


def _answers(row):
    """(the better answer, the worse one, the columns they are in), each as text or as a list of (role, content)."""
    for sides in SIDES:
        if all(row.cells.get(name) is not None for name in sides):
            row.table.used.update(sides)
            better, worse = (_cell(row, name) for name in sides)
            if sides[0] == "messages" and isinstance(worse, str):  # the last message, and another in its place
                worse = [*better[:-1], ("assistant", worse)]
            return better, worse, sides
    for find in (_versus, _scored, _ranked):
        found = find(row)
        if found is not None:
            return found
    raise _lacking(row)


def _lacking(row):
    """The error for a row without two answers."""
    sides = next((s for s in SIDES[1:] if set(s) <= set(row.table.names)), SIDES[0])
    name = next(name for name in sides if row.cells.get(name) is None)
    if name in row.cells:
        return UsageError(f"{row.place(name)}: null, not text: write a string")
    return UsageError(f'{row.where} has no column "{name}" (its columns: {row.columns()}): name them "prompt", "chosen" and '
                      '"rejected"')


def _versus(row):
    for sides, verdicts, first, second in VERSUS:
        verdict = next((name for name in verdicts if row.cells.get(name) is not None), None)
        if verdict is None or any(row.cells.get(name) is None for name in sides):
            continue
        row.table.used.update((*sides, verdict))
        said = row.cells[verdict]
        said = forms.number(said) if forms.number(said) is not None else str(said).strip().lower()
        if said in first or said in second:
            better, worse = sides if said in first else sides[::-1]
            return _cell(row, better), _cell(row, worse), sides
        raise LeftOut(f"{row.table.names[verdict]} {said}")
    return None


def _scored(row):
    for sides, scores in SCORED:
        marks = [forms.number(row.cells.get(name)) for name in scores]
        if None in marks or any(row.cells.get(name) is None for name in sides):
            continue
        row.table.used.update((*sides, *scores))
        if marks[0] == marks[1]:
            raise LeftOut("a tie")
        better, worse = sides if marks[0] > marks[1] else sides[::-1]
        return _cell(row, better), _cell(row, worse), sides
    return None


def _ranked(row):
    """The best and the worst of a list of answers."""
    name = next((name for name in RANKED if isinstance(row.cells.get(name), list)), None)
    if name is None or not all(isinstance(item, dict) for item in row.cells[name]):
        return None
    scored = []
    for item in row.cells[name]:
        text = next((item[key] for key in ("text", "answer", "response", "content") if isinstance(item.get(key), str)), None)
        score = next((forms.number(item[key]) for key in _SCORES if forms.number(item.get(key)) is not None), None)
        rank = next((-forms.number(item[key]) for key in _RANKS if forms.number(item.get(key)) is not None), None)
        score = score if score is not None else rank
        if text is not None and score is not None:
            scored.append((score, text))
    if not scored:
        return None
    row.table.used.add(name)
    best, worst = max(scored, key=lambda pair: pair[0]), min(scored, key=lambda pair: pair[0])
    if best[0] == worst[0]:
        raise LeftOut("a tie")
    place = row.place(name)
    return text_of(place, best[1]).strip(), text_of(place, worst[1]).strip(), (name,)


def _cell(row, name):
    """A cell as text, or as a list of (role, content). A CSV keeps messages as JSON."""
    value = row.cells[name]
    if isinstance(value, list) or isinstance(value, dict) and any(key in value for key in ("role", "from", "messages")):
        return _turns(row.place(name), forms.talk(row, name))
    found = forms.as_talk(row, name) if isinstance(value, str) else None
    if found is not None:
        return _turns(row.place(name), found)
    if isinstance(value, dict) and isinstance(value.get("full_text"), str):  # WebGPT's question
        value = value["full_text"]
    return text_of(row.place(name), written(value)).strip()


def _turns(place, messages):
    if any("tool_calls" in message.extra for message in messages):
        raise UsageError(f"{place}: tool calls: preferences are learned from text alone: leave such rows out")
    return [(message.role, message.content) for message in messages]


def _given(row, taken):
    """The prompt in columns of its own: text, a list of (role, content), or None. taken: the answers' columns."""
    free = [name for name in (*PROMPTS, *forms.MESSAGES) if name not in taken]
    name = row.find(free)
    if name is None:
        known = next((n for n in PROMPTS if n in row.cells), None)
        if known is not None:
            raise UsageError(f"{row.place(known)}: null, not text: write a string")
        talks = [n for n in ("context",) if isinstance(row.cells.get(n), list)]  # HelpSteer
        name = row.find((*talks, "input"))
    elsewhere = next((n for n in PROMPTS if n in row.table.names and n not in taken), None)
    if name is None and elsewhere is not None and isinstance(row.cells.get(taken[0]), str):
        raise UsageError(f'{row.where} has no column "{row.table.names[elsewhere]}" (its columns: {row.columns()}): add it or '
                         "delete the row")
    if name is None and isinstance(row.cells.get("history"), str) and "history" not in taken:  # SHP
        row.table.used.add("history")
        return row.text("history").strip()
    given = None if name is None else _cell(row, name)
    told = row.optional([n for n in forms.INPUT if n != name]).strip() if isinstance(given, str) else ""
    given = forms.with_input(given, told) if told else given
    history = _turns(f"{row.where}, column \"history\"", forms.history_of(row))
    if history:
        given = history + ([("user", given)] if isinstance(given, str) else given or [])
    return given


def _split(place, chosen, rejected, implicit):
    """(messages that both begin with, chosen text, rejected text)."""
    if isinstance(chosen, str) != isinstance(rejected, str):
        raise UsageError(f"{place}: of \"chosen\" and \"rejected\" one is text, the other messages: write both alike")
    if isinstance(chosen, str):
        if not implicit:
            return [], chosen, rejected
        chosen, rejected = _spoken(chosen), _spoken(rejected)
        if not (chosen and rejected):
            raise UsageError(f"{place} has no column \"prompt\", and its texts hold none: add the column")
    same = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(chosen, rejected, strict=False)))
    ends = chosen[same:], rejected[same:]
    if any([role for role, _ in end] != ["assistant"] for end in ends):
        raise UsageError(f"{place}: \"chosen\" and \"rejected\" must be the same talk up to the last message, the "
                         "assistant's: mend or delete the row")
    return chosen[:same], ends[0][0][1].strip(), ends[1][0][1].strip()


def _spoken(text):
    """The messages of a text in the form of hh-rlhf, or None."""
    parts = _SPEAKER.split(text)
    if len(parts) < 5 or parts[0].strip():
        return None
    return [(_SPEAKERS[name], said) for name, said in zip(parts[1::2], parts[2::2], strict=True)]


def _prompt(place, given, inside, system=""):
    """The prompt as text, from its own columns (text, messages or None; system) and from what both texts begin with."""
    if given is None and not inside:
        raise UsageError(f"{place} has no prompt: add a column \"prompt\", or put the user's message before the answers")
    if isinstance(given, str) and not inside:
        return talk([("system", system), ("user", given)]) if system else given
    if given is not None and inside:
        agrees = inside[:len(given)] == given if isinstance(given, list) else any(
            role == "user" and content.strip() == given for role, content in inside)
        if not agrees:
            raise UsageError(f"{place}: the column \"prompt\" says something else than the messages before the answers: "
                             "keep one of them")
    messages = inside or given
    if system and ("system", system) not in [(role, content.strip()) for role, content in messages]:
        messages = [("system", system), *messages]
    if messages[-1][0] != "user":
        raise UsageError(f"{place}: the prompt ends with the {messages[-1][0]}'s message: it must end with the user's")
    return talk(messages)


def _margin(row):
    value = row.get(("margin",))
    if value is None or value == "":
        return 0.0
    try:
        number = float(value) if not isinstance(value, bool) else math.nan
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise UsageError(f"{row.place('margin')}: {kind(value)}, not a number: write u(chosen) − u(rejected), or "
                         "nothing where it is unknown")
    return number
