"""A class at a hub: started once for all of these tests, in the order in which a course goes."""

import contextlib
import json
import os
import pathlib
import pwd
import subprocess
import tempfile
import types

import pytest
from hub.harness import HUB, PATIENCE, PREFIX, PYTHON, Hub, Users, missing, others_can_run, wait_for
from hub.student import Person

STUDENTS = int(os.environ.get("FTLAB_TEST_STUDENTS") or 10)


def pytest_collection_modifyitems(items):
    here = pathlib.Path(__file__).parent
    for item in items:
        if here in item.path.parents and item.get_closest_marker("hub") and (lacking := missing()):
            # `make test-hub` makes what is needed: there, its absence is a failure.
            if os.environ.get("FTLAB_NEED_HUB") == "1":
                raise pytest.UsageError(lacking)
            item.add_marker(pytest.mark.skip(reason=lacking))


@pytest.fixture(scope="session")
def names():
    """(the instructor's name, the students' names, what is wrong where they cannot be system users, else "")."""
    with contextlib.ExitStack() as stack:
        # Not pytest's own folder: other users cannot pass through that.
        folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=PREFIX)))
        folder.chmod(0o755)
        plain = [f"student-{number:02}" for number in range(STUDENTS)]
        if os.geteuid() != 0:
            yield "teacher", plain, "this is not root"
            return
        users = stack.enter_context(Users(folder, STUDENTS + 1))
        problem = others_can_run(folder / "stage", pwd.getpwnam(users.names[0]).pw_uid)
        if problem:
            yield "teacher", plain, f"another user cannot run this checkout's server ({problem})"
        else:
            yield users.names[0], users.names[1:], ""


@pytest.fixture(scope="session")
def school(names, tmp_path_factory):
    """A running hub with its instructor logged in, and a class signed up, admitted and logged in; no server runs yet."""
    instructor, students, no_walls = names
    with Hub(
        tmp_path_factory.mktemp("hub"), [instructor], "simple" if no_walls else "local",
        STUDENT_ENV="FTLAB_FAST=1 FTLAB_PROFILE=cpu HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 MPLBACKEND=module://matplotlib_inline.backend_inline",
    ) as hub:  # fmt: skip
        teacher = Person(hub.url, instructor, hub.admin_password)
        people = [Person(hub.url, name, f"a long password of {name}") for name in students]
        made = types.SimpleNamespace(hub=hub, teacher=teacher, students=people, no_walls=no_walls, kernels={})
        yield made
        for person in [teacher, *people]:
            with contextlib.suppress(Exception):
                teacher.hub_api("DELETE", f"/users/{person.name}/server")
        _wait_until_stopped(teacher)


def _wait_until_stopped(teacher):
    with contextlib.suppress(AssertionError):
        wait_for(lambda: not any(user["servers"] for user in teacher.hub_api("GET", "/users").json()), PATIENCE, "servers stop")


@pytest.fixture
def show(capsys):
    """show(lines): figures, printed past pytest's capture and kept in build/hub/figures.json."""

    def write(title, figures):
        path = HUB / "figures.json"
        old = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps(old | {title: figures}, indent=1) + "\n")
        with capsys.disabled():
            print(f"\n{title}: " + ", ".join(f"{name} {value}" for name, value in figures.items()))

    return write


@pytest.fixture(scope="session")
def read_config():
    """read_config(**settings): what read_config.py says of the shipped configuration under these FTLAB_HUB_* settings."""

    def read(**settings):
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("FTLAB_HUB_", "PYTHONPATH"))}
        return subprocess.run(
            [PYTHON, pathlib.Path(__file__).with_name("read_config.py")],
            env=kept | {f"FTLAB_HUB_{name}": str(value) for name, value in settings.items()},
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    return read
