import json
import signal
import subprocess
import sys
import time

import nbformat
import psutil
import pytest
from course.course_tree import LAB

FIELDS = {"lab", "status", "seconds", "peak_rss_mib", "cells", "error"}


def result(tree, out="out"):
    return json.loads((tree.path / out / "run.json").read_text())


def test_a_run_writes_notebooks_and_what_they_took(tree):
    tree.edit(f"solutions/{LAB}.py", "growth = ", "hoard = bytearray(200 * 2**20)\ntime.sleep(0.5)\ngrowth = ")
    tree.edit(f"solutions/{LAB}.py", "import random\n", "import random\nimport time\n")
    done = tree.ftlab("run", "--out", "out", FTLAB_FAST="1")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), "silent where nobody watches"
    run = result(tree)
    assert set(run) == {"machine", "labs", "claims"}
    assert set(run["machine"]) == {"cores", "isa", "memory_gib", "matmul_gflops"}
    (lab,) = run["labs"]
    assert set(lab) == FIELDS and (lab["lab"], lab["status"], lab["error"]) == (LAB, "passed", None)
    assert lab["peak_rss_mib"] > 200 and lab["seconds"] > 0.5
    slow = max(lab["cells"], key=lambda cell: cell["seconds"])
    assert slow["kind"] == "experiment" and slow["seconds"] >= 0.5
    assert [claim["id"] for claim in run["claims"]] == ["X42a", "X42b"]
    assert {claim["holds"] for claim in run["claims"]} == {None}, "FTLAB_FAST=1 judges nothing"
    nbformat.validate(nbformat.read(tree.path / "out" / f"{LAB}.ipynb", as_version=4))


def test_a_lab_that_fails_or_dies_is_reported(tree):
    tree.edit(f"solutions/{LAB}.py", "growth = ", "growth = 1 / 0 + ")
    done = tree.ftlab("run", "42", "--out", "out", FTLAB_PROGRESS="1")
    assert done.returncode == 1 and "1 of 1 labs failed" in done.stderr and "s left" in done.stderr
    lab = result(tree)["labs"][0]
    assert lab["status"] == "failed" and "ZeroDivisionError" in lab["error"]
    tree.edit(f"solutions/{LAB}.py", "1 / 0 + ", "__import__('os')._exit(1) + ")
    assert tree.ftlab("run", "--out", "out").returncode == 1
    assert "kernel died" in result(tree)["labs"][0]["error"]


def test_ctrl_c_keeps_what_is_finished_and_leaves_no_kernel(tree):
    assert tree.ftlab("new", "43_second").returncode == 0
    tree.edit("solutions/43_second.py", "growth = ", "__import__('time').sleep(600)\ngrowth = ")
    process = subprocess.Popen(
        [sys.executable, "-m", "ftlab", "run", "--out", "out"], cwd=tree.path, text=True,
        stderr=subprocess.PIPE, env=tree.environment(FTLAB_PROGRESS="1"),
    )  # fmt: skip
    for line in process.stderr:
        if "43_second" in line and "play" in line:
            break
    time.sleep(0.5)  # into the long cell
    children = psutil.Process(process.pid).children(recursive=True)
    assert children
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130 and said.splitlines()[-1] == "ftlab: interrupted"
    assert [lab["lab"] for lab in result(tree)["labs"]] == [LAB]
    assert psutil.wait_procs(children, timeout=10)[1] == []


@pytest.mark.parametrize(("arguments", "words"), [(["zz", "--out", "o"], f"the labs are: {LAB}"), ([], "--out")])
def test_a_wrong_call_is_one_line(built_tree, arguments, words):
    done = built_tree.ftlab("run", *arguments)
    assert done.returncode == 2 and words in done.stderr and done.stderr.count("\n") == 1
