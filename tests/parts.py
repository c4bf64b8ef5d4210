"""What a run of the tests left out, and the one command that runs it: for the last lines of the run."""

import re
import shutil
import sys

plain = []  # why tests of grading ran in plain kernels, without a sandbox: one entry for each group of them

# What the reason of a skipped test holds: the part that it belongs to.
_SANDBOX = re.compile(r"no sandbox|bubblewrap|sandbox works")
_PARTS = (
    (re.compile(r"\(container: "), "the sandbox of grading in containers"),
    (_SANDBOX, "the sandbox of grading"),
    (re.compile(r"Chromium|make test-browser"), "the labs in a browser"),
    (re.compile(r"make test-all"), "what needs all training steps"),
    (re.compile(r"make test-colab"), "the labs with Colab's versions"),
    (re.compile(r"make test-hub"), "a class at a JupyterHub"),
    (re.compile(r"make test-image"), "the container image"),
    (re.compile(r"no GPU"), "the labs on a GPU"),
)
_COMMANDS = {
    "the sandbox of grading in containers": "needs docker or podman and the image ftlab-grade (docs/instructor.md)",
    "the labs in a browser": "make test-browser", "what needs all training steps": "make test-all",
    "the labs with Colab's versions": "make test-colab", "a class at a JupyterHub": "make test-hub",
    "the container image": "make test-image", "the labs on a GPU": "make test-gpu, where there is one",
}  # fmt: skip
_INSTALLERS = {"apt-get": "apt-get install", "dnf": "dnf install", "zypper": "zypper install", "pacman": "pacman -S",
               "apk": "apk add"}  # fmt: skip


def lines(reasons):
    """The lines (list of str) to print last, from {reason of a skip: count of tests}."""
    counts, others = {}, []
    for reason, count in sorted(reasons.items()):
        part = next((name for pattern, name in _PARTS if pattern.search(reason)), None)
        if part is None:
            others.append(f"{count} not run: {reason}")
        else:
            counts[part] = counts.get(part, 0) + count
    sandbox = "the sandbox of grading"
    why = next((reason for reason in (*plain, *reasons) if _SANDBOX.search(reason)), "")
    found = [f"{count} not run: {part}: {_COMMANDS.get(part) or install_sandbox(why)}" for part, count in counts.items()]
    if plain and sandbox not in counts:
        found.append(f"not run: {sandbox}, other tests of grading ran without it: {install_sandbox(why)}")
    return others + found


def install_sandbox(why):
    """The command that makes the sandbox's tests run, or, where it is no program that lacks, `why` none works."""
    if sys.platform != "linux":
        return "needs Linux"
    if shutil.which("bwrap"):
        return why
    name = next(filter(shutil.which, _INSTALLERS), None)
    if name is None:
        return "install bubblewrap, then make test"
    return f"sudo {_INSTALLERS[name]} bubblewrap && make test"
