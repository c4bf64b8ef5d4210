"""What the repository holds: no machine's paths, no large files, valid licences; and an import that stays light."""

import json
import os
import pathlib
import re
import subprocess
import sys
import tomllib

import pytest
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
MIB = 2**20
# Absolute paths of one machine (jovyan is the user of any Jupyter image). Put together here, so that this file holds
# none itself.
FOLDERS = ("root", "work", r"home/(?!jovyan\b)[a-z]\w*", r"Users/[A-Za-z]\w*")
PATHS = re.compile(r"(?<![\w./~}$)-])/(?:" + "|".join(FOLDERS) + r")(?![\w-])")
# Paths inside the container image are the image's own; the other file feeds made-up paths to a finder of such paths.
EXEMPT = ("docker/", ".devcontainer/", "tests/course/test_notebooks.py")
BINARY = {".png", ".safetensors", ".bin", ".npz", ".gz", ".jpg", ".ico", ".woff2"}


@pytest.fixture(scope="session")
def files():
    """The repository's files: what git tracks, and what it would track."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    if done.returncode:
        pytest.skip("not a git checkout")
    found = [name for name in done.stdout.decode().split("\0") if name]
    assert "pyproject.toml" in found
    return sorted({name for name in found if (ROOT / name).is_file()})


def test_no_machine_paths(files):
    hits = []
    for name in files:
        if name.startswith(EXEMPT) or pathlib.PurePath(name).suffix in BINARY:
            continue
        text = (ROOT / name).read_text(encoding="utf-8")
        hits += [f"{name}:{number}: {line.strip()[:100]}" for number, line in enumerate(text.split("\n"), 1)
                 if PATHS.search(line)]  # fmt: skip
    assert not hits, "paths of one machine:\n" + "\n".join(hits)


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ('"/ro' + 'ot/x"', True),
        ("/ho" + "me/ada/lab", True),
        ("in /wo" + "rk.", True),
        ("/Us" + "ers/ada", True),
        ("https://example.org/wo" + "rk/x", False),
        ("$HOME/wo" + "rk", False),
        ("a/wo" + "rk/b", False),
        ("/wo" + "rkspaces", False),
    ],
)
def test_machine_paths_are_recognised(line, found):
    assert bool(PATHS.search(line)) == found


def test_no_large_files(files):
    sizes = {name: (ROOT / name).stat().st_size for name in files}
    large = {name: size for name, size in sizes.items() if size > 16 * MIB}
    assert not large
    assets = sum(size for name, size in sizes.items() if name.startswith("ftlab/assets/"))
    assert assets <= 25 * MIB, f"ftlab/assets holds {assets / MIB:.1f} MiB"


def test_import_is_light():
    code = (
        "import sys, json, ftlab, ftlab.errors, ftlab.files, ftlab.profile\n"
        "heavy = ('torch', 'numpy', 'matplotlib', 'transformers', 'tokenizers', 'IPython', 'ipywidgets', 'jupytext')\n"
        "print(json.dumps([name for name in heavy if name in sys.modules]))"
    )
    env = {key: value for key, value in os.environ.items() if not key.startswith("COV")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
    assert json.loads(done.stdout) == []


def test_world_needs_no_torch():
    code = "import sys, ftlab.world; print([m for m in ('torch', 'numpy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_licences():
    code = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in code and "Version 2.0, January 2004" in code and "END OF TERMS AND CONDITIONS" in code
    text = (ROOT / "LICENSE-text").read_text(encoding="utf-8")
    assert "Creative Commons Attribution 4.0 International Public License" in text
    for section in range(1, 9):
        assert f"Section {section} -- " in text, f"section {section} of the legal code is missing"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["license"] == "Apache-2.0 AND CC-BY-4.0"
    assert all((ROOT / name).is_file() for name in project["license-files"])


def test_citation():
    import ftlab

    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    # What version 1.2.0 of the format requires.
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert citation["cff-version"] == "1.2.0"
    assert str(citation["version"]) == ftlab.__version__
    assert citation["license"] == ["Apache-2.0", "CC-BY-4.0"]
    assert citation["authors"] and all("name" in author or "family-names" in author for author in citation["authors"])


def test_continuous_integration_runs_the_tests():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert re.search(r"\bmake\b.* test\b", script.read_text(encoding="utf-8"))
    assert subprocess.run(["bash", "-n", script], check=False).returncode == 0


@pytest.mark.parametrize("target", ["env", "lab", "test", "test-all", "test-browser", "test-hub"])
def test_make_targets_exist(target):
    done = subprocess.run(
        ["make", "--dry-run", target, "VENV=build/none"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "--constraint constraints.txt" in done.stdout
    if target != "env":
        assert {"lab": "ftlab lab", "test": "FTLAB_FAST=1"}.get(target, "pytest") in done.stdout
