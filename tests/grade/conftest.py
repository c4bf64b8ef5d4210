"""Walls, and a lab whose kernels start quickly, for all tests of grading."""

import contextlib
import dataclasses

import pytest
from grade.plain_walls import PlainWalls

from ftlab.course.source import read_lab
from ftlab.errors import UsageError
from ftlab.grade import rebuild

# Lab 00 without what its experiments need: its three exercises ask for plain Python.
QUICK_SETUP = """
import math
import random

import ftlab
from ftlab.course import checks

lab = ftlab.lab("00_lifecycle")
known = checks.load("00_lifecycle")
"""


@pytest.fixture(scope="module")
def quick_lab():
    """The name of a real lab, with a setup that loads no torch."""

    def read(lab):
        cells = read_lab(lab)
        return [dataclasses.replace(cell, source=QUICK_SETUP) if cell.kind == "setup" else cell for cell in cells]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rebuild, "read_lab", read)
        yield "00_lifecycle"


@pytest.fixture(scope="module")
def walls():
    """The sandbox with a short time limit; plain kernels where no sandbox works."""
    try:
        from ftlab.grade.kernel import Limits, Walls

        walls = Walls("auto", Limits(cell_seconds=2)).__enter__()
    except (ImportError, UsageError):
        walls = PlainWalls(cell_seconds=2).__enter__()
    with contextlib.ExitStack() as stack:
        stack.push(walls.__exit__)
        yield walls
