"""The command line: help, errors, exit statuses. What the commands do is tested with their floors."""

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from ftlab import cli
from ftlab.errors import NotHeld, UsageError
from ftlab.lines import PlainLines

COMMANDS = "doctor lab run claims exercises build pretrain tune new study grade bench".split()


def test_every_command_has_help_with_an_example(capsys):
    for command in COMMANDS:
        with pytest.raises(SystemExit) as ended:
            cli.main([command, "--help"])
        assert ended.value.code == 0
        assert f"example: ftlab {command}" in " ".join(capsys.readouterr().out.split())


def test_without_a_command_there_is_help(capsys):
    assert cli.main([]) == 2
    said = capsys.readouterr().out
    assert all(command in said for command in COMMANDS)


@pytest.mark.parametrize(
    "arguments",
    [["nothing"], ["run"], ["bench", "x"], ["tune", "full"], ["study", "--seeds", "many"], ["build", "--no"]],
)
def test_usage_errors_are_one_line(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("ftlab: ") and said.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (UsageError("name a file"), 2, "ftlab: name a file\n"),
        (NotHeld("it drifts"), 1, "ftlab: it drifts\n"),
        (KeyboardInterrupt(), 130, "ftlab: interrupted\n"),
        (ValueError("odd"), 1, "ftlab: ValueError: odd (--debug shows where)\n"),
        (ModuleNotFoundError("No module named 'x'", name="x"), 2, "ftlab: this needs x: pip install 'ftlab[lab]'\n"),
    ],
)
def test_errors_become_one_line_and_a_status(error, status, line, capsys, monkeypatch):
    def fail(options):
        raise error

    monkeypatch.setattr(cli, "exercises", fail)
    assert cli.main(["exercises"]) == status
    assert capsys.readouterr() == ("", line)
    with pytest.raises(type(error)):
        cli.main(["exercises", "--debug"])


def test_an_interrupted_command_says_what_is_kept(capsys, monkeypatch):
    def stop(options):
        raise KeyboardInterrupt("what was graded is written")

    monkeypatch.setattr(cli, "exercises", stop)
    assert cli.main(["exercises"]) == 130
    assert capsys.readouterr().err == "ftlab: interrupted; what was graded is written\n"


def test_an_interrupt_that_python_drops_in_a_destructor_ends_the_command_all_the_same(capsys, monkeypatch):
    class Dropping:
        def __init__(self, error):
            self.error = error

        def __del__(self):
            raise self.error

    def work(options):
        Dropping(KeyboardInterrupt())
        Dropping(AssertionError())
        time.sleep(60)

    monkeypatch.setattr(cli, "exercises", work)
    before, hook = signal.signal(signal.SIGINT, signal.default_int_handler), sys.unraisablehook
    try:
        assert cli.main(["exercises"]) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    assert capsys.readouterr().err == "ftlab: interrupted\n" and sys.unraisablehook is hook


def test_a_long_command_says_where_it_is_where_nobody_watches(capsys, monkeypatch):
    written = threading.Event()

    class Quick(PlainLines):
        def __init__(self, command):
            super().__init__(command, every=0.001)

        def write(self):
            super().write()
            if self._text == "lab 2 of 3: cell 4":
                written.set()

    def work(options):
        cli._progress("lab 2 of 3:\n cell 4")
        assert written.wait(60)

    monkeypatch.setattr(cli, "PlainLines", Quick)
    monkeypatch.setattr(cli, "_LONG", ("work",))
    monkeypatch.setattr(cli, "exercises", work)
    monkeypatch.delenv("FTLAB_PROGRESS", raising=False)
    assert cli.main(["exercises"]) == 0
    said = capsys.readouterr()
    assert said.out == "" and "lab 2 of 3: cell 4 (0 s so far)\n" in said.err and cli._LINES == []
    assert all(line.startswith("ftlab ") for line in said.err.splitlines())


def test_a_plain_line_has_the_newest_step_and_the_time():
    now, stream = [0.0], io.StringIO()
    lines = PlainLines("ftlab tune", stream, every=3600, clock=lambda: now[0])
    with lines:
        now[0] = 31.0
        lines.write()
        lines.event({"kind": "start", "steps": 90})
        lines.event({"kind": "step", "step": 7, "steps": 90, "loss": 1.5})
        now[0] = 185.0
        lines.write()
    assert stream.getvalue() == "ftlab tune: running (31 s so far)\nftlab tune: step 7/90 loss 1.500 (3 min so far)\n"


def test_json_is_all_there_is_on_stdout(capsys):
    for command in ("exercises", "claims"):
        assert cli.main([command, "--json"]) == 0
        said = capsys.readouterr()
        assert isinstance(json.loads(said.out), list) and said.err == ""


def test_unknown_labs_and_claims_are_named(capsys):
    for arguments in (["exercises", "--lab", "zz"], ["study", "C00"], ["build", "zz"], ["lab", "zz"]):
        assert cli.main(arguments) == 2
        said = capsys.readouterr().err
        assert " are: " in said and said.count("\n") == 1


def test_a_study_refuses_fast_runs(capsys, monkeypatch):
    monkeypatch.setenv("FTLAB_FAST", "1")
    assert cli.main(["study"]) == 2
    assert "FTLAB_FAST" in capsys.readouterr().err


def test_a_closed_pipe_is_quiet():
    ftlab = f"{sys.executable} -m ftlab"
    command = f"{ftlab} --help | true; {ftlab} | true; {ftlab} exercises --json | head -c 1"
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    for environment in (buffered, buffered | {"PYTHONUNBUFFERED": "1"}):
        done = subprocess.run(["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, text=True, env=environment)
        assert done.stderr == ""


def test_importing_the_package_or_its_commands_loads_nothing_heavy():
    heavy = "{'torch', 'numpy', 'transformers', 'matplotlib', 'jupytext', 'nbformat', 'IPython'}"
    code = f"import sys, ftlab.cli; ftlab.cli.build_parser(); found = {heavy} & set(sys.modules); sys.exit(found or 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
