"""What the course remembers of one student in one lab: results, hints seen, solutions used, predictions."""

import os
import pathlib

from ftlab.files import read_json, write_json
from ftlab.profile import headless


class State:
    """A small JSON file under $FTLAB_HOME (default ~/.ftlab); in memory only where that cannot be written.

    Under FTLAB_HEADLESS it is always in memory, so that a run depends on nothing outside its notebook.
    """

    def __init__(self, lab):
        self.path = None if headless() else home() / "state" / f"{lab}.json"
        self.data = {"exercises": {}, "predictions": {}}
        if self.path is not None:
            try:
                stored = read_json(self.path)
                self.data |= {key: dict(stored.get(key, {})) for key in self.data}
            except (OSError, ValueError, TypeError, AttributeError):
                pass  # none yet, or damaged: begin anew

    def exercise(self, id):
        """The record of one exercise: dict(status, hints, solution_used)."""
        return self.data["exercises"].setdefault(id, {"status": "not attempted", "hints": 0, "solution_used": False})

    def update(self, id, **values):
        self.exercise(id).update(values)
        self.save()

    def save(self):
        if self.path is not None:
            try:
                write_json(self.path, self.data)
            except OSError:
                self.path = None


def home():
    return pathlib.Path(os.environ.get("FTLAB_HOME") or pathlib.Path.home() / ".ftlab")
