"""Kernels without walls, for tests of what is not the sandbox: a kernelspec with a PYTHONPATH, in a folder of its own."""

import dataclasses
import hashlib
import json
import os
import pathlib
import sys
import tempfile


@dataclasses.dataclass
class PlainLimits:
    memory_mib: int = 2048  # not kept here
    cell_seconds: float = 60
    output_bytes: int = 2_000_000


class PlainWalls:
    """`ftlab.grade.kernel.Walls` in mode "unsafe": a context manager; kernels are children of the pytest process."""

    mode = "unsafe"

    def __init__(self, **limits):
        self.limits = PlainLimits(**limits)

    def __enter__(self):
        self._folder = tempfile.TemporaryDirectory(prefix="ftlab-plain-")
        self._before = os.environ.get("JUPYTER_PATH")
        os.environ["JUPYTER_PATH"] = self._folder.name
        return self

    def __exit__(self, *exception):
        os.environ.pop("JUPYTER_PATH")
        if self._before is not None:
            os.environ["JUPYTER_PATH"] = self._before
        self._folder.cleanup()

    def kernel_name(self, package, environment=None):
        environment = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONDONTWRITEBYTECODE": "1",
                       **(environment or {}), "PYTHONPATH": str(package)}  # fmt: skip
        spec = {"argv": [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"], "display_name": "plain",
                "language": "python", "env": environment}  # fmt: skip
        name = "plain-" + hashlib.sha256(json.dumps(spec).encode()).hexdigest()[:12]
        folder = pathlib.Path(self._folder.name) / "kernels" / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "kernel.json").write_text(json.dumps(spec))
        return name
