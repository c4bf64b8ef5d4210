"""The labs in an environment of Colab's versions (requirements.txt), from the cell that sets them up.

`make test-colab` makes the environment and names it in FTLAB_COLAB_ENV; elsewhere this is skipped. Colab's Python 3.13 and
its CUDA build of torch are stood in for by what is at hand; every other version is Colab's.
"""

import contextlib
import http.server
import io
import json
import os
import pathlib
import re
import subprocess
import threading
import zipfile

import nbformat
import pytest
from packaging.utils import canonicalize_name

from ftlab import cli
from ftlab.course import catalogue, repository

ENV = os.environ.get("FTLAB_COLAB_ENV")
pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(not ENV, reason="needs an environment of Colab's versions: `make test-colab` makes it"),
]
HERE = pathlib.Path(__file__).resolve().parent
PYTHON = pathlib.Path(ENV or ".").resolve() / "bin" / "python"
SETUP_SECONDS = 120  # what the course promises for the first cell; printed, not asserted: here it measures this machine
LABS = ("01_autoregression", "04_instruction_tuning", "06_lora", "07_qlora")
ADDED = {"ftlab", "trl", "bitsandbytes"}  # what the first cell installs
# What these of our tests look at are the libraries that Colab has in other versions than constraints.txt.
SUITES = (
    "tests/align/test_with_trl.py", "tests/align/test_dpo.py", "tests/align/test_reward.py", "tests/tune/test_with_trl.py",
    "tests/tune/test_lora.py", "tests/tune/test_adapter.py", "tests/tune/test_prefix.py", "tests/tune/test_qlora.py",
    "tests/tune/test_nf4.py", "tests/model/test_hub.py", "tests/network", "tests/show/test_widgets.py",
    "tests/show/test_live.py",
)  # fmt: skip


def pip(*arguments):
    command = [PYTHON, "-m", "pip", "-q", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def installed():
    """{name: version} of the environment."""
    code = "import importlib.metadata as m, json; print(json.dumps([(d.name, d.version) for d in m.distributions()]))"
    done = subprocess.run([PYTHON, "-I", "-c", code], capture_output=True, text=True, check=True)
    return {canonicalize_name(name): version for name, version in json.loads(done.stdout)}


def pins():
    """{name: version} of requirements.txt: Colab's."""
    lines = (HERE / "requirements.txt").read_text(encoding="utf-8").splitlines()
    found = (line.split("==") for line in lines if line and not line.startswith("#"))
    return {canonicalize_name(name): version for name, version in found}


@pytest.fixture(scope="session")
def github():
    """The address of a server that has the course's files as an archive, where GitHub would have them."""
    files = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=catalogue.ROOT,
                           capture_output=True, check=True).stdout.decode().split("\0")  # fmt: skip
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in filter(None, files):
            if (catalogue.ROOT / name).is_file():
                archive.write(catalogue.ROOT / name, f"{repository.read().split('/')[1]}-main/{name}")

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            assert self.path == f"/{repository.read()}/archive/main.zip"
            self.send_response(200)
            self.send_header("Content-Type", "application/zip")
            self.send_header("Content-Length", str(len(buffer.getvalue())))
            self.end_headers()
            self.wfile.write(buffer.getvalue())

        def log_message(self, *arguments):
            pass

    with served(Handler) as address:
        yield address


@contextlib.contextmanager
def served(handler):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()


def fresh():
    """Make the environment what Colab has again."""
    here = installed()
    ours = [name for name in ADDED if name in here]
    if ours:
        pip("uninstall", "-y", *ours)
    if "torchao" not in here:
        pip("install", "--no-deps", f"torchao=={pins()['torchao']}")


def run(notebook, folder, fast=True):
    """(what drive.py says, the executed notebook) of `notebook`, run in `folder`."""
    nbformat.write(notebook, folder / "lab.ipynb")
    done = subprocess.run([PYTHON, HERE / "drive.py", "lab.ipynb", "out.ipynb"], cwd=folder, capture_output=True, text=True,
                          env=dict(os.environ, FTLAB_FAST="1" if fast else "0"))  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1]), nbformat.read(folder / "out.ipynb", as_version=4)


def noise(notebook):
    """What the executed notebook shows on stderr, and lines elsewhere that warn."""
    streams = [output for cell in notebook.cells for output in cell.get("outputs", ()) if output.output_type == "stream"]
    lines = [line for output in streams for line in output.text.split("\n")
             if output.name == "stderr" or re.search(r"Warning\b|WARNING|ERROR", line)]  # fmt: skip
    # What pip says of the package indexes that this machine is set up with is not the cell's.
    return [line for line in lines if line.strip() and not re.search(r"WARNING: Location .* is ignored", line)]


def solution(lab, github):
    """The solution of `lab`, whose first cell takes the course from `github`."""
    notebook = nbformat.read(catalogue.SOLUTIONS / f"{lab}.ipynb", as_version=4)
    notebook.cells[1].source = notebook.cells[1].source.replace("https://github.com", github)
    return notebook


@pytest.fixture(scope="session")
def colab(github, tmp_path_factory):
    """The environment after the first cell of a lab; {"before", "after": {package: version}, "seconds"}."""
    fresh()
    before = installed()
    notebook = solution("01_autoregression", github)
    notebook.cells = notebook.cells[:2]
    said, out = run(notebook, tmp_path_factory.mktemp("content"))
    assert said["error"] is None, said["error"]
    return {"before": before, "after": installed(), "seconds": said["cells"][-1][1], "noise": noise(out)}


def test_the_environment_is_colabs():
    fresh()
    here, wanted = installed(), pins()
    assert {name: here.get(name) for name in wanted} == wanted
    assert not ADDED & set(here)


def test_the_first_cell_adds_what_is_missing_and_replaces_nothing(colab, capsys):
    before, after = colab["before"], colab["after"]
    assert {name: after[name] for name in before if name != "torchao"} == {n: v for n, v in before.items() if n != "torchao"}
    assert "torchao" not in after
    assert set(after) - set(before) == ADDED
    assert colab["noise"] == []
    with capsys.disabled():
        print(f"\nthe first cell: {colab['seconds']:.0f} s (at most {SETUP_SECONDS} s are promised)", flush=True)


@pytest.mark.parametrize("lab", LABS)
def test_a_lab_runs(lab, colab, github, tmp_path, capsys):
    said, out = run(solution(lab, github), tmp_path)
    assert said["error"] is None, said["error"]
    assert noise(out) == []
    with capsys.disabled():
        print(f"\n{lab}: {said['seconds']:.0f} s with few steps", flush=True)


def test_a_lab_runs_in_full(colab, github, tmp_path, capsys):
    said, out = run(solution("06_lora", github), tmp_path, fast=False)
    assert said["error"] is None, said["error"]
    assert noise(out) == []
    with capsys.disabled():
        print(f"\n06_lora: {said['seconds']:.0f} s in full", flush=True)


def test_our_tests_of_the_libraries_pass(colab):
    suites = [name for name in SUITES if (catalogue.ROOT / name).exists()]
    surroundings = dict(os.environ, FTLAB_FAST="1", PYTHONPATH=str(catalogue.ROOT))
    surroundings.pop("FTLAB_COLAB_ENV")
    done = subprocess.run([PYTHON, "-m", "pytest", "-q", "-p", "no:cacheprovider", *suites], cwd=catalogue.ROOT,
                          capture_output=True, text=True, env=surroundings)  # fmt: skip
    assert done.returncode == 0, done.stdout[-6000:]


def test_the_archive_of_a_release_is_enough(tmp_path):
    """Without a repository: the archive beside the notebook, and a word where it is not there."""
    fresh()
    assert cli.main(["release", "--out", str(tmp_path / "course"), "--labs", "06", "--zip"]) == 0
    content = tmp_path / "content"
    content.mkdir()
    lab = nbformat.read(tmp_path / "course" / "labs" / "06_lora.ipynb", as_version=4)
    lab.cells = [cell for cell in lab.cells if cell.metadata.ftlab.kind in ("generated", "setup")]
    said, _ = run(lab, content)
    assert "put course.zip" in said["error"]
    (tmp_path / "course.zip").rename(content / "course.zip")
    said, out = run(lab, content)
    assert said["error"] is None and noise(out) == []
    assert ADDED <= set(installed())
