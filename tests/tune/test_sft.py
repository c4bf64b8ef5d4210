"""ftlab.tune.sft and ftlab.model.ask: learning from examples, the same for our model and for transformers'."""

import copy

import pytest
import torch

from ftlab.errors import UsageError
from ftlab.model import to_hf
from ftlab.model.ask import ask
from ftlab.text.batching import PackedBatches
from ftlab.train import TrainConfig, train
from ftlab.tune import METHODS, attach
from ftlab.tune.sft import hf_loss, loss_of, make_batches, make_rows, rows_loss, tune_full
from ftlab.world import World, tasks


def test_a_model_learns_its_examples_and_answers_them(tiny, tokenizer, examples):
    model = tiny()
    history = tune_full(model, tokenizer, examples[:4], steps=120, tokens_per_batch=400, lr=1e-2, muon_lr=0.03)
    assert history.losses[-1] < 0.1 < history.losses[0]
    assert ask(model, tokenizer, examples[:4]) == [e.response for e in examples[:4]]
    short, = ask(model, tokenizer, examples[:1], max_new_tokens=2)
    assert short and examples[0].response.startswith(short) and len(short) < len(examples[0].response)
    # Strings and examples ask the same; neither the size of batches nor the order of the asked changes an answer.
    strings = [e.instruction for e in examples[3::-1]]
    assert ask(model, tokenizer, strings, batch_size=1) == [e.response for e in examples[3::-1]]
    # The end token is not the only end: a model that goes on behind the mark is cut there.
    assert tokenizer.decode(make_rows(examples[:1], tokenizer)[0][0]).endswith("\n\n### End")
    # transformers' generate gives the same answers from the same weights.
    hf = tokenizer.to_hf()
    theirs = to_hf(model)
    start = tokenizer.bos_id
    hf.backend_tokenizer.post_processor = _starting_with(start)
    assert ask(theirs, hf, strings, max_new_tokens=20) == [e.response for e in examples[3::-1]]


def _starting_with(start):
    from tokenizers.processors import TemplateProcessing

    return TemplateProcessing(single="<s> $A", special_tokens=[("<s>", start)])


def test_a_long_prompt_leaves_what_room_there_is_and_draws_are_repeatable(tiny, tokenizer):
    model = tiny()
    assert len(ask(model, tokenizer, ["kite " * 40], max_new_tokens=10_000)) == 1
    assert ask(model, tokenizer, ["a"] * 3, max_new_tokens=8, temperature=1.0, seed=3) == ask(
        model, tokenizer, ["a"] * 3, max_new_tokens=8, temperature=1.0, seed=3)


def test_a_prompt_that_fills_the_model_is_refused(tiny, tokenizer):
    with pytest.raises(UsageError, match="no room to answer"):
        ask(tiny(), tokenizer, ["kite " * 400])


def test_progress_counts_the_answered(tiny, tokenizer):
    said = []
    ask(tiny(), tokenizer, ["a"] * 5, max_new_tokens=1, batch_size=2, progress=lambda *counts: said.append(counts))
    assert said == [(2, 5), (4, 5), (5, 5)]


def test_the_loss_of_theirs_is_ours(tiny, tokenizer, examples):
    model = tiny()
    batch = make_batches(make_rows(examples, tokenizer), tokenizer, 600)(0)
    assert hf_loss(to_hf(model), batch).item() == pytest.approx(model.loss(batch).item(), abs=1e-5)


def test_tuning_theirs_is_tuning_ours(tiny, tokenizer, examples):
    ours, rows = tiny(), make_rows(examples, tokenizer)
    theirs, before = to_hf(ours), copy.deepcopy(ours.state_dict())
    for model in (ours, theirs):
        train(model, make_batches(rows, tokenizer, 400), TrainConfig(5, lr=1e-3), loss_of(model))
    for name, value in ours.state_dict().items():
        other = theirs.state_dict()[name if name.startswith("lm_head") else f"model.{name}"]
        torch.testing.assert_close(other, value, atol=2e-5, rtol=0)
        assert not torch.equal(value, before[name])


def test_the_held_out_loss_is_the_mean_over_tokens(tiny, tokenizer, examples):
    model, rows = tiny(), make_rows(examples[:7], tokenizer)
    total = count = 0
    for row in rows:
        batch = make_batches([row], tokenizer)(0)
        total, count = total + model.loss(batch).item() * batch.num_tokens(), count + batch.num_tokens()
    for size in (10, 200, 8192):
        assert rows_loss(model, rows, tokenizer, size) == pytest.approx(total / count, rel=1e-5)


def test_packing_changes_no_loss(tiny, tokenizer, examples):
    model, rows = tiny(), make_rows(examples, tokenizer)
    packed = make_batches(rows, tokenizer, 10_000, packed=True)
    assert isinstance(packed, PackedBatches) and packed.steps_per_epoch == 1
    assert model.loss(packed(0)).item() == pytest.approx(rows_loss(model, rows, tokenizer), rel=1e-5)
    with pytest.raises(UsageError, match="packed rows need our own"):
        hf_loss(to_hf(model), packed(0))


def test_loss_on_everything_learns_the_prompts_too(tiny, tokenizer, examples):
    prompts = make_rows(examples, tokenizer, loss="all")
    losses = {}
    for on in ("response", "all"):
        model = tiny()
        tune_full(model, tokenizer, examples, steps=30, tokens_per_batch=600, lr=5e-3, loss=on)
        losses[on] = rows_loss(model, prompts, tokenizer)
    assert losses["all"] < losses["response"] - 0.5


def test_steps_epochs_and_seeds(tiny, tokenizer, examples):
    per_epoch = make_batches(make_rows(examples, tokenizer), tokenizer, 200).steps_per_epoch
    runs = [tune_full(tiny(), tokenizer, examples, epochs=2, tokens_per_batch=200, seed=seed) for seed in (0, 0, 1)]
    assert [len(run.losses) for run in runs] == [2 * per_epoch] * 3
    assert runs[0].losses == runs[1].losses != runs[2].losses


def test_a_stopped_run_goes_on(tiny, tokenizer, examples, tmp_path):
    def stop(event):
        if event["kind"] == "step" and event["step"] == 3:
            raise KeyboardInterrupt

    whole, halves = tiny(), tiny()
    settings = {"steps": 6, "tokens_per_batch": 200}
    tune_full(whole, tokenizer, examples, **settings)
    with pytest.raises(KeyboardInterrupt):
        tune_full(halves, tokenizer, examples, **settings, out=tmp_path, callbacks=[stop])
    halves = tiny(seed=1)
    tune_full(halves, tokenizer, examples, **settings, out=tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), halves.parameters(), strict=True))


def test_tasks_of_the_world_are_examples(tokenizer):
    asked = tasks.make(World("small"), "classify", 2)
    assert len(make_rows(asked, tokenizer)) == 2


def test_what_cannot_be_learnt_from_is_refused(tiny, tokenizer, examples):
    with pytest.raises(UsageError, match="no examples"):
        tune_full(tiny(), tokenizer, [])
    with pytest.raises(UsageError, match="more than 20: shorten"):
        tune_full(tiny(), tokenizer, examples, max_length=20)


def test_methods(tiny):
    model = tiny()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    assert attach(model, "full") is model and all(p.requires_grad for p in model.parameters())
    assert METHODS["full"].name == "full" and not METHODS["full"].adapter
    quantised = torch.nn.Sequential(torch.nn.Linear(2, 2))
    quantised[0].weight = torch.nn.Parameter(torch.zeros(2, dtype=torch.uint8), requires_grad=False)
    with pytest.raises(UsageError, match="the base is quantised"):
        attach(quantised, "full")
    with pytest.raises(UsageError, match="no method is called 'lora-x'; choose one of full"):
        attach(model, "lora-x")
