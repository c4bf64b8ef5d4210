"""docs/student.md agrees with the course: its commands parse, its calls exist, its words are those of the checks."""

import re

from ftlab.cli import build_parser
from ftlab.course import catalogue
from ftlab.course.lab import Lab
from ftlab.teach.display import MARKS

PAGE = (catalogue.ROOT / "docs" / "student.md").read_text(encoding="utf-8")


def test_the_commands_parse():
    commands = re.findall(r"`ftlab ([a-z][^`]*)`", PAGE)
    assert {command.split()[0] for command in commands} >= {"lab", "claims", "pretrain", "tune", "doctor"}
    for command in commands:
        build_parser().parse_args(command.split())


def test_the_calls_exist_and_name_an_exercise():
    calls = re.findall(r'lab\.(\w+)(?:\("(\w+)"\))?', PAGE)
    assert {name for name, _ in calls} >= {"hint", "reset", "use_solution", "progress", "predict"}
    assert all(callable(getattr(Lab, name)) for name, _ in calls)
    assert {id for _, id in calls if id} <= set(catalogue.exercises("02_transformer"))


def test_what_a_check_says():
    rows = re.findall(r"^ +\| (\S) ([^|]+?) \|", PAGE, re.M)
    assert {("✔", "Right"), ("○", "Not attempted")} < set(rows) <= {(symbol, word) for symbol, word, _ in MARKS.values()}


def test_its_links_lead_somewhere():
    links = re.findall(r"\]\(([^)#]+)\)", PAGE)
    assert links and all((catalogue.ROOT / "docs" / link).exists() for link in links if "://" not in link)
