"""What students get: it works, it holds nothing that is the instructor's, and making it loses nothing."""

import ast
import io
import json
import os
import pathlib
import re
import subprocess
import sys
import tomllib
import zipfile

import pytest

from ftlab import cli
from ftlab.course import catalogue, notebooks
from ftlab.course import release as releases
from ftlab.course.source import read_lab, stub_of
from ftlab.errors import NotHeld, UsageError

SECRET = "a-secret-seed-of-this-test-5f1c"
BINARY = (".safetensors", ".gz")
# Modules of the library that hold an exercise's answer without being named by it as withheld: how a claim is measured.
STUDIES_WITH_ANSWERS = {"ftlab/course/studies/01_autoregression.py", "ftlab/course/studies/09_shootout.py"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The release of all labs and its archive."""
    out = tmp_path_factory.mktemp("releases") / "course"
    os.environ["FTLAB_PROBE_SEED"] = SECRET
    try:
        assert cli.main(["release", "--out", str(out), "--zip"]) == 0
    finally:
        del os.environ["FTLAB_PROBE_SEED"]
    return out


@pytest.fixture
def small(tmp_path):
    """The release of one lab."""
    assert cli.main(["release", "--out", str(tmp_path / "small"), "--labs", "6"]) == 0
    return tmp_path / "small"


def contents(folder):
    """{path: bytes} of every file below `folder`, links and hidden ones too."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if not path.is_dir()}


def unpacked(data, top):
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.testzip() is None
        return {name.removeprefix(f"{top}/"): archive.read(name) for name in archive.namelist()}


# ---- what must not be in it; found by other means than those of `ftlab release` itself


def secrets():
    """(gaps, probes): {(lab, id): lines} of what stands in the solutions and not in the labs."""
    gaps, probes = {}, {}
    for lab in catalogue.lab_names():
        cells = read_lab(lab)
        shown = [stub_of(cell) if cell.kind == "exercise" else cell.source for cell in cells if cell.kind != "probe"]
        open_lines = {line.strip() for text in shown for line in text.split("\n")}
        for cell in cells:
            if cell.kind in ("exercise", "probe"):
                lines = {line.strip() for line in cell.source.split("\n")} - open_lines
                (gaps if cell.kind == "exercise" else probes)[lab, cell.id] = {line for line in lines if len(line) >= 20}
    return gaps, probes


@pytest.fixture(scope="module")
def hidden():
    gaps, probes = secrets()
    assert len(gaps) == len(probes) == sum(len(catalogue.exercises(lab)) for lab in catalogue.lab_names())
    return gaps, probes


def text_of(name, data):
    """What a file says, line by line: the cells of a notebook, the strings of JSON."""
    text = data.decode("utf-8")
    if name.endswith(".ipynb"):
        return "\n".join("".join(cell["source"]) for cell in json.loads(text)["cells"]) + json.dumps(
            [cell.get("outputs", []) + [cell["metadata"]] for cell in json.loads(text)["cells"]])  # fmt: skip
    return text.replace("\\n", "\n") if name.endswith(".json") else text


def allowed():
    """Files of the package that may hold right answers: the checks, and the library's modules."""
    names = {f"ftlab/course/checks/{lab}.py" for lab in catalogue.lab_names()}
    for lab in catalogue.lab_names():
        for exercise in catalogue.exercises(lab).values():
            for item in exercise.withheld:
                parts = item.split(".")
                names |= {"/".join(parts[:n]) + ".py" for n in range(2, len(parts) + 1)}
    return names | STUDIES_WITH_ANSWERS


def found_in(files, hidden):
    """Lines that say which file holds what of the instructor's."""
    gaps, probes = hidden
    open_library, found = allowed(), []
    for name, data in files.items():
        if re.search(r"(^|/)(solutions|tests|grade|bench|template|__pycache__|\.git|\.ipynb_checkpoints)/|\.py[cod]$", name):
            found.append(f"{name}: its place")
        if name.endswith(BINARY):
            continue
        text = text_of(name, data)
        lines = {line.strip() for line in text.split("\n")}
        marks = ("BEGIN SOLUTION", "END SOLUTION", "### STUB", "lab.probe(", SECRET)
        found += [f"{name}: {mark}" for mark in marks if mark in text]
        found += [f"{name}: the probe {key}" for key, probe in probes.items() if len(lines & probe) > 0.5 * len(probe)]
        for key, gap in gaps.items():
            share = len(gap & lines) / len(gap) if gap else 0
            # One line such as `for layer in model.layers:` is anybody's; in a lab any line of an answer is too much.
            if share and (name.endswith(".ipynb") and key[0] in name or share > 0.6) and name not in open_library:
                found.append(f"{name}: the solution {key}")
    return found


def test_no_file_holds_what_is_the_instructors(whole, hidden):
    files = contents(whole)
    assert {f"labs/{lab}.ipynb" for lab in catalogue.lab_names()} <= set(files)
    assert found_in(files, hidden) == []
    assert found_in(unpacked(whole.with_name("course.zip").read_bytes(), "course"), hidden) == []
    for lab in catalogue.lab_names():
        answers = json.loads(files[f"ftlab/course/answers/{lab}.json"])
        assert {key for answer in answers.values() for key in answer} == {"stub"}


def test_what_was_left_in_is_found(whole, hidden):
    """The search of this test, and that of the command, find each kind of thing that must not be there."""
    source = {"06_lora": read_lab("06_lora")}
    solution, probe = (next(cell for cell in source["06_lora"] if (cell.kind, cell.id) == (kind, "attach"))
                       for kind in ("exercise", "probe"))  # fmt: skip
    bare = "\n".join(line for line in solution.source.split("\n") if "###" not in line)

    def notebook(text):
        return json.dumps({"cells": [{"source": text.splitlines(True), "metadata": {}}]}).encode()

    planted = {
        "labs/06_lora.ipynb": notebook(bare),
        "labs/06_lora_solved.ipynb": notebook(solution.source),
        "labs/extra.ipynb": notebook(probe.source),
        "ftlab/course/answers/06_lora.json": json.dumps({"attach": {"solution": bare}}).encode(),
        "notes.md": bare.encode(),
        "ftlab/__pycache__/x.cpython-311.pyc": b"",
        "solutions/06_lora.py": b"",
        "ftlab/probes.py": probe.source.encode(),
    }
    for name, data in planted.items():
        assert found_in({name: data}, hidden), name
        assert releases.leaks({name: data}, source), name
    assert releases.leaks(contents(whole), source) == []


def test_nothing_is_released_when_a_solution_is_in_it(tmp_path, monkeypatch):
    monkeypatch.setattr(releases, "lab_notebook", lambda lab, cells, head: notebooks.solution_notebook(lab, cells))
    with pytest.raises(NotHeld, match="BEGIN SOLUTION"):
        releases.release(["06_lora"], tmp_path / "out", archive=True)
    assert list(tmp_path.iterdir()) == []


# ---- what must be in it


# A course that is installed in editable mode is found by a finder, whatever PYTHONPATH says; it must not help here.
ALONE = """
import sys
sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in repr(finder)]
sys.dont_write_bytecode = True
"""


def in_release(folder, code, **environment):
    kept = {key: value for key, value in os.environ.items() if not key.startswith("FTLAB_") and key != "PYTHONPATH"}
    env = dict(kept, PYTHONPATH=str(folder), FTLAB_HEADLESS="1", **environment)
    return subprocess.run([sys.executable, "-c", ALONE + code], cwd=folder, capture_output=True, text=True, env=env)


def test_a_lab_works_from_the_release_alone(small):
    before = contents(small)
    done = in_release(small, """
import json, ftlab
from ftlab.errors import UsageError
lab = ftlab.lab("06_lora")
right = lab.check("count", lambda shapes, target_modules, r: sum(
    r * (n + k) for name, (n, k) in shapes.items() if name.split(".")[-1] in target_modules))
wrong = lab.check("count", lambda shapes, target_modules, r: sum(
    r * k for name, (n, k) in shapes.items() if name.split(".")[-1] in target_modules))
lab.hint("count")
lab.reset("count")
try:
    lab.use_solution("count")
except UsageError as error:
    print(error)
print(json.dumps([ftlab.__file__, right.points, wrong.points, lab.results["count"].mistake, len(lab.study("C24"))]))
""")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [str(small / "ftlab" / "__init__.py"), 2, 0, "one_matrix", 8]
    assert "A has r rows" in done.stdout and "your code goes here" in done.stdout
    assert "the answers are not part of this release" in done.stdout
    assert contents(small) == before


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["lab", "--copy-only", "--dir", "mine"], 0, "copied 06_lora.ipynb"),
        (["exercises"], 0, "How many parameters?"),
        (["claims"], 0, "C24b"),
        (["run", "--out", "out"], 2, "not part of this release"),
        (["build"], 2, "not part of this release"),
        (["release", "--out", "out"], 2, "not part of this release"),
    ],
)
def test_the_commands_of_a_release(small, arguments, status, says):
    done = in_release(small, f"from ftlab.cli import main; raise SystemExit(main({arguments!r}))")
    assert done.returncode == status, done.stderr
    assert says in done.stdout + done.stderr
    assert (small / "mine" / "06_lora.ipynb").exists() == (arguments[0] == "lab")


def test_every_module_that_the_release_imports_is_in_it(whole):
    files, missing = set(contents(whole)), []
    for name in sorted(files):
        if name.endswith(".py") and name != "ftlab/cli.py":  # the commands say what is not there
            missing += [f"{name}: {module}" for module in imported((whole / name).read_text()) if not there(module, files)]
    for lab in catalogue.lab_names():
        code = "\n".join("".join(cell["source"]) for cell in json.loads((whole / "labs" / f"{lab}.ipynb").read_text())["cells"]
                         if cell["cell_type"] == "code")  # fmt: skip
        code = re.sub(r"^\s*[%!].*$", "", code, flags=re.M)
        missing += [f"{lab}: {module}" for module in re.findall(r"^(?:from|import) (ftlab[\w.]*)", code, re.M)
                    if not there(module, files)]  # fmt: skip
    assert missing == []


def imported(code):
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ftlab"):
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("ftlab"))


def there(module, files):
    path = module.replace(".", "/")
    return f"{path}.py" in files or f"{path}/__init__.py" in files


@pytest.mark.full
@pytest.mark.slow
def test_the_setup_of_every_lab_runs_from_its_own_release(tmp_path):
    """Each lab released alone: what it loads of other labs must come with it, models and tables too."""
    run = """
import json, pathlib
(path,) = pathlib.Path("labs").glob("*.ipynb")
cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["metadata"]["ftlab"]["kind"] == "setup"]
space = {"__name__": "__main__"}
for cell in cells:
    exec("".join(cell["source"]), space)
for claim in ftlab.course.catalogue.claims(path.stem):
    assert space["lab"].study(claim.id), claim.id
print("ran", len(cells), ftlab.__file__)
""".replace("space = ", "import ftlab.course.catalogue\nspace = ")
    for lab in catalogue.lab_names():
        assert cli.main(["release", "--out", str(tmp_path / lab), "--labs", lab]) == 0
        done = in_release(tmp_path / lab, run, FTLAB_PROFILE="cpu", OMP_NUM_THREADS="1", FTLAB_FAST="1")
        assert done.returncode == 0, f"{lab}: {done.stderr[-1500:]}"
        assert done.stdout.split("\n")[-2].endswith(str(tmp_path / lab / "ftlab" / "__init__.py"))


def test_a_release_that_drops_labs_says_so(tmp_path, capsys):
    for labs, said in (("6", ""), ("6,9", ""), ("11", "no longer in it: 06_lora, 09_shootout"), ("11", "")):
        assert cli.main(["release", "--out", str(tmp_path / "out"), "--labs", labs]) == 0
        printed = capsys.readouterr().out
        assert said in printed if said else "no longer" not in printed
        assert not said or "--labs 06,09,11" in printed


def test_some_labs_bring_what_they_load_and_no_more(tmp_path):
    assert cli.main(["release", "--out", str(tmp_path / "two"), "--labs", "01, 11"]) == 0
    names = set(contents(tmp_path / "two"))
    assert {name for name in names if name.startswith("labs/")} == {"labs/01_autoregression.ipynb", "labs/11_dpo.ipynb"}
    assert "ftlab/course/studies/10_rlhf.py" in names, "Lab 11 measures with Lab 10's"
    assert "ftlab/course/checks/10_rlhf.py" not in names and "ftlab/assets/studies/C51.json" not in names
    assert {"ftlab/assets/studies/C05.json", "ftlab/assets/studies/C57.json", "ftlab/assets/base/model.safetensors"} <= names
    readme = (tmp_path / "two" / "README.md").read_text()
    assert "| [11 DPO, and RLHF against DPO](labs/11_dpo.ipynb) | 6 | 80 | 25 |" in readme and "10_rlhf" not in readme
    assert not re.search(r"@[A-Z]+@", readme)


def test_project_and_makefile_install_what_the_labs_need_as_the_checkout_does(whole):
    ours, theirs = (tomllib.loads((root / "pyproject.toml").read_text()) for root in (catalogue.ROOT, whole))
    assert theirs["project"]["dependencies"] == ours["project"]["dependencies"]
    extras = theirs["project"]["optional-dependencies"]
    assert set(extras) == {"lab", "tune", "colab", "all"} and extras["all"] == ["ftlab[lab,tune]"]
    assert all(extras[name] == ours["project"]["optional-dependencies"][name] for name in ("lab", "tune", "colab"))
    assert set(theirs["project"]["scripts"]) == {"ftlab"} and "entry-points" not in theirs["project"]
    makefiles = [(root / "Makefile").read_text() for root in (catalogue.ROOT, whole)]
    recipes = [re.findall(r"^\$\(ENV\):.*?\n\n", text, re.M | re.S) for text in makefiles]
    assert recipes[0] == recipes[1] != []
    assert (whole / "constraints.txt").read_bytes() == (catalogue.ROOT / "constraints.txt").read_bytes()
    done = subprocess.run(["make", "-n", "lab", "ARGS=--no-browser"], cwd=whole, capture_output=True, text=True)
    assert done.returncode == 0 and ".venv/bin/ftlab lab --no-browser" in done.stdout
    for name in re.findall(r"\]\(([^)#:]+)\)", (whole / "README.md").read_text()):
        assert (whole / name).exists(), name


def test_the_labs_are_the_courses_but_for_their_first_cells(whole, tmp_path):
    def cells(root, lab):
        return json.loads((root / "labs" / f"{lab}.ipynb").read_text())["cells"]

    for lab in catalogue.lab_names():
        assert cells(whole, lab)[1:] == cells(catalogue.ROOT, lab)[2:], lab
    first = "".join(cells(whole, "06_lora")[0]["source"])
    assert '%pip install -q "./course.zip[colab]"' in first and "github" not in first
    assert cli.main(["release", "--out", str(tmp_path / "ours"), "--labs", "6", "--repository", "uni/llm-course"]) == 0
    badge, install = cells(tmp_path / "ours", "06_lora")[:2]
    assert "github/uni/llm-course/blob/main/labs/06_lora.ipynb" in "".join(badge["source"])
    assert '"ftlab[colab] @ https://github.com/uni/llm-course/archive/main.zip"' in "".join(install["source"])


def test_the_first_cell_finds_the_package_beside_the_labs(small):
    first = "".join(json.loads((small / "labs" / "06_lora.ipynb").read_text())["cells"][0]["source"])
    first = first.replace("%pip", "pass  # %pip")  # IPython's, and only for Colab
    code = f"import os, sys; sys.path.remove({str(small)!r}); os.chdir('labs')\n{first}\nimport ftlab; print(ftlab.__file__)"
    done = in_release(small, code)
    assert done.stdout.strip() == str(small / "ftlab" / "__init__.py"), done.stderr
    done = in_release(small, code.replace("os.chdir('labs')", "os.chdir('/')"))
    assert "choose the kernel that has" in done.stderr


# ---- making it loses nothing


def test_the_same_labs_give_the_same_bytes(whole, tmp_path):
    assert cli.main(["release", "--out", str(tmp_path / "course"), "--zip"]) == 0
    assert contents(tmp_path / "course") == contents(whole)
    assert (tmp_path / "course.zip").read_bytes() == whole.with_name("course.zip").read_bytes()
    assert unpacked((tmp_path / "course.zip").read_bytes(), "course") == contents(whole)


def test_a_release_takes_the_place_of_the_one_before_and_keeps_what_is_not_its_own(small):
    (small / ".git").mkdir()
    (small / ".git" / "HEAD").write_text("ref: refs/heads/main\n")
    (small / "syllabus.md").write_text("ours")
    (small / "labs" / "reader.txt").write_text("ours, too")
    (small / "ftlab" / "__pycache__").mkdir()
    (small / "ftlab" / "__pycache__" / "x.pyc").write_bytes(b"")
    assert cli.main(["release", "--out", str(small), "--labs", "4"]) == 0
    names = set(contents(small))
    assert {".git/HEAD", "syllabus.md", "labs/reader.txt", "labs/04_instruction_tuning.ipynb"} <= names
    assert not {"labs/06_lora.ipynb", "ftlab/course/checks/06_lora.py", "ftlab/__pycache__/x.pyc"} & names
    assert [path.name for path in small.parent.iterdir()] == ["small"]
    assert cli.main(["release", "--out", str(small), "--labs", "4"]) == 0, "the second time, too"


def foreign_folder(path):
    path.mkdir()
    (path / "thesis.tex").write_text("work")


def foreign_record(path):
    path.mkdir()
    (path / "release.json").write_text('{"files": {}}')


@pytest.mark.parametrize("make", [foreign_folder, foreign_record, lambda path: path.write_text("work")])
def test_what_is_not_a_release_is_never_overwritten(tmp_path, capsys, make):
    make(tmp_path / "out")
    before = contents(tmp_path)
    assert cli.main(["release", "--out", str(tmp_path / "out"), "--labs", "6"]) == 2
    assert str(tmp_path / "out") in capsys.readouterr().err
    assert contents(tmp_path) == before


def test_a_changed_file_of_the_release_stays(small, capsys):
    (small / "README.md").write_text("with the room and the hour")
    before = contents(small)
    assert cli.main(["release", "--out", str(small), "--labs", "6"]) == 2
    assert "README.md was changed" in capsys.readouterr().err
    assert contents(small) == before


def test_a_foreign_file_in_the_new_releases_way_stays(small, capsys):
    (small / "labs" / "04_instruction_tuning.ipynb").write_text("handed in by hand")
    before = contents(small)
    assert cli.main(["release", "--out", str(small), "--labs", "4"]) == 2
    assert "04_instruction_tuning.ipynb" in capsys.readouterr().err
    assert contents(small) == before


def test_an_archive_that_is_not_ours_stays(tmp_path, capsys):
    for data in (b"not a zip", zip_of({"course/thesis.tex": "work"})):
        (tmp_path / "course.zip").write_bytes(data)
        assert cli.main(["release", "--out", str(tmp_path / "course"), "--labs", "6", "--zip"]) == 2
        assert "course.zip exists" in capsys.readouterr().err
        assert contents(tmp_path) == {"course.zip": data}


def zip_of(files):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return buffer.getvalue()


def test_a_release_that_stops_half_way_leaves_the_old_one(small, monkeypatch):
    before = contents(small)
    written = []

    def stops(path, data):
        written.append(path)
        if len(written) == 20:
            raise OSError("no space left on device")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    monkeypatch.setattr(releases, "_write", stops)
    with pytest.raises(OSError, match="no space"):
        releases.release(["04_instruction_tuning"], small)
    assert contents(small) == before
    assert [path.name for path in small.parent.iterdir()] == ["small"]


def test_bad_requests_are_said_in_a_line(tmp_path, capsys):
    assert cli.main(["release", "--out", str(tmp_path / "out"), "--labs", "77"]) == 2
    assert "no lab '77'" in capsys.readouterr().err
    assert cli.main(["release", "--out", str(tmp_path / "out"), "--repository", "https://github.com/uni/course"]) == 2
    assert "OWNER/NAME" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_release_cannot_be_made_without_the_sources(tmp_path, monkeypatch):
    monkeypatch.setattr(catalogue, "SOLUTIONS", pathlib.Path(tmp_path / "solutions"))
    with pytest.raises(UsageError, match="checkout"):
        releases.release(["06_lora"], tmp_path / "out")
