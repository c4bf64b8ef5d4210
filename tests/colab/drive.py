"""Run a notebook as Colab's kernel would: `python drive.py NOTEBOOK OUT`, by the Python whose kernel is to run it.

The kernel has loaded google.colab before the first cell (tests/colab/stand_in), the work folder is the current one, and
widgets are live. Prints JSON: seconds, error (None or one line), and the cells' seconds.
"""

import json
import os
import pathlib
import sys
import tempfile
import time

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

STAND_IN = pathlib.Path(__file__).resolve().parent / "stand_in"


def surroundings(folder):
    """Environment variables of a kernel as Colab starts it; its profile lies in `folder`."""
    startup = pathlib.Path(folder) / "profile_default" / "startup"
    startup.mkdir(parents=True)
    (startup / "00-colab.py").write_text("import google.colab\n", encoding="utf-8")
    # On Colab no variable of ours is set, and the package is not yet there.
    kept = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "FTLAB_HEADLESS", "FTLAB_PROFILE")}
    return dict(kept, IPYTHONDIR=str(folder), PYTHONPATH=str(STAND_IN), PIP_DISABLE_PIP_VERSION_CHECK="1")


def main(source, out):
    notebook = nbformat.read(source, as_version=4)
    spent, error, began = [], None, time.perf_counter()
    client = NotebookClient(
        notebook, kernel_name="python3", timeout=None, store_widget_state=False,
        on_cell_start=lambda cell, cell_index: spent.append([cell_index, time.perf_counter()]),
        on_cell_executed=lambda cell, cell_index, execute_reply: spent[-1].__setitem__(1, time.perf_counter() - spent[-1][1]),
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        try:
            client.execute(env=surroundings(folder), cwd=os.getcwd())
        except CellExecutionError as problem:
            error = f"cell {spent[-1][0]}: {problem.ename}: {problem.evalue}"
    nbformat.write(notebook, out)
    print(json.dumps({"seconds": round(time.perf_counter() - began, 1), "error": error, "cells": spent}))


if __name__ == "__main__":
    main(*sys.argv[1:])
