"""Which labs there are, and where each one's files lie: in a source checkout or in an installed package."""

import functools
import pathlib
import re

import ftlab
from ftlab.course import checks, studies
from ftlab.errors import UsageError

PACKAGE = pathlib.Path(ftlab.__file__).parent
ROOT = PACKAGE.parent  # the checkout, where there is one
SOLUTIONS = ROOT / "solutions"
ANSWERS = PACKAGE / "course" / "answers"
STUDIES = PACKAGE / "assets" / "studies"
# Labs that start from whatever base the profile names; the others are about the inside of our own models, or about
# assistants that were made of them, and stay on the shipped ones.
ANY_BASE = ("04_instruction_tuning", "06_lora", "07_qlora", "08_adapters_and_prefixes", "09_shootout")

_NAME = re.compile(r"\d\d_[a-z0-9_]+")


def lab_names():
    """Names of all labs, in order: "01_autoregression", ... A lab exists when its exercises do."""
    return sorted(path.stem for path in (PACKAGE / "course" / "checks").glob("*.py") if _NAME.fullmatch(path.stem))


def find_labs(names=()):
    """The labs that `names` means, all when it is empty. A number ("1", "01") or a part of a name will do.

    Raises UsageError with the list of labs for a name that means none or several.
    """
    known = lab_names()
    if not names:
        return known
    return [_find(str(name), known) for name in names]


def exercises(lab):
    """{id: Exercise} of one lab, in order."""
    return {exercise.id: exercise for exercise in checks.load(find_labs([lab])[0]).EXERCISES}


def claims(lab):
    """The claims of one lab, a list of `ftlab.measure.claims.Claim`; [] when it has none."""
    name = find_labs([lab])[0]
    if not (PACKAGE / "course" / "studies" / f"{name}.py").exists():
        return []
    return list(studies.load(name).CLAIMS)


@functools.cache
def labs_folder():
    """The folder with the students' notebooks: labs/ of a checkout, else the one inside the package."""
    for folder in (ROOT / "labs", PACKAGE / "assets" / "labs"):
        if any(folder.glob("*.ipynb")):
            return folder
    raise UsageError("this install holds no labs: get the course's repository and run `ftlab lab` there")


def _find(name, known):
    name = pathlib.Path(name).name.removesuffix(".ipynb").removesuffix(".py")
    if name in known:
        return name
    found = [lab for lab in known if name.isdigit() and int(lab[:2]) == int(name)]
    found = found or [lab for lab in known if name and name in lab and not name.isdigit()]
    if len(found) == 1:
        return found[0]
    problem = f"no lab {name!r}" if not found else f"{name!r} means several labs"
    raise UsageError(f"{problem}; the labs are: {', '.join(known) or '(none yet)'}")
