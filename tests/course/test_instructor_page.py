"""docs/instructor.md agrees with the course: minutes, points, names of exercises and mistakes, what the ledger says."""

import re

import pytest

from ftlab.cli import build_parser
from ftlab.course import catalogue
from ftlab.course.release import title
from ftlab.measure.claims import ledger_row

PAGE = (catalogue.ROOT / "docs" / "instructor.md").read_text(encoding="utf-8")
GENERAL, _, LABS = PAGE.partition("## The labs, one by one")
CLAIM = re.compile(r"\b[CMX]\d\d[a-z]?\b")


def section(lab):
    """The lab's section, one line a paragraph or item."""
    (found,) = re.findall(rf"^### {lab[:2]} · .*?(?=^### |\Z)", LABS, re.M | re.S)
    return re.sub(r"(?<!\n)\n(?!\n|- |\d\. ) *", " ", found)


def part(lab, name):
    return re.search(rf"\*\*{name}\*\*(.*?)(?=\n\*\*|\Z)", section(lab), re.S).group(1)


def sums(lab):
    items = catalogue.exercises(lab).values()
    return len(items), sum(item.minutes for item in items), f"{sum(item.points for item in items):g}"


@pytest.fixture(scope="module")
def ledger():
    """{claim id: row of the ledger} of all labs."""
    return {claim.id: ledger_row(claim, catalogue.STUDIES) for lab in catalogue.lab_names() for claim in catalogue.claims(lab)}


@pytest.mark.parametrize("lab", catalogue.lab_names())
def test_each_lab_has_its_title_and_sums(lab):
    exercises, minutes, points = sums(lab)
    assert section(lab).startswith(f"### {lab[:2]} · {title(lab)}\n")
    assert f"\n{exercises} exercises, {minutes} minutes, {points} points.\n" in section(lab)
    (row,) = re.findall(rf"^\| {lab[:2]} [^|]*\|(.*)\|[^|]*\|$", GENERAL, re.M)
    assert [cell.strip() for cell in row.split("|")] == [str(exercises), str(minutes), points]


def test_the_courses_sums():
    rows = re.findall(r"^\| [^|]+ \| ((?:\d\d ?)+) \| (\d+) \|$", GENERAL, re.M)
    assert len(rows) == 5
    for labs, minutes in rows:
        assert int(minutes) == sum(sums(lab)[1] for lab in catalogue.find_labs(labs.split())), labs


@pytest.mark.parametrize("lab", catalogue.lab_names())
def test_each_lab_has_aims_and_questions(lab):
    assert re.findall(r"\((\d)\)", part(lab, r"Aims\.")) in [list("123456"[:n]) for n in range(3, 7)]
    questions = re.findall(r"^(\d)\. \*(.+?)\*", part(lab, r"To discuss\."), re.M)
    assert [number for number, _ in questions] in [list("123456"[:n]) for n in range(4, 7)]


@pytest.mark.parametrize("lab", catalogue.lab_names())
def test_errors_are_those_that_the_checks_know(lab):
    exercises = catalogue.exercises(lab)
    mistakes = {mistake for item in exercises.values() for mistake in item.mistakes}
    errors = part(lab, r"Common errors\.")
    named = set(re.findall(r"`([a-zA-Z_]+)`", errors)) - {"q_proj_norm"}
    assert named <= mistakes | set(exercises), f"{lab}: {named - mistakes - set(exercises)}"
    assert len(named & mistakes) >= 8
    for item in exercises.values():
        assert item.id in named or named & set(item.mistakes), f"{lab}: nothing on {item.id}"


@pytest.mark.parametrize("lab", catalogue.lab_names())
def test_what_does_not_hold_is_what_the_ledger_says(lab, ledger):
    broken = [id for id, row in ledger.items() if row["lab"] == lab and row["holds"] is False]
    failing = part(lab, r"Claims that do not hold\.")
    assert sorted(re.findall(r"^- \*\*(\w+)\*\*", failing, re.M)) == sorted(broken)
    assert failing.strip().startswith("None.") == (not broken)
    text = section(lab)
    assert set(CLAIM.findall(text)) <= set(ledger)
    others = set(CLAIM.findall(text)) - set(broken)
    assert {id for id in others if ledger[id]["holds"] is False} == set()


def test_reports_are_called_so(ledger):
    for lab in catalogue.lab_names():
        text = part(lab, r"Claims that do not hold\.")
        for id in re.findall(r"\b([CMX]\d\d[a-z]?)(?: and ([CMX]\d\d[a-z]?))? (?:are|is a) reports?", text):
            assert all(ledger[name]["holds"] is None for name in id if name)


def test_flags_are_those_of_grading():
    sources = "\n".join(path.read_text(encoding="utf-8") for path in (catalogue.PACKAGE / "grade").glob("*.py"))
    if not sources:
        pytest.skip("this checkout has no grading")
    raised = set(re.findall(r"flag\(\s*\"([a-z_]+)\"|\"kind\": \"([a-z_]+)\", \"exercise\"", sources))
    raised = {name for pair in raised for name in pair if name} - {"malformed"}
    rows = re.findall(r"^\| (`.+?) \|", PAGE.partition("| flag |")[2].partition("\n\n")[0], re.M)
    told = {name for row in rows for name in re.findall(r"`([a-z_]+)`", row)}
    assert told == raised


def test_the_readme_leads_here():
    assert "(docs/instructor.md)" in (catalogue.ROOT / "README.md").read_text(encoding="utf-8")


def test_links_and_commands_exist():
    anchors = {re.sub(r"[^\w\- ]", "", line.lower()).strip().replace(" ", "-")
               for line in re.findall(r"^#+ (.+)$", PAGE, re.M)}  # fmt: skip
    assert set(re.findall(r"\]\(#([^)]+)\)", PAGE)) <= anchors
    commands = build_parser()._subparsers._group_actions[0].choices
    for line in re.findall(r"^(ftlab .+)$", PAGE, re.M) + re.findall(r"`(ftlab [^`]+)`", PAGE.replace("\n", " ")):
        name, *words = line.removeprefix("ftlab ").split()
        if name == "grade" and name not in commands:
            continue  # a checkout without grading
        assert name in commands, line
        known = {option for action in commands[name]._actions for option in action.option_strings}
        assert {word.split("=")[0] for word in words if word.startswith("--")} <= known, line


def test_grades_options_exist():
    commands = build_parser()._subparsers._group_actions[0].choices
    if "grade" not in commands:
        pytest.skip("this checkout has no grading")
    known = {option for action in commands["grade"]._actions for option in action.option_strings}
    rows = re.findall(r"^\| `(--[a-z-]+)", PAGE.partition("| option | does |")[2].partition("\n\n")[0], re.M)
    assert set(rows) == known - {"-h", "--help", "--debug", "--json", "--out"}
