"""A class graded: submissions are found, each content is graded once, here or on Dask workers, and the results written.

What goes to a worker is JSON and the notebook's bytes, what comes back is JSON: workers need no common disk, and nothing of
a student's is ever unpickled. Student code runs in the sandbox that the worker starts, never in the worker.

A result is written to disk as it comes (cache.py). A run that is killed is started again with the same command.
"""

import atexit
import collections
import contextlib
import dataclasses
import functools
import importlib
import json
import math
import pathlib
import shutil
import tempfile
import time

from ftlab.course import catalogue
from ftlab.errors import NotHeld, UsageError
from ftlab.files import atomic_write_text, read_json, write_json
from ftlab.grade import cache, feedback
from ftlab.grade.gradebook import Grades, Rules, read_overrides
from ftlab.grade.notebook_file import MAX_BYTES, read_bytes, reduced
from ftlab.grade.report import Report

RETRIES = 2  # after a first try that failed for a reason of ours, such as a worker that was killed
CONNECT_SECONDS, WORKER_SECONDS = 10, 600
AHEAD = 2  # jobs sent for each worker thread: one runs, one waits
JOB_FOLDER = "ftlab-job-"
GRADER, CONTENT = "ftlab.grade.batch:in_walls", "ftlab.grade.batch:content_of"


def grade_class(submissions_folder, out, labs=(), jobs=1, scheduler=None, secret=None, mode="auto", report=None, rules=None,
                overrides=None, grader=GRADER, content=CONTENT):  # fmt: skip
    """Grade all submissions in a folder (or zip) and write the tables, feedback and report under `out`.

    labs: names of labs, all when empty. jobs: local worker processes; 1 grades in this process. scheduler: in place of
    `jobs`, the address of a Dask scheduler, or a Dask cluster object (SLURMCluster, GatewayCluster, ...).
    secret: the instructor's, default that of `out`/.secret. mode: of `kernel.Walls`. report(text): told of progress.
    rules: a `gradebook.Rules`; overrides: a CSV file (default `out`/overrides.csv).
    grader, content: "module:function", for tests: (path, student, lab, secret, mode, hidden) -> result, (path, lab) -> JSON.

    Returns what is written to `out`/run.json. A KeyboardInterrupt is passed on after what is finished was written.
    Raises UsageError, before anything is graded, for what cannot be met as asked, NotHeld when a scheduler goes away.
    """
    folder, out = check_places(submissions_folder, out)
    labs, rules = catalogue.find_labs(labs) if labs else [], rules or Rules()
    if jobs < 1:
        raise UsageError("--jobs must be at least 1")
    if not any(out.iterdir()):  # a folder of ours alone: secret, students' work and grades are nothing for a repository
        atomic_write_text(out / ".gitignore", "*\n")
    secret = secret or cache.open_secret(out / ".secret")
    with cache.Store(out) as store, store.scratch() as scratch:
        notices = []
        rows = find_rows(folder, labs, scratch, notices)
        notices += _check_kept(out, rows)
        rules = _with_overrides(rules, overrides or out / "overrides.csv", bool(overrides), rows)
        order = {"secret": secret, "mode": mode, "grader": grader, "hidden": [str(out), str(folder)]}
        batch = Batch(rows, store, order, content, report or (lambda text: None), notices)
        ended = None
        try:
            with _runner(jobs, scheduler, batch) as run:
                batch.go(run)
        except (KeyboardInterrupt, NotHeld) as error:  # what is there is written first
            ended = error
            batch.find_known()
        flags = {"labs": labs, "jobs": jobs, "scheduler": bool(scheduler), "mode": mode, "keep_best": rules.keep_best,
                 "deadline": rules.deadline.isoformat() if rules.deadline else None,
                 "late_penalty": f"{rules.penalty:.4%}/{rules.per}" if rules.penalty else None}  # fmt: skip
        summary = write_all(out, batch, rules, flags, finished=ended is None)
    if ended:
        raise ended
    return summary


def check_places(submissions_folder, out):
    """The two paths, absolute. Raises UsageError where they are not there, cannot be written, or stand in each other."""
    folder, out = pathlib.Path(submissions_folder), pathlib.Path(out)
    if not folder.exists():
        raise UsageError(f"no folder or zip at {folder}")
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out} is a file: name a folder")
    inside, here = folder.resolve(), out.resolve()
    if here == inside or inside in here.parents:
        raise UsageError(f"--out {out} lies in the submissions' folder {folder}: name a folder beside it")
    if here in inside.parents and any(inside.is_relative_to(here / name) for name in (".cache", "feedback")):
        raise UsageError(f"{folder} is what ftlab grade wrote: name the folder with the submissions")
    try:
        here.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--out {out} cannot be made ({error.strerror}): name another folder") from None
    return inside, here


@dataclasses.dataclass
class Row:
    """A submission, and the key of its result once it is known (None for one that cannot be read)."""

    submission: object
    key: str | None = None
    basis: str | None = None


def find_rows(folder, labs, scratch, notices=None):
    """The Rows of what `folder` holds for `labs` (all when empty), one or more for each person who handed in anything.

    notices: a list that takes lines for the instructor. Raises UsageError when there is nothing for `labs`, though something
    for others.
    """
    from ftlab.grade.submission import collect

    found = collect(folder, scratch, notices)
    there = sorted({one.lab for one in found if one.lab})
    if labs and there and not set(labs) & set(there):
        raise UsageError(f"{folder} holds no submission for {', '.join(labs)}; it has some for {', '.join(there)}")
    chosen = [one for one in found if not labs or one.lab in labs or not one.lab]
    chosen += _nothing_of(labs, found, {_who(one) for one in chosen})
    asked = labs or there
    if len(asked) == 1:  # of one assignment: who has nothing that can be read has no points in it yet
        rows_of = collections.Counter(map(_who, chosen))
        for one in chosen:
            one.lab = one.lab or (asked[0] if rows_of[_who(one)] == 1 else "")
    for one in chosen:
        one.student = writable(one.student)
        one.problem = one.problem and writable(one.problem)
        if one.lms:
            one.lms = {name: writable(value) for name, value in one.lms.items()}
    if notices is not None:
        notices[:] = map(writable, notices)
    return [Row(one) for one in sorted(chosen, key=lambda one: (one.student, one.lab, str(one.path)))]


def _who(one):
    return one.student, (one.lms or {}).get("kind")


def _nothing_of(labs, found, known):
    """A Submission with a problem for each person who handed in other labs than those that are asked for."""
    others = {}
    for one in found:
        if _who(one) not in known:
            others.setdefault(_who(one), []).append(one)
    for group in others.values():
        names = ", ".join(sorted(one.lab for one in group))
        yield dataclasses.replace(group[0], lab="", flags=[],
                                  problem=f"nothing handed in for {', '.join(labs)}: there is {names}")  # fmt: skip


def _check_kept(out, rows):
    """Lines about people of the last run who are not in `rows`, and had no grades.

    Raises UsageError where `out` holds grades that are not in `rows`, of other labs or of people who are not there: its
    tables and pages would be replaced.
    """
    try:
        before = read_json(out / "run.json")["submissions"]
        graded = {(line["student"], line["lab"]) for line in before if line["lab"] and line["status"] == "graded"}
        others = {line["student"] for line in before}
    except (OSError, ValueError, KeyError, TypeError):
        return []
    now = {(row.submission.student, row.submission.lab) for row in rows}
    missing = sorted({lab for _, lab in graded} - {lab for _, lab in now})
    if missing:
        raise UsageError(f"{out} holds the grades of {', '.join(missing)}, which this run does not grade: name another --out "
                         "(one for each assignment), or grade all of them together")  # fmt: skip
    gone = sorted({f"{student} ({lab})" for student, lab in graded - now})
    if gone:
        raise UsageError(f"{out} holds the grades of {len(gone)} who {'is' if len(gone) == 1 else 'are'} not handed in here: "
                         f"{_some(gone)}. Grade a folder that has their work, too, or name another --out; to drop them, "
                         f"delete {out / 'run.json'}")  # fmt: skip
    lost = sorted(others - {student for student, _ in now})
    return [f"in the last run, without grades, and not here: {_some(lost)}"] if lost else []


def _some(names):
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _with_overrides(rules, path, asked, rows):
    if not asked and not path.exists():
        return rules
    known = {(row.submission.student, row.submission.lab) for row in rows}
    return dataclasses.replace(rules, overrides=read_overrides(path, known))


# The batch


@dataclasses.dataclass
class Job:
    """What a worker gets: `order`, a JSON text, and the notebook's bytes. deaths: workers that ended while they had it."""

    key: str
    order: str
    path: pathlib.Path
    deaths: int = 0

    def data(self):
        """The notebook, without its outputs where these are large."""
        data = read_bytes(self.path)
        return data if len(data) <= MAX_BYTES else reduced(data)


class Batch:
    """All rows of a run: makes the jobs as they are asked for, takes the replies, tells how far things are."""

    def __init__(self, rows, store, order, content, report, notices=()):
        self.rows, self.store, self.order, self.content, self.report = rows, store, order, named(content), report
        self.notices = list(notices)  # lines for the instructor about the folder
        self.failed = {}  # {key: why the grader could not grade it}; not kept, so that the next run tries again
        self.asked = {}  # {key: number of rows that wait for it}
        self.counts = {"submissions": len(rows), "graded": 0, "reused": 0, "identical": 0, "malformed": 0, "failed": 0}
        self.expected = {}  # {lab: {place: what our solution gives there}}, as far as it is known
        self.walls = set()  # what stood where submissions were graded, in words
        self.done, self.began = 0, time.monotonic()

    def go(self, run):
        """Grade what has no result yet. run(jobs) yields (key, reply) for an iterable of jobs, in any order."""
        for key, reply in run(self.jobs()):
            if "refused" in reply:
                raise UsageError(reply["refused"])
            if "result" in reply:
                self.store.save(key, reply["result"])
                self.counts["graded"] += 1
                self._learn(reply)
            else:
                self.failed[key] = reply["failed"]
                self.counts["failed"] += 1
            self.done += self.asked.pop(key)
            self.tell()

    def jobs(self):
        """The jobs, one for each content that has no result. Read as they are needed, so that workers start at once."""
        settled = set()
        for row in self.rows:
            one = row.submission
            if one.problem or not one.lab:
                self.done += 1
                self.tell()
                continue
            self._find_key(row)
            if row.key in self.asked:
                self.asked[row.key] += 1
                self.counts["identical"] += 1
            elif row.key in settled or self.store.has(row.key):
                known = "identical" if row.key in settled else "reused"
                self.counts[known] += 1
                self.done += 1
                self.tell()
            else:
                self.asked[row.key] = 1
                settled.add(row.key)
                if one.lab not in self.expected:
                    self.expected[one.lab] = {} if self._unsafe else self.store.expected(self._basis(one.lab))
                order = self.order | {"lab": one.lab, "release": cache.release(one.lab), "expected": self.expected[one.lab]}
                yield Job(row.key, json.dumps(order), one.path)

    def _learn(self, reply):
        """What else a worker tells: its walls, and what it found our solution to give, for other workers and other runs."""
        self.walls |= {reply["walls"]} if "walls" in reply else set()
        if found := reply.get("expected"):
            lab = reply["result"]["lab"]
            self.expected[lab] = self.expected.get(lab, {}) | found
            if not self._unsafe:  # a kernel without walls reads what this user may read
                self.store.save_expected(self._basis(lab), self.expected[lab])

    def find_known(self):
        """Give each row the key of its result where an earlier run has found it, for a run that was stopped."""
        for row in self.rows:
            if row.key is None and row.submission.lab and not row.submission.problem:
                self._find_key(row, only_known=True)

    def has_new(self):
        """Whether a file is there that no run has seen: one that is likely to be graded."""
        found = (row.submission for row in self.rows)
        return any(self.store.key_of(self._file(one)) is None for one in found if one.lab and not one.problem)

    def _file(self, one):
        """What tells a file from all others, and from itself on another basis."""
        return cache.hash_of([self._basis(one.lab), one.lab, cache.hash_of(read_bytes(one.path))])

    def _find_key(self, row, only_known=False):
        one = row.submission
        row.basis, file = self._basis(one.lab), self._file(one)
        row.key = self.store.key_of(file)
        if row.key is None and not only_known:
            row.key = cache.hash_of([row.basis, one.lab, self.content(str(one.path), one.lab)])
            self.store.note_key(file, row.key)

    @property
    def _unsafe(self):
        return self.order["mode"] == "unsafe"

    def _basis(self, lab):
        return cache.basis(lab, self.order["secret"], self._unsafe)

    def tell(self):
        graded = self.counts["graded"] + self.counts["failed"]
        line = f"{self.done} of {len(self.rows)} submissions"
        if graded and self.done < len(self.rows):
            left = (time.monotonic() - self.began) / graded * (len(self.rows) - self.done)
            line += f"; about {_duration(left)} left"
        self.report(line)

    def result(self, key):
        """The result with this key, for a student who is not named in it; None where there is none."""
        return self.store.load(key) if key else None


def _duration(seconds):
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


# One job


def work(order, data):
    """Grade the notebook `data` (bytes) as `order` (JSON) says; returns a reply as JSON text. Never raises.

    A reply holds one of: result; refused (a line: this and every other job cannot be done here); failed (a line). Beside
    result, walls: what stood, in words; and expected, {place: records}, where this process had to find the reference itself.
    """
    from ftlab.grade.one import records, take_records

    order = json.loads(order)
    try:
        if cache.release(order["lab"]) != order["release"]:
            return json.dumps({"refused": "a worker has another release of the course than this machine: install the same"})
        grader, problem = named(order["grader"]), None
        known, here = order.get("expected", {}).get(cache.place()), (order["lab"], order["secret"])
        if known is not None:
            take_records(*here, known)
        _sweep()
        with tempfile.TemporaryDirectory(prefix=JOB_FOLDER) as folder:
            path = pathlib.Path(folder) / f"{order['lab']}.ipynb"
            path.write_bytes(data)
            for _ in range(1 + RETRIES):
                try:
                    result = grader(str(path), "", order["lab"], order["secret"], order["mode"], order["hidden"])
                    check_result(result, order["lab"])
                    reply = {"result": writable(result)}
                    if known is None and (found := records(*here)):
                        reply["expected"] = {cache.place(): found}
                    if order["mode"] in _WALLS:
                        reply["walls"] = _WALLS[order["mode"]][1].describe()
                    return json.dumps(reply, allow_nan=False)
                except UsageError:
                    raise
                except Exception as error:
                    problem = f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"
        return json.dumps({"failed": f"the grader failed on it {1 + RETRIES} times ({problem})"})
    except UsageError as error:
        return json.dumps({"refused": str(error)})
    except Exception as error:
        return json.dumps({"failed": f"the grader failed on it: {type(error).__name__}: {error}"})


@functools.cache
def _sweep():
    """Remove, once in a process, the folders of jobs whose process was killed a day ago or more."""
    for path in pathlib.Path(tempfile.gettempdir()).glob(f"{JOB_FOLDER}*"):
        with contextlib.suppress(OSError):
            if not path.is_symlink() and path.lstat().st_mtime < time.time() - 86400:
                shutil.rmtree(path, ignore_errors=True)


def writable(value):
    """A JSON value whose texts can be written as UTF-8: half characters, which a notebook may hold, become "?"."""
    return json.loads(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"))


def named(name):
    """The function "module:function" names."""
    module, _, function = name.partition(":")
    return getattr(importlib.import_module(module), function)


def check_result(result, lab):
    """Raise NotHeld unless `result` has the shape of a result, with points that can be."""
    rows = {row["exercise"]: row for row in result["exercises"]}
    exercises = catalogue.exercises(lab)
    if list(rows) != list(exercises) or len(rows) != len(result["exercises"]):
        raise NotHeld("the grader told of other exercises than the lab has")
    for id, row in rows.items():
        if not 0 <= row["points"] <= row["max_points"] == exercises[id].points:
            raise NotHeld(f"the grader gave {row['points']} of {row['max_points']} points for {id}")
    if not math.isclose(result["points"], sum(row["points"] for row in rows.values()), abs_tol=1e-6):
        raise NotHeld("the grader's points do not add up")


def content_of(path, lab):
    """All that the grader takes from a submission: two files with the same content get the same result."""
    from ftlab.grade.rebuild import staged

    found = staged(path, lab)
    return {"codes": found.codes, "attempted": found.attempted, "solutions": sorted(found.solutions), "flags": found.flags,
            "notes": found.notes, "problem": found.problem}  # fmt: skip


_WALLS = {}  # {mode: (context manager, walls)} of this process


def in_walls(path, student, lab, secret, mode, hidden):
    """`grade_one` in this process's walls, which are put up at the first call and stand until `close_walls`."""
    walls = stand(mode, hidden)
    from ftlab.grade.one import grade_one

    return grade_one(path, student, lab, secret, walls)


def stand(mode, hidden):
    """This process's walls; put up when they are not there. Raises UsageError where none can be."""
    from ftlab.grade.kernel import Walls

    if mode not in _WALLS:
        stack = contextlib.ExitStack()
        _WALLS[mode] = (stack, stack.enter_context(Walls(mode, hidden=hidden)))
        atexit.register(close_walls)
    return _WALLS[mode][1]


def close_walls():
    """Take this process's walls down."""
    while _WALLS:
        _WALLS.popitem()[1][0].close()


# Where the jobs run


@contextlib.contextmanager
def _runner(jobs, scheduler, batch):
    """A function of an iterable of jobs that yields (key, reply): in this process, or on Dask workers."""
    if scheduler is None and jobs == 1:
        try:
            if batch.order["grader"] == GRADER and batch.has_new():
                stand(batch.order["mode"], batch.order["hidden"])  # the warmed process imports while the first job is made
            yield lambda todo: ((job.key, json.loads(work(job.order, job.data()))) for job in todo)
        finally:
            close_walls()
        return
    from ftlab.grade import on_dask

    with on_dask.connected(jobs, scheduler, batch.report) as client:
        yield lambda todo: on_dask.run(client, todo)


# Writing


def write_all(out, batch, rules, flags, finished):
    """Write tables, feedback, report and run.json for the rows that have a result; returns run.json's content."""
    from ftlab import profile

    grades, pages, report, lines, attempts = Grades(), feedback.Pages(out), Report(), [], {}
    for row in batch.rows:
        entry = _entry(row, batch, rules, attempts)
        if entry is None:
            continue  # not graded yet
        entry["page"] = pages.write(entry)
        grades.add(entry)
        report.add(entry)
        lines.append(_line(entry))
    batch.counts["malformed"] = sum(line["status"] != "graded" for line in lines)
    if attempts:
        batch.store.note_attempts(attempts)
    grades.write(out)
    silent = sum(bool(row.submission.lms) and row.submission.late is None and not row.submission.dated for row in batch.rows)
    run = {"machine": profile.machine(measure=False), "finished": finished, "counts": batch.counts,
           "people": count_people(lines), "notices": batch.notices,
           "seconds": round(time.monotonic() - batch.began, 2), "versions": cache.versions(), "flags": flags,
           "walls": sorted(batch.walls), "late_unknown": silent if rules.deadline else 0, "submissions": lines}  # fmt: skip
    report.write(out / "report.html", run)
    if finished:
        pages.remove_others()
    write_json(out / "run.json", run)
    return run


def count_people(lines):
    """{"all": people in run.json's `lines`, "graded": those with a graded lab, "malformed": those with none}."""
    graded = {line["student"] for line in lines if line["status"] == "graded"}
    everybody = {line["student"] for line in lines}
    return {"all": len(everybody), "graded": len(graded), "malformed": len(everybody - graded)}


def _entry(row, batch, rules, attempts):
    """One row as the writers take it, or None while it has no result."""
    one = row.submission
    lms = one.lms["kind"] if one.lms and not one.dated else None  # None: the time is when it was handed in
    late = rules.late(one.modified, lms, one.late)
    if row.key is None and not one.problem and one.lab:
        return None
    result = batch.result(row.key)
    if result is None:
        if row.key and row.key not in batch.failed:
            return None
        from ftlab.grade.one import malformed

        problem = one.problem or batch.failed.get(row.key) or "the file tells no lab"
        result = malformed(one.student, one.lab, problem)
    else:
        attempts[one.student, one.lab] = {"key": row.key, "basis": row.basis, "modified": one.modified, "lms": lms,
                                          "late": one.late}  # fmt: skip
    result |= {"student": one.student, "lab": one.lab}
    result["flags"] = [*result["flags"], *one.flags]
    entry = {"result": result, "late": late, "final": rules.apply(result, late), "lms": one.lms, "file": one.path.name,
             "kept": False}  # fmt: skip
    if rules.keep_best and row.key:
        entry = _best(entry, row, batch, rules)
    if entry["late"] and entry["late"]["seconds"] is None:
        message = "the LMS marks it as late and does not say by how much; nothing was taken off"
        result["flags"].append({"kind": "late_by_lms", "exercise": None, "message": message})
    return entry


def _best(entry, row, batch, rules):
    """The best of this entry and of what the student handed in before, graded on the same basis."""
    one, best = row.submission, entry
    for attempt in batch.store.attempts(one.student, one.lab):
        result = batch.result(attempt["key"]) if attempt["basis"] == row.basis else None
        if result is None or attempt["key"] == row.key:
            continue
        result |= {"student": one.student, "lab": one.lab}
        late = rules.late(attempt["modified"], attempt.get("lms"), attempt["late"])
        final = rules.apply(result, late)
        if final["points"] is not None and final["points"] > (best["final"]["points"] or 0):
            best = entry | {"result": result, "late": late, "final": final, "kept": True}
    return best


def _line(entry):
    """A submission in run.json."""
    result, final = entry["result"], entry["final"]
    return {"student": result["student"], "lab": result["lab"], "status": result["status"], "message": result["message"],
            "points": final["points"], "graded_points": result["points"], "max_points": result["max_points"],
            "late": entry["late"], "points_off": final["taken"], "kept_earlier": entry["kept"],
            "overrides": final["overrides"], "seconds": result["seconds"], "walls": result.get("walls"),
            "flags": len(result["flags"]),
            "file": writable(entry["file"]), "feedback": entry["page"]}  # fmt: skip
