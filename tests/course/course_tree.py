"""A checkout of its own, for the tests that build and run labs."""

import json
import os
import subprocess
import sys

LAB = "42_demo"

_DRIFT = """
import json, pathlib, sys
from ftlab.course import notebooks
from ftlab.errors import UsageError

found = []
for name, old, new in json.loads(sys.argv[1]):
    path = pathlib.Path(name)
    text = path.read_text(encoding="utf-8")
    assert old in text, old
    path.write_text(text.replace(old, new), encoding="utf-8")
    try:
        found.append(["drift", notebooks.drift(sys.argv[2])])
    except UsageError as error:
        found.append(["refused", [str(error)]])
    path.write_text(text, encoding="utf-8")
print(json.dumps(found))
"""


class Tree:
    """A checkout in a temporary folder, with the package's code and no lab but those made there."""

    def __init__(self, path):
        self.path = path

    def environment(self, **changes):
        kept = {key: value for key, value in os.environ.items() if not key.startswith("FTLAB_")}
        # However slow the machine is, no line that says how long a command has run.
        return {**kept, "FTLAB_PROGRESS": "0", "PYTHONPATH": str(self.path), **changes}

    def python(self, *arguments, **environment):
        """CompletedProcess of Python in this tree."""
        return subprocess.run([sys.executable, *map(str, arguments)], cwd=self.path, capture_output=True, text=True,
                              env=self.environment(**environment))  # fmt: skip

    def ftlab(self, *arguments, **environment):
        return self.python("-m", "ftlab", *arguments, **environment)

    def edit(self, name, old, new):
        text = (self.path / name).read_text(encoding="utf-8")
        assert old in text
        (self.path / name).write_text(text.replace(old, new), encoding="utf-8")

    def drift_after(self, changes):
        """For each change (file, old text, new text), undone after: ("drift" or "refused", lines)."""
        done = self.python("-c", _DRIFT, json.dumps(changes), LAB)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)
