"""Checkpoints: a killed run goes on bit for bit, at most one interval is lost, and what is no checkpoint is said."""

import contextlib
import dataclasses
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import pytest
import torch

from ftlab.errors import UsageError
from ftlab.train import TrainConfig, train

HERE = pathlib.Path(__file__).parent
STEPS, INTERVAL = 60, 4  # as in killed.py


class Runs:
    """killed.py in a process of its own, started run by run."""

    def __init__(self, folder):
        self.out, self.progress = folder / "out", folder / "progress"
        self.folder = folder
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE)}
        self.process = subprocess.Popen([sys.executable, HERE / "killed.py", self.out, self.progress], text=True,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)

    def start(self):
        print("go", file=self.process.stdin, flush=True)
        return int(self.process.stdout.readline().split()[1])

    def wait(self):
        return int(self.process.stdout.readline().split()[1])

    def events(self):
        if not self.progress.exists():
            return []
        lines = self.progress.read_text().splitlines()
        return [(kind, int(step)) for kind, step in (line.split() for line in lines)]

    def close(self):
        self.process.stdin.close()
        self.process.wait()


@contextlib.contextmanager
def runs(folder):
    folder.mkdir()
    started = Runs(folder)
    try:
        yield started
    finally:
        started.close()


def kill_at_a_random_moment(run, rng):
    """Start a run; kill it some steps on, at any point of a step, or while it writes a checkpoint. Returns its status."""
    before = len(run.events())
    pid = run.start()
    more, while_writing = rng.randrange(1, 20), rng.random() < 0.5
    # A run that is over before its moment came is not killed; the pid is a zombie at most until `wait`.
    while len(run.events()) < before + more and pathlib.Path(f"/proc/{pid}").exists():
        time.sleep(0.0005)
    if while_writing:
        while not list(run.out.glob(".checkpoint.pt.*")) and pathlib.Path(f"/proc/{pid}").exists():
            time.sleep(0.0005)
    else:
        time.sleep(rng.random() * 0.003)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    return run.wait()


@pytest.mark.skipif(not pathlib.Path("/proc/self").exists(), reason="needs /proc and fork")
def test_a_killed_run_ends_with_the_same_weights(tmp_path):
    with runs(tmp_path / "whole") as whole:
        whole.start()
        assert whole.wait() == 0
        expected = torch.load(whole.folder / "progress.result")
    rng, statuses = random.Random(), []
    with runs(tmp_path / "killed") as run:
        while 0 not in statuses:
            # After six kills the run may go on to its end.
            if len(statuses) < 6:
                statuses.append(kill_at_a_random_moment(run, rng))
            else:
                run.start()
                statuses.append(run.wait())
        events, got = run.events(), torch.load(run.folder / "progress.result")
        leftovers = [p.name for p in run.out.iterdir() if p.name != "checkpoint.pt"]
    assert set(statuses) <= {0, -signal.SIGKILL} and -signal.SIGKILL in statuses
    assert leftovers == []
    for key, value in expected["model"].items():
        assert torch.equal(value, got["model"][key]), key
    for key in ("steps", "losses", "lrs", "evals", "tokens"):
        assert got[key] == expected[key], key
    reached = 0
    for kind, step in events:
        if kind == "start":
            assert step % INTERVAL == 0 or step == STEPS
            assert reached - step <= INTERVAL, "more than one interval was lost"
        reached = step
    assert reached == STEPS


CONFIG = TrainConfig(steps=8, save_every=4, optimizer="muon")


def test_a_finished_run_is_not_run_again(tiny_model, batches, tmp_path):
    first = tiny_model()
    a = train(first, batches, CONFIG, out=tmp_path)
    second = tiny_model(seed=5)

    def never(step):
        raise AssertionError("a finished run asked for a batch")

    b = train(second, never, CONFIG, out=tmp_path)
    assert (a.losses, a.tokens, a.seconds) == (b.losses, b.tokens, b.seconds)
    assert all(torch.equal(p, q) for p, q in zip(first.parameters(), second.parameters(), strict=True))


class Interrupt:
    """A callback that presses Ctrl-C after a step."""

    def __init__(self, step):
        self.step = step

    def __call__(self, event):
        if event["kind"] == "step" and event["step"] == self.step:
            raise KeyboardInterrupt


def test_ctrl_c_saves_the_last_step(tiny_model, batches, tmp_path):
    whole = tiny_model()
    expected = train(whole, batches, CONFIG)
    with pytest.raises(KeyboardInterrupt):
        train(tiny_model(), batches, CONFIG, callbacks=[Interrupt(6)], out=tmp_path)
    starts, model = [], tiny_model(seed=5)
    history = train(model, batches, CONFIG, out=tmp_path,
                    callbacks=[lambda e: starts.append(e["step"]) if e["kind"] == "start" else None])
    assert starts == [6] and history.losses == expected.losses
    assert all(torch.equal(p, q) for p, q in zip(whole.parameters(), model.parameters(), strict=True))


def test_ctrl_c_without_a_folder_writes_nothing(tiny_model, batches, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        train(tiny_model(), batches, CONFIG, callbacks=[Interrupt(3)])
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_in_the_middle_of_an_update_keeps_the_last_whole_checkpoint(tiny_model, batches, tmp_path, monkeypatch):
    from ftlab.train import optim

    calls, step = [], optim.Muon.step

    def interrupted(self, closure=None):
        calls.append(1)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return step(self, closure)

    monkeypatch.setattr(optim.Muon, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(tiny_model(), batches, CONFIG, out=tmp_path)
    assert torch.load(tmp_path / "checkpoint.pt")["step"] == 4


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 half of a file", "truncated", "other"])
def test_what_is_no_checkpoint_is_said(tiny_model, batches, tmp_path, content):
    path = tmp_path / "checkpoint.pt"
    train(tiny_model(), batches, CONFIG, out=tmp_path)
    if content == "truncated":
        content = path.read_bytes()[:-500]
    if content == "other":
        torch.save([1, 2, 3], path)
    else:
        path.write_bytes(content)
    before = path.read_bytes()
    with pytest.raises(UsageError, match="delete it to start afresh") as caught:
        train(tiny_model(), batches, CONFIG, out=tmp_path)
    assert "checkpoint.pt" in str(caught.value) and "\n" not in str(caught.value)
    assert path.read_bytes() == before


@pytest.mark.parametrize("change", [{"lr": 1e-4}, {"steps": 9}, {"optimizer": "adamw"}, {"seed": 1}])
def test_other_settings_are_refused(tiny_model, batches, tmp_path, change):
    train(tiny_model(), batches, CONFIG, out=tmp_path)
    with pytest.raises(UsageError, match="other settings"):
        train(tiny_model(), batches, dataclasses.replace(CONFIG, **change), out=tmp_path)


def test_another_model_is_refused(tiny_model, batches, tmp_path):
    train(tiny_model(), batches, CONFIG, out=tmp_path)
    with pytest.raises(UsageError, match="other settings"):
        train(tiny_model(hidden_size=8), batches, CONFIG, out=tmp_path)


def test_a_checkpoint_changes_nothing(tiny_model, batches, tmp_path):
    one, other = tiny_model(), tiny_model()
    a = train(one, batches, CONFIG)
    b = train(other, batches, CONFIG, out=tmp_path)
    assert a.losses == b.losses
    assert all(torch.equal(p, q) for p, q in zip(one.parameters(), other.parameters(), strict=True))
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint.pt"]
