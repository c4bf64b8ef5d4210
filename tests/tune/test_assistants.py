"""The script that makes the shipped fine-tuned models, with two steps instead of many."""

import pytest
import torch

from ftlab.model import hub
from ftlab.tune import assistants
from ftlab.world import World, tasks


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setitem(assistants.RECIPES, "assistant", assistants.Recipe("base-small", 2))
    monkeypatch.setattr(assistants, "machine_words", lambda: "a machine")
    monkeypatch.setattr(assistants, "ask", lambda model, tokenizer, asked: [task.response for task in asked])


def test_an_assistant_is_written_with_its_card_and_template(small, tmp_path, capsys):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    assistants.main(["assistant", "--out", str(tmp_path / "out"), "--work", str(tmp_path / "work"), "--steps", "2"])
    assert "'steps': 2" in capsys.readouterr().out
    folder = tmp_path / "out" / "assistant"
    ours, tokenizer = hub.load(folder)
    theirs, hf = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert theirs.dtype == torch.float16 and hf.chat_template and tokenizer.vocab_size == ours.config.vocab_size
    base = hub.load("base-small")[0]
    assert any(not torch.equal(a, b) for a, b in zip(ours.parameters(), base.parameters(), strict=True))
    card = (folder / "README.md").read_text()
    for part in ("`base-small`", "2 steps", "on a machine", "| write | 1.000 | 1.000 |", "| all | 1.000 | 1.000 |",
                 "bare stories"):
        assert part in card


def test_training_tasks_are_of_training_combinations():
    world = World("rich")
    made = assistants.training_tasks(world, 3)
    assert [task.family for task in made] == [family for family in tasks.FAMILIES for _ in range(3)]
    assert all(world.split_of(task.facts) == "train" for task in made)


def test_unknown_assistants_are_refused(capsys):
    with pytest.raises(SystemExit):
        assistants.main(["butler"])
    assert "no assistant is called butler; choose from assistant" in capsys.readouterr().err
