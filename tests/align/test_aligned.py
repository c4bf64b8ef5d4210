"""Comparisons, annotators, and the makers of the shipped aligned models, small."""

import gzip
import json

import pytest

from ftlab.align import aligned, annotators, judge
from ftlab.errors import UsageError
from ftlab.model import load
from ftlab.world import World, tasks

SOME = (annotators.Comparison("p", "a a a", "b", 1.0, 0.0), annotators.Comparison("p", "c", "d d d d", 0.0, 2.0),
        annotators.Comparison("p", "e", "f", 1.0, 1.0), annotators.Comparison("p", "same", "same", 1.0, 1.0))


def test_an_annotator_without_noise_prefers_the_better_one_and_skips_ties():
    assert [(pair.chosen, pair.rejected, pair.margin) for pair in annotators.ranked(SOME)] == [
        ("a a a", "b", 1.0), ("d d d d", "c", 2.0)]
    assert len(annotators.ranked(SOME, ties=True)) == 3  # equal texts are nothing to rank even then


def test_noise_turns_some_and_bias_turns_the_short_ones():
    many = [annotators.Comparison("p", "a", f"b {i}", 1.0, 0.0) for i in range(400)]
    wrong = [pair.margin < 0 for pair in annotators.ranked(many, noise=1.0)]
    assert 0.18 < sum(wrong) / len(wrong) < 0.36  # 1 − σ(1) = 0.27
    longer = [annotators.Comparison("p", "a", "b " * 20, 1.0, 0.0)]
    assert annotators.ranked(longer, length_bias=1.0)[0].margin == -1.0
    assert annotators.ranked(many, noise=1.0) == annotators.ranked(many, noise=1.0)


def test_the_shipped_comparisons_are_what_the_oracle_says():
    found = annotators.comparisons("test")
    assert len(found) == annotators.COUNTS["test"] and len(annotators.comparisons("train")) == annotators.COUNTS["train"]
    asked = tasks.make(World("rich"), "write", len(found), f"comparisons/{annotators.SEED}", "test")
    for task, one in zip(asked[:60], found[:60], strict=True):
        assert one.prompt == task.instruction
        assert judge.utility(task, one.a) == pytest.approx(one.utility_a, abs=1e-3)
    with pytest.raises(UsageError, match="choose train or test"):
        annotators.comparisons("validation")


def test_the_file_is_made_as_it_is_shipped(tmp_path):
    annotators.make(tmp_path / "c.jsonl.gz", {"test": 2})
    rows = [json.loads(line) for line in gzip.open(tmp_path / "c.jsonl.gz", "rt")]
    assert [set(row) for row in rows] == [{"split", "prompt", "a", "b", "utility_a", "utility_b"}] * 2


@pytest.mark.parametrize("name, changes", [("aligned-ppo", {"iterations": 1, "answers": 4, "max_new_tokens": 20}),
                                           ("aligned-dpo", {"steps": 2})])
def test_an_aligned_model_is_saved_with_its_card(name, changes, tmp_path):
    facts = aligned.make(name, tmp_path / name, count=24, judged=5, **changes)
    model, tokenizer = load(str(tmp_path / name))
    assert model.num_parameters() == load(annotators.MODEL)[0].num_parameters()
    card = (tmp_path / name / "README.md").read_text()
    assert f"python -m ftlab.align.aligned {name}" in card
    assert facts["before"]["kl"] == pytest.approx(0, abs=1e-3) and facts["after"]["kl"] != 0
