"""A model from a Hub that is well, refuses, hangs, drips, breaks off or sends rubbish: whole, or one line, and soon."""

import socket
import time

import pytest
import torch
from network import hub_server

from ftlab import cli, online
from ftlab.errors import UsageError
from ftlab.model import ModelConfig, Transformer
from ftlab.model import hub as models
from ftlab.text import Tokenizer

NAME = "someone/some-model"
WEIGHTS = "model.safetensors"


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    """{file: bytes} of a tiny model, with what a repository has besides."""
    folder = tmp_path_factory.mktemp("model") / "tiny"
    tokenizer = Tokenizer.train(["a red cap, a red hat"], 262)
    torch.manual_seed(0)
    config = ModelConfig(vocab_size=tokenizer.vocab_size, hidden_size=16, num_layers=1, num_heads=2, intermediate_size=24)
    models.save(Transformer(config), tokenizer, folder)
    return {path.name: path.read_bytes() for path in folder.iterdir()} | {
        "README.md": b"a card", "pytorch_model.bin": b"the same again", "onnx/model.onnx": b"and again"}  # fmt: skip


@pytest.fixture
def hub(hub, files):
    hub.repositories[NAME] = dict(files)
    return hub


def refusal(name=NAME):
    """The one line that says why."""
    with pytest.raises(UsageError) as caught:
        models.load(name)
    assert "\n" not in str(caught.value) and str(caught.value).startswith(name)
    return str(caught.value)


def kept(hub):
    """The names of the files in the cache's snapshots; nothing half-loaded may lie beside them."""
    assert not list(hub.cache.rglob("*.incomplete"))
    return sorted(path.name for path in hub.cache.glob("models--*/snapshots/*/*") if path.exists())


def test_a_model_is_fetched_once_and_only_what_it_takes(hub, files):
    model, tokenizer = models.load(NAME)
    assert tokenizer.encode("a red hat") and model.config.hidden_size == 16
    taken = {name for name in files if hub.asked(f"/resolve/main/{name}")}
    assert taken == set(files) - {"README.md", "pytorch_model.bin", "onnx/model.onnx"}
    hub.requests.clear()
    again, _ = models.load(NAME)
    assert torch.equal(again.embed_tokens.weight, model.embed_tokens.weight) and hub.requests == []


def test_what_is_in_the_cache_needs_no_hub(hub, client, monkeypatch):
    models.load(NAME)
    client("http://127.0.0.1:9")
    models.load(NAME)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    models.load(NAME)


def test_a_refused_connection(client):
    with socket.socket() as closed:  # bound and not listening: whoever connects is refused
        closed.bind(("127.0.0.1", 0))
        client(f"http://127.0.0.1:{closed.getsockname()[1]}")
        assert "the Hub cannot be reached" in refusal() and "base-small" in refusal()


@pytest.mark.timeout(60)  # against waiting for the answer, which takes longer
@pytest.mark.parametrize("fault", [hub_server.black_hole(), hub_server.drip(0.2)])
def test_a_hub_that_never_answers(hub, fault, monkeypatch):
    assert online.SECONDS < 5, "the course promises an answer within five seconds"
    monkeypatch.setattr(online, "SECONDS", 0.5)
    hub.faults["/api/"] = fault
    assert "the Hub cannot be reached" in refusal()


@pytest.mark.full
def test_how_long_a_hub_that_never_answers_is_waited_for(hub, capsys):
    hub.faults["/api/"] = hub_server.black_hole()
    began = time.perf_counter()
    assert "the Hub cannot be reached" in refusal()
    with capsys.disabled():
        print(f"\na black-holed Hub: given up after {time.perf_counter() - began:.1f} s", flush=True)


@pytest.mark.parametrize(("name", "fault", "words"), [
    ("someone/none", None, "no public model"),
    (NAME, hub_server.status(404, "RepoNotFound"), "no public model"),
    (NAME, hub_server.status(401, "GatedRepo"), "hf auth login"),
    (NAME, hub_server.status(403, "GatedRepo"), "hf auth login"),
    (NAME, hub_server.status(401), "hf auth login"),
    (NAME, hub_server.status(503), "status 503"),
])  # fmt: skip
def test_a_hub_that_refuses(hub, name, fault, words):
    hub.faults |= {"/api/": fault} if fault else {}
    assert words in refusal(name) and kept(hub) == []


def test_a_gated_models_record_is_public_its_files_are_not(hub):
    hub.faults["/resolve/"] = hub_server.status(401, "GatedRepo")
    assert "hf auth login" in refusal() and kept(hub) == []


def test_a_model_without_files(hub):
    hub.repositories["someone/empty"] = {"model.onnx": b"x"}
    assert "no file that could be loaded" in refusal("someone/empty")


def test_offline_by_setting(hub, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "HF_HUB_OFFLINE" in refusal() and hub.requests == []


def test_a_download_that_is_cut_goes_on_from_there(hub, files, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)  # what is kept at a cut are whole chunks
    hub.faults[WEIGHTS] = hub_server.cut(5500)
    models.load(NAME)
    gets = hub.asked(WEIGHTS, "GET")
    assert len(gets) == 2 and gets[1].split("bytes=")[1].startswith("5000-")
    assert kept(hub) == sorted(set(files) - {"README.md", "pytorch_model.bin", "onnx/model.onnx"})


@pytest.mark.full
def test_a_download_that_is_always_cut_keeps_nothing_and_the_next_is_whole(hub):
    hub.faults[WEIGHTS] = hub_server.cut(700, times=100)
    assert "could not be fetched" in refusal()
    assert WEIGHTS not in kept(hub) and "config.json" not in kept(hub)
    hub.faults.clear()
    models.load(NAME)


@pytest.mark.timeout(60)
def test_a_download_that_stands_still_is_given_up(hub, monkeypatch):
    """And what goes on behind it is ended: the same process can fetch the model once the Hub is well."""
    monkeypatch.setattr(online, "STALL", 0.5)
    hub.faults[WEIGHTS] = hub_server.drip(0.1, after=100)
    assert "nothing came" in refusal()
    hub.faults.clear()
    models.load(NAME)


@pytest.mark.parametrize("name", [WEIGHTS, "tokenizer.json"])
def test_a_file_with_a_wrong_checksum_is_not_kept(hub, files, name):
    hub.faults[f"main/{name}"] = hub_server.damaged(files[name][:-1] + bytes([files[name][-1] ^ 1]))
    assert "damaged" in refusal() and name not in kept(hub)
    hub.faults.clear()
    models.load(NAME)


def test_a_file_of_the_wrong_size_is_not_kept(hub, files):
    hub.faults[f"main/{WEIGHTS}"] = hub_server.damaged(files[WEIGHTS][:-50])
    assert "could not be fetched" in refusal() and WEIGHTS not in kept(hub)


def test_a_model_that_is_in_the_cache_in_part_is_completed(hub):
    folder = online.model(NAME, "")
    (folder / WEIGHTS).unlink()
    models.load(NAME)
    assert hub.asked(WEIGHTS, "HEAD")


def test_the_command_says_it_in_one_line(hub, tmp_path, capsys):
    data = tmp_path / "examples.jsonl"
    data.write_text('{"instruction": "a", "response": "b"}\n' * 40)
    hub.faults["/resolve/"] = hub_server.status(401, "GatedRepo")
    out = tmp_path / "out"
    assert cli.main(["tune", "lora", "--data", str(data), "--base", NAME, "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "hf auth login" in error and not out.exists()


def test_every_layout_of_weights_is_found():
    """Which files are taken, by what a repository holds."""
    class File:
        def __init__(self, rfilename):
            self.rfilename = rfilename

    class Record:
        def __init__(self, *names):
            self.siblings = [File(name) for name in names]

    def taken(*names):
        return [file.rfilename for file in online._files(Record(*names))]

    index = "model.safetensors.index.json"
    assert taken("config.json", "model-00001-of-00002.safetensors", "consolidated.safetensors", index) == [
        "model-00001-of-00002.safetensors", index, "config.json"]
    assert taken("pytorch_model.bin", "config.json", "vocab.json", "merges.txt", "flax_model.msgpack", ".gitattributes") == [
        "merges.txt", "pytorch_model.bin", "vocab.json", "config.json"]
    assert taken("original/params.json", "adapter_model.safetensors") == ["adapter_model.safetensors"]
