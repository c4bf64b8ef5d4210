"""Walls, and a lab whose kernels start quickly, for all tests of grading."""

import contextlib
import dataclasses

import parts
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
    with standing_walls(cell_seconds=2, memory_mib=600) as walls:
        yield walls


@pytest.fixture(scope="module")
def patient_walls():
    """The same with the usual time limit."""
    with standing_walls() as walls:
        yield walls


@contextlib.contextmanager
def standing_walls(**limits):
    try:
        from ftlab.grade.kernel import Limits, Walls

        walls = Walls("auto", Limits(**limits)).__enter__()
    except (ImportError, UsageError) as error:
        parts.plain.append(str(error))
        # Without a warmed process an import of torch takes seconds.
        walls = PlainWalls(**limits | {"cell_seconds": 4 * limits.get("cell_seconds", 15)}).__enter__()
    with contextlib.ExitStack() as stack:
        stack.push(walls.__exit__)
        yield walls
