"""Labs on fine-tuning run on any causal language model: on tiny checkpoints of three layouts, and on a made-up GPU."""

import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest
from checkpoints import LAYOUTS, save_checkpoint
from nbformat.v4 import new_code_cell

import ftlab
from ftlab import profile
from ftlab.course import catalogue, notebooks, runner
from ftlab.course.source import read_lab

TESTS = pathlib.Path(__file__).parents[1]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints")

    def at(layout):
        return folder / layout if (folder / layout).exists() else save_checkpoint(layout, folder / layout)

    return at


def run(lab, checkpoint, before="", **environment):
    """The executed solution of `lab`, with few steps, on a checkpoint; before: code that runs first."""
    notebook = notebooks.solution_notebook(lab, read_lab(lab))
    if before:
        notebook.cells.insert(0, new_code_cell(before, id="before"))
        notebook.cells[0].metadata["ftlab"] = {"kind": "generated"}
    found = runner.execute(notebook, fast=True, environment={"FTLAB_BASE": str(checkpoint)} | environment)
    assert found["status"] == "passed", found["error"]
    return "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", ()))


@pytest.mark.full
@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("any_lab", catalogue.ANY_BASE)
def test_the_lab_runs_on_a_checkpoint(any_lab, layout, checkpoint):
    printed = run(any_lab, checkpoint(layout), FTLAB_PROFILE="cpu")
    assert printed.count(f"Base: {checkpoint(layout)}") == 1


@pytest.mark.full
@pytest.mark.slow
@pytest.mark.parametrize("any_lab", catalogue.ANY_BASE)
def test_the_lab_keeps_its_tensors_on_one_device(any_lab, checkpoint):
    before = f"import sys\nsys.path.insert(0, {str(TESTS)!r})\nimport fake_cuda\n_mode = fake_cuda.enter()"
    printed = run(any_lab, checkpoint("llama"), before, FTLAB_PROFILE="gpu")
    assert re.search(r"Base: .* on cuda", printed)


def test_labs_about_our_own_models_say_that_they_stay(monkeypatch, capsys):
    monkeypatch.setenv("FTLAB_PROFILE", "cpu")
    monkeypatch.setenv("FTLAB_BASE", "someone/model")
    for lab in catalogue.lab_names():
        ftlab.lab(lab)
        said = capsys.readouterr().out
        assert said.count("\n") == ("someone/model is the base of Labs 04, 06, 07, 08, 09" in said) == (
            lab not in catalogue.ANY_BASE)
    monkeypatch.delenv("FTLAB_BASE")
    ftlab.lab("01")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("fails", ["neither", "test_on_gpu", "nbval-lax"])
def test_make_test_gpu_runs_both_parts_and_tells_of_a_failure_in_either(fails, tmp_path):
    if shutil.which("make") is None:
        pytest.skip("no make here: install make")
    python = tmp_path / "python"  # sees a GPU, and runs nothing
    python.write_text(f'#!/bin/sh\n[ "$1" = -c ] && exit 0\necho "$FTLAB_PROFILE $*"\ncase "$*" in *{fails}*) exit 1; esac\n')
    python.chmod(0o755)
    environment = {name: value for name, value in os.environ.items() if name != "FTLAB_PROFILE"}
    command = ["make", "-s", "-o", ".venv/.ftlab-env", "test-gpu", f"PY={python}"]
    done = subprocess.run(command, cwd=catalogue.ROOT, env=environment, capture_output=True, text=True)
    tests, solutions = done.stdout.splitlines()
    assert "tests/tune/test_on_gpu.py" in tests and solutions.startswith("gpu ") and "--nbval-lax" in solutions
    assert (done.returncode == 0) == (fails == "neither"), done.stderr


def test_make_test_gpu_says_so_where_there_is_none():
    if shutil.which("make") is None:
        pytest.skip("no make here: install make")
    if profile.nvidia_gpus():
        pytest.skip("there is a GPU here: make test-gpu is the test")
    prefix = pathlib.Path(sys.prefix)
    if not (prefix / "bin" / "python").exists():
        pytest.skip("the Makefile knows environments with bin/python only")
    command = ["make", "-s", "-o", f"{prefix}/.ftlab-env", "test-gpu", f"VENV={prefix}"]
    done = subprocess.run(command, cwd=catalogue.ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("Skipped: torch sees no GPU here"), done
