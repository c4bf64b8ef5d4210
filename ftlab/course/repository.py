"""Where the course lies on GitHub, OWNER/NAME: one setting, from which the labs' badges, installs and links are made."""

import re

from ftlab.course import catalogue
from ftlab.errors import UsageError
from ftlab.files import atomic_write_text, read_json, write_json

SETTING = catalogue.PACKAGE / "course" / "repository.json"
# The texts of a checkout that link to it; what is built from the setting is not among them.
LINKING = ("README.md", "CITATION.cff", "pyproject.toml", "docs/*.md", "docker/**/*")
_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


def read():
    """OWNER/NAME."""
    return read_json(SETTING)["repository"]


def check(name):
    """Raise UsageError unless `name` is OWNER/NAME."""
    if not _NAME.fullmatch(name) or name.endswith(".git"):
        raise UsageError(f"{name!r} is no repository on GitHub: give OWNER/NAME, without https:// and .git")


def change(name):
    """Make `name`, OWNER/NAME, the setting, and let every text that links to the old one link to it.

    The notebooks are left to the build. Returns the paths that changed, relative to the checkout.
    """
    check(name)
    old = read()
    link = re.compile(rf"(?<=github\.com/){re.escape(old)}(?![\w-])|(?<=\.com/github/){re.escape(old)}(?![\w-])")
    changed = []
    for path in sorted(path for pattern in LINKING for path in catalogue.ROOT.glob(pattern) if path.is_file()):
        text = path.read_bytes().decode("utf-8")
        if link.search(text):
            atomic_write_text(path, link.sub(name, text))
            changed.append(path)
    if name != old:
        write_json(SETTING, {"repository": name})
        changed.append(SETTING)
    return [str(path.relative_to(catalogue.ROOT)) for path in changed]
