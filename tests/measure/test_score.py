"""ftlab.measure.score: the mean score of a model's answers."""

import pytest
import torch

from ftlab.measure.score import held_out_tasks, instruction_score, score_answers
from ftlab.model import ModelConfig, Transformer
from ftlab.text import Tokenizer
from ftlab.text.template import alpaca, alpaca_response
from ftlab.tune.sft import tune_full
from ftlab.world import World, tasks


@pytest.fixture(scope="module")
def asked():
    return held_out_tasks(World("rich"), 3)


def test_right_answers_score_one(asked):
    score = score_answers(asked, [task.response for task in asked])
    assert score.mean == 1 and score.by_family == dict.fromkeys(tasks.FAMILIES, 1)
    assert len(score.scores) == len(score.answers) == len(asked) == 15


def test_families_are_averaged_by_themselves(asked):
    answers = [task.response if task.family == "extract" else "" for task in asked]
    score = score_answers(asked, answers)
    assert score.by_family["extract"] == 1 and score.by_family["classify"] == 0
    assert score.mean == pytest.approx(sum(score.scores) / 15) and 0.2 <= score.mean < 0.5


def test_held_out_tasks_are_of_held_out_combinations(asked):
    world = World("rich")
    assert all(world.split_of(task.facts) == "test" for task in asked)
    assert asked == held_out_tasks(world, 3) != held_out_tasks(world, 3, seed=2)
    assert {task.family for task in held_out_tasks(world, 1, families=("write",))} == {"write"}


def test_a_model_that_has_learnt_its_answers_scores_one():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    asked = tasks.make(World("small"), "classify", 4, seed=3)
    tokenizer = Tokenizer.train([alpaca(t.instruction, t.input) + alpaca_response(t.response) for t in asked], 400)
    torch.manual_seed(0)
    model = Transformer(ModelConfig(tokenizer.vocab_size, 32, 2, 4, 48))
    assert instruction_score(model, tokenizer, asked, max_new_tokens=8).mean == 0
    tune_full(model, tokenizer, asked, steps=60, tokens_per_batch=4096, lr=1e-2, muon_lr=0.03)
    score = instruction_score(model, tokenizer, asked)
    torch.set_num_threads(threads)
    assert score.mean == 1 and score.answers == [task.response for task in asked]
