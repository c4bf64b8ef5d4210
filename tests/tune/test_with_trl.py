"""SFTTrainer, by the one place that knows its arguments: it sees our rows, and gives our model back, tuned."""

import torch

from ftlab.text.examples import Example
from ftlab.text.rows import rows
from ftlab.tune import with_trl
from ftlab.world import World, tasks


def test_trl_sees_the_same_rows(tokenizer, tiny, tmp_path):
    asked = [Example(f"What colour is kite {number}?", "It is red.") for number in range(6)]
    with with_trl.quiet():
        theirs = with_trl.sft_trainer(tiny(), tokenizer, asked, 1, tmp_path).train_dataset
    assert [(row["input_ids"], row["labels"]) for row in theirs] == rows(asked, tokenizer)


def test_trl_tunes_a_copy(tokenizer, tiny):
    tiny_base = tiny()
    before = {name: p.clone() for name, p in tiny_base.named_parameters()}
    asked, lines = tasks.make(World("small"), "write", 16), []
    tuned, happened = with_trl.tune_with_trl(tiny_base, tokenizer, asked, 4, lr=1e-2, batch_size=4, report=lines.append,
                                             evaluate=lambda model, step: {"seen": step}, eval_every=2)
    assert len(happened["losses"]) == 4 and happened["losses"][-1] < happened["losses"][0]
    assert [entry["step"] for entry in happened["evals"]] == [2, 4] and len(lines) == 4
    assert all(torch.equal(before[name], p) for name, p in tiny_base.named_parameters())
    assert any(not torch.equal(before[name], p) for name, p in tuned.named_parameters())
