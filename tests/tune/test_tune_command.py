"""`ftlab tune full`: from a file of examples to a checkpoint that transformers loads, and every way to be refused."""

import json

import pytest
import torch

from ftlab import cli
from ftlab.errors import UsageError
from ftlab.model import hub
from ftlab.text.examples import Example
from ftlab.text.rows import prompt_rows
from ftlab.tune import METHODS
from ftlab.tune import run as tuning
from ftlab.tune.bases import load_base
from ftlab.tune.run import Wish, tune_from_data


def tune(capsys, *arguments):
    """(exit status, JSON result or None, line on stderr) of `ftlab tune full … --json`."""
    status = cli.main(["tune", "full", "--json", *map(str, arguments)])
    said = capsys.readouterr()
    return status, json.loads(said.out) if status == 0 else None, said.err


def left_beside(out):
    """What stands beside the checkpoint and is none of the test's: half-written things."""
    return [path.name for path in out.parent.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("template", ["alpaca", "chat"])
@pytest.mark.parametrize("base", ["ours", "gpt2", "qwen2", "llama"])
def test_a_checkpoint_that_transformers_loads(base, template, bases, data, tmp_path, capsys):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    out = tmp_path / "out"
    status, result, said = tune(capsys, "--data", data, "--out", out, "--base", bases[base], "--steps", 3,
                                "--template", template)
    assert (status, said) == (0, "") and left_beside(out) == []
    assert {"method", "base", "parameters", "trainable", "examples", "steps", "tokens", "seconds", "loss_first",
            "loss_last", "held_out_loss", "out"} <= set(result)
    assert (result["method"], result["examples"], result["held_out"], result["steps"]) == ("full", 23, 1, 3)
    assert result["parameters"] == result["trainable"] > 20_000
    model, tokenizer = AutoModelForCausalLM.from_pretrained(out), AutoTokenizer.from_pretrained(out)
    # A chat template of its own is kept; else the one that was trained is written.
    own = AutoTokenizer.from_pretrained(bases[base]).chat_template
    assert (tokenizer.chat_template == own) == (base == "qwen2" and template == "chat")
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id == 2
    asked = tokenizer.apply_chat_template([{"role": "user", "content": "Which kite?"}], add_generation_prompt=True,
                                          return_tensors="pt", return_dict=True)
    trained = load_base(str(bases[base]))[1]
    assert asked["input_ids"].tolist() == prompt_rows([Example("Which kite?")], trained, template)
    written = model.generate(**asked, max_new_tokens=3, do_sample=False)
    assert written.shape[1] > asked["input_ids"].shape[1]
    before = AutoModelForCausalLM.from_pretrained(bases[base]).state_dict()
    assert any(not torch.equal(before[name], value) for name, value in model.state_dict().items())
    readme = (out / "README.md").read_text()
    assert "apply_chat_template" in readme and str(tmp_path) not in readme
    assert all(path.stat().st_mode & 0o044 == 0o044 for path in out.iterdir())


def test_ours_loads_here_and_can_be_tuned_on(bases, data, tmp_path, capsys):
    first, second = tmp_path / "first", tmp_path / "second"
    assert tune(capsys, "--data", data, "--out", first, "--base", bases["ours"], "--steps", 2)[0] == 0
    assert hub.load(first)[0].config.causal
    status, result, _ = tune(capsys, "--data", data, "--out", second, "--base", first, "--steps", 2)
    assert status == 0 and result["held_out_loss_before"] < 6


def test_it_learns(bases, data, tmp_path, capsys):
    status, result, _ = tune(capsys, "--data", data, "--out", tmp_path / "o", "--base", bases["ours"], "--steps", 40,
                             "--lr", 0.01)
    assert status == 0 and result["loss_last"] < result["loss_first"] / 3
    assert result["held_out_loss"] < result["held_out_loss_before"] / 3
    _, result, _ = tune(capsys, "--data", data, "--out", tmp_path / "g", "--base", bases["gpt2"], "--steps", 40,
                        "--lr", 0.01)
    assert result["held_out_loss"] < result["held_out_loss_before"] / 3


def test_the_type_of_numbers_of_the_base_is_kept(bases, data, tmp_path, capsys):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    half = tmp_path / "half"
    AutoModelForCausalLM.from_pretrained(bases["llama"], dtype=torch.bfloat16).save_pretrained(half)
    AutoTokenizer.from_pretrained(bases["llama"]).save_pretrained(half)
    assert tune(capsys, "--data", data, "--out", tmp_path / "o", "--base", half, "--steps", 1)[0] == 0
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "o")
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}


def test_messages_are_trained_as_chat_and_plain_text_without_a_template(bases, tmp_path, capsys):
    turns = [{"role": "user", "content": "kite"}, {"role": "assistant", "content": "red"}]
    (tmp_path / "m.jsonl").write_text(json.dumps({"messages": turns}) + "\n")
    (tmp_path / "t.csv").write_text("text\nThe kite is red.\n")
    for name, template in (("m.jsonl", "chat"), ("t.csv", None)):
        path, out = tmp_path / name, tmp_path / name.replace(".", "-")
        status, result, _ = tune(capsys, "--data", path, "--out", out, "--base", bases["llama"], "--steps", 1)
        assert status == 0 and (out / "chat_template.jinja").exists() == (template == "chat")
        assert result["held_out"] == 0 and result["held_out_loss"] is None
        assert result["template"] == (template or "alpaca")


def test_what_is_not_used_is_said_where_nobody_watches(bases, tmp_path, capsys):
    good = {"instruction": "kite", "output": "red", "id": 1}
    rows = [good, good, good | {"output": ""}, good | {"kto_tag": False}]
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    status, result, said = tune(capsys, "--data", tmp_path / "d.jsonl", "--base", bases["ours"], "--out", tmp_path / "o",
                                "--steps", 1)
    assert status == 0 and result["examples"] == 2
    assert "not used: id" in said and "passed over 1 row" in said and "kto_tag false: 1" in said
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [good, *[good | {"output": ""}] * 2]))
    status, _, said = tune(capsys, "--data", tmp_path / "d.jsonl", "--base", bases["ours"], "--out", tmp_path / "p")
    assert status == 2 and "2 of 3 rows cannot be used" in said and said.count("\n") == 1 and not (tmp_path / "p").exists()


def test_tool_calls_that_the_template_does_not_write_are_left_out_and_counted(bases, tmp_path, capsys):
    asked, answer = {"role": "user", "content": "kite"}, {"role": "assistant", "content": "red"}
    call = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "lamp", "arguments": "{}"}}]}
    path = tmp_path / "d.jsonl"
    for extra, expected in ((1, 0), (3, 2)):
        rows = [{"messages": [asked, answer]}] * 2 + [{"messages": [asked, call]}] * extra
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        out = tmp_path / f"o{extra}"
        status, result, said = tune(capsys, "--data", path, "--base", bases["ours"], "--out", out, "--steps", 1)
        assert status == expected and f"({extra} of {2 + extra} examples; {extra} have tool calls)" in said
        assert status or result["examples"] == 2


def test_an_adapter_as_base_is_named_as_one(bases, data, tmp_path, capsys):
    made = ["tune", "lora", "--data", data, "--base", bases["llama"], "--out", tmp_path / "a", "--steps", 1, "--json"]
    assert cli.main(list(map(str, made))) == 0
    capsys.readouterr()
    for base in (tmp_path / "a", tmp_path / "a" / "adapter_model.safetensors"):
        status, _, said = tune(capsys, "--data", data, "--base", base, "--out", tmp_path / "o")
        assert status == 2 and f"{tmp_path / 'a'} is an adapter" in said and str(bases["llama"]) in said
        assert said.count("\n") == 1 and not (tmp_path / "o").exists()


def test_same_seed_same_weights(bases, data, tmp_path, capsys):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        tune(capsys, "--data", data, "--out", tmp_path / name, "--base", bases["ours"], "--steps", 3, "--seed", seed)
    a, b, c = ((tmp_path / name / "model.safetensors").read_bytes() for name in "abc")
    assert a == b != c


def test_an_interrupted_run_goes_on_from_its_checkpoint(bases, data, tmp_path):
    def interrupt(event):
        if event["kind"] == "step" and event["step"] == 3:
            raise KeyboardInterrupt

    settings = {"base": str(bases["ours"]), "wish": Wish(steps=6)}
    tune_from_data("full", data, tmp_path / "whole", **settings)
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        tune_from_data("full", data, out, **settings, callbacks=[interrupt])
    assert not out.exists() and len(left_beside(out)) == 1
    begun = []
    again = tune_from_data("full", data, out, **settings,
                           callbacks=[lambda event: begun.append(event["step"]) if event["kind"] == "start" else None])
    assert begun == [3] and again["steps"] == 6 and left_beside(out) == []
    assert (out / "model.safetensors").read_bytes() == (tmp_path / "whole" / "model.safetensors").read_bytes()


def test_a_run_with_other_data_or_another_base_starts_afresh(bases, tmp_path):
    rows = [([1, 5, 2], [1, 5, 2])]
    ours, other = load_base(str(bases["ours"]))[0], load_base(str(bases["llama"]))[0]
    names = {tuning._partial_folder(tmp_path / "o", settings, model)
             for settings, model in (((rows, 1), ours), ((rows, 2), ours), ((rows, 1), other), ((rows, 1), ours))}
    assert len(names) == 3


def test_nothing_is_left_of_a_run_that_diverged(bases, data, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(tuning.sft, "loss_of", lambda model: lambda model, batch: model.loss(batch) * float("inf"))
    status, _, said = tune(capsys, "--data", data, "--out", tmp_path / "o", "--base", bases["ours"], "--steps", 2)
    assert status == 2 and "learning rate" in said and said.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data.jsonl"]


def test_without_json_the_result_is_lines(bases, data, tmp_path, capsys):
    assert cli.main(["tune", "full", "--data", str(data), "--out", str(tmp_path / "o"), "--base", str(bases["ours"]),
                     "--steps", "1"]) == 0
    said = capsys.readouterr()
    assert "held_out_loss: " in said.out and said.err == ""


def test_progress_where_somebody_watches(bases, data, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("FTLAB_PROGRESS", "1")
    status, result, said = tune(capsys, "--data", data, "--out", tmp_path / "o", "--base", bases["ours"], "--steps", 12)
    assert status == 0 and "24 examples" in said and "step 12/12" in said and " left" in said


# ---- held-out examples, steps


def test_an_example_is_never_on_both_sides():
    examples = [Example(f"q{i % 30}", "r") for i in range(300)]
    made = [(example.instruction, None) for example in examples]
    training, held_out = tuning._split(examples, made, 0)
    assert len(training) + len(held_out) == 300 and 15 <= len(held_out) < 30
    assert not {name for name, _ in training} & {name for name, _ in held_out}
    assert tuning._split(examples, made, 1)[1] != held_out == tuning._split(examples, made, 0)[1]


@pytest.mark.parametrize(("count", "wanted"), [(1, 0), (19, 0), (20, 1), (100, 5), (20_000, 500)])
def test_how_many_are_held_out(count, wanted):
    examples = [Example(f"q{i}", "r") for i in range(count)]
    training, held_out = tuning._split(examples, examples, 0)
    assert (len(training), len(held_out)) == (count - wanted, wanted)
    same = [Example("q", "r")] * count
    assert tuning._split(same, same, 0)[1] == []


def test_small_data_gets_small_batches(bases, tokenizer, examples):
    model, _ = load_base(str(bases["ours"]))
    rows = tuning.sft.make_rows(examples, tokenizer)
    batches, config = tuning._plan(model, tokenizer, rows, Wish())
    assert batches.steps_per_epoch >= 8 and config.steps == tuning.sft.EPOCHS * batches.steps_per_epoch
    assert tuning._plan(model, tokenizer, rows * 200, Wish())[0].tokens_per_batch == tuning.sft.TOKENS_PER_BATCH
    assert tuning._plan(model, tokenizer, rows, Wish(steps=7, lr=0.5))[1].steps == 7


def test_patience():
    from ftlab.train import History

    def ends(losses, wanted=True):
        patience = tuning._Patience(wanted)
        for index in range(len(losses)):
            history = History(evals=[{"step": i, "held_out_loss": loss} for i, loss in enumerate(losses[:index + 1])])
            patience({"kind": "eval", "history": history})
            if patience.over({}):
                return index
        return None

    assert ends([3, 2, 1, 0.5]) is None
    assert ends([3, 2, 2.1, 1.9, 2, 2.1, 1]) == 5
    assert ends([3, 4, 5], wanted=False) is None


def test_it_ends_early_when_the_held_out_loss_rises(bases, tmp_path, monkeypatch):
    rows = [{"instruction": f"What colour is kite {i}?", "response": "It is red."} for i in range(120)]
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def evaluations(out, **wish):
        falls_and_rises = iter([3, 2, 1, 1.5, 1.2, 0.5] + [0.1] * 20)
        monkeypatch.setattr(tuning.sft, "rows_loss", lambda *arguments: next(falls_and_rises))
        return tune_from_data("full", tmp_path / "d.jsonl", tmp_path / out, str(bases["ours"]), Wish(**wish))

    stopped, whole = evaluations("a"), evaluations("b", steps=10)
    assert (stopped["held_out_loss_before"], stopped["held_out_loss"]) == (3, 1.2)
    assert whole["steps"] == 10 and whole["held_out_loss"] == 0.1 and stopped["steps"] < 20


# ---- refusals


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--steps", "0"], "--steps is 0; it must be at least 1"),
        (["--lr", "-1"], "--lr is -1.0; it must be above 0"),
        (["--lr", "nan"], "--lr is nan"),
        (["--max-length", "1"], "--max-length is 1; it must be at least 2"),
        (["--max-length", "5"], "every example has more than 5 tokens"),
        (["--max-length", "9999"], "the model takes 256 tokens at most"),
        (["--template", "vicuna"], "choose one of alpaca, chat"),
        (["--loss", "prompt"], "choose response or all"),
        (["--base", "nowhere"], "no such folder"),
        (["--base", "nobody/nothing"], "nobody/nothing: not here"),
        (["--base", "base-masked"], "choose base or base-small"),
        (["--data", "none.jsonl"], "none.jsonl: no such file"),
    ],
)
def test_refusals(arguments, part, bases, data, tmp_path, capsys):
    given = ["--data", data, "--base", bases["ours"], "--out", tmp_path / "o", *arguments]
    status, _, said = tune(capsys, *given)
    assert status == 2 and part in said and said.startswith("ftlab: ") and said.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data.jsonl"]


def test_an_unknown_method(data, tmp_path, capsys):
    assert cli.main(["tune", "magic", "--data", str(data), "--out", str(tmp_path / "o")]) == 2
    assert capsys.readouterr().err == f"ftlab: no method is called 'magic'; choose one of {', '.join(METHODS)}\n"


def test_what_stands_at_out_is_never_overwritten(bases, data, tmp_path, capsys):
    out = tmp_path / "o"
    out.mkdir()
    (out / "thesis.txt").write_text("mine")
    for place in (out, out / "thesis.txt", out / "thesis.txt" / "deeper"):
        status, _, said = tune(capsys, "--data", data, "--base", bases["ours"], "--out", place)
        assert status == 2 and "another folder with --out" in said
    assert (out / "thesis.txt").read_text() == "mine" and len(list(out.iterdir())) == 1


def test_too_long_examples_are_named_or_left_out(bases, tmp_path, capsys, monkeypatch):
    path = tmp_path / "d.csv"
    path.write_text('prompt,completion\nkite,red\nkite,"' + "red " * 300 + '"\n')
    status, _, said = tune(capsys, "--data", path, "--base", bases["gpt2"], "--out", tmp_path / "o")
    assert status == 2 and f"{path}: line 3: " in said and 'column "completion"' in said and "--max-length 256" in said
    monkeypatch.setenv("FTLAB_PROGRESS", "1")
    status, result, said = tune(capsys, "--data", path, "--base", bases["gpt2"], "--out", tmp_path / "o", "--steps", 1,
                                "--max-length", 100)
    assert status == 0 and result["examples"] == 1 and "left out 1 examples of more than 100 tokens" in said


def test_models_that_are_no_causal_language_models(tokenizer, tmp_path):
    import transformers

    bert = transformers.BertConfig(vocab_size=330, hidden_size=32, num_hidden_layers=1, num_attention_heads=4,
                                   intermediate_size=48)
    t5 = transformers.T5Config(vocab_size=330, d_model=16, d_kv=4, d_ff=16, num_layers=1, num_heads=2)
    llama = transformers.LlamaConfig(vocab_size=330, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                                     intermediate_size=16, num_labels=2)
    for model, part in ((transformers.BertForMaskedLM(bert), "sees the words that follow"),
                        (transformers.T5ForConditionalGeneration(t5), "cannot be loaded as a causal language model"),
                        (transformers.LlamaForSequenceClassification(llama), "lack weights")):
        folder = tmp_path / type(model).__name__
        model.save_pretrained(folder)
        tokenizer.to_hf().save_pretrained(folder)
        with pytest.raises(UsageError, match=part) as caught:
            load_base(str(folder))
        assert "\n" not in str(caught.value)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no config.json there"):
        load_base(str(tmp_path / "empty"))


def test_a_tokenizer_of_another_model_is_refused(bases, tmp_path, data, capsys):
    import transformers

    small = transformers.LlamaConfig(vocab_size=100, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                                     intermediate_size=16)
    transformers.LlamaForCausalLM(small).save_pretrained(tmp_path / "small")
    transformers.AutoTokenizer.from_pretrained(bases["llama"]).save_pretrained(tmp_path / "small")
    status, _, said = tune(capsys, "--data", data, "--base", tmp_path / "small", "--out", tmp_path / "o")
    assert status == 2 and "the model knows only 100 tokens" in said
