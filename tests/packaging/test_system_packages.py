"""What the Makefile and CI install with Debian's apt-get, on a machine that has none of it: with fakes of apt-get and sudo."""

import os
import pathlib
import shutil
import subprocess

import parts
import pytest

ROOT = pathlib.Path(__file__).parents[2]
APT = """#!/bin/sh
echo "$AS $@" >> {log}
[ "$1" = update ] && exit {update}
for package; do :; done
[ {installs} = yes ] && for name in {provides}; do printf '#!/bin/sh\\n' > {bin}/$name; chmod 755 {bin}/$name; done
"""
SUDO = """#!/bin/sh
[ "$1" = -n ] && shift
[ {password} = yes ] && exit 1
AS=sudo exec "$@"
"""


class Machine:
    """A PATH of few programs; `make` runs a target there, and `installed` is what its apt-get was told."""

    def __init__(self, folder, user=0, apt=True, password=False, update=0, installs=True, provides="bwrap"):
        self.bin, self.log, self.folder = folder / "bin", folder / "log", folder
        self.bin.mkdir()
        for name in ("sh", "uname", "env", "make", "echo", "true", "chmod", "dirname", "bash"):
            os.symlink(shutil.which(name), self.bin / name)
        self._program("id", f"#!/bin/sh\necho {user}\n")
        yes = {True: "yes", False: "no"}
        if apt:
            self._program("apt-get", APT.format(log=self.log, bin=self.bin, update=update, installs=yes[installs],
                                                provides=provides))  # fmt: skip
        if user:
            self._program("sudo", SUDO.format(password=yes[password]))
        python = folder / "venv/bin/python"
        python.parent.mkdir(parents=True)
        python.write_text('#!/bin/sh\necho python "$@"\n')
        python.chmod(0o755)
        (folder / "venv/.ftlab-env").touch()

    def _program(self, name, text):
        (self.bin / name).write_text(text)
        (self.bin / name).chmod(0o755)

    def run(self, *command):
        environment = {"PATH": str(self.bin), "HOME": str(self.folder)}
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)

    def make(self, target):
        return self.run("make", "--no-print-directory", target, f"VENV={self.folder / 'venv'}")

    @property
    def installed(self):
        calls = self.log.read_text().splitlines() if self.log.exists() else []
        return [(call.split()[0] == "sudo", call.split()[-1]) for call in calls if " install " in call]


@pytest.fixture(autouse=True)
def no_outer_make(monkeypatch):
    for name in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("user", [0, 1000])
def test_make_test_installs_bubblewrap_where_no_password_is_asked_for(tmp_path, user):
    machine = Machine(tmp_path, user=user, update=100)  # a source that cannot be reached does not matter
    done = machine.make("test")
    assert done.returncode == 0, done.stderr
    assert machine.installed == [(user != 0, "bubblewrap")]
    assert "python -m pytest" in done.stdout and "run without it" not in done.stdout
    assert machine.make("test").returncode == 0 and len(machine.installed) == 1, "it is there now"


@pytest.mark.parametrize("settings, word", [
    ({"user": 1000, "password": True}, "Run 'sudo apt-get install bubblewrap', then make test again."),
    ({"apt": False}, "Not found: bubblewrap. Install it"),
    ({"installs": False}, "Not found"),
])  # fmt: skip
def test_make_test_runs_without_bubblewrap_too_and_says_so(tmp_path, settings, word):
    machine = Machine(tmp_path, **settings)
    if settings == {"installs": False}:
        machine._program("apt-get", "#!/bin/sh\nexit 100\n")
        word = "apt-get could not install bubblewrap"
    done = machine.make("test")
    assert done.returncode == 0 and word in done.stderr
    assert "The tests run without it" in done.stdout and "python -m pytest" in done.stdout
    assert machine.make("sandbox").returncode != 0, "by itself, as in CI, it fails"


def test_make_test_browser_installs_chromium_or_fails(tmp_path):
    machine = Machine(tmp_path, provides="chromium")
    done = machine.make("test-browser")
    assert done.returncode == 0 and machine.installed == [(False, "chromium")]
    assert "pytest tests/browser" in done.stdout
    (tmp_path / "other").mkdir()
    done = Machine(tmp_path / "other", user=1000, password=True).make("test-browser")
    assert done.returncode != 0 and "sudo apt-get install chromium" in done.stderr and "pytest" not in done.stdout


def test_ci_runs_every_part_and_stops_at_what_cannot_be_installed(tmp_path):
    machine = Machine(tmp_path)
    machine._program("python3", "#!/bin/sh\n")
    calls = tmp_path / "calls"
    (machine.bin / "make").unlink()
    fails = '#!/bin/sh\nfor target; do :; done\necho "$target" >> {}\n[ "$target" != "{}" ]\n'
    machine._program("make", fails.format(calls, "nothing"))
    assert machine.run("bash", ".ci/run").returncode == 0
    assert calls.read_text().split() == ["sandbox", "browser", "lint", "test", "test-browser"]
    for target in ("browser", "lint", "test-browser"):
        machine._program("make", fails.format(calls, target))
        assert machine.run("bash", ".ci/run").returncode != 0
        assert calls.read_text().split()[-1] == target


def test_the_last_lines_name_each_part_that_did_not_run_and_its_command(tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "plain", [])
    reasons = {
        "no sandbox works here (forked: bubblewrap is not installed; cold: bubblewrap is not installed)": 60,
        "no sandbox without bubblewrap: apt-get install bubblewrap": 2,
        "no Chromium found: `make test-browser` installs one": 9,
        "runs in full only: `make test-all`": 120,
        "could not import 'trl': No module named 'trl'": 1,
    }
    monkeypatch.setenv("PATH", str(Machine(tmp_path).bin))
    lines = parts.lines(reasons)
    assert "62 not run: the sandbox of grading: sudo apt-get install bubblewrap && make test" in lines
    assert "9 not run: the labs in a browser: make test-browser" in lines
    assert "120 not run: what needs all training steps: make test-all" in lines
    assert "1 not run: could not import 'trl': No module named 'trl'" in lines and len(lines) == 4
    parts.plain.append("no sandbox works here (forked: bubblewrap is not installed)")
    assert any("other tests of grading ran without it: sudo apt-get" in line for line in parts.lines({}))
    parts.plain.clear()
    (tmp_path / "bin/bwrap").symlink_to(shutil.which("true", path="/bin:/usr/bin"))
    refused = "no sandbox works here (forked: bwrap: Creating new namespace failed); let this user make namespaces"
    assert parts.lines({refused: 3}) == [f"3 not run: the sandbox of grading: {refused}"]
