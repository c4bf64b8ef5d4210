import re

import nbformat
import pytest
from course.course_tree import LAB

from ftlab import cli
from ftlab.course import catalogue, repository


def notebook(tree, folder):
    return nbformat.read(tree.path / folder / f"{LAB}.ipynb", as_version=4)


def test_a_new_lab_builds_and_passes_its_tests(built_tree):
    assert built_tree.ftlab("build", "--check").returncode == 0
    done = built_tree.python("-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/labs")
    assert done.returncode == 0, done.stdout[-3000:]
    assert "passed" in done.stdout and "skipped" not in done.stdout


def test_the_students_notebook_has_gaps_and_no_secrets(built_tree):
    lab, solution = notebook(built_tree, "labs"), notebook(built_tree, "solutions")
    kinds = [cell.metadata.ftlab.kind for cell in lab.cells]
    assert kinds.count("exercise") == kinds.count("check") == 2 and "probe" not in kinds
    gap = next(cell for cell in lab.cells if cell.metadata.ftlab.get("id") == "softmax")
    assert 'raise NotImplementedError("exercise softmax' in gap.source and "math.exp" not in gap.source
    assert "2 points" in gap.source.splitlines()[0]
    value = next(cell for cell in lab.cells if cell.metadata.ftlab.get("id") == "larger")
    assert value.source.endswith("larger = None  # your answer")
    assert "colab.research.google.com" in lab.cells[0].source
    assert [cell.metadata.ftlab.kind for cell in solution.cells].count("probe") == 2
    assert all(output.output_type != "error" for cell in solution.cells for output in cell.get("outputs", ()))


def test_nbgrader_metadata(built_tree):
    for folder in ("labs", "solutions"):
        cells = notebook(built_tree, folder).cells
        metas = [cell.metadata.nbgrader for cell in cells]
        assert {meta.schema_version for meta in metas} == {3}
        assert len({meta.grade_id for meta in metas}) == len(metas)
        assert all(re.fullmatch(r"[\w-]+", meta.grade_id) for meta in metas)
        graded = {meta.grade_id: meta for meta in metas if meta.grade}
        assert {id: meta.points for id, meta in graded.items()} == {"softmax-check": 2, "larger-check": 1}
        assert all(meta.locked and not meta.solution for meta in graded.values())
        assert {meta.grade_id for meta in metas if meta.solution} == {"softmax", "larger"}
        assert all(meta.locked != meta.solution for meta in metas)
        assert all(meta.cell_type == cell.cell_type for meta, cell in zip(metas, cells, strict=True))


SOURCE, BUILT = f"solutions/{LAB}.py", f"solutions/{LAB}.ipynb"
STUDENTS, ANSWERS = f"labs/{LAB}.ipynb", f"ftlab/course/answers/{LAB}.json"
DRIFTS = [
    # file, what is changed in it, to what, what must be named
    (SOURCE, "How sure", "How very sure", [BUILT, STUDENTS]),
    (SOURCE, "weight / sum", "1 * weight / sum", [BUILT, ANSWERS, "outputs of other code"]),
    (BUILT, "How sure", "How very sure", [BUILT]),
    (STUDENTS, '"points": 2', '"points": 3', [STUDENTS]),
    (ANSWERS, "math.exp", "math.sin", [ANSWERS]),
]
REFUSED = [
    ('# %% ftlab="check" id="larger"', "# %%", "'larger' has no check cell"),
    ('# %% ftlab="probe" id="larger"', '# %% ftlab="probe" id="softmax"', "'softmax' stands twice"),
    ('ftlab="experiment"', 'ftlab="trial"', "unknown kind 'trial'"),
    ('id="softmax"\ndef', 'id="softmax" points=7\ndef', "the header's points"),
    ("    ### END SOLUTION\n\n\n", "\n\n", "has gaps"),
    ('claim="X42a"', 'claim="X42c"', "'X42c' has no Claim"),
]


@pytest.fixture(scope="module")
def outcomes(built_tree):
    """What the build finds after each change, all asked in one process."""
    changes = [change[:3] for change in DRIFTS] + [(SOURCE, old, new) for old, new, _ in REFUSED]
    return dict(zip(changes, built_tree.drift_after(changes), strict=True))


@pytest.mark.parametrize(("name", "old", "new", "named"), DRIFTS)
def test_any_drift_is_found_and_named(outcomes, name, old, new, named):
    kind, lines = outcomes[name, old, new]
    assert kind == "drift" and all(any(part in line for line in lines) for part in named), lines
    assert len(lines) == len(named)


@pytest.mark.parametrize(("old", "new", "words"), REFUSED)
def test_a_source_that_breaks_a_rule_is_refused_in_one_line(outcomes, old, new, words):
    kind, lines = outcomes[SOURCE, old, new]
    assert kind == "refused" and words in lines[0] and "\n" not in lines[0]


def test_the_command_fails_on_drift(tree):
    tree.edit(f"ftlab/course/checks/{LAB}.py", "points=2", "points=4")
    done = tree.ftlab("build", "--check")
    assert done.returncode == 1
    assert STUDENTS in done.stderr and BUILT in done.stderr and "Traceback" not in done.stderr


def test_a_rebuild_keeps_outputs_of_unchanged_cells(tree):
    def outputs():
        return {cell.id: cell.outputs for cell in notebook(tree, "solutions").cells if cell.cell_type == "code"}

    before = outputs()
    tree.edit(SOURCE, "How sure", "How very sure")
    tree.edit(SOURCE, "random.seed(0)\nscores", "random.seed(1)\nscores")
    assert tree.ftlab("build").returncode == 0
    after = outputs()
    assert len(set(after) - set(before)) == 1, "the edited code cell is another one now"
    assert all(after[id] == before[id] for id in set(after) & set(before))
    done = tree.ftlab("build", "--check")
    assert done.returncode == 1 and done.stderr.count("ipynb") == 1 and "--execute" in done.stderr


def test_the_same_source_gives_the_same_files(tree):
    def files():
        names = (f"solutions/{LAB}.ipynb", f"labs/{LAB}.ipynb", f"ftlab/course/answers/{LAB}.json")
        return [(tree.path / name).read_bytes() for name in names]

    before = files()
    assert "up to date" in tree.ftlab("build", "--execute").stdout
    assert files() == before


def test_a_solution_that_fails_is_not_built(tree):
    before = (tree.path / f"solutions/{LAB}.ipynb").read_bytes()
    tree.edit(f"solutions/{LAB}.py", "growth = ", "growth = 1 / 0 + ")
    done = tree.ftlab("build", "--execute")
    assert done.returncode == 1 and "ZeroDivisionError" in done.stderr
    assert (tree.path / f"solutions/{LAB}.ipynb").read_bytes() == before


def test_an_unjudged_study_fails_the_labs_tests(tree):
    (tree.path / "ftlab/assets/studies/X42b.json").unlink()
    done = tree.python("-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/labs", "-k", "measured")
    assert done.returncode == 1 and "X42b" in done.stdout


def test_the_repository_is_one_setting(tree):
    """`--repo` rewrites every badge, install and link, needs no run of the labs, and can be undone."""
    (tree.path / "docs").mkdir()
    texts = {"README.md": "git clone https://github.com/ftlab/ftlab.git\n[x](https://github.com/ftlab/ftlab-other)\n",
             "docs/a.md": "https://colab.research.google.com/github/ftlab/ftlab/blob/main/labs/x.ipynb\n"}  # fmt: skip
    for name, text in texts.items():
        (tree.path / name).write_text(text, encoding="utf-8")
    before = (tree.path / STUDENTS).read_bytes(), (tree.path / BUILT).read_bytes()
    done = tree.ftlab("build", "--repo", "uni.edu/llm-course")
    assert done.returncode == 0, done.stderr
    assert (tree.path / "README.md").read_text() == texts["README.md"].replace("ftlab/ftlab.git", "uni.edu/llm-course.git")
    assert "/github/uni.edu/llm-course/blob/main/labs/x.ipynb" in (tree.path / "docs/a.md").read_text()
    badge, install = notebook(tree, "labs").cells[:2]
    assert "/github/uni.edu/llm-course/blob/main/labs/42_demo.ipynb" in badge.source
    assert "https://github.com/uni.edu/llm-course/archive/main.zip" in install.source
    assert tree.ftlab("build", "--check").returncode == 0, "outputs of the labs still count"
    assert tree.ftlab("build", "--repo", "ftlab/ftlab").returncode == 0
    assert ((tree.path / STUDENTS).read_bytes(), (tree.path / BUILT).read_bytes()) == before
    assert {name: (tree.path / name).read_text() for name in texts} == texts


@pytest.mark.parametrize("name", ["https://github.com/a/b", "a", "a/b.git", "a/b/c", "", "a/b c"])
def test_a_repository_that_is_none(monkeypatch, name, capsys):
    monkeypatch.setattr(repository, "write_json", lambda *arguments: pytest.fail("nothing may be written"))
    assert cli.main(["build", "--repo", name]) == 2
    assert "OWNER/NAME" in capsys.readouterr().err


def test_the_repository_concerns_all_labs(capsys):
    assert cli.main(["build", "--repo", "a/b", "01"]) == cli.main(["build", "--repo", "a/b", "--check"]) == 2
    assert capsys.readouterr().err.count("every lab") == 2


def test_every_link_is_to_the_repository_of_the_setting():
    """Whatever text links to a GitHub address of ours names the one that `--repo` would rewrite."""
    for path in [path for pattern in repository.LINKING for path in catalogue.ROOT.glob(pattern) if path.is_file()]:
        for found in re.findall(r"github(?:\.com)?/([\w.-]*ftlab[\w.-]*/[\w-]+)", path.read_text(encoding="utf-8")):
            assert found == repository.read(), path
