"""The packages that kernels see: nothing of the answers is in them, and what a lab needs still is."""

import ast
import json
import os
import pathlib
import subprocess
import sys

import pytest
from labs.test_labs import wrong_answers

from ftlab.course import catalogue
from ftlab.course.source import read_lab, solution_of
from ftlab.errors import Absent, UsageError, Withheld
from ftlab.grade import rebuild, similarity, withheld

QUICK = ("06_lora", "09_shootout")  # the others run in full only
LABS = [lab if lab in QUICK else pytest.param(lab, marks=pytest.mark.full) for lab in catalogue.lab_names()]

# Runs a hidden notebook's cells in one namespace, then each wrong answer in the place of its exercise's.
RUN = """
import copy, json, sys

cells, wrong = json.load(sys.stdin)
space, found = {"__name__": "__main__"}, {"right": {}, "wrong": {}, "withheld": {}}
for kind, id, source in cells:
    before = dict(space)
    exec(compile(source, f"<{kind} {id}>", "exec"), space)
    if kind == "exercise":
        at = before
    if kind == "probe":
        found["right"][id] = copy.deepcopy(space["lab"].probes[id]["value"])
        for name, code in wrong.get(id, {}).items():
            other = dict(at)
            try:
                exec(code, other)
                exec(source, other)
                found["wrong"][f"{id}, {name}"] = copy.deepcopy(other["lab"].probes[id]["value"])
            except Exception as error:
                found["wrong"][f"{id}, {name}"] = [type(error).__name__]
print("\\n" + json.dumps(found))
"""


# Uses each name with as many arguments as it asks for; says what does not raise Withheld.
USE = """
import importlib, inspect, json, sys

def use(thing):
    function = thing.__init__ if isinstance(thing, type) else thing
    if not callable(function):
        return list(thing)
    asked = [p for p in inspect.signature(function).parameters.values() if p.kind == p.POSITIONAL_OR_KEYWORD]
    return function(*[1] * len(asked))

for module, rest in json.load(sys.stdin):
    thing = importlib.import_module(module)
    for name in rest:
        thing = getattr(thing, name)
    try:
        use(thing)
        print("it works:", module, rest)
    except Exception as error:
        if type(error).__name__ != "Withheld":
            print(module, rest, repr(error))
"""


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    return withheld.packages(tmp_path_factory.mktemp("packages"))


def run(lab, package, cells, wrong):
    environment = dict(os.environ, PYTHONPATH=package, FTLAB_PROBE_SEED="a secret", FTLAB_HEADLESS="1", FTLAB_FAST="1",
                       OMP_NUM_THREADS="1", MPLBACKEND="agg", PYTHONDONTWRITEBYTECODE="1")  # fmt: skip
    done = subprocess.run([sys.executable, "-c", RUN], input=json.dumps([cells, wrong]), env=environment, capture_output=True,
                          text=True, cwd=package)  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("lab", LABS)
def test_our_solution_passes_where_its_answers_are_withheld_and_no_wrong_answer_does(lab, packages):
    from ftlab.grade.nbval_plugin import ATOL, RTOL
    from ftlab.teach.compare import difference

    notebook = rebuild.hidden_notebook(lab, secret="a secret")
    cells = [(cell.metadata.ftlab.kind, cell.metadata.ftlab.get("id"), cell.source) for cell in notebook.cells]
    found = run(lab, packages["hidden"][lab], cells, wrong_answers(lab))
    assert set(found["right"]) == set(catalogue.exercises(lab))
    passes = [name for name, got in found["wrong"].items()
              if difference(got, found["right"][name.split(", ")[0]], RTOL, ATOL) is None]  # fmt: skip
    assert passes == [] and len(found["wrong"]) > len(found["right"])


@pytest.mark.parametrize("lab", LABS)
def test_what_is_withheld_is_there_and_raises(lab, packages):
    names = withheld.withheld_names(lab)
    uses = []
    for name in names:
        path, rest = withheld.locate(name)
        if rest:
            uses.append((".".join(("ftlab", *path.with_suffix("").parts)).removesuffix(".__init__"), rest))
    package = packages["hidden"][lab]
    environment = dict(os.environ, PYTHONPATH=package, PYTHONDONTWRITEBYTECODE="1")
    done = subprocess.run([sys.executable, "-c", USE], input=json.dumps(uses), env=environment, capture_output=True, text=True,
                          cwd=package)  # fmt: skip
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr[-2000:]


@pytest.mark.parametrize("lab", LABS)
def test_no_function_that_is_left_has_the_shape_of_a_solution(lab, packages):
    ours = [(cell.id, nodes) for cell in read_lab(lab) if cell.kind == "exercise"
            for nodes in similarity.functions(solution_of(cell)).values() if len(nodes) >= 40]  # fmt: skip
    root, alike = pathlib.Path(packages["hidden"][lab]) / "ftlab", []
    for path in root.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                left = similarity.shape(node)
                alike += [(id, str(path.relative_to(root)), node.name) for id, nodes in ours
                          if len(left) >= 30 and similarity.share(left, nodes) >= 0.7]  # fmt: skip
    assert alike == []


@pytest.mark.parametrize("lab", catalogue.lab_names())
def test_the_checks_that_are_left_judge_nothing_and_know_no_solution(lab, packages):
    folder = pathlib.Path(packages["hidden"][lab]) / "ftlab" / "course" / "checks"
    assert {path.name for path in folder.glob("*.py")} == {"__init__.py", f"{lab}.py"}
    tree = ast.parse((folder / f"{lab}.py").read_text(encoding="utf-8"))
    left = set().union(*(withheld.bound(node) for node in tree.body))
    solved = set().union(*(rebuild._defined(solution_of(cell)) for cell in read_lab(lab) if cell.kind == "exercise"))
    assert left & solved == set()
    assert withheld.called(lab) <= left
    text = ast.unparse(tree)
    for exercise in catalogue.exercises(lab).values():
        assert not any(hint in text for hint in exercise.hints) and not any(m in text for m in exercise.mistakes.values())


def test_no_package_holds_answers_solutions_data_of_studies_or_grading(packages):
    answer = "thin = x if keep is None else x * keep"  # a line of Lab 06's solution
    for path in (packages["visible"], packages["hidden"]["06_lora"]):
        root = pathlib.Path(path)
        names = [str(file.relative_to(root)) for file in root.rglob("*") if file.is_file()]
        assert not [name for name in names if "answers/" in name or "assets/studies" in name or "/grade/" in name]
        assert not [name for name in names if "__pycache__" in name or name.endswith((".pyc", ".ipynb"))]
        assert not list(root.rglob("*.lnk")) and not [file for file in root.rglob("*") if file.is_symlink()]
        texts = {str(file.relative_to(root)): file.read_text(encoding="utf-8") for file in root.rglob("*.py")}
        holders = [name for name, text in texts.items() if answer in text]
        assert holders == (["ftlab/course/checks/06_lora.py"] if path == packages["visible"] else [])
        assert (root / "ftlab/assets/base/model.safetensors").stat().st_size > 1_000_000


def test_the_studies_keep_their_constants_and_nothing_that_runs(packages):
    text = (pathlib.Path(packages["hidden"]["06_lora"]) / "ftlab/course/studies/06_lora.py").read_text(encoding="utf-8")
    assert "BASE = 'base-small'" in text and "CLAIMS = []" in text and "torch.linalg" not in text


def test_a_withheld_module_has_no_formula_left():
    source = '"""y = W x"""\nimport torch\nN = 3  # of them\n\n@decorated\ndef f(x, y=1):\n    """x + y"""\n    return x + y\n'
    text = withheld.without(source, [[]], "ftlab.some")
    assert "x + y" not in text and "W x" not in text and "of them" not in text
    assert "@decorated" in text and "def f(x, y=1):" in text and "Absent('ftlab.some')" in text


def test_a_withheld_class_keeps_its_bases_and_fields_only():
    source = "@dataclass\nclass A(B):\n    n: int = 3\n    table = [1, 2]\n\n    def f(self):\n        return self.n\n"
    text = withheld.without(source, [["A"]], "m")
    assert "class A(B)" in text and "n: int = 3" in text and "table" not in text and "return" not in text


@pytest.mark.parametrize("use", [
    lambda x: x(), lambda x: x[0], lambda x: x.name, list, len, str, float, lambda x: x == 1, lambda x: x + 1, bool, hash,
])  # fmt: skip
def test_an_absent_value_raises_whatever_is_done_with_it(use):
    with pytest.raises((Withheld, TypeError)):
        use(Absent("NF4_VALUES"))


def test_a_name_that_is_not_there_is_told():
    with pytest.raises(UsageError, match="ftlab.tune.lora.nothing"):
        withheld.locate("ftlab.tune.lora.nothing")


def test_every_withheld_name_exists():
    for lab in catalogue.lab_names():
        for name in withheld.withheld_names(lab):
            withheld.locate(name)
