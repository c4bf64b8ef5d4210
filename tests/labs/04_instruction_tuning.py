"""Wrong answers to the exercises of lab 04_instruction_tuning: each must be named by its check, and fail its probe."""

ALPACA = '''
def alpaca_example(instruction, input, response):
    middle = {middle}
    prompt = f"### Instruction:\\n{{instruction}}\\n\\n{{middle}}{opening}"
    return prompt, {completion}
'''
RIGHT_ALPACA = {"middle": 'f"### Input:\\n{input}\\n\\n" if input else ""', "opening": "### Response:\\n",
                "completion": 'f"{response}\\n\\n### End"'}  # fmt: skip

MASK = '''
def masked_row(prompt_ids, response_ids, eos_id):
    ids = list(prompt_ids) + list(response_ids) + {end}
    labels = {labels}
    return ids, labels
'''
RIGHT_MASK = {"end": "[eos_id]", "labels": "[-100] * len(prompt_ids) + list(response_ids) + [eos_id]"}

PACK = '''
def pack(rows, length, pad_id):
    ids, labels, positions, segments = [], [], [], []
    for number, (row_ids, row_labels) in enumerate(rows):
        {positions}
        ids += row_ids
        labels += {labels}
        segments += [number] * len(row_ids)
    room = length - len(ids)
    return ids + [pad_id] * room, labels + [{padding}] * room, positions + [0] * room, segments + [-1] * room


def may_see(segments):
    segments = torch.tensor(segments)
    return {mask}
'''
RIGHT_PACK = {"positions": "positions += range(len(row_ids))", "labels": "[-100] + list(row_labels[1:])",
              "padding": "-100", "mask": "(segments[:, None] == segments[None, :]).tril()"}  # fmt: skip

LOSS = '''
def sft_loss(logits, labels, total):
    {shift}
    wanted = targets != -100
    return {loss}
'''
RIGHT_LOSS = {"shift": "logits, targets = logits[:, :-1], labels[:, 1:]",
              "loss": 'F.cross_entropy(logits[wanted], targets[wanted], reduction="sum") / total'}  # fmt: skip

SCORES = [1.0, 1.0, 0.0, 0.0, 1.0, 0.9, 0.0, 1.0, 0.0, 0.0]


def scores_with(place, score):
    changed = list(SCORES)
    changed[place] = score
    return f"my_scores = {changed}"


FORGETTING = '''
def forgetting(evals, allowed):
    rises = {rises}
    within = {within}
    return {result}
'''
RIGHT_FORGETTING = {
    "rises": '[e["first"] - evals[0]["first"] for e in evals]',
    "within": "[e for e, rise in zip(evals, rises) if rise <= allowed]",
    "result": 'rises, min(within, key=lambda e: e["second"])["step"]',
}

WRONG = {
    "alpaca": {
        "no_end": ALPACA.format(**RIGHT_ALPACA | {"completion": "response"}),
        "empty_input": ALPACA.format(**RIGHT_ALPACA | {"middle": 'f"### Input:\\n{input}\\n\\n"'}),
        "answer_on_the_line": ALPACA.format(**RIGHT_ALPACA | {"opening": "### Response: "}),
        "heading_in_completion": ALPACA.format(
            **RIGHT_ALPACA | {"opening": "", "completion": 'f"### Response:\\n{response}\\n\\n### End"'}),
    },
    "label_mask": {
        "prompt_seen": MASK.format(**RIGHT_MASK | {"labels": "list(ids)"}),
        "no_eos": MASK.format(end="[]", labels="[-100] * len(prompt_ids) + list(response_ids)"),
        "eos_unseen": MASK.format(**RIGHT_MASK | {"labels": "[-100] * len(prompt_ids) + list(response_ids) + [-100]"}),
        "first_token_unseen": MASK.format(
            **RIGHT_MASK | {"labels": "[-100] * (len(prompt_ids) + 1) + ids[len(prompt_ids) + 1:]"}),
        "shifted_here": MASK.format(
            **RIGHT_MASK | {"labels": "[-100] * (len(prompt_ids) - 1) + ids[len(prompt_ids):] + [-100]"}),
    },
    "packing": {
        "running_positions": PACK.format(
            **RIGHT_PACK | {"positions": "positions += range(len(ids), len(ids) + len(row_ids))"}),
        "first_label_kept": PACK.format(**RIGHT_PACK | {"labels": "list(row_labels)"}),
        "labels_of_padding": PACK.format(**RIGHT_PACK | {"padding": "pad_id"}),
        "sees_all_earlier": PACK.format(
            **RIGHT_PACK | {"mask": "torch.ones(len(segments), len(segments), dtype=torch.bool).tril()"}),
        "sees_later": PACK.format(**RIGHT_PACK | {"mask": "segments[:, None] == segments[None, :]"}),
    },
    "sft_loss": {
        "not_shifted": LOSS.format(**RIGHT_LOSS | {"shift": "targets = labels"}),
        "mean_of_part": LOSS.format(**RIGHT_LOSS | {"loss": "F.cross_entropy(logits[wanted], targets[wanted])"}),
        "mean_over_padding": LOSS.format(
            **RIGHT_LOSS
            | {"loss": 'F.cross_entropy(logits[wanted], targets[wanted], reduction="sum") / targets.numel()'}),
        "prompt_counted": LOSS.format(
            **RIGHT_LOSS | {"loss": "F.cross_entropy(logits.flatten(0, 1), targets.clamp(min=0).flatten(), "
                                    'reduction="sum") / total'}),
    },
    "by_hand": {
        "case_and_full_stop": scores_with(0, 0.0),
        "looks_right": scores_with(2, 1.0),
        "broken_rule_forgiven": scores_with(5, 1.0),
        "words_counted": scores_with(6, 1.0),
        "ending_overlooked": scores_with(8, 1.0),
    },
    "forgetting": {
        "other_domain": FORGETTING.format(
            **RIGHT_FORGETTING | {"rises": '[e["second"] - evals[0]["second"] for e in evals]'}),
        "from_the_step_before": FORGETTING.format(
            **RIGHT_FORGETTING
            | {"rises": '[0.0] + [b["first"] - a["first"] for a, b in zip(evals, evals[1:])]'}),
        "sign": FORGETTING.format(
            **RIGHT_FORGETTING | {"result": '[-r for r in rises], min(within, key=lambda e: e["second"])["step"]'}),
        "allowance_ignored": FORGETTING.format(**RIGHT_FORGETTING | {"within": "evals"}),
    },
}
