"""What every lab must fulfil: its exercises, mistakes, hints, probes, claims and built notebooks.

The cells run in this process, in one namespace a lab; only the whole notebook at the end gets a kernel.
"""

import copy
import functools
import importlib.util
import os
import pathlib
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import nbformat
import pytest

from ftlab import profile
from ftlab.course import catalogue, notebooks
from ftlab.course.source import read_lab, solution_of, stub_of
from ftlab.grade.nbval_plugin import ATOL, RTOL
from ftlab.measure.claims import ledger_row
from ftlab.teach.compare import difference

HERE = pathlib.Path(__file__).parent
SEEDS = 60  # of instructors, whose probes must tell every mistake
GRADED = ("setup", "exercise", "check", "probe")


class Session:
    """A lab's graded cells, run in order in one namespace. `at` keeps the namespace as each exercise finds it."""

    def __init__(self, lab):
        self.cells = [cell for cell in read_lab(lab) if cell.kind in GRADED]
        self.space = {"__name__": "__main__"}
        self.at = {}
        for cell in self.cells:
            if cell.kind == "exercise":
                self.at[cell.id] = dict(self.space)
                run(solution_of(cell), self.space, cell)
            elif cell.kind in ("setup", "check", "probe"):
                run(cell.source, self.space, cell)
        self.lab = self.space["lab"]
        self.results, self.probes = dict(self.lab.results), dict(self.lab.probes)

    def cell(self, kind, id):
        return next(cell for cell in self.cells if (cell.kind, cell.id) == (kind, id))

    def check(self, id, source):
        """The Result of the exercise's check with `source` in the place of the solution."""
        space = dict(self.at[id])
        run(source, space, self.cell("exercise", id))
        run(self.cell("check", id).source, space, self.cell("check", id))
        return self.lab.results[id]

    def probe(self, id, source=None):
        """The probe's JSON value with `source` (default the solution) in the exercise's place, or what it raised."""
        space = dict(self.at[id])
        try:
            run(source or solution_of(self.cell("exercise", id)), space, self.cell("exercise", id))
            run(self.cell("probe", id).source, space, self.cell("probe", id))
        except Exception as error:
            return error
        return copy.deepcopy(self.lab.probes[id]["value"])


def run(source, space, cell):
    exec(compile(source, f"<{cell.kind} {cell.id}>", "exec"), space)


@functools.lru_cache(maxsize=1)
def session(lab):
    """The lab's Session; the last is kept, since tests come lab by lab."""
    return Session(lab)


@functools.cache
def wrong_answers(lab):
    spec = importlib.util.spec_from_file_location(f"wrong_{lab}", HERE / f"{lab}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.WRONG


def test_every_exercise_has_hints_that_lead_on_and_a_wrong_answer_for_each_mistake(lab):
    for id, exercise in catalogue.exercises(lab).items():
        lengths = [len(hint) for hint in exercise.hints]
        assert len(lengths) >= 2 and lengths == sorted(set(lengths)), f"{id}: each hint says more than the one before"
        assert len(exercise.mistakes) >= 2, id
        assert set(wrong_answers(lab).get(id, {})) == set(exercise.mistakes), f"{id}: WRONG and mistakes differ"


def test_setup_and_exercises_alone_make_every_solution_right(lab):
    found = session(lab)
    assert {id: found.results[id].message for id in found.results if found.results[id].status != "right"} == {}
    assert set(found.results) == set(found.probes) == set(catalogue.exercises(lab))


def test_every_stub_is_not_attempted(lab):
    found = session(lab)
    states = {id: found.check(id, stub_of(found.cell("exercise", id))).status for id in found.at}
    assert set(states.values()) == {"not attempted"}, states


def test_every_mistake_is_named(lab):
    found, problems = session(lab), []
    for id, answers in wrong_answers(lab).items():
        for name, source in answers.items():
            result = found.check(id, source)
            if (result.status, result.mistake) != ("mistake", name):
                problems.append(f"{id}, {name}: {result.status} {result.mistake or ''} {result.message}")
            elif catalogue.exercises(lab)[id].mistakes[name] not in result.message:
                problems.append(f"{id}, {name}: the message does not name it: {result.message}")
    assert problems == []


def test_probes_depend_on_the_seed_and_on_the_answer(lab, monkeypatch):
    found, problems = session(lab), []
    for id in found.at:
        right = found.probe(id)
        assert not isinstance(right, Exception), f"{id}: {right!r}"
        if difference(found.probe(id), right, 0, 0):
            problems.append(f"{id}: two runs with one seed differ")
        if "probe_seed" in found.cell("probe", id).source:
            monkeypatch.setenv("FTLAB_PROBE_SEED", "another")
            if not differs(found.probe(id), right):
                problems.append(f"{id}: another seed gives the same result")
            monkeypatch.delenv("FTLAB_PROBE_SEED")
        elif "def " in found.cell("exercise", id).source or "class " in found.cell("exercise", id).source:
            problems.append(f"{id}: its probe uses no seed")
        for name, source in wrong_answers(lab)[id].items():
            if not differs(found.probe(id, source), right):
                problems.append(f"{id}: the probe does not tell the mistake {name} from the solution")
    assert problems == []


def differs(got, want):
    return isinstance(got, Exception) or difference(got, want, RTOL, ATOL) is not None


def test_every_claim_is_measured(lab):
    rows = [ledger_row(claim, catalogue.STUDIES) for claim in catalogue.claims(lab)]
    assert [row["id"] for row in rows if row["seeds"] < (3 if row["kind"] == "measured" else 1)] == []


def test_every_claim_names_its_lab(lab):
    assert {claim.lab for claim in catalogue.claims(lab)} <= {lab}


def test_built_files_agree_with_their_source(lab):
    assert notebooks.drift(lab) == []


@pytest.mark.parametrize("folder", ["solutions", "labs"])
def test_built_notebooks_leak_nothing(lab, folder):
    notebook = nbformat.read(catalogue.ROOT / folder / f"{lab}.ipynb", as_version=4)
    nbformat.validate(notebook)
    assert notebooks.leaks(notebook) == []
    if folder == "labs":
        assert all(not cell.get("outputs") for cell in notebook.cells)
        assert all(cell.metadata.ftlab.kind != "probe" for cell in notebook.cells)
        assert all("BEGIN SOLUTION" not in cell.source and "lab.probe" not in cell.source for cell in notebook.cells)


@pytest.mark.full
def test_no_seed_lets_a_named_mistake_pass_the_probe(lab, monkeypatch):
    """An instructor's secret is any text: with each, the probe must tell every mistake from the solution."""
    found, problems = session(lab), []
    for number in range(SEEDS):
        monkeypatch.setenv("FTLAB_PROBE_SEED", f"secret {number}")
        for id in found.at:
            right = found.probe(id)
            problems += [f"{id}, secret {number}: {name} passes" for name, source in wrong_answers(lab)[id].items()
                         if not differs(found.probe(id, source), right)]
    assert problems == []


def test_the_solution_runs_under_nbval_with_the_same_probes_and_claims(lab, nbval_runs):
    done = nbval_runs[lab].result()
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]


@pytest.fixture(scope="session")
def nbval_runs(request):
    """{lab: Future of its solution's run under nbval}, as many at a time as there are cores; others wait their turn."""
    name = test_the_solution_runs_under_nbval_with_the_same_probes_and_claims.__name__
    labs = [item.callspec.params["lab"] for item in request.session.items if getattr(item, "originalname", "") == name]
    # Taken now and for all: while these run, tests of other labs set seeds of their own.
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join([str(catalogue.ROOT), str(HERE)]), FTLAB_HEADLESS="1",
                       FTLAB_FAST=os.environ.get("FTLAB_FAST", "1"))  # fmt: skip
    environment |= {"OMP_NUM_THREADS": "1"} if len(labs) > 1 else {}
    pool = ThreadPoolExecutor(max_workers=profile.cores())
    yield {lab: pool.submit(under_nbval, lab, environment) for lab in labs}
    pool.shutdown(cancel_futures=True)


def under_nbval(lab, environment):
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "nbval_ftlab", "-p", "no:cacheprovider", "--nbval",
               "--nbval-kernel-name=python3", f"solutions/{lab}.ipynb"]  # fmt: skip
    return subprocess.run(command, cwd=catalogue.ROOT, env=environment, capture_output=True, text=True)
