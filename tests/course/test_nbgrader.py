"""nbgrader itself, in an environment of its own, takes our labs: it makes an assignment of one, validates and autogrades it.

The environment is made once, in build/ (which git ignores). In autograding, our package's Python runs the kernels.
"""

import json
import subprocess

import nbformat
import pytest

from ftlab import cli
from ftlab.bench import grade
from ftlab.bench.grade import LAB
from ftlab.course import catalogue
from ftlab.course.notebooks import checksum
from ftlab.course.source import read_lab, solution_of
from ftlab.errors import UsageError

pytestmark = [pytest.mark.full, pytest.mark.slow]

GRADES = """
import json, sys
from nbgrader.api import Gradebook
with Gradebook("sqlite:///gradebook.db") as book:
    for student in ("ada", "ben"):
        submission = book.find_submission(sys.argv[1], student)
        grades = {grade.name: [grade.auto_score, grade.max_score] for grade in submission.notebooks[0].grades}
        print(json.dumps([student, submission.score, submission.max_score, grades]))
"""


@pytest.fixture(scope="session")
def nbgrader_python():
    """The Python of an environment with nbgrader; made when it is not there yet."""
    try:
        return grade.nbgrader_python()
    except UsageError as error:
        pytest.skip(str(error))


class Course(grade.NbgraderCourse):
    def grades(self):
        environment = {name: value for name, value in self.environment.items() if name != "PYTHONPATH"}
        done = subprocess.run([str(self.python), "-c", GRADES, LAB], cwd=self.folder, capture_output=True, text=True,
                              env=environment)  # fmt: skip
        assert done.returncode == 0, done.stderr
        return {student: (score, most, grades) for student, score, most, grades in map(json.loads, done.stdout.splitlines())}


@pytest.fixture(scope="module")
def course(tmp_path_factory, nbgrader_python):
    return Course(tmp_path_factory.mktemp("nbgrader"), nbgrader_python)


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """The text of the lab's notebook as students get it."""
    out = tmp_path_factory.mktemp("release") / "course"
    assert cli.main(["release", "--out", str(out), "--labs", LAB]) == 0
    return (out / "labs" / f"{LAB}.ipynb").read_text(encoding="utf-8")


def solved(text):
    """The notebook with our solutions in its gaps, as a student's would be."""
    notebook = nbformat.reads(text, as_version=4)
    solutions = {cell.id: solution_of(cell) for cell in read_lab(LAB) if cell.kind == "exercise"}
    for cell in notebook.cells:
        if cell.metadata.ftlab.kind == "exercise":
            cell.source = solutions.pop(cell.metadata.ftlab.id)
    assert solutions == {}
    return nbformat.writes(notebook)


def test_nbgrader_autogrades_our_labs_as_they_are(course, released):
    points = {f"{id}-check": exercise.points for id, exercise in catalogue.exercises(LAB).items()}
    course.put(released, "source", LAB, f"{LAB}.ipynb")
    status, said = course.nbgrader("generate_assignment", LAB)
    assert status == 0, said
    made = nbformat.read(course.folder / "release" / LAB / f"{LAB}.ipynb", as_version=4)
    ours = nbformat.reads(released, as_version=4)
    assert [(cell.source, cell.metadata.nbgrader) for cell in made.cells] == [
        (cell.source, cell.metadata.nbgrader) for cell in ours.cells], "with our checksums"  # fmt: skip

    course.put(solved(released), "submitted", "ada", LAB, f"{LAB}.ipynb")
    course.put(released, "submitted", "ben", LAB, f"{LAB}.ipynb")
    status, said = course.nbgrader("autograde", LAB)
    assert status == 0, said
    full = sum(points.values())
    assert course.grades() == {
        "ada": (full, full, {name: [value, value] for name, value in points.items()}),
        "ben": (0, full, {name: [0, value] for name, value in points.items()}),
    }


def test_nbgrader_validates_a_solved_lab_and_not_an_empty_one(course, released):
    status, said = course.nbgrader("validate", course.put(solved(released), "mine", "solved.ipynb"))
    assert status == 0 and "Success! Your notebook passes all the tests." in said, said
    status, said = course.nbgrader("validate", course.put(released, "mine", "empty.ipynb"))
    assert f"VALIDATION FAILED ON {len(catalogue.exercises(LAB))} CELL(S)!" in said, said


def test_nbgraders_own_checksums_are_ours(course):
    """Of every cell of every lab, by nbgrader's own function."""
    code = ("import json, sys, nbformat\nfrom nbgrader.utils import compute_checksum\n"
            "print(json.dumps([[compute_checksum(cell) for cell in nbformat.read(path, as_version=4).cells] "
            "for path in sys.argv[1:]]))")  # fmt: skip
    paths = [catalogue.ROOT / part / f"{lab}.ipynb" for part in ("labs", "solutions") for lab in catalogue.lab_names()]
    environment = {name: value for name, value in course.environment.items() if name != "PYTHONPATH"}
    done = subprocess.run([str(course.python), "-c", code, *map(str, paths)], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    for path, theirs in zip(paths, json.loads(done.stdout), strict=True):
        cells = nbformat.read(path, as_version=4).cells
        assert [cell.metadata.nbgrader.checksum for cell in cells] == theirs == [checksum(cell) for cell in cells], path.name


def test_nbgrader_makes_an_assignment_of_our_solution_too(tmp_path, nbgrader_python):
    """With its own list of preprocessors. It knows of no probes, so they stay in: releasing our labs is the better way."""
    course = Course(tmp_path, nbgrader_python)
    (tmp_path / "nbgrader_config.py").write_text('c = get_config()\nc.CourseDirectory.course_id = "ftlab"\n')
    solution = nbformat.read(catalogue.SOLUTIONS / f"{LAB}.ipynb", as_version=4)
    course.put(nbformat.writes(solution), "source", LAB, f"{LAB}.ipynb")
    status, said = course.nbgrader("generate_assignment", LAB)
    assert status == 0, said
    made = nbformat.read(tmp_path / "release" / LAB / f"{LAB}.ipynb", as_version=4)
    assert len(made.cells) == len(solution.cells)
    for cell in made.cells:
        assert not cell.get("outputs") and "SOLUTION" not in cell.source
        assert (cell.metadata.ftlab.kind == "exercise") == ("raise NotImplementedError()" in cell.source)
