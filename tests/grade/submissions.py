"""Submissions as students hand them in: a released lab's notebook, edited.

`Notebook` is the released notebook as the JSON that it is on disk; its methods are what a student, or a hostile one, does
to it. Solutions are put in by exercise id.
"""

import copy
import json

from ftlab.course import notebooks
from ftlab.course.source import read_lab, solution_of


def solutions(lab):
    """{exercise id: our code} of a lab."""
    return {cell.id: solution_of(cell) for cell in read_lab(lab) if cell.kind == "exercise"}


class Notebook:
    """The released notebook of `lab`, to be edited; `code` fills exercises: {id: code}."""

    def __init__(self, lab, code=None):
        self.lab = lab
        self.raw = json.loads(notebooks.notebook_text(notebooks.lab_notebook(lab, read_lab(lab))))
        for id, source in (code or {}).items():
            self.write(id, source)

    @property
    def cells(self):
        return self.raw["cells"]

    def cell(self, name):
        return next(cell for cell in self.cells if cell["id"] == name)

    def index(self, name):
        return self.cells.index(self.cell(name))

    def write(self, name, source):
        """Give the cell `name` a source below its heading, as lines, as JupyterLab saves it."""
        heading = "".join(self.cell(name)["source"]).split("\n")[0] + "\n" if not name.endswith("-check") else ""
        self.cell(name)["source"] = (heading + source).splitlines(keepends=True)
        return self

    def source(self, name):
        return "".join(self.cell(name)["source"])

    def add(self, after, source, **changes):
        """A cell of the student's own behind the cell `after`."""
        new = {"cell_type": "code", "id": f"own{len(self.cells)}", "metadata": {}, "source": source.splitlines(keepends=True),
               "outputs": [], "execution_count": None} | changes  # fmt: skip
        self.cells.insert(self.index(after) + 1, new)
        return self

    def copy(self, name, source=None, id="copy"):
        """Paste a copy of the cell `name` behind it, with its metadata, as Jupyter does."""
        twin = copy.deepcopy(self.cell(name))
        twin["id"] = id
        if source is not None:
            twin["source"] = source.splitlines(keepends=True)
        self.cells.insert(self.index(name) + 1, twin)
        return self

    def delete(self, name):
        self.cells.remove(self.cell(name))
        return self

    def strip_metadata(self):
        """As a converter to a script and back leaves it: no metadata, no ids of ours."""
        for number, cell in enumerate(self.cells):
            cell["metadata"], cell["id"] = {}, f"c{number}"
        self.raw["metadata"] = {}
        return self

    def save(self, path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self.raw, indent=1, ensure_ascii=False), encoding="utf-8")
        return path
