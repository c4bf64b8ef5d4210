import _thread
import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import nbformat
import psutil
import pytest
from course.course_tree import LAB
from nbformat.v4 import new_code_cell, new_notebook

from ftlab.course import runner
from ftlab.course.runner import displayed, execute
from ftlab.errors import UsageError
from ftlab.teach.display import PROBE_MIME

FIELDS = {"lab", "status", "seconds", "peak_rss_mib", "cells", "error"}
SECOND = "43_second"


def run(*sources, **options):
    """What `execute` says of a notebook of these cells, and the notebook."""
    notebook = new_notebook(cells=[new_code_cell(source) for source in sources])
    return execute(notebook, **options), notebook


def test_a_run_is_measured():
    said = []
    code = "import os, time, IPython.display as d\nhoard = bytearray(200 * 2**20)\ntime.sleep(0.6)"
    shows = f"d.display({{'{PROBE_MIME}': {{'fast': os.environ['FTLAB_FAST']}}}}, raw=True)"
    outcome, notebook = run(code, shows, on_cell=said.append, fast=True)
    assert (outcome["status"], outcome["error"]) == ("passed", None)
    assert outcome["peak_rss_mib"] > 200 and outcome["seconds"] > 0.6
    assert [cell["cell"] for cell in outcome["cells"]] == [1, 2] and outcome["cells"][0]["seconds"] >= 0.6
    assert displayed(notebook, PROBE_MIME) == [{"fast": "1"}]
    assert "cell 1 of 2" in said[0] and "s left" in said[0]


def test_a_cards_memory_is_measured_where_there_is_one(tmp_path, monkeypatch):
    """By a made-up nvidia-smi, which says more each time it is asked."""
    smi = tmp_path / "nvidia-smi"
    smi.write_text(f'#!/bin/sh\ncase "$1" in *name*) echo "Some GPU";; *memory.used*) echo x >>"{tmp_path}/asked"; '
                   f'echo "$((700 + $(wc -l <"{tmp_path}/asked"))) MiB";; esac\n')
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert "gpu" not in run("1")[0]  # the cpu profile is asked for
    monkeypatch.setenv("FTLAB_PROFILE", "auto")
    outcome, _ = run("1", environment={"FTLAB_PROFILE": "cpu"})
    assert outcome["gpu"] == "Some GPU"
    assert outcome["peak_gpu_mib"] == 700 + len((tmp_path / "asked").read_text().split()) > 700


def test_a_failing_cell_ends_the_run_and_is_named():
    outcome, _ = run("1", "1 / 0", "print('never')")
    assert outcome["status"] == "failed" and len(outcome["cells"]) == 2
    assert outcome["error"] == "cell 2: ZeroDivisionError: division by zero"


def test_a_kernel_that_dies_is_reported():
    outcome, _ = run("import os; os._exit(1)")
    assert outcome["status"] == "failed" and "kernel died" in outcome["error"]


@pytest.fixture
def two_labs(tree):
    assert tree.python("-c", f"from ftlab.course.new import new_lab; new_lab('{SECOND}')").returncode == 0
    return tree


def result(tree):
    return json.loads((tree.path / "out" / "run.json").read_text())


def test_the_command_writes_notebooks_and_a_report_and_fails_when_a_lab_does(two_labs):
    two_labs.edit(f"solutions/{SECOND}.py", "growth = ", "growth = 1 / 0 + ")
    done = two_labs.ftlab("run", "--out", "out", FTLAB_FAST="1")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"ftlab: 1 of 2 labs failed: {SECOND}; see out/run.json\n"
    report = result(two_labs)
    assert set(report) == {"machine", "labs", "claims"}
    assert set(report["machine"]) == {"cores", "isa", "memory_gib", "matmul_gflops"}
    assert all(set(lab) == FIELDS for lab in report["labs"])
    assert [(lab["lab"], lab["status"]) for lab in report["labs"]] == [(LAB, "passed"), (SECOND, "failed")]
    assert "ZeroDivisionError" in report["labs"][1]["error"]
    assert [(claim["lab"], claim["id"]) for claim in report["claims"]] == [(LAB, "X42a"), (LAB, "X42b")]
    assert {claim["holds"] for claim in report["claims"]} == {None}, "FTLAB_FAST=1 judges nothing"
    nbformat.validate(nbformat.read(two_labs.path / "out" / f"{LAB}.ipynb", as_version=4))


def test_ctrl_c_keeps_what_is_finished_and_leaves_no_kernel(two_labs):
    two_labs.edit(f"solutions/{SECOND}.py", "growth = ", "__import__('time').sleep(600)\ngrowth = ")
    process = subprocess.Popen(
        [sys.executable, "-m", "ftlab", "run", "--out", "out"], cwd=two_labs.path, text=True,
        stderr=subprocess.PIPE, env=two_labs.environment(FTLAB_PROGRESS="1", FTLAB_FAST="1"),
        # Tests that run in a shell's background inherit an ignored SIGINT.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    try:
        for line in process.stderr:
            if SECOND in line and "play" in line:
                break
        time.sleep(0.5)  # into the long cell
        children = psutil.Process(process.pid).children(recursive=True)
        assert children
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130 and said.splitlines()[-1] == "ftlab: interrupted" and "Traceback" not in said
    assert [lab["lab"] for lab in result(two_labs)["labs"]] == [LAB]
    assert psutil.wait_procs(children, timeout=10)[1] == []


def test_ctrl_c_ends_a_kernel_that_is_just_being_started_and_prints_nothing(monkeypatch, capfd):
    dead, looks = threading.Event(), []

    def processes(manager):
        looks.append(1)
        if len(looks) == 2:
            _thread.interrupt_main()  # a second Ctrl-C
        return [SimpleNamespace(kill=dead.set)] if len(looks) > 2 else []

    def work():
        _thread.interrupt_main()
        dead.wait(60)
        raise asyncio.CancelledError

    monkeypatch.setattr(runner, "_processes", processes)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background inherits an ignored one
    try:
        with pytest.raises(KeyboardInterrupt):
            runner._in_thread(work, None)
    finally:
        signal.signal(signal.SIGINT, before)
    assert dead.is_set() and "".join(capfd.readouterr()) == ""


@pytest.mark.parametrize(("arguments", "words"), [(["zz", "--out", "o"], f"the labs are: {LAB}"), ([], "--out")])
def test_a_wrong_call_is_one_line(built_tree, arguments, words):
    done = built_tree.ftlab("run", *arguments)
    assert done.returncode == 2 and words in done.stderr and done.stderr.count("\n") == 1


def test_a_folder_that_cannot_be_written_to_is_named():
    with pytest.raises(UsageError, match="--out /proc/none cannot be written to .*: name another folder"):
        runner.run_labs([], "/proc/none", print)
