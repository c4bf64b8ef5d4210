"""Tables: their columns, lateness, overrides, and cells that are no formulas."""

import csv
import datetime
import io
import os
import shutil

import pytest
from grade import fake_class
from grade.fake_class import CONTENT, GRADER, LAB, write

from ftlab.errors import UsageError
from ftlab.files import read_json
from ftlab.grade.batch import grade_class
from ftlab.grade.gradebook import Rules, number, parse_deadline, parse_penalty, read_overrides, text_cell

DEADLINE = datetime.datetime(2026, 12, 1, 23, 59, tzinfo=datetime.UTC)
DUE, DAY = DEADLINE.timestamp(), 86400


def grade(tmp_path, rules=None, **options):
    return grade_class(tmp_path / "class", tmp_path / "out", secret="a secret of the tests", grader=GRADER, content=CONTENT,
                       rules=rules, **options)  # fmt: skip


def table(tmp_path, name):
    with open(tmp_path / "out" / name, encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def test_the_tables_columns(tmp_path):
    write(tmp_path / "class", "ada", {"layer": "full", "start": "partial"})
    write(tmp_path / "class", "ada", {"alpaca": "full"}, lab="04_instruction_tuning")
    write(tmp_path / "class", "bob", {"layer": "mistake: swapped"})
    grade(tmp_path)
    grades = table(tmp_path, "grades.csv")
    assert grades[0] == ["student", "lab", "exercise", "points", "max_points", "status", "message"]
    assert ["ada", LAB, "start", "2.25", "3", "partial", "It is partial."] in grades
    assert [row[:3] for row in grades[1:3]] == [["ada", "04_instruction_tuning", "alpaca"],
                                                ["ada", "04_instruction_tuning", "label_mask"]]  # fmt: skip
    assert table(tmp_path, "gradebook.csv") == [
        ["student", "04_instruction_tuning", LAB, "total"],
        ["ada", "3", "7.25", "10.25"],
        ["bob", "", "0", "0"],
    ]
    assert table(tmp_path, "canvas.csv")[:2] == [
        ["Student", "ID", "SIS User ID", "SIS Login ID", "Section", "04_instruction_tuning", LAB],
        ["    Points Possible", "", "", "", "", "20", "22"],
    ]
    assert table(tmp_path, "canvas.csv")[2] == ["ada", "", "", "ada", "", "3", "7.25"]
    assert table(tmp_path, "moodle.csv") == [["username", "04_instruction_tuning", LAB], ["ada", "3", "7.25"], ["bob", "", "0"]]
    assert not list((tmp_path / "out").glob("moodle-*.csv"))


def test_downloads_give_their_systems_numbers_back(tmp_path):
    moodle = write(tmp_path / "class", "Ada Lovelace_77123_assignsubmission_file_", {"layer": "full"})
    assert moodle.exists()
    path = write(tmp_path / "other", "x", {"start": "full"})
    path.rename(tmp_path / "class" / f"turingalan_LATE_4242_99001_{LAB}.ipynb")
    grade(tmp_path)
    assert table(tmp_path, f"moodle-{LAB}.csv") == [
        ["Identifier", "Full name", "Grade", "Maximum grade", "Last modified (grade)", "Feedback comments"],
        ["Participant 77123", "Ada Lovelace", "5", "22", "-", "1 of 6 exercises right"],
    ]
    assert ["turingalan", "4242", "", "", "", "3"] in table(tmp_path, "canvas.csv")
    assert [row[0] for row in table(tmp_path, "moodle.csv")] == ["username", "turingalan_4242"]


@pytest.mark.parametrize("name", ["=HYPERLINK(1)", "+1", "-1", "@SUM(A1)", "|x", "%x"])
def test_what_a_student_named_is_no_formula(tmp_path, name):
    write(tmp_path / "class", name, {"layer": "mistake: swapped"})
    grade(tmp_path)
    for file in ("grades.csv", "gradebook.csv", "canvas.csv", "moodle.csv"):
        cells = [cell for row in table(tmp_path, file)[1:] for cell in row]
        assert f"'{name}" in cells and not [cell for cell in cells if cell[:1] in ("=", "+", "-", "@", "|")]
    # As it stands in the table, the name can be written into the overrides.
    (tmp_path / "out" / "overrides.csv").write_text(f"student,lab,exercise,points,reason\n'{name},{LAB},layer,5,fine\n")
    assert grade(tmp_path)["submissions"][0]["points"] == 5


@pytest.mark.parametrize(("text", "cell"), [
    ("two\nlines", "two / lines"), ("\r\n=1", "'=1"), ("\t=1", "'=1"), ("\x00=1", "'=1"), ("a=1", "a=1"), ("", ""),
    ("\u2028-1", "'-1"), (" +1", "'+1"),
])  # fmt: skip
def test_a_cell_is_one_line_and_no_formula(text, cell):
    assert text_cell(text) == cell
    assert len(list(csv.reader(io.StringIO(cell)))) <= 1


def test_numbers_are_plain():
    assert [number(value) for value in (None, 0, 2.0, 7.25, 1 / 3, 1e-9, 100.0)] == ["", "0", "2", "7.25", "0.3333", "0", "100"]


# Lateness


@pytest.mark.parametrize(("seconds", "periods", "share"), [
    (1, 1, 0.1), (DAY, 1, 0.1), (DAY + 1, 2, 0.2), (9.5 * DAY, 10, 1.0), (400 * DAY, 400, 1.0),
])  # fmt: skip
def test_each_day_begun_costs_a_share_of_the_full_points(seconds, periods, share):
    found = Rules(DEADLINE, 0.1).late(DUE + seconds)
    assert (found["periods"], found["share"]) == (periods, share)


def test_in_time_is_not_late():
    rules = Rules(DEADLINE, 0.1)
    assert rules.late(DUE) is None and rules.late(DUE - 1) is None and Rules().late(DUE + 10) is None
    # A download's files have the download's time: the LMS's word counts, and where it says nothing, nothing does.
    assert rules.late(DUE + 10 * DAY, "canvas", False) is None and rules.late(DUE + 10 * DAY, "moodle") is None
    assert rules.late(DUE + 10 * DAY, "canvas", True) == {"seconds": None, "periods": 0, "share": 0.0}
    assert Rules(DEADLINE, 0.02, "hour").late(DUE + 3601)["share"] == 0.04


def test_lateness_is_in_the_gradebook_and_not_in_the_grades(tmp_path):
    write(tmp_path / "class", "ada", {"layer": "full", "merge": "full"}, modified=DUE + DAY + 5)
    write(tmp_path / "class", "bob", {"layer": "full", "merge": "full"}, modified=DUE)
    write(tmp_path / "class", "cy", {"count": "full"}, modified=DUE + 30 * DAY)
    run = grade(tmp_path, Rules(DEADLINE, 0.1))
    assert table(tmp_path, "gradebook.csv")[1:] == [["ada", "3.6", "3.6"], ["bob", "8", "8"], ["cy", "0", "0"]]
    assert ["ada", LAB, "layer", "5", "5", "full", ""] in table(tmp_path, "grades.csv")
    ada = run["submissions"][0]
    assert (ada["points"], ada["graded_points"], ada["points_off"], ada["late"]["periods"]) == (3.6, 8, 4.4, 2)
    page = (tmp_path / "out" / "feedback" / "ada" / f"{LAB}.html").read_text()
    assert "3.6 of 22 points" in page and "Handed in 1 day after the deadline; 4.4 points were taken off" in page
    # Lateness changes no result: another rule needs no other grading.
    assert grade(tmp_path)["counts"]["graded"] == 0


def test_a_download_is_late_by_the_lmss_word_and_never_by_its_files_times(tmp_path):
    (tmp_path / "class").mkdir()
    for name in (f"turingalan_LATE_4242_99001_{LAB}.ipynb", f"lovelaceada_4243_99002_{LAB}.ipynb",
                 f"Grace Hopper_77_assignsubmission_file_{LAB}.ipynb"):  # fmt: skip
        path = write(tmp_path / "other", "x", {"layer": "full"})
        os.utime(path, (DUE + 3 * DAY, DUE + 3 * DAY))  # when the instructor fetched them
        path.rename(tmp_path / "class" / name)
    run = grade(tmp_path, Rules(DEADLINE, 0.1))
    assert {line["student"]: (line["points"], bool(line["late"])) for line in run["submissions"]} == {
        "turingalan_4242": (5, True), "lovelaceada_4243": (5, False), "Grace Hopper_77": (5, False)}  # fmt: skip
    assert run["late_unknown"] == 1, "Moodle says nothing"
    assert "late by lms" in (tmp_path / "out" / "report.html").read_text()


def test_grades_of_another_lab_are_not_replaced(tmp_path):
    write(tmp_path / "class", "ada", {"layer": "full"})
    grade(tmp_path)
    (tmp_path / "class" / "ada" / f"{LAB}.ipynb").unlink()
    write(tmp_path / "class", "ada", {}, lab="09_shootout")
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    with pytest.raises(UsageError, match=f"holds the grades of {LAB}.*name another --out"):
        grade(tmp_path)
    assert {path: path.read_bytes() for path in before} == before


def test_grades_of_people_who_are_not_there_are_not_dropped(tmp_path):
    for name in ("ada", "bob"):
        write(tmp_path / "class", name, {"layer": "full"})
    (tmp_path / "class" / "cy").mkdir()
    grade(tmp_path)
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    shutil.rmtree(tmp_path / "class" / "bob")
    shutil.rmtree(tmp_path / "class" / "cy")
    with pytest.raises(UsageError, match=r"holds the grades of 1 who is not handed in here: bob \(06_lora\)"):
        grade(tmp_path)
    assert {path: path.read_bytes() for path in before} == before
    write(tmp_path / "class", "bob", {"layer": "wrong"})
    assert "not here: cy" in grade(tmp_path)["notices"][0], "who had no grade does not stop a run"


def test_who_handed_in_another_lab_has_a_row_of_the_one_that_is_asked_for(tmp_path):
    write(tmp_path / "class", "ada", {"layer": "full"})
    write(tmp_path / "class", "ada", {}, lab="09_shootout")
    write(tmp_path / "class", "bob", {}, lab="09_shootout")
    (tmp_path / "class" / "cy").mkdir()
    run = grade(tmp_path, labs=[LAB])
    assert [(line["student"], line["lab"], line["status"]) for line in run["submissions"]] == [
        ("ada", LAB, "graded"), ("bob", LAB, "malformed"), ("cy", LAB, "malformed")]  # fmt: skip
    assert "nothing handed in for 06_lora: there is 09_shootout" in run["submissions"][1]["message"]
    assert run["people"] == {"all": 3, "graded": 1, "malformed": 2}
    assert "1 graded, 2 with nothing" in (tmp_path / "out" / "report.html").read_text()
    assert [row[0] for row in table(tmp_path, "gradebook.csv")[1:]] == ["ada", "bob", "cy"]
    # Points for who has nothing that can be read reach the gradebook.
    (tmp_path / "out" / "overrides.csv").write_text("student,lab,exercise,points,reason\ncy,06_lora,,4,by mail\n")
    grade(tmp_path, labs=[LAB])
    assert table(tmp_path, "gradebook.csv")[3] == ["cy", "4", "4"]


def test_an_lms_whose_names_tell_the_time_is_late_by_it(tmp_path):
    (tmp_path / "class").mkdir()
    for name in (f"Lab_ada_attempt_2026-12-01-23-59-40_{LAB}.ipynb", f"Lab_bob_attempt_2026-12-02-00-00-00_{LAB}.ipynb"):
        write(tmp_path / "other", "x", {"layer": "full"}).rename(tmp_path / "class" / name)
    run = grade(tmp_path, Rules(parse_deadline("2026-12-01T23:59")))
    late = {line["student"]: line["late"] and line["late"]["seconds"] for line in run["submissions"]}
    assert late == {"ada": None, "bob": 1}
    assert run["late_unknown"] == 0


@pytest.mark.parametrize("text", ["2026-11-30T23:59", "2026-11-30 23:59", "20261130T2359", "2026-11-30"])
def test_a_deadline_includes_its_minute(text):
    rules = Rules(parse_deadline(text))
    end = datetime.datetime(2026, 11, 30, 23, 59, 59).timestamp()
    assert rules.late(end + 0.9) is None and rules.late(end + 1)["seconds"] == 1
    assert Rules(parse_deadline("2026-11-30T23:59:00")).late(end) is not None


def test_git_takes_nothing_of_what_is_written(tmp_path):
    write(tmp_path / "class", "ada", {"layer": "full"})
    grade(tmp_path)
    assert (tmp_path / "out" / ".gitignore").read_text() == "*\n"


@pytest.mark.parametrize("text", ["2026-12-01T23:59", "2026-12-01 23:59", "2026-12-01"])
def test_a_deadline_without_a_zone_is_local(text):
    found = parse_deadline(text)
    assert found.utcoffset() is not None and found.replace(tzinfo=None).strftime("%d %H:%M") == "01 23:59"


def test_a_deadline_with_a_zone_keeps_its_moment():
    assert parse_deadline("2026-12-01T23:59:00+00:00") == DEADLINE
    assert parse_penalty("10%/day") == (0.1, "day") and parse_penalty(" 2.5 % / hour ") == (0.025, "hour")


@pytest.mark.parametrize("text", ["10", "10%", "10/day", "0%/day", "101%/day", "-1%/day", "10%/week", "nan%/day"])
def test_a_penalty_that_is_none_is_said(text):
    with pytest.raises(UsageError, match="write it as 10%/day"):
        parse_penalty(text)


# The instructor's own points, and handing in again


def overrides(tmp_path, *lines):
    (tmp_path / "out").mkdir(exist_ok=True)
    (tmp_path / "out" / "overrides.csv").write_text("student,lab,exercise,points,reason\n" + "".join(f"{x}\n" for x in lines))


def test_overrides_come_last_and_the_student_sees_why(tmp_path):
    write(tmp_path / "class", "ada", {"layer": "full", "merge": "wrong"}, modified=DUE + 5)
    write(tmp_path / "class", "bob", {"layer": "full"})
    (tmp_path / "class" / "cy").mkdir()
    (tmp_path / "class" / "cy" / f"{LAB}.ipynb").write_text("{")
    overrides(tmp_path, f"ada,{LAB},merge,2.5,right idea <b>", f"bob,{LAB},,20,oral exam", f'cy,{LAB},,7,"on paper, to me"')
    run = grade(tmp_path, Rules(DEADLINE, 0.1))
    # 5 points, less a tenth of 22, and the 2.5 on top.
    assert table(tmp_path, "gradebook.csv")[1:] == [["ada", "5.3", "5.3"], ["bob", "20", "20"], ["cy", "7", "7"]]
    row = next(row for row in table(tmp_path, "grades.csv") if row[:3] == ["ada", LAB, "merge"])
    assert row[3:6] == ["2.5", "3", "wrong"] and row[6] == "Set by your instructor: right idea <b> (before: It is wrong.)"
    page = (tmp_path / "out" / "feedback" / "ada" / f"{LAB}.html").read_text()
    assert "Set by your instructor: right idea &lt;b&gt;" in page and "2.5 of 3" in page
    assert "oral exam" in (tmp_path / "out" / "feedback" / "bob" / f"{LAB}.html").read_text()
    assert [line["status"] for line in run["submissions"]] == ["graded", "graded", "malformed"]
    # Without its line, an override is gone, and nothing was graded for it.
    overrides(tmp_path)
    assert grade(tmp_path)["counts"]["graded"] == 0
    assert table(tmp_path, "gradebook.csv")[1] == ["ada", "5", "5"]


@pytest.mark.parametrize(("line", "problem"), [
    (f"eve,{LAB},layer,1,x", "no submission of 'eve'"), ("ada,01,layer,1,x", "no submission of 'ada' for '01'"),
    (f"ada,{LAB},nothing,1,x", "has no exercise 'nothing'"), (f"ada,{LAB},layer,many,x", "'many' is no number"),
    (f"ada,{LAB},layer,-1,x", "is no number"), (f"ada,{LAB},layer,inf,x", "is no number"),
    (f"ada,{LAB},layer,1", "the columns must be student,lab,exercise,points,reason"),
    (f"ada,{LAB},layer,1,x,y", "the columns must be"),
])  # fmt: skip
def test_an_override_that_does_not_fit_is_said_with_its_line(tmp_path, line, problem):
    write(tmp_path / "class", "ada", {"layer": "full"})
    overrides(tmp_path, line)
    with pytest.raises(UsageError, match="line 2: ") as told:
        grade(tmp_path)
    assert problem in str(told.value)


def test_overrides_with_a_byte_order_mark_and_names_with_commas(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text(f'\ufeffstudent,lab,exercise,points,reason\n"Love, Ada",{LAB},layer,1, fine \n', encoding="utf-8")
    assert read_overrides(path, {("Love, Ada", LAB)}) == {("Love, Ada", LAB): {"layer": (1.0, "fine")}}


def test_the_best_of_what_was_handed_in_counts_when_asked(tmp_path):
    write(tmp_path / "class", "ada", {"layer": "full"}, modified=DUE - 5)
    grade(tmp_path, Rules(DEADLINE, 0.1))
    write(tmp_path / "class", "ada", {"layer": "full", "count": "full"}, modified=DUE + 5)  # 7 points, less 2.2
    run = grade(tmp_path, Rules(DEADLINE, 0.1))
    assert (run["submissions"][0]["points"], run["submissions"][0]["kept_earlier"]) == (4.8, False)
    run = grade(tmp_path, Rules(DEADLINE, 0.1, keep_best=True))
    assert (run["submissions"][0]["points"], run["submissions"][0]["kept_earlier"]) == (5, True)
    assert "An earlier submission of yours had more points" in (tmp_path / "out/feedback/ada" / f"{LAB}.html").read_text()
    # Without the late rule the later one is better.
    run = grade(tmp_path, Rules(keep_best=True))
    assert (run["submissions"][0]["points"], run["submissions"][0]["kept_earlier"]) == (7, False)
    # What was graded with another secret does not stand in.
    write(tmp_path / "class", "ada", {"layer": "wrong"})
    assert grade(tmp_path, Rules(keep_best=True))["submissions"][0]["points"] == 7
    run = grade_class(tmp_path / "class", tmp_path / "out", secret="another secret", grader=GRADER, content=CONTENT,
                      rules=Rules(keep_best=True))  # fmt: skip
    assert run["submissions"][0]["points"] == 0


def test_run_json_tells_no_secret_and_no_host(tmp_path):
    import platform

    write(tmp_path / "class", "ada", {"layer": "full"})
    grade(tmp_path)
    run = read_json(tmp_path / "out" / "run.json")
    assert {"machine", "finished", "counts", "people", "notices", "seconds", "versions", "flags", "submissions", "walls",
            "late_unknown"} == set(run)  # fmt: skip
    said = str(run)
    assert "a secret of the tests" not in said and platform.node() not in said.split("'") and str(tmp_path) not in said
    assert fake_class.points_of({"layer": "full"}) == run["submissions"][0]["points"] == 5
