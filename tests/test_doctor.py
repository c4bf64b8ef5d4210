"""ftlab.doctor: each problem is provoked, and its remedy is said."""

import collections
import importlib.metadata
import json
import shutil
import sys
import tempfile
import types

import pytest

from ftlab import doctor, profile

GIB = 2**30


def problems(folder, word):
    """The problems that name `word`."""
    return [problem for problem in doctor.report(folder)["problems"] if word in problem["what"]]


def the_problem(folder, word, severity):
    (problem,) = problems(folder, word)
    assert problem["severity"] == severity
    assert problem["remedy"]
    return problem


@pytest.fixture(autouse=True)
def plain_cpu(monkeypatch):
    monkeypatch.setenv("FTLAB_PROFILE", "cpu")
    monkeypatch.setattr(profile, "nvidia_gpus", lambda: [])
    monkeypatch.setenv("JPY_PARENT_PID", "1")  # as in a kernel: whatever listens on JupyterLab's port is no problem


def test_a_sound_machine(tmp_path, monkeypatch):
    monkeypatch.setattr(profile, "memory_gib", lambda: 8.0)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: types.SimpleNamespace(free=10 * GIB))
    found = doctor.report(tmp_path)
    assert found["problems"] == [] and doctor.healthy(found)
    assert found["profile"] == "cpu" and found["device"].startswith("CPU")
    assert found["packages"]["numpy"] == importlib.metadata.version("numpy")
    assert {"torch", "jupyterlab", "peft", "nbval"} <= set(found["packages"])
    assert "ruff" not in found["packages"]
    assert json.loads(json.dumps(found)) == found
    assert "All is well." in doctor.render(found)
    assert "10.0 GiB free" in doctor.render(found)


def test_python_too_old(tmp_path, monkeypatch):
    version = collections.namedtuple("version", "major minor micro releaselevel serial")
    monkeypatch.setattr(doctor.sys, "version_info", version(3, 10, 4, "final", 0))
    assert "3.11" in the_problem(tmp_path, "is too old", "error")["remedy"]


@pytest.fixture
def versions(monkeypatch):
    """Changes what is installed: {name: version or None}."""
    changed, real = {}, importlib.metadata.version

    def version(name):
        found = changed.get(name, ...)
        if found is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return real(name) if found is ... else found

    monkeypatch.setattr(importlib.metadata, "version", version)
    return changed


def test_packages_missing_or_too_old(tmp_path, versions):
    versions.update(safetensors=None, transformers="4.57.0", peft=None, trl=None, jupyterlab="3.6.0")
    assert "make env" in the_problem(tmp_path, "missing: safetensors", "error")["remedy"]
    old = the_problem(tmp_path, "transformers 4.57.0", "error")
    assert old["remedy"].startswith('pip install "transformers') and ">=5.15" in old["remedy"]
    the_problem(tmp_path, "jupyterlab 3.6.0", "warning")
    assert "ftlab[tune]" in the_problem(tmp_path, "peft, trl", "note")["remedy"]
    found = doctor.report(tmp_path)
    assert found["packages"]["peft"] is None
    assert [problem["severity"] for problem in found["problems"][:2]] == ["error", "error"]
    assert not doctor.healthy(found)
    assert "cannot run until" in doctor.render(found)


def test_a_local_build_of_torch_is_the_version_it_names(tmp_path, versions):
    versions.update(torch="2.13.0+cpu")
    assert problems(tmp_path, "torch") == []


def test_ftlab_not_installed(tmp_path, monkeypatch):
    def requires(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "requires", requires)
    the_problem(tmp_path, "ftlab itself is not installed", "error")


def test_little_disk_and_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: types.SimpleNamespace(free=GIB))
    monkeypatch.setattr(profile, "memory_gib", lambda: 1.9)
    assert "--dir" in the_problem(tmp_path, "1.0 GiB of disk", "warning")["remedy"]
    the_problem(tmp_path, "1.9 GiB of memory", "warning")
    found = doctor.report(tmp_path)
    assert doctor.healthy(found) and "see what is said above" in doctor.render(found)


def test_unknown_memory_is_no_problem(tmp_path, monkeypatch):
    monkeypatch.setattr(profile, "memory_gib", lambda: 0.0)
    assert problems(tmp_path, "memory") == []
    assert "memory    unknown" in doctor.render(doctor.report(tmp_path))


def stand_in_torch(cuda):
    return types.SimpleNamespace(
        __version__="2.13.0",
        cuda=types.SimpleNamespace(is_available=lambda: False),
        version=types.SimpleNamespace(cuda=cuda),
    )


def test_gpu_machine_with_a_cpu_build_of_torch(tmp_path, monkeypatch):
    monkeypatch.setattr(profile, "nvidia_gpus", lambda: ["Some GPU"])
    monkeypatch.setattr(doctor, "_torch", lambda: stand_in_torch(cuda=None))
    assert "CUDA build" in the_problem(tmp_path, "is a build for the CPU", "note")["remedy"]


def test_gpu_that_torch_cannot_use(tmp_path, monkeypatch):
    monkeypatch.setattr(profile, "nvidia_gpus", lambda: ["Some GPU"])
    monkeypatch.setattr(doctor, "_torch", lambda: stand_in_torch(cuda="13.0"))
    assert "driver" in the_problem(tmp_path, "built for CUDA 13.0", "note")["remedy"]


def test_torch_that_does_not_load(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "_torch", lambda: OSError("libgomp.so.1: cannot open shared object file"))
    the_problem(tmp_path, "does not load: libgomp.so.1", "error")


@pytest.mark.parametrize("value", ["gpu", "tpu"])
def test_profile_that_cannot_be_had(tmp_path, monkeypatch, value):
    monkeypatch.setenv("FTLAB_PROFILE", value)
    monkeypatch.setattr(profile, "_gpu", lambda: None)
    the_problem(tmp_path, "FTLAB_PROFILE", "error")


def test_folder_that_cannot_be_written(tmp_path, monkeypatch):
    def refuse(dir):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    assert "--dir" in the_problem(tmp_path / "not" / "yet", f"{tmp_path} cannot be written to", "error")["remedy"]


def test_no_torch_at_all(tmp_path, versions, monkeypatch):
    versions.update(torch=None)
    monkeypatch.setitem(sys.modules, "torch", None)
    the_problem(tmp_path, "missing: torch", "error")
