"""What this machine has, what is missing, and how to mend it. Loads torch where it is installed, nothing else heavy."""

import importlib.metadata
import pathlib
import platform
import shutil
import sys
import tempfile

from ftlab import profile, troubles
from ftlab.errors import UsageError
from ftlab.troubles import problem, version

MIN_PYTHON = (3, 11)
MIN_DISK_GIB = 2.0
MIN_MEMORY_GIB = 4.0
FULL_DISK_GIB = 0.1
# From bad to good to know. An "error" keeps the labs from running.
SEVERITIES = ("error", "warning", "note")
# What each extra is for; a missing one is worth a note. `dev` is for those who change the course.
_EXTRAS = {
    "lab": "JupyterLab and the tools that build the labs",
    "tune": "the labs that compare our methods with PEFT and TRL",
    "grade": "grading",
}


def report(folder=".", network=False):
    """Everything that `ftlab doctor` says, as a dict that JSON can hold.

    folder: where the work will lie; its disk and its permissions are looked at. network: also try the Hugging Face Hub
    (at most 2 s), which is done anyhow where the profile's base would come from there.

    Keys: profile ("cpu" or "gpu"), device (str), python (str), cores, memory_gib, disk_free_gib (float or None),
    packages ({name: version or None}), problems (list of {severity, what, remedy}, worst first).
    """
    requirements = _requirements()
    packages = {name: version(name) for name, _, _ in requirements or ()}
    name, device, problems = _where()
    disk, found = _disk(pathlib.Path(folder))
    problems += found
    problems += _python() + _packages(requirements) + _memory() + _torch_and_gpu() + _work_folder(folder)
    problems += troubles.torchao() + troubles.widgets() + troubles.port() + _network(network)
    return {
        "profile": name,
        "device": device,
        "python": platform.python_version(),
        "cores": profile.cores(),
        "memory_gib": profile.memory_gib(),
        "disk_free_gib": disk,
        "packages": packages,
        "problems": sorted(problems, key=lambda one: SEVERITIES.index(one["severity"])),
    }


def healthy(found):
    """Whether the labs can run: `found`, a report, holds no problem of severity "error"."""
    return not any(one["severity"] == "error" for one in found["problems"])


def render(found):
    """`found`, a report, as text for people."""
    disk = "unknown" if found["disk_free_gib"] is None else f"{found['disk_free_gib']:.1f} GiB free"
    memory = f"{found['memory_gib']:.1f} GiB" if found["memory_gib"] else "unknown"
    lines = [
        f"profile   {found['profile']} ({found['device']})",
        f"python    {found['python']}",
        f"cores     {found['cores']}",
        f"memory    {memory}",
        f"disk      {disk}",
        "packages  " + _listed(f"{name} {there}" for name, there in found["packages"].items() if there),
    ]
    for one in found["problems"]:
        lines += ["", f"{one['severity']}: {one['what']}", f"  do: {one['remedy']}"]
    lines.append("")
    if not healthy(found):
        lines.append("The labs cannot run until the errors above are mended.")
    elif found["problems"]:
        lines.append("The labs can run; see what is said above.")
    else:
        lines.append("All is well.")
    return "\n".join(lines)


def _listed(words, width=108):
    """Words joined by commas, in lines that stand under each other."""
    lines = [""]
    for word in words:
        if lines[-1] and len(lines[-1]) + len(word) + 2 > width:
            lines.append("")
        lines[-1] += f", {word}" if lines[-1] else word
    return (",\n" + " " * 10).join(lines)


# ---- device


def _where():
    """(profile's name, device in words, problems)."""
    try:
        here = profile.current()
    except UsageError as error:
        what, _, remedy = str(error).partition(": ")
        return "cpu", _cpu(), [problem("error", what, remedy)]
    if here.name == "cpu":
        return "cpu", _cpu(), []
    import torch

    return "gpu", f"{torch.cuda.get_device_name(0)}, {here.memory_gib:.1f} GiB, {here.dtype}", []


def _cpu():
    return f"CPU, {platform.machine()} {profile.isa()}"


def _torch():
    """The torch module, or what keeps it from loading."""
    try:
        import torch
    except (ImportError, OSError) as error:
        return error
    return torch


def _torch_and_gpu():
    torch = _torch()
    if isinstance(torch, Exception):
        if version("torch") is None:
            return []  # said among the packages
        reason = str(torch).splitlines()[0] if str(torch) else type(torch).__name__
        return [
            problem(
                "error",
                f"torch is installed but does not load: {reason}",
                "install it anew: pip install --force-reinstall torch",
            )
        ]
    return troubles.gpu(torch)


# ---- packages


def _requirements():
    """[(name, extra or None, packaging's Requirement)] of the installed ftlab, or None where it is not installed."""
    from packaging.requirements import Requirement

    try:
        lines = importlib.metadata.requires("ftlab") or []
    except importlib.metadata.PackageNotFoundError:
        return None
    found = []
    for requirement in map(Requirement, lines):
        if requirement.name == "ftlab":
            continue
        extra = next((name for name in (*_EXTRAS, "dev") if _only_with(requirement, name)), None)
        applies = requirement.marker is None or requirement.marker.evaluate({"extra": extra or ""})
        if extra != "dev" and applies:
            found.append((requirement.name, extra, requirement))
    return found


def _only_with(requirement, extra):
    marker = requirement.marker
    return marker is not None and marker.evaluate({"extra": extra}) and not marker.evaluate({"extra": ""})


def _packages(requirements):
    if requirements is None:
        remedy = "run pip install --editable . in the course's folder, or make env"
        return [problem("error", "ftlab itself is not installed in this Python", remedy)]
    problems, missing, seen = [], {}, set()
    for name, extra, requirement in requirements:
        there = version(name)
        if there is None:
            missing.setdefault(extra, []).append(name)
        elif not requirement.specifier.contains(there, prereleases=True) and name not in seen:
            seen.add(name)
            problems.append(
                problem(
                    "warning" if extra else "error",
                    f"{name} {there} is not the version that ftlab needs ({requirement.specifier})",
                    f'pip install "{name}{requirement.specifier}"',
                )
            )
    for extra, names in missing.items():
        if extra is None:
            what, remedy = f"missing: {', '.join(names)}", "pip install ftlab, or make env in the course's folder"
            problems.append(problem("error", what, remedy))
        else:
            what = f"missing, for {_EXTRAS[extra]}: {', '.join(names)}"
            remedy = f'pip install "ftlab[{extra}]", or make env in the course\'s folder'
            problems.append(problem("note", what, remedy))
    return problems


# ---- machine


def _python():
    if sys.version_info[:2] >= MIN_PYTHON:
        return []
    needed = ".".join(map(str, MIN_PYTHON))
    remedy = f"install Python {needed} or later, and make the environment with it: make PYTHON=python{needed} env"
    return [problem("error", f"Python {platform.python_version()} is too old: {needed} is the least", remedy)]


def _memory():
    memory = profile.memory_gib()
    if not memory or memory >= MIN_MEMORY_GIB:
        return []
    what = f"{memory:.1f} GiB of memory are little: the labs are measured to fit in {MIN_MEMORY_GIB:.0f} GiB"
    return [problem("warning", what, "close other programs, run one lab at a time, or raise the container's limit")]


def _existing(folder):
    """`folder`, or the nearest folder above it that exists."""
    folder = pathlib.Path(folder).absolute()
    return next(place for place in (folder, *folder.parents) if place.exists())


def _disk(folder):
    try:
        free = round(shutil.disk_usage(_existing(folder)).free / 2**30, 1)
    except OSError:
        return None, []
    if free >= MIN_DISK_GIB:
        return free, []
    if free < FULL_DISK_GIB:
        what = f"the disk of {_existing(folder)} is full: nothing that you do could be saved"
        return free, [problem("error", what, "make room, or work in a folder on another disk: ftlab lab --dir FOLDER")]
    what = f"{free:.1f} GiB of disk are free: labs and checkpoints need {MIN_DISK_GIB:.0f} GiB"
    return free, [problem("warning", what, "make room, or work in a folder on another disk: ftlab lab --dir FOLDER")]


def _work_folder(folder):
    place = _existing(folder)
    try:
        # Trying is the only sure test: modes say nothing of read-only mounts, quotas or root.
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        what = f"{place} cannot be written to ({error.strerror or error})"
        remedy = "work in a folder of yours: ftlab lab --dir FOLDER"
        return [problem("error", what, remedy)]
    return []


def _network(asked):
    """The Hub, where the labs' base is to come from it, or where the user asks."""
    try:
        base = profile.base()
    except UsageError:
        return []  # said already
    needed = base if base and "/" in base and not pathlib.Path(base).exists() else None
    return troubles.network(needed) if needed or asked else []
