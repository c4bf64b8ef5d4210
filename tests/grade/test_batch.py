"""The batch: every submission gets one row, each content is graded once, and a run that is stopped goes on."""

import contextlib
import csv
import json
import os
import pathlib
import random
import signal
import stat
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest
from grade import fake_class
from grade.fake_class import CONTENT, GRADER, LAB, write

from ftlab import cli
from ftlab.course import catalogue
from ftlab.errors import NotHeld, UsageError
from ftlab.files import read_json
from ftlab.grade import batch, cache, one
from ftlab.grade.batch import grade_class

ROOT = pathlib.Path(__file__).resolve().parents[2]
IDS = list(catalogue.exercises(LAB))


def grade(tmp_path, **options):
    options = {"secret": "a secret of the tests", "grader": GRADER, "content": CONTENT} | options
    return grade_class(tmp_path / "class", tmp_path / "out", **options)


def rows(out, name="grades.csv"):
    with open(pathlib.Path(out) / name, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def key_of_60(folder):
    """A class of 60 with mixed answers; {student: {exercise: verdict}}."""
    rng, key = random.Random(1), {}
    for number in range(60):
        verdicts = {}
        for id, exercise in catalogue.exercises(LAB).items():
            mistakes = [f"mistake: {name}" for name in exercise.mistakes]
            verdicts[id] = rng.choice(["full", "full", "full", "partial", "wrong", "error", "timeout", *mistakes])
            verdicts[id] += f"\n{number}"  # no two alike
        key[f"student{number:02}"] = verdicts
        write(folder, f"student{number:02}", verdicts)
    return key


def test_a_class_of_60_comes_out_exactly_as_its_key(tmp_path):
    key = key_of_60(tmp_path / "class")
    run = grade(tmp_path)
    got = {(row["student"], row["exercise"]): (row["status"], float(row["points"])) for row in rows(tmp_path / "out")}
    want = {}
    for student, verdicts in key.items():
        for id, exercise in catalogue.exercises(LAB).items():
            row = fake_class.row(exercise, verdicts[id])
            want[student, id] = (row["status"], row["points"])
    assert got == want
    assert len(rows(tmp_path / "out")) == 60 * len(IDS)
    totals = {row["student"]: float(row["total"]) for row in rows(tmp_path / "out", "gradebook.csv")}
    assert totals == {student: fake_class.points_of(verdicts) for student, verdicts in key.items()}
    assert run["counts"] == {"submissions": 60, "graded": 60, "reused": 0, "identical": 0, "malformed": 0, "failed": 0}
    assert len(list((tmp_path / "out" / "feedback").glob("*/*.html"))) == 60
    assert read_json(tmp_path / "out" / "run.json") == run


def test_a_second_run_grades_only_what_changed(tmp_path, monkeypatch):
    log = tmp_path / "log"
    monkeypatch.setenv("FTLAB_FAKE_LOG", str(log))
    for name in ("ada", "bob", "cy"):
        write(tmp_path / "class", name, {"layer": f"full\n{name}"})
    grade(tmp_path)
    first = (tmp_path / "out" / "grades.csv").read_text()
    assert grade(tmp_path)["counts"]["reused"] == 3
    assert (tmp_path / "out" / "grades.csv").read_text() == first
    write(tmp_path / "class", "bob", {"layer": "wrong\nbob"})
    counts = grade(tmp_path)["counts"]
    assert (counts["graded"], counts["reused"]) == (1, 2)
    assert len(log.read_text().splitlines()) == 2 * 4
    # Another secret, and no walls, are other results.
    assert grade(tmp_path, secret="another secret")["counts"]["graded"] == 3
    assert grade(tmp_path, mode="unsafe")["counts"]["graded"] == 3


def test_identical_submissions_are_run_once_and_each_has_its_own_row(tmp_path):
    for name in ("ada", "bob", "cy"):
        write(tmp_path / "class", name, {"layer": "full", "start": "wrong"})
    # Outputs do not count: they are nothing that the grader takes from a submission.
    path = tmp_path / "class" / "bob" / f"{LAB}.ipynb"
    path.write_text(path.read_text().replace('"outputs": []', '"outputs": [{"output_type": "stream", "name": "stdout", '
                                                              '"text": "x"}]'))  # fmt: skip
    counts = grade(tmp_path)["counts"]
    assert (counts["graded"], counts["identical"]) == (1, 2)
    assert [row["student"] for row in rows(tmp_path / "out") if row["exercise"] == "layer"] == ["ada", "bob", "cy"]
    assert {row["total"] for row in rows(tmp_path / "out", "gradebook.csv")} == {"5"}
    assert "bob" in (tmp_path / "out/feedback/bob" / f"{LAB}.html").read_text()


def test_what_cannot_be_read_is_for_review_and_the_others_are_graded(tmp_path):
    write(tmp_path / "class", "ada", {"layer": "full"})
    for name, text in {"bob": "{", "cy": "[]"}.items():
        (tmp_path / "class" / name).mkdir()
        (tmp_path / "class" / name / f"{LAB}.ipynb").write_text(text)
    write(tmp_path / "class", "dan", {"layer": "full"}, file="homework.ipynb")
    run = grade(tmp_path)
    assert run["counts"]["malformed"] == 3 and run["counts"]["graded"] == 1
    by_student = {row["student"]: row for row in rows(tmp_path / "out", "gradebook.csv")}
    assert by_student["ada"][LAB] == "5" and by_student["bob"][LAB] == "" and by_student["dan"]["total"] == "0"
    found = rows(tmp_path / "out")
    assert {row["status"] for row in found if row["student"] == "bob"} == {"malformed"}
    assert "names no lab" in next(row["message"] for row in found if row["student"] == "dan")
    # Of one assignment's folder: dan's row is of its lab, so that overrides.csv can give points for it.
    assert {"ada", "bob", "cy", "dan"} == {line["student"] for line in run["submissions"] if line["lab"] == LAB}
    assert run["people"] == {"all": 4, "graded": 1, "malformed": 3}


def test_a_grader_that_fails_costs_retries_and_no_grade(tmp_path, monkeypatch):
    log = tmp_path / "log"
    monkeypatch.setenv("FTLAB_FAKE_LOG", str(log))
    write(tmp_path / "class", "ada", {"layer": "boom"})
    write(tmp_path / "class", "bob", {"layer": "full"})
    run = grade(tmp_path)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert sum(what == "begin" and text == "boom" for what, _, text in lines) == 1 + batch.RETRIES
    ada, bob = run["submissions"]
    assert ada["status"] == "malformed" and "boom" in ada["message"] and ada["points"] is None
    assert bob["points"] == 5
    assert grade(tmp_path)["counts"]["failed"] == 1  # it is not kept: the next run tries again


def test_where_no_sandbox_works_nothing_is_graded(tmp_path):
    write(tmp_path / "class", "ada", {"layer": "refuse"})
    with pytest.raises(UsageError, match="install bubblewrap"):
        grade(tmp_path)
    assert not (tmp_path / "out" / "grades.csv").exists()


@pytest.mark.parametrize("spoil", [
    lambda result: result["exercises"][0].update(points=99.0),
    lambda result: result["exercises"][0].update(points=-1.0),
    lambda result: result.update(points=0.5),
    lambda result: result["exercises"].pop(),
    lambda result: result["exercises"].append(result["exercises"][0]),
])  # fmt: skip
def test_a_result_that_cannot_be_is_refused(tmp_path, spoil):
    path = write(tmp_path, "ada", {"layer": "full"})
    result = fake_class.grade(path, "ada", LAB, "", "auto", [])
    batch.check_result(result, LAB)
    spoil(result)
    with pytest.raises(NotHeld):
        batch.check_result(result, LAB)


def test_half_characters_and_not_a_numbers_do_no_harm(tmp_path):
    write(tmp_path / "class", "ada", {"layer": "full\n\ud800"})
    assert grade(tmp_path)["submissions"][0]["points"] == 5
    reply = json.loads(batch.work(json.dumps({"lab": LAB, "release": "other"}), b""))
    assert "another release" in reply["refused"]


def test_damaged_results_and_journal_lines_are_graded_again(tmp_path):
    for name in ("ada", "bob"):
        write(tmp_path / "class", name, {"layer": f"full\n{name}"})
    grade(tmp_path)
    results = [path for path in (tmp_path / "out" / ".cache").glob("*.json") if path.name != "attempts.json"]
    assert len(results) == 2
    results[0].write_text('{"exerc')
    (tmp_path / "out" / ".cache" / "attempts.json").write_text("[")
    with open(tmp_path / "out" / ".cache" / "journal.jsonl", "a") as file:
        file.write('{"file": "abc", "k')  # cut off by a kill
    counts = grade(tmp_path)["counts"]
    assert (counts["graded"], counts["reused"]) == (1, 1)
    assert all("key" in line or "graded" in line for line in cache.Store(tmp_path / "out").lines())


def test_two_graders_do_not_write_to_one_folder(tmp_path):
    write(tmp_path / "class", "ada", {"layer": "full"})
    (tmp_path / "out").mkdir()
    with cache.Store(tmp_path / "out"), pytest.raises(UsageError, match="another ftlab grade"):
        grade(tmp_path)


def test_the_notebook_goes_to_the_grader_as_it_is_and_is_gone_afterwards(tmp_path):
    data = write(tmp_path, "ada", {"layer": "full"}).read_bytes()
    order = {"lab": LAB, "release": cache.release(LAB), "secret": "s" * 9, "mode": "auto", "hidden": [],
             "grader": "grade.test_batch:tell_path"}  # fmt: skip
    problem = json.loads(batch.work(json.dumps(order), data))["failed"]
    path = pathlib.Path(problem[problem.index("«") + 1 : problem.index("»")])
    assert path.name == f"{LAB}.ipynb" and not path.parent.exists()


def tell_path(path, student, lab, secret, mode, hidden):
    assert student == "" and fake_class.content(path, lab) == {"layer": "full"}
    raise RuntimeError(f"«{path}»")


def test_a_zip_is_graded_and_nothing_unpacked_stays(tmp_path):
    import zipfile

    path = write(tmp_path / "made", "ada", {"layer": "full"})
    with zipfile.ZipFile(tmp_path / "class", "w") as archive:
        archive.write(path, f"ada/{LAB}.ipynb")
    left = tmp_path / "out" / ".cache" / "submissions" / "1"
    left.mkdir(parents=True)  # of a run that was killed
    assert grade(tmp_path)["submissions"][0]["points"] == 5
    assert not left.parent.exists()


def test_folders_of_jobs_that_were_killed_are_swept(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for name, days in (("ftlab-job-old", 2), ("ftlab-job-new", 0.5), ("another", 9)):
        (tmp_path / name).mkdir()
        os.utime(tmp_path / name, (time.time() - days * 86400,) * 2)
    batch._sweep.cache_clear()
    batch._sweep()
    assert {path.name for path in tmp_path.iterdir()} == {"ftlab-job-new", "another"}


# Stopped and started again

DRIVER = """
import sys
from ftlab.grade.batch import grade_class
try:
    grade_class(sys.argv[1], sys.argv[2], jobs=int(sys.argv[3]), secret="a secret of the tests",
                grader="grade.fake_class:grade", content="grade.fake_class:content")
except KeyboardInterrupt:
    sys.exit(130)
"""


def start(tmp_path, seconds, jobs=1):
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    environment = dict(os.environ, PYTHONPATH=path, FTLAB_FAKE_SECONDS=str(seconds), FTLAB_FAKE_LOG=str(tmp_path / "log"),
                       TMPDIR=str(tmp_path))  # fmt: skip
    command = [sys.executable, "-c", DRIVER, str(tmp_path / "class"), str(tmp_path / "out"), str(jobs)]
    # Tests that run in a shell's background inherit an ignored SIGINT.
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True,
                            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))


def log_of(tmp_path):
    path = tmp_path / "log"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def wait_for(condition, seconds=60):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not come to that"
        time.sleep(0.01)


def test_a_grader_killed_at_any_moment_loses_nothing_and_grades_nothing_twice(tmp_path):
    for number in range(16):
        write(tmp_path / "class", f"student{number:02}", {"layer": f"full\n{number}"})
    rng, kills = random.Random(0), 0
    for goal in (2, 6, 11):
        process = start(tmp_path, 0.02)
        wait_for(lambda goal=goal, process=process: len([1 for line in log_of(tmp_path) if line[0] == "end"]) >= goal)
        time.sleep(rng.random() * 0.02)
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
    assert kills == 3
    assert start(tmp_path, 0).wait() == 0
    assert sorted(row["student"] for row in rows(tmp_path / "out", "gradebook.csv")) == [f"student{n:02}" for n in range(16)]
    assert {row["total"] for row in rows(tmp_path / "out", "gradebook.csv")} == {"5"}
    # Only the job that a kill cut off can have begun twice, and each result was kept once.
    begun = [text for what, _, text in log_of(tmp_path) if what == "begin"]
    assert len(set(begun)) == 16 and len(begun) <= 16 + kills
    kept = [line["graded"] for line in cache.Store(tmp_path / "out").lines() if "graded" in line]
    assert len(kept) == len(set(kept))


def test_ctrl_c_writes_what_is_there(tmp_path):
    for number in range(6):
        write(tmp_path / "class", f"student{number}", {"layer": f"full\n{number}"})
    process = start(tmp_path, 0.3)
    wait_for(lambda: len([1 for line in log_of(tmp_path) if line[0] == "end"]) >= 2)
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 130
    run = read_json(tmp_path / "out" / "run.json")
    assert not run["finished"] and 1 <= len(run["submissions"]) < 6
    assert len(rows(tmp_path / "out", "gradebook.csv")) == len(run["submissions"])
    assert "was stopped" in (tmp_path / "out" / "report.html").read_text()
    assert start(tmp_path, 0).wait() == 0
    assert len(rows(tmp_path / "out", "gradebook.csv")) == 6


def test_a_stopped_run_keeps_the_rows_of_an_earlier_one(tmp_path, monkeypatch):
    for number in range(4):
        write(tmp_path / "class", f"student{number}", {"layer": f"full\n{number}"})
    grade(tmp_path)
    write(tmp_path / "class", "student0", {"layer": "wrong\n0"})
    monkeypatch.setattr(fake_class, "act", interrupt)
    with pytest.raises(KeyboardInterrupt):
        grade(tmp_path)
    assert [row["student"] for row in rows(tmp_path / "out", "gradebook.csv")] == ["student1", "student2", "student3"]


def interrupt(verdict):
    raise KeyboardInterrupt


# Dask


def workers_of(tmp_path):
    return {pid for _, pid, _ in log_of(tmp_path)}


def test_what_our_solution_gives_is_found_once_and_goes_along_with_the_jobs(tmp_path, monkeypatch):
    """Also to the next run; its file is the owner's alone, and not made where a kernel could read it."""
    taken = []
    monkeypatch.setattr(one, "records", lambda lab, secret: {"layer": secret[:3]})
    monkeypatch.setattr(one, "take_records", lambda lab, secret, known: taken.append((lab, known)))
    for number in range(3):
        write(tmp_path / "class", f"student{number}", {IDS[0]: f"full\n{number}"})
    grade(tmp_path)
    assert taken == [(LAB, {"layer": "a s"})] * 2, "the first has found it"
    [file] = (tmp_path / "out/.cache").glob("expected-*.json")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600 and read_json(file) == {cache.place(): {"layer": "a s"}}
    write(tmp_path / "class", "student3", {IDS[0]: "full\n3"})
    grade(tmp_path)
    assert len(taken) == 3
    monkeypatch.setattr(cache, "place", lambda: "another processor")
    write(tmp_path / "class", "student4", {IDS[0]: "full\n4"})
    grade(tmp_path)
    assert len(taken) == 3 and len(read_json(file)) == 2, "each kind of machine finds its own"
    grade(tmp_path, mode="unsafe")
    assert len(taken) == 7 and list((tmp_path / "out/.cache").glob("expected-*.json")) == [file]
    file.write_text("[")
    write(tmp_path / "class", "student5", {IDS[0]: "full\n5"})
    assert grade(tmp_path)["counts"]["graded"] == 1 and len(taken) == 7, "a damaged file counts for nothing"


def test_the_run_tells_which_walls_stood(tmp_path, monkeypatch):
    write(tmp_path / "class", "ada", {IDS[0]: "full"})
    standing = (contextlib.ExitStack(), SimpleNamespace(describe=lambda: "cold: a new Python in bubblewrap"))
    monkeypatch.setitem(batch._WALLS, "auto", standing)
    run = grade(tmp_path)
    assert run["flags"]["mode"] == "auto" and run["walls"] == ["cold: a new Python in bubblewrap"]
    assert grade(tmp_path)["walls"] == [], "nothing was graded this time"


@pytest.mark.full
def test_a_class_on_two_dask_workers_of_which_one_is_killed_half_way(tmp_path):
    for number in range(24):
        write(tmp_path / "class", f"student{number:02}", {"layer": f"full\n{number}", "start": f"wrong\n{number}"})
    process = start(tmp_path, 0.3, jobs=2)
    wait_for(lambda: len([1 for line in log_of(tmp_path) if line[0] == "end"]) >= 8)
    victim = next(pid for what, pid, _ in reversed(log_of(tmp_path)) if what == "begin")
    assert victim != process.pid
    os.kill(victim, signal.SIGKILL)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert len(workers_of(tmp_path)) == 3  # the two, and the one that came for the dead
    found = rows(tmp_path / "out")
    assert len(found) == 24 * len(IDS) and len({(row["student"], row["exercise"]) for row in found}) == len(found)
    assert {row["total"] for row in rows(tmp_path / "out", "gradebook.csv")} == {"5"}
    run = read_json(tmp_path / "out" / "run.json")
    assert run["counts"]["graded"] == 24 and run["counts"]["failed"] == 0
    begun = [text for what, _, text in log_of(tmp_path) if what == "begin"]
    assert 24 < len(begun) <= 24 + 2
    assert all(not pathlib.Path(f"/proc/{pid}").exists() for pid in workers_of(tmp_path))


@pytest.mark.full
def test_a_submission_that_kills_every_worker_is_for_review_and_costs_no_other_its_grade(tmp_path):
    write(tmp_path / "class", "ada", {"layer": "kill"})
    write(tmp_path / "class", "bob", {"layer": f"kill once {tmp_path / 'mark'}"})
    for number in range(6):
        write(tmp_path / "class", f"student{number}", {"layer": f"full\n{number}"})
    process = start(tmp_path, 0.05, jobs=2)
    _, said = process.communicate(timeout=180)
    assert process.returncode == 0, said
    run = read_json(tmp_path / "out" / "run.json")
    status = {line["student"]: (line["status"], line["points"]) for line in run["submissions"]}
    assert status.pop("ada") == ("malformed", None)
    assert set(status.values()) == {("graded", 5)} and len(status) == 7
    assert run["counts"]["failed"] == 1


@pytest.mark.full
def test_a_scheduler_elsewhere(tmp_path):
    import distributed

    for number in range(8):
        write(tmp_path / "class", f"student{number}", {"layer": f"full\n{number}"})
    with distributed.LocalCluster(n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None,
                                  protocol="tcp", host="127.0.0.1") as cluster:  # fmt: skip
        assert grade(tmp_path, scheduler=cluster.scheduler_address)["counts"]["graded"] == 8
        assert grade(tmp_path, scheduler=cluster, secret="another secret")["counts"]["graded"] == 8
        assert len(cluster.workers) == 1  # it is theirs: it stands when we go


@pytest.mark.full
def test_ctrl_c_ends_the_workers_and_writes_what_is_there(tmp_path):
    for number in range(12):
        write(tmp_path / "class", f"student{number:02}", {"layer": f"full\n{number}"})
    process = start(tmp_path, 0.5, jobs=2)
    wait_for(lambda: len([1 for line in log_of(tmp_path) if line[0] == "end"]) >= 4)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the workers, too
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "Traceback" not in said
    assert all(not pathlib.Path(f"/proc/{pid}").exists() for pid in workers_of(tmp_path))
    assert 2 <= len(read_json(tmp_path / "out" / "run.json")["submissions"]) < 12


def test_no_scheduler_there_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr("ftlab.grade.on_dask.CONNECT_SECONDS", 0.5)
    write(tmp_path / "class", "ada", {"layer": "full"})
    for address in ("tcp://127.0.0.1:9", "nonsense://x", "127.0.0.1:nine"):
        with pytest.raises(UsageError, match="no Dask scheduler answers at") as told:
            grade(tmp_path, scheduler=address)
        assert "\n" not in str(told.value)


# Places, secrets, the command


def command(tmp_path, *more):
    return cli.main(["grade", str(tmp_path / "class"), "--out", str(tmp_path / "out"), *more])


@pytest.mark.parametrize(("prepare", "more", "line"), [
    (lambda at: (at / "class").rename(at / "other"), [], "no folder or zip at"),
    (lambda at: [p.unlink() for p in (at / "class").glob("*/*")], [], "no submissions in"),
    (lambda at: (at / "out").write_text(""), [], "is a file: name a folder"),
    (None, ["--deadline", "tomorrow"], "is no date: write it as"),
    (None, ["--deadline", "2026-12-01", "--late-penalty", "10"], "write it as 10%/day"),
    (None, ["--late-penalty", "10%/day"], "needs a --deadline"),
    (None, ["--cold", "--unsafe"], "give one of them"),
    (None, ["--jobs", "2", "--scheduler", "tcp://x:1"], "give one of them"),
    (None, ["--jobs", "0"], "--jobs must be at least 1"),
    (None, ["--labs", "99"], "no lab '99'"),
    (None, ["--labs", "04"], "holds no submission for 04_instruction_tuning; it has some for 06_lora"),
    (None, ["--overrides", "nowhere.csv"], "nowhere.csv cannot be read"),
    (lambda at: (at / "out").mkdir() or (at / "out" / ".secret").touch(), [], "fewer than 8 characters"),
])  # fmt: skip
def test_usage_errors_are_one_line_and_grade_nothing(tmp_path, capsys, monkeypatch, prepare, more, line):
    monkeypatch.setattr(batch, "GRADER", None)
    write(tmp_path / "class", "ada", {"layer": "full"})
    if prepare:
        prepare(tmp_path)
    assert command(tmp_path, *more) == 2
    said = capsys.readouterr().err
    assert line in said and said.count("\n") == 1 and said.startswith("ftlab: ")
    assert not list(tmp_path.glob("out/grades.csv"))


def test_out_does_not_lie_in_the_submissions(tmp_path):
    write(tmp_path / "class", "ada", {"layer": "full"})
    for out in (tmp_path / "class", tmp_path / "class" / "ada" / "out"):
        with pytest.raises(UsageError, match="lies in the submissions"):
            grade_class(tmp_path / "class", out, secret="s" * 9)


def test_the_command_tells_what_it_did_and_where_the_secret_lies(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(batch.grade_class, "__defaults__", (*batch.grade_class.__defaults__[:-2], GRADER, CONTENT))
    monkeypatch.delenv("FTLAB_GRADE_SECRET", raising=False)
    write(tmp_path / "class", "ada", {"layer": "full"})
    (tmp_path / "class" / "bob").mkdir()
    (tmp_path / "class" / "bob" / f"{LAB}.ipynb").write_text("{")
    assert command(tmp_path) == 0
    said = capsys.readouterr().out
    assert "2 submissions: 1 graded" in said and "to look at by hand: bob, 06_lora" in said
    assert f"secret: {tmp_path / 'out' / '.secret'}" in said
    secret = (tmp_path / "out" / ".secret").read_text().strip()
    assert stat.S_IMODE((tmp_path / "out" / ".secret").stat().st_mode) == 0o600 and len(secret) == 32
    assert secret not in said
    monkeypatch.setenv("FTLAB_PROGRESS", "1")
    assert command(tmp_path, "--json") == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["counts"]["reused"] == 1
    assert "2 of 2 submissions" in told.err
    # Nothing that is written tells the secret.
    for path in (tmp_path / "out").rglob("*"):
        assert path.name == ".secret" or path.is_dir() or secret not in path.read_text()


def test_the_secret_comes_from_a_file_of_ones_own(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(batch.grade_class, "__defaults__", (*batch.grade_class.__defaults__[:-2], GRADER, CONTENT))
    write(tmp_path / "class", "ada", {"layer": "full"})
    monkeypatch.setenv("FTLAB_GRADE_SECRET", str(tmp_path / "kept" / "secret"))
    assert command(tmp_path) == 0
    made = cache.open_secret(tmp_path / "kept" / "secret")
    assert not (tmp_path / "out" / ".secret").exists()
    assert command(tmp_path, "--secret", str(tmp_path / "mine")) == 0
    assert cache.open_secret(tmp_path / "mine") != made
    capsys.readouterr()


def test_progress_has_counts_and_what_is_left(tmp_path):
    told = []
    for number in range(3):
        write(tmp_path / "class", f"student{number}", {"layer": f"full\n{number}"})
    grade(tmp_path, report=told.append)
    assert told[0].startswith("1 of 3 submissions; about ") and told[-1] == "3 of 3 submissions"


def test_memory_stays_flat(tmp_path):
    """Three times as many submissions need no more memory: results are on disk, not in the batch, the tables or the report."""
    import tracemalloc

    def peak(count):
        for number in range(count):
            write(tmp_path / f"{count}" / "class", f"student{number}", {"layer": "full\n" + "x" * 200_000 + str(number)})
        tracemalloc.start()
        try:
            grade(tmp_path / f"{count}")
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    write(tmp_path / "class", "ada", {"layer": "full"})
    grade(tmp_path)  # imports
    few, many = peak(2), peak(8)
    assert few > 200_000 and many < few + 200_000


def test_threads_need_no_main_thread(tmp_path):
    """A grader may be started from a notebook or a service: not from the main thread."""
    write(tmp_path / "class", "ada", {"layer": "full"})
    done = []
    thread = threading.Thread(target=lambda: done.append(grade(tmp_path)))
    thread.start()
    thread.join(60)
    assert done[0]["counts"]["graded"] == 1
