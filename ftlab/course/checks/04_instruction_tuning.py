"""Exercises of lab 04_instruction_tuning: texts, hints, mistakes and what each check knows."""

import functools

from ftlab.teach import Exercise, against
from ftlab.teach.check import answer

IGNORE = -100


# -- the template

def alpaca_example(instruction, input, response):
    middle = f"### Input:\n{input}\n\n" if input else ""
    return f"### Instruction:\n{instruction}\n\n{middle}### Response:\n", f"{response}\n\n### End"


TEMPLATE_CASES = [
    ("Say hello.", "", "Hello."),
    ("Classify the ending: happy or sad?", "Vera found her kite.", "happy"),
    ("Extract the object.", "Hugo had a sled.\nIt was red.", "sled"),
]


def _no_end(instruction, input, response):
    return alpaca_example(instruction, input, response)[0], response


def _empty_input(instruction, input, response):
    return f"### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n", f"{response}\n\n### End"


def _answer_on_the_line(instruction, input, response):
    prompt, completion = alpaca_example(instruction, input, response)
    return prompt[:-1] + " ", completion


def _heading_in_completion(instruction, input, response):
    prompt, completion = alpaca_example(instruction, input, response)
    return prompt.removesuffix("### Response:\n"), "### Response:\n" + completion


# -- the label mask

def masked_row(prompt_ids, response_ids, eos_id):
    ids = list(prompt_ids) + list(response_ids) + [eos_id]
    return ids, [IGNORE] * len(prompt_ids) + list(response_ids) + [eos_id]


MASK_CASES = [([1, 5], [7], 2), ([1, 5, 6, 9], [7, 8], 2), ([1, 12, 4, 4, 30], [9, 9, 31, 8], 2)]


def _prompt_seen(prompt_ids, response_ids, eos_id):
    ids, _ = masked_row(prompt_ids, response_ids, eos_id)
    return ids, list(ids)


def _no_eos(prompt_ids, response_ids, eos_id):
    return list(prompt_ids) + list(response_ids), [IGNORE] * len(prompt_ids) + list(response_ids)


def _eos_unseen(prompt_ids, response_ids, eos_id):
    ids, labels = masked_row(prompt_ids, response_ids, eos_id)
    return ids, labels[:-1] + [IGNORE]


def _first_token_unseen(prompt_ids, response_ids, eos_id):
    ids, labels = masked_row(prompt_ids, response_ids, eos_id)
    labels[len(prompt_ids)] = IGNORE
    return ids, labels


def _shifted_here(prompt_ids, response_ids, eos_id):
    ids, labels = masked_row(prompt_ids, response_ids, eos_id)
    return ids, labels[1:] + [IGNORE]


# -- packing

def pack(rows, length, pad_id):
    ids, labels, positions, segments = [], [], [], []
    for number, (row_ids, row_labels) in enumerate(rows):
        ids += row_ids
        labels += [IGNORE] + list(row_labels[1:])
        positions += range(len(row_ids))
        segments += [number] * len(row_ids)
    room = length - len(ids)
    return (ids + [pad_id] * room, labels + [IGNORE] * room, positions + [0] * room, segments + [-1] * room)


def may_see(segments):
    import torch

    segments = torch.tensor(segments)
    return (segments[:, None] == segments[None, :]).tril()


def packed(pack_, may_see_, rows, length, pad_id):
    """What the two functions of the exercise make of rows; the mask as a list, so that it can be compared."""
    ids, labels, positions, segments = pack_(rows, length, pad_id)
    return {"ids": ids, "labels": labels, "positions": positions, "segments": segments,
            "may_see": may_see_(segments).long()}


PACK_CASES = [
    ([([1, 5, 7], [-100, -100, 7]), ([1, 6], [-100, 6])], 5, 0),
    ([([1, 5, 7, 8], [1, 5, 7, 8]), ([1, 6, 9], [1, 6, 9])], 9, 0),
    ([([1, 5, 7], [-100, 5, 7]), ([1, 6], [1, 6]), ([1, 8, 8, 4], [-100, -100, 8, 4])], 12, 3),
]


def _packed_with(change=lambda ids, labels, positions, segments: (ids, labels, positions, segments), see=may_see):
    return lambda rows, length, pad_id: packed(
        lambda *args: tuple(change(*pack(*args))), see, rows, length, pad_id)


def _running_positions(ids, labels, positions, segments):
    used = sum(s >= 0 for s in segments)
    return ids, labels, [*range(used), *positions[used:]], segments


def _labels_of_padding(ids, labels, positions, segments):
    return ids, [i if s < 0 else y for i, y, s in zip(ids, labels, segments, strict=True)], positions, segments


def _first_label_kept(rows, length, pad_id):
    result = packed(pack, may_see, rows, length, pad_id)
    labels = sum((list(y) for _, y in rows), [])
    return result | {"labels": labels + result["labels"][len(labels):]}


def _see_all_earlier(segments):
    import torch

    return torch.ones(len(segments), len(segments), dtype=torch.bool).tril()


def _see_later(segments):
    import torch

    segments = torch.tensor(segments)
    return segments[:, None] == segments[None, :]


# -- the loss of a step made of several micro-batches

def sft_loss(logits, labels, total):
    import torch.nn.functional as F

    logits, targets = logits[:, :-1], labels[:, 1:]
    wanted = targets != IGNORE
    return F.cross_entropy(logits[wanted], targets[wanted], reduction="sum") / total


def _loss_variant(logits, labels, total, shift=True, mean="total", masked=True):
    import torch.nn.functional as F

    if shift:
        logits, labels = logits[:, :-1], labels[:, 1:]
    wanted = labels != IGNORE
    if masked:
        summed = F.cross_entropy(logits[wanted], labels[wanted], reduction="sum")
    else:
        summed = F.cross_entropy(logits.flatten(0, 1), labels.clamp(min=0).flatten(), reduction="sum")
    return summed / {"total": total, "own": wanted.sum(), "all": wanted.numel()}[mean]


def loss_cases():
    import torch

    generator = torch.Generator().manual_seed(0)
    cases = []
    for rows, length, vocabulary, prompt, total in ((1, 4, 3, 1, 5), (2, 6, 5, 3, 11), (3, 9, 7, 4, 40)):
        labels = torch.randint(0, vocabulary, (rows, length), generator=generator)
        labels[:, :prompt] = IGNORE
        for row in range(1, rows):
            labels[row, length - row:] = IGNORE
        cases.append((torch.randn(rows, length, vocabulary, generator=generator), labels, total))
    return cases


# -- ten answers, scored by hand

@functools.cache
def ten_answers():
    """Ten (Task, answer) pairs to score by hand: right ones, and ones wrong in the ways that answers are."""
    from ftlab.world import World, oracle, tasks
    from ftlab.world.grammar import Story

    world = World("rich")
    pool = {family: tasks.make(world, family, 60, "by hand", "test") for family in tasks.FAMILIES}
    classify, extract, asked, rewrite = (pool[family] for family in ("classify", "extract", "answer", "rewrite"))
    write = {n: next(task for task in pool["write"] if len(task.constraints) == n) for n in (2, 3, 4)}
    swapped = next(task for task in asked if task.response == task.facts.helper)  # answered with the hero's name
    told = Story(write[4].response, oracle.judge(write[4].response, world).facts, 0.0)
    words = list(write[2].constraints.values())
    return [
        (classify[0], classify[0].response.capitalize() + "."),
        (extract[0], extract[0].response),
        (asked[0], f"The answer is {asked[0].response}."),
        (swapped, swapped.facts.hero),
        (write[3], write[3].response),
        (write[4], tasks.corrupt(told, "sentence_doubled", 1, world)),
        (write[2], f"A story about {' and '.join(words)}. Here it is: {', '.join(words)}. The end."),
        (rewrite[0], rewrite[0].response),
        (rewrite[1], rewrite[1].input),
        (classify[1], f"{classify[1].response} {classify[1].response}"),
    ]


@functools.cache
def right_scores():
    """The oracle's scores of the ten, to two digits."""
    from ftlab.world import tasks

    return [round(tasks.score(task, text), 2) for task, text in ten_answers()]


def _scores_with(**changed):
    """The right scores with some entries changed: {"at3": 1.0}."""
    return lambda: [changed.get(f"at{i}", score) for i, score in enumerate(right_scores())]


# -- forgetting

def forgetting(evals, allowed):
    rises = [e["first"] - evals[0]["first"] for e in evals]
    within = [e for e, rise in zip(evals, rises, strict=True) if rise <= allowed]
    return rises, min(within, key=lambda e: e["second"])["step"]


FORGETTING_CASES = [
    ([{"step": 0, "first": 0.5, "second": 2.0}, {"step": 10, "first": 0.75, "second": 1.0},
      {"step": 20, "first": 1.5, "second": 0.5}], 0.5),
    ([{"step": 0, "first": 0.4, "second": 1.8}, {"step": 5, "first": 0.3, "second": 1.5},
      {"step": 10, "first": 0.6, "second": 0.9}, {"step": 15, "first": 0.5, "second": 1.1},
      {"step": 20, "first": 1.1, "second": 0.6}], 0.25),
    ([{"step": 0, "first": 1.0, "second": 3.0}, {"step": 40, "first": 1.0, "second": 2.5},
      {"step": 80, "first": 1.2, "second": 2.0}, {"step": 120, "first": 1.7, "second": 2.2},
      {"step": 160, "first": 1.3, "second": 1.9}], 0.25),
]


def _other_domain(evals, allowed):
    swapped = [{"step": e["step"], "first": e["second"], "second": e["second"]} for e in evals]
    return [e["second"] - evals[0]["second"] for e in evals], forgetting(swapped, allowed)[1]


def _from_the_step_before(evals, allowed):
    rises = [0.0] + [b["first"] - a["first"] for a, b in zip(evals, evals[1:], strict=False)]
    within = [e for e, rise in zip(evals, rises, strict=True) if rise <= allowed]
    return rises, min(within, key=lambda e: e["second"])["step"]


EXERCISES = [
    Exercise(
        id="alpaca", title="The template", points=3, minutes=8, difficulty=1,
        hints=(
            "Print what your function returns with print(): every line break counts, since every one is a token.",
            "The prompt ends just where the model takes over, after the line break behind \"### Response:\". The "
            "completion is what the model is to write, up to and with the mark that says that it is done.",
            'middle = f"### Input:\\n{input}\\n\\n" if input else ""; then the prompt is '
            'f"### Instruction:\\n{instruction}\\n\\n{middle}### Response:\\n" and the completion is '
            'f"{response}\\n\\n### End"; return the two.',
        ),
        mistakes={
            "no_end": "Your completion has no \"### End\": the model would never learn where an answer stops.",
            "empty_input": "Without an input the section \"### Input:\" is left out altogether.",
            "answer_on_the_line": "The answer stands on a line of its own: the prompt ends with \"### Response:\" and "
                                  "a line break.",
            "heading_in_completion": "\"### Response:\" belongs to the prompt: the model gets it, it does not write "
                                     "it.",
        },
        check=against(alpaca_example, TEMPLATE_CASES, mistakes={
            "no_end": _no_end, "empty_input": _empty_input, "answer_on_the_line": _answer_on_the_line,
            "heading_in_completion": _heading_in_completion}),
        withheld=("ftlab.text.template", "ftlab.text.rows", "ftlab.tune.with_trl.columns"),
    ),
    Exercise(
        id="label_mask", title="The label mask", points=4, minutes=10, difficulty=2,
        hints=(
            "Labels stand beside their own token; the loss does the shifting (Lab 03).",
            "Ids: prompt, response, end token. Labels: −100 for as many places as the prompt has, then the ids "
            "themselves. Is the end token something to be written?",
            "ids = prompt_ids + response_ids + [eos_id]; labels = [-100] * len(prompt_ids) + response_ids + [eos_id]; "
            "return ids, labels. Nothing is shifted here: the loss does that.",
        ),
        mistakes={
            "prompt_seen": "The loss sees your prompt: its labels must be −100.",
            "no_eos": "The end token is missing at the end: a model tuned so would not know how to stop.",
            "eos_unseen": "The end token has the label −100: the model is to learn to write it.",
            "first_token_unseen": "You mask one token too many: the first token of the response has a label, predicted "
                                  "from the last one of the prompt.",
            "shifted_here": "You shifted the labels; they stand beside their own token, and the loss shifts once.",
        },
        check=against(masked_row, MASK_CASES, mistakes={
            "prompt_seen": _prompt_seen, "no_eos": _no_eos, "eos_unseen": _eos_unseen,
            "first_token_unseen": _first_token_unseen, "shifted_here": _shifted_here}),
        withheld=("ftlab.text.batching.response_labels", "ftlab.text.rows"),
    ),
    Exercise(
        id="packing", title="Packing without leaking", points=4, minutes=18, difficulty=3,
        hints=(
            "Four questions about each token: which document is it of, where in that document does it stand, has it a "
            "label, and what may it look at?",
            "Positions begin at 0 in every document. The first token of a document would be predicted from the last "
            "token of another one, so its label is −100. Padding gets segment −1 and no label. A token may see those "
            "of its own segment that are not later.",
            "In the loop: ids += row_ids; labels += [-100] + row_labels[1:]; positions += range(len(row_ids)); "
            "segments += [number] * len(row_ids); then fill up to `length` with pad_id, -100, 0 and -1. The mask: "
            "with s = torch.tensor(segments), (s[:, None] == s[None, :]).tril().",
        ),
        mistakes={
            "running_positions": "Your positions run on through the row; in every document they begin again at 0.",
            "first_label_kept": "The first token of a document keeps its label: it would be predicted from the "
                                "document before it.",
            "labels_of_padding": "Your padding has labels; −100 belongs there.",
            "sees_all_earlier": "Your mask lets a token see every earlier one: documents leak into each other.",
            "sees_later": "Your mask lets a token see later ones of its document: it is to predict those.",
        },
        check=against(functools.partial(packed, pack, may_see), PACK_CASES, using=packed, mistakes={
            "running_positions": _packed_with(_running_positions), "first_label_kept": _first_label_kept,
            "labels_of_padding": _packed_with(_labels_of_padding),
            "sees_all_earlier": _packed_with(see=_see_all_earlier),
            "sees_later": _packed_with(see=_see_later)}),
        withheld=("ftlab.text.batching.PackedBatches", "ftlab.model.transformer.segment_mask"),
    ),
    Exercise(
        id="sft_loss", title="The loss of a step in parts", points=3, minutes=10, difficulty=2,
        hints=(
            "One token counts as much as another, whichever part of the step it is in.",
            "Shift as in Lab 03, keep the places whose label is not −100, sum their cross-entropies, and divide by "
            "the number that you are given.",
            "logits, targets = logits[:, :-1], labels[:, 1:]; then wanted = targets != -100; then return "
            'F.cross_entropy(logits[wanted], targets[wanted], reduction="sum") / total.',
        ),
        mistakes={
            "not_shifted": "You compared each row of logits with the label beside it; row t must predict label t + 1.",
            "mean_of_part": "You took the mean over this part's own labels: parts with few labels would weigh as much "
                            "as parts with many. Divide by `total`.",
            "mean_over_padding": "You divided by all positions, prompt and padding included; divide by `total`.",
            "prompt_counted": "Places with the label −100 must not count; you summed them in (as some token's label).",
        },
        check=against(sft_loss, loss_cases, mistakes={
            "not_shifted": functools.partial(_loss_variant, shift=False),
            "mean_of_part": functools.partial(_loss_variant, mean="own"),
            "mean_over_padding": functools.partial(_loss_variant, mean="all"),
            "prompt_counted": functools.partial(_loss_variant, masked=False)}),
        withheld=("ftlab.model.transformer.Transformer.loss", "ftlab.model.pretrained.loss"),
    ),
    Exercise(
        id="by_hand", title="Ten answers, scored by hand", points=3, minutes=15, difficulty=2,
        hints=(
            "Short answers are right or wrong: 1 or 0. Case, white space around, and one full stop at the end do not "
            "count; anything else does.",
            "A story: count the constraints that hold in a story that can be read, not words that occur; then take a "
            "tenth off if any rule of the world is broken (a sentence told twice, say).",
            "Numbers 1, 2, 5 and 8 are right. In number 6 every constraint holds and a sentence stands twice: 0.9. "
            "Number 7 is no story: 0. A rewrite that keeps the old ending gets 0, and so do the rest.",
        ),
        mistakes={
            "case_and_full_stop": "Number 1 says the right word; a capital letter and a full stop do not count.",
            "looks_right": "Number 3 holds the right word in a sentence of its own; the answer alone was asked for, "
                           "and a program that reads it would fail.",
            "broken_rule_forgiven": "Number 6 meets its constraints, but a sentence stands there twice: a tenth goes "
                                    "off.",
            "words_counted": "Number 7 has all the words and is no story: nothing is kept in it.",
            "ending_overlooked": "Number 9 is the story as it was: the ending asked for is the other one.",
        },
        check=answer(right_scores, atol=0.006, mistakes={
            "case_and_full_stop": _scores_with(at0=0.0), "looks_right": _scores_with(at2=1.0),
            "broken_rule_forgiven": _scores_with(at5=1.0), "words_counted": _scores_with(at6=1.0),
            "ending_overlooked": _scores_with(at8=1.0)}),
    ),
    Exercise(
        id="forgetting", title="The forgetting curve", points=3, minutes=10, difficulty=2,
        hints=(
            "Forgetting is measured on the *first* domain, from where the second training began.",
            "rises: each evaluation's \"first\" minus the one of evaluation 0. Then take the evaluation that is best on "
            "the second domain among those whose rise is at most `allowed`.",
            'rises = [e["first"] - evals[0]["first"] for e in evals]; then within = [e for e, r in zip(evals, rises) '
            'if r <= allowed]; then return rises, min(within, key=lambda e: e["second"])["step"].',
        ),
        mistakes={
            "other_domain": "You measured the rise on the second domain, where the loss falls; forgetting is on the "
                            "first.",
            "from_the_step_before": "You took each rise from the evaluation before; it counts from the start.",
            "sign": "Your rises have the wrong sign: a loss that went up is a positive number.",
            "allowance_ignored": "Your step is the best on the second domain whatever it costs on the first; only "
                                 "those within the allowance count.",
        },
        check=against(forgetting, FORGETTING_CASES, mistakes={
            "other_domain": _other_domain, "from_the_step_before": _from_the_step_before,
            "sign": lambda evals, allowed: ([-r for r in forgetting(evals, allowed)[0]], forgetting(evals, allowed)[1]),
            "allowance_ignored": lambda evals, allowed: (forgetting(evals, allowed)[0],
                                                         min(evals, key=lambda e: e["second"])["step"])}),
    ),
]
