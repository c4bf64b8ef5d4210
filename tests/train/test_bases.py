"""The recipe of the shipped bases: what it feeds, how it starts, that it runs from end to end."""

import dataclasses

import torch

from ftlab.model import ModelConfig, Transformer, load
from ftlab.text.batching import IGNORE
from ftlab.train import bases
from ftlab.world import World, tasks

TINY = bases.Recipe(32, 2, 4, 64, steps=6, copy_steps=1, first_steps=3, documents=60, stories=40)
SHAPE = ModelConfig(300, 32, 2, 4, 64)


def test_values_come_back_as_a_part_of_what_is_looked_at():
    torch.manual_seed(0)
    model = Transformer(dataclasses.replace(SHAPE, num_layers=3))
    bases.start_copying(model, gain=0.5)
    attention = model.layers[2].self_attn
    assert torch.allclose(attention.o_proj.weight @ attention.v_proj.weight, 0.5 * torch.eye(32), atol=1e-5)
    assert attention.v_proj.weight.abs().max() < 0.9  # a rotation, not the identity itself


@torch.no_grad()
def test_attention_leans_towards_induction_heads():
    torch.manual_seed(0)
    model = Transformer(ModelConfig(300, 128, 3, 4, 344, rope_theta=bases.ROPE_THETA))
    bases.start_copying(model)
    once = torch.randint(300, (100,))
    ids = torch.cat([once, once])[None]
    back, second = (maps[0] for maps in model.attention_maps(ids)[:2])
    assert back[0].diagonal(-1).mean() > 0.7 and back[1].diagonal(-2).mean() > 0.7
    lean = 150 * second[:, 100:].diagonal(1, 1, 2).mean(1)  # to behind the first time; by chance: 1
    assert lean[0] > 1.1 and lean[1] > 1.5 and lean[2:].max() < 1.1


class _Numbered:
    """A batch source that says which step it was asked for."""

    steps_per_epoch = 7

    def __init__(self, name):
        self.name = name

    def __call__(self, step):
        return self.name, step


def test_the_plan_follows_the_weights_and_uses_each_source_from_its_start():
    recipe = dataclasses.replace(bases.RECIPES["base-small"], copy_steps=50, first_steps=450)
    names = {name for name, _ in (*recipe.first, *recipe.then)}
    plan = bases._Curriculum({name: _Numbered(name) for name in names}, recipe, 1000)
    again = bases._Curriculum({name: _Numbered(name) for name in names}, recipe, 1000)
    drawn = [plan(step) for step in range(1000)]
    assert drawn == [again(step) for step in range(1000)]
    assert {source for source, _ in drawn[:50]} == {"repeated"}
    for phase, (start, end) in ((recipe.first, (50, 450)), (recipe.then, (450, 1000))):
        total = sum(weight for _, weight in phase)
        for name, weight in phase:
            share = sum(source == name for source, _ in drawn[start:end]) / (end - start)
            assert abs(share - weight / total) < 0.08
    for name in names:
        assert [index for source, index in drawn if source == name] == list(range(sum(s == name for s, _ in drawn)))


def test_the_loss_is_on_what_stands_behind_the_passage():
    world = World("rich")
    texts = [*tasks.question_series(world, 20, 0), *tasks.retold_series(world, 20, 0),
             *tasks.repeated_series(world, 20, 0)]
    tokenizer = bases.Tokenizer.train([p + b for p, b in texts], 400, line_starts=True)
    for (passage, behind), (ids, labels) in zip(texts, bases._rows(texts, tokenizer), strict=True):
        assert tokenizer.decode(ids) == passage + behind
        seen = [label for label in labels if label != IGNORE]
        assert tokenizer.decode(seen).strip() == behind and seen[-1] == tokenizer.eos_id


def test_a_base_is_made_from_end_to_end(tmp_path, monkeypatch):
    monkeypatch.setitem(bases.RECIPES, "base-tiny", TINY)
    monkeypatch.setattr(bases, "measure", lambda model, tokenizer, world: {
        "held_out_loss": 1.0, "floor": 0.5, "hero_and_object": 0.5, "every_rule": 0.25})
    facts = bases.make("base-tiny", tmp_path / "base", tmp_path / "work")
    assert facts["steps"] == 6 and facts["tokens"] > 0
    model, tokenizer = load(tmp_path / "base")
    assert tokenizer.line_starts and model.config.hidden_size == 32
    assert "50.0 %" in (tmp_path / "base" / "README.md").read_text()
