"""The pieces of the build, without a lab."""

import getpass

import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

from ftlab.course import catalogue, notebooks
from ftlab.course.source import Cell, parse, solution_of, stub_of
from ftlab.errors import UsageError

# (source, type, grade, solution, locked, grade_id, points) -> what nbgrader 0.9.6's compute_checksum gives.
CHECKSUMS = [
    (('lab.check("softmax", f)', "code", True, False, True, "softmax-check", 2), "323ef921a572a73bd7e4e7dafcb8fb16"),
    (("def f(x):\n    return x", "code", False, True, False, "f", None), "ffc4292ce769c2da59707de624ffc1fd"),
    (("# Über α", "markdown", False, False, True, "text-1", None), "eaea0a23635edcca32960c51381279b9"),
    (("answer", "markdown", True, True, False, "essay", 2.5), "823ad804b25232a7920d183405a3d434"),
]


@pytest.mark.parametrize(("cell", "expected"), CHECKSUMS)
def test_checksums_are_nbgraders(cell, expected):
    source, cell_type, grade, solution, locked, grade_id, points = cell
    meta = {"grade": grade, "solution": solution, "locked": locked, "grade_id": grade_id, "points": points}
    assert notebooks.checksum({"source": source, "cell_type": cell_type, "metadata": {"nbgrader": meta}}) == expected


def exercise(source):
    return Cell("exercise", "code", source, "loop")


def test_stubs():
    source = "def f(x):\n    a = 1\n    ### BEGIN SOLUTION\n    y = x\n    return y\n    ### END SOLUTION\nz = 2"
    stub = 'def f(x):\n    a = 1\n    raise NotImplementedError("exercise loop: your code goes here")\nz = 2'
    assert stub_of(exercise(source)) == stub
    assert solution_of(exercise(source)) == "def f(x):\n    a = 1\n    y = x\n    return y\nz = 2"
    value = "### BEGIN SOLUTION\n### STUB: a = None  # your answer\n### STUB: b = ...\na = 1\nb = 2\n### END SOLUTION"
    assert stub_of(exercise(value)) == "a = None  # your answer\nb = ..."
    assert solution_of(exercise(value)) == "a = 1\nb = 2"
    lines = ["### BEGIN SOLUTION", "### STUB: for i in x:", "### STUB:     ...", "pass", "### END SOLUTION"]
    nested = "\n    ".join(["def f(x):", *lines])
    assert stub_of(exercise(nested)) == "def f(x):\n    for i in x:\n        ..."


def test_two_gaps_in_one_cell():
    gap = "    ### BEGIN SOLUTION\n    return 1\n    ### END SOLUTION\n"
    assert stub_of(exercise(f"def f():\n{gap}\ndef g():\n{gap}")).count("NotImplementedError") == 2


def test_headers_say_what_a_cell_is():
    source = '# %% [markdown]\n# Hi\n\n# %% ftlab="check" id="a" tags=["x"]\nf(1)\n\n# %%\n# %pylab\ny\n\n# %%\n'
    cells = parse(source, "lab.py")
    assert [(cell.kind, cell.id) for cell in cells] == [("text", None), ("check", "a"), ("code", None)]
    assert cells[1].tags == ("x",)
    assert cells[2].source == "%pylab\ny"


@pytest.mark.parametrize(
    "header", ["# %% ftlab='no'", '# %% ftlab="exercise"', '# %% ftlab="result"', '# %% [markdown] ftlab="setup"',
               '# %% ftlab="text"', '# %% ftlab="setup" colour="red"', "# %% [raw]"],
)  # fmt: skip
def test_a_bad_header_is_refused_with_its_place(header):
    with pytest.raises(UsageError, match="lab.py, cell 1"):
        parse(f"{header}\n# x\n", "lab.py")


def executed(*outputs, source="x"):
    return new_notebook(cells=[new_code_cell(source, outputs=list(outputs), execution_count=7)])


def data(**bundle):
    return new_output("display_data", {key.replace("_", "/"): value for key, value in bundle.items()})


def test_cleaning_takes_out_what_differs_from_machine_to_machine():
    book = executed(
        new_output("stream", name="stderr", text="UserWarning: x"),
        new_output("stream", name="stdout", text="10 %\r"),
        new_output("stream", name="stdout", text=f"100 %\n{catalogue.ROOT}/ftlab\n"),
        data(text_plain="<object at 0x7f0011223344>"),
        new_output("display_data", {notebooks.WIDGET_VIEW: {"model_id": "x"}, "text/plain": "Box()"}),
    )
    book.metadata["widgets"] = {"state": {}}
    book.cells[0].metadata["execution"] = {"iopub.execute_input": "2026"}
    notebooks.clean(book)
    cell = book.cells[0]
    assert [output.get("text") or output.data["text/plain"] for output in cell.outputs] == [
        "100 %\n./ftlab\n", "<object at 0x...>",
    ]  # fmt: skip
    assert cell.execution_count == 1 and "execution" not in cell.metadata and "widgets" not in book.metadata
    assert notebooks.leaks(book) == []


@pytest.mark.parametrize(
    "text", ["/home/ann/x", "see /" + "root/.cache", "File /tmp/ipykernel_1/2.py", "C:\\Users\\ann", "/Users/ann",
             "FutureWarning: soon", str(catalogue.ROOT)],
)  # fmt: skip
def test_leaks_are_found_in_outputs(text):
    stream = new_output("stream", name="stdout", text=text)
    for output in (stream, data(text_html=text), data(application_json={"a": text})):
        assert notebooks.leaks(executed(output)) != []


def test_leaks_of_other_kinds_are_found(monkeypatch):
    assert notebooks.leaks(executed(new_output("stream", name="stderr", text="hm")))
    assert notebooks.leaks(executed(new_output("display_data", {notebooks.WIDGET_VIEW: {}})))
    assert notebooks.leaks(executed(source="open('/home/ann/x')"))
    book = executed()
    book.metadata["widgets"] = {}
    assert notebooks.leaks(book)
    monkeypatch.setattr(getpass, "getuser", lambda: "annabel")
    assert notebooks.leaks(executed(data(text_plain="by annabel")))


def test_what_only_looks_like_a_leak_is_none():
    for text in ("https://example.org/home/x", "a/tmp/b", "$A:\\alpha$", "~/.ftlab", "main"):
        assert notebooks.leaks(executed(data(text_plain=text), source="main")) == []
