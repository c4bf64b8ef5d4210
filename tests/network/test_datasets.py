"""A data set from a Hub that is well, refuses, hangs or breaks off, read by the real clients: rows, or one line, and soon."""

import json

import pytest
from network import hub_server

from ftlab import cli, online
from ftlab.errors import UsageError
from ftlab.text.corpus import read_texts
from ftlab.text.examples import Example, read_examples

NAME = "someone/stories"
ROWS = [{"text": f"The cat number {i} sat on the mat and saw the sea."} for i in range(40)]
EXAMPLES = "someone/examples"


@pytest.fixture
def hub(hub, monkeypatch, tmp_path):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", hub.address)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HUB_DATASETS_URL", hub.address + "/datasets/{repo_id}/resolve/{revision}/{path}")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    monkeypatch.setattr(datasets.config, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(datasets.config, "STREAMING_READ_MAX_RETRIES", 1)
    monkeypatch.setattr(datasets.config, "STREAMING_READ_RETRY_INTERVAL", 0.1)
    lines = "".join(json.dumps(row) + "\n" for row in ROWS)
    hub.repositories[NAME] = {"train.jsonl": lines.encode(), "README.md": b"a card"}
    pair = json.dumps({"instruction": "Say yes.", "response": "Yes."}) + "\n"
    hub.repositories[EXAMPLES] = {"train.jsonl": pair.encode() * 40}
    return hub


def refusal(read, name=NAME):
    with pytest.raises(UsageError) as caught:
        read(name)
    assert "\n" not in str(caught.value) and str(caught.value).startswith(name)
    return str(caught.value)


def texts(name):
    return read_texts(name, min_chars=1)


def test_rows_come_from_the_hub(hub):
    assert texts(NAME) == [row["text"] for row in ROWS]
    assert read_examples(EXAMPLES) == [Example("Say yes.", "Yes.")] * 40


@pytest.mark.parametrize("read", [texts, read_examples])
@pytest.mark.parametrize(("fault", "words"), [
    (hub_server.status(404, "RepoNotFound"), "no public data set"),
    (hub_server.status(401, "GatedRepo"), "hf auth login"),
    (hub_server.status(503), "status 503"),
])  # fmt: skip
def test_a_hub_that_refuses(hub, read, fault, words):
    hub.faults["/api/"] = fault
    assert words in refusal(read)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("read", [texts, read_examples])
def test_a_hub_that_never_answers(hub, read, monkeypatch):
    monkeypatch.setattr(online, "SECONDS", 0.3)
    hub.faults["/api/"] = hub_server.black_hole()
    assert "the Hub cannot be reached" in refusal(read)


def test_a_refused_connection(client):
    client("http://127.0.0.1:9")
    assert "the Hub cannot be reached" in refusal(texts) and "name a local file" in refusal(texts)


@pytest.mark.timeout(60)
def test_rows_that_stand_still_are_given_up(hub, monkeypatch):
    monkeypatch.setattr(online, "STALL", 1.0)
    hub.faults["train.jsonl"] = hub_server.black_hole()
    assert "nothing came" in refusal(texts)


@pytest.mark.full  # the client tries again and again
def test_rows_that_break_off(hub):
    hub.faults["train.jsonl"] = hub_server.cut(300, times=1000)
    assert "could not be fetched" in refusal(texts)


def test_no_more_is_fetched_than_is_read(hub):
    few = read_texts(NAME, min_chars=1, max_bytes=200)
    assert few == [row["text"] for row in ROWS[:len(few)]] and 0 < len(few) < 5


@pytest.mark.parametrize("command", [
    ["pretrain", "--text", NAME], ["tune", "full", "--data", NAME],
])  # fmt: skip
def test_the_commands_say_it_in_one_line(hub, command, tmp_path, capsys):
    hub.faults["/api/"] = hub_server.status(401, "GatedRepo")
    assert cli.main([*command, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "hf auth login" in error and not (tmp_path / "out").exists()
