"""`ftlab new NAME`: a lab from a template that builds and passes its tests at once."""

import re

from ftlab.course import catalogue
from ftlab.errors import UsageError
from ftlab.files import atomic_write_text

_FILES = {
    "solution.py.txt": "solutions/{lab}.py",
    "checks.py.txt": "ftlab/course/checks/{lab}.py",
    "studies.py.txt": "ftlab/course/studies/{lab}.py",
    "wrong.py.txt": "tests/labs/{lab}.py",
}


def new_lab(name):
    """Write the sources of lab `name` ("13_mixtures", or "mixtures" for the next free number).

    Returns (lab, names of the files). Raises UsageError for a bad or taken name.
    """
    if not catalogue.SOLUTIONS.is_dir():
        raise UsageError("ftlab new works in a checkout of the course's repository")
    numbers = [int(lab[:2]) for lab in catalogue.lab_names()]
    match = re.fullmatch(r"(?:(\d\d)_)?([a-z][a-z0-9_]*)", name)
    if match is None:
        raise UsageError(f"{name!r} is no name for a lab: use lower-case letters, digits and _, such as 13_mixtures")
    number = match.group(1) or f"{max(numbers, default=-1) + 1:02d}"
    if int(number) in numbers:
        raise UsageError(f"there is a lab {number} already: {', '.join(catalogue.lab_names())}")
    lab = f"{number}_{match.group(2)}"
    for template, target in _FILES.items():
        text = (catalogue.PACKAGE / "course" / "template" / template).read_text(encoding="utf-8")
        text = text.replace("@NAME@", lab).replace("@NUMBER@", number)
        atomic_write_text(catalogue.ROOT / target.format(lab=lab), text)
    return lab, [target.format(lab=lab) for target in _FILES.values()]
