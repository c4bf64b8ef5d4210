"""What an exercise reads of other cells: right in the notebook means right when graded, or lab.check says what is missing.

Each situation runs as a student runs it, cell by cell in an IPython shell, and is then graded from the notebook's file: the
setup, the exercise and the check of the staged notebook, in a fresh namespace. One notebook goes through the sandbox.
"""

import fractions
import re

import pytest
from grade.answers import RIGHT
from grade.conftest import QUICK_SETUP
from grade.submissions import Notebook

from ftlab.course import cells, notebooks
from ftlab.course.source import read_lab, stub_of
from ftlab.grade import feedback, one, rebuild
from ftlab.teach.names import taken_along

LAB, ID = "00_lifecycle", "break_even"
CODE = """def break_even(upfront, cost_before, cost_after):
    saving = cost_before - cost_after
    return None if saving <= 0 else {up}
"""
UP = "def up(x):\n    return -int(-x // 1)\n"
TRAINS = "import time\nopen('log.txt', 'w').close()\nloss = [time.time() for _ in range(3)]\nprint(loss)\n"

# name: (what stands for the rounding up in the exercise, cells above it, cells below it that were run before, names missing)
SITUATIONS = {
    "import of its own": ("np.ceil(upfront / saving).item().__int__()", ["import numpy as np"], [], ()),
    "from import star": ("int(ceil(upfront / saving))", ["from math import *"], [], ()),
    "two imports in a line": ("m.ceil(upfront / saving)", ["import string as s, math as m"], [], ()),
    "import in a try": ("m.ceil(upfront / saving)", ["try:\n    import math as m\nexcept ImportError:\n    m = None"], [], ()),
    "import after a magic in a try": (
        "m.ceil(upfront / saving)", ["try:\n    import math as m\nexcept ImportError:\n    %pip install math"], [], ()),
    "import in a with": (
        "m.ceil(upfront / saving)", ["import contextlib\nwith contextlib.suppress(OSError):\n    import math as m"], [], ()),
    "a submodule": ("int(xml.dom.Node.ELEMENT_NODE * up(upfront / saving))", ["import xml.dom", UP], [], ()),
    "the student's own file": ("mine_.up(upfront / saving)", ["import mine_"], [], ("mine_",)),
    "a name of the student's own file": ("up(upfront / saving)", ["from mine_ import up"], [], ("up",)),
    "all names of the student's own file": ("up(upfront / saving)", ["from mine_ import *"], [], ("up",)),
    "a helper": ("up(upfront / saving)", [UP], [], ()),
    "a helper below": ("up(upfront / saving)", [], [UP], ()),
    "a helper of helpers": (
        "up(upfront / saving)", ["EPS, ONE = 0.0, 1", "def up(x):\n    return down(-x + EPS) * -ONE", "import math",
                                 "def down(x):\n    return math.floor(x)"], [], ()),
    "a helper defined twice": ("up(upfront / saving)", ["def up(x):\n    return 0", UP], [], ()),
    "a class": ("Up(upfront / saving).value()", ["class Up:\n    one = 1\n    def __init__(self, x):\n        self.x = x\n"
                                               "    def value(self):\n        return -int(-self.x // self.one)"], [], ()),
    "a dataclass": ("Up(upfront / saving).value()", [
        "from dataclasses import dataclass, field\n@dataclass\nclass Up:\n    x: float\n    more: list = field(init=False)\n"
        "    def value(self):\n        return -int(-self.x // 1)"], [], ()),
    "a lambda": ("up(upfront / saving)", ["up = lambda x: -int(-x // 1)"], [], ()),
    "a partial": ("-int(down(-upfront, saving))",
                  ["import functools, operator\ndown = functools.partial(operator.floordiv)"], [], ()),
    "a decorator": ("up(upfront / saving)", [
        "import functools\ndef whole(f):\n    @functools.wraps(f)\n    def g(*a):\n        return int(f(*a))\n    return g",
        "@whole\ndef up(x):\n    return -(-x // 1)"], [], ()),
    "a constant": ("SIGNS['up'] * int(SIGNS['up'] * upfront // saving)", ["SIGNS = {'up': -1, 'down': +1}"], [], ()),
    "constants, computed from constants": ("LAST * int(LAST * upfront // saving)", ["ALL = [1, -1]\nLAST = min(ALL)"], [], ()),
    "a type alias": ("(lambda x: -int(-x // 1))(upfront / saving)\ndef more(x: Numbers) -> Numbers:\n    return x",
                     ["Numbers = list[float] | None"], [], ()),
    "a name in a default": ("up(upfront / saving)", ["ONE = 1", "def up(x, one=ONE):\n    return -int(-x // one)"], [], ()),
    "a global": ("up(upfront / saving)", [
        "calls = 0\ndef up(x):\n    global calls\n    calls += 1\n    return -int(-x // 1)"], [], ()),
    "a cell that works, too": ("up(upfront / saving)", [TRAINS + UP + "import string\n%matplotlib_ inline\n!true"], [], ()),
    "a timed cell": ("up(upfront / saving)", ["%%time\n" + UP], [], ()),
    "in the setup cell": ("m.ceil(upfront / saving)", "import math as m\n", [], ()),
    "computed in the setup cell": ("ones[0] * -int(-upfront // saving)", "ones = [1].copy()\n", [], ("ones",)),
    "a variable that was computed": ("-int(-upfront // saving) + model", ["model = sum([0]) if lab else 1"], [], ("model",)),
    "a helper that reads one": ("up(upfront / saving)", [
        "zero = len(dir(lab)) * 0", UP.replace("//", "// 1 + zero //")], [], ("zero",)),
    "a constant that is changed": ("signs[0] * int(-upfront // saving)", ["signs = []\nsigns.append(-1)"], [], ("signs",)),
    "a constant that is counted up": ("one * -int(-upfront // saving)", [
        "one = 0\nfor i in range(1):\n    one += 1"], [], ("one",)),
    "a helper under a name of the setup": (
        "math.up(upfront / saving)", ["class math:\n    up = staticmethod(lambda x: -int(-x // 1))"], [], ("math",)),
    "a patch": ("fractions.Fraction(upfront / saving).up()", [
        "import fractions\nfractions.Fraction.up = lambda self: -int(-self // 1)"], [], ("fractions.Fraction.up",)),
    "made by a magic": ("up(upfront / saving)", ["get_ipython().user_ns['up'] = lambda x: -int(-x // 1)"], [], ("up",)),
    "a long constant": ("len(text) * -int(-upfront // saving) // 30_000", [f"text = {'x' * 30_000!r}"], [], ("text",)),
    "all its own": ("up(upfront / saving)\n" + UP, ["up = 3"], [], ()),
}  # fmt: skip


@pytest.fixture
def shell(tmp_path, monkeypatch, quick_lab):
    """An IPython shell that shows nothing, in a folder with a module of the student's own; display data is kept."""
    from IPython.core.displaypub import CapturingDisplayPublisher
    from IPython.core.interactiveshell import InteractiveShell
    from traitlets.config import Config

    (tmp_path / "mine_.py").write_text(UP)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("FTLAB_HEADLESS", "1")
    stubs = {cell.id: stub_of(cell) for cell in read_lab(LAB) if cell.kind == "exercise"}
    monkeypatch.setattr(cells, "_release", lambda lab: {"setup": [QUICK_SETUP], "stubs": stubs, "code": set()})
    InteractiveShell.clear_instance()
    shell = InteractiveShell.instance(config=Config({"HistoryManager": {"hist_file": ":memory:"}}))
    shell.display_pub = CapturingDisplayPublisher()
    yield shell
    fractions.Fraction.__dict__.get("up") and delattr(fractions.Fraction, "up")
    shell.history_manager.end_session()
    InteractiveShell.clear_instance()


def of_student(situation):
    """(the notebook as the student hands it in, its cells in the order in which they were run)."""
    up, above, below, _ = SITUATIONS[situation]
    notebook = Notebook(LAB, RIGHT | {ID: CODE.format(up=up)})
    setup = next(cell for cell in notebook.cells if cell["metadata"].get("ftlab", {}).get("kind") == "setup")
    setup["source"] = QUICK_SETUP + (above if isinstance(above, str) else "")
    name = notebook.cells[notebook.index(ID) - 1]["id"]
    for source in reversed([] if isinstance(above, str) else above):
        notebook.add(name, source)
    for source in below:
        notebook.add(f"{ID}-check", source)
    own = {cell["id"]: "".join(cell["source"]) for cell in notebook.cells if cell["id"].startswith("own")}
    order = [setup["id"], *own, ID, f"{ID}-check"]
    return notebook, [(name, notebook.source(name)) for name in order]


def in_the_notebook(shell, ran, ids=True):
    """(the check's status, the names that lab.check says will be missing) of cells run one after another."""
    for name, source in ran:
        shell.run_cell(source, store_history=True, cell_id=name if ids else None)
    lab = shell.user_ns["lab"]
    shown = [output["data"]["text/plain"] for output in shell.display_pub.outputs]
    notes = [text for text in shown if "Missing when this is graded" in text]
    return lab.results[ID].status, tuple(re.findall(r"(?m)^`(.+?)` comes from another cell", "\n".join(notes)))


def when_graded(notebook, tmp_path):
    """(the check's status, the Staged): the visible notebook's cells, run in a fresh namespace."""
    staged = rebuild.staged(notebook.save(tmp_path / "handed_in.ipynb"), LAB)
    namespace = {"__name__": "graded"}
    for cell in staged.visible.cells:
        try:
            exec(cell.source, namespace)
        except Exception as error:
            print(cell.source, error)
    return namespace["lab"].results[ID].status, staged


@pytest.mark.parametrize("name", SITUATIONS)
@pytest.mark.filterwarnings("ignore")
def test_lab_check_and_grading_agree(name, shell, tmp_path, capsys):
    missing = SITUATIONS[name][-1]
    notebook, ran = of_student(name)
    assert in_the_notebook(shell, ran) == ("right", missing)
    fractions.Fraction.__dict__.get("up") and delattr(fractions.Fraction, "up")
    status, staged = when_graded(notebook, tmp_path)
    assert (status == "right") == (not missing), staged.codes[ID]
    told = tuple(re.findall(r"(?m)^`(.+?)` comes from", staged.notes.get(ID, "")))
    assert told == (() if name == "made by a magic" else missing)  # what no cell holds is known to the kernel alone
    assert "log.txt" not in "".join(staged.codes.values()) and staged.flags == []


def test_without_ids_the_same(shell, tmp_path, capsys):
    _, ran = of_student("a helper that reads one")
    assert in_the_notebook(shell, ran, ids=False) == ("right", ("zero",))


def test_a_cell_that_was_edited_counts_as_it_ran_last(shell, tmp_path, capsys):
    _, ran = of_student("a helper")
    assert in_the_notebook(shell, [ran[0], ("own1", UP), ("own1", "renamed = 1"), *ran[2:]]) == ("right", ("up",))


def test_our_solutions_need_no_other_cell():
    from ftlab.course import catalogue

    for lab in catalogue.lab_names():
        notebook = notebooks.solution_notebook(lab, read_lab(lab))
        code = [cell for cell in notebook.cells if cell.cell_type == "code"]
        setup = [cell.source for cell in code if cell.metadata.ftlab.kind == "setup"]
        exercises = [cell for cell in code if cell.metadata.ftlab.kind == "exercise"]
        for number, cell in enumerate(exercises):
            earlier = [one.source for one in exercises[:number]]
            found = taken_along(cell.source, setup, earlier, [one.source for one in code if one is not cell])
            assert (found.lines, found.missing) == ((), {}), (lab, cell.metadata.ftlab.id)


@pytest.mark.parametrize("code, lines, want", [
    ("# a\nfrom __future__ import division\nx = a", ["a = 1"], "# a\nfrom __future__ import division\na = 1\nx = a"),
    ("%%time\nx = a", ["a = 1"], "%%time\na = 1\nx = a"),
    ("x = a", [], "x = a"),
])  # fmt: skip
def test_where_the_lines_go(code, lines, want):
    from ftlab.teach.names import with_taken

    assert with_taken(lines, code) == want


@pytest.mark.parametrize("source", [
    "x = " + "(" * 5000, "a = " + "-" * 20_000 + "1", "\0", "a = b", "\n".join(f"a{i} = a{i + 1}" for i in range(9000)),
    "%x\n" * 3000 + "a = 1", "def a(", "a = '\ud800'", "from . import a", "from .. import *",
], ids=range(10))  # fmt: skip
def test_odd_cells_hurt_nobody(source):
    found = taken_along("def f():\n    return a + a0", above=[source, "b = a"])
    assert isinstance(found.warning(), str) and len("".join(found.lines)) < 200_000


def test_a_withheld_import_stays_flagged_wherever_it_is(tmp_path, quick_lab):
    lab = "06_lora"
    code = "def merge(*arguments):\n    return answer(*arguments)\n"
    for change in ("setup", "own"):
        notebook = Notebook(lab, {"merge": code})
        line = "from ftlab.tune.lora import LoRALinear, merge as answer\n"
        if change == "setup":
            cell = next(cell for cell in notebook.cells if cell["metadata"].get("ftlab", {}).get("kind") == "setup")
            cell["source"] = "".join(cell["source"]) + "\n" + line
        else:
            notebook.add(notebook.cells[0]["id"], line)
        staged = rebuild.staged(notebook.save(tmp_path / "x.ipynb"), lab)
        assert staged.codes["merge"].startswith("from ftlab.tune.lora import merge as answer\n")
        assert [flag["kind"] for flag in staged.flags if flag["exercise"] == "merge"] == ["withheld_import"]


def test_through_the_sandbox_and_on_the_page(quick_lab, walls, tmp_path):
    helper = ("import string, math as m\nEPS = 0\nsaved = {}\nsaved['a'] = 1\n"
              "def quotient(a, b):\n    return m.ceil(a / b + EPS)")  # fmt: skip
    notebook = Notebook(LAB, RIGHT | {ID: CODE.format(up="quotient(upfront, saving)")}).add(f"{ID}-check", helper)
    notebook.write("cost_of_call", 'raise ValueError(saved)\nlab.check("cost_of_call", print)')
    notebook.write("decode_float", RIGHT["decode_float"] + '\nlab.check("decode_float", decode_float)')
    result = one.grade_one(notebook.save(tmp_path / "x.ipynb"), "ada", LAB, "secret", walls)
    rows = {row["exercise"]: row for row in result["exercises"]}
    assert {id: row["status"] for id, row in rows.items()} == {"decode_float": "full", "cost_of_call": "error", ID: "full"}
    assert rows[ID]["taken"] == ["import math as m", "EPS = 0", "def quotient(a, b):\n    return m.ceil(a / b + EPS)"]
    assert "`saved` comes from another cell (changed there" in rows["cost_of_call"]["message"] and result["flags"] == []
    assert "Taken along from other cells" in feedback._section(rows[ID], None, None)
