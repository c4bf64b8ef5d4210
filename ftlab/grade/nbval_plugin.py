"""A pytest plugin on nbval's own classes: runs a submission's two notebooks and gives points for each exercise.

    pytest -p nbval.plugin -p ftlab.grade.nbval_plugin --nbval visible.ipynb hidden.ipynb --ftlab-result grades.json

The notebooks are those of `ftlab.grade.rebuild`: each cell says what it is under `metadata.ftlab`, and the probe cells of
the hidden one hold what our solution gave. A probe's result is compared here, outside the kernel, by value, with strict types
and tolerances. Nothing that a kernel says is believed beyond that: a display more, a display elsewhere, a record with another
seed give no points; a cell passes only when the kernel's reply *and* its messages tell of no error.

Markers and tags for nbval are ignored, stderr too; a cell has a time limit, an output limit and no stdin; the kernel's life is
looked after four times a second. After a kernel's end the rest of its notebook is `not_run`: a kernel that ignores an
interrupt, or is ended by its own code, is not worth a second one. What hung in the check is not tried again on hidden inputs.
"""

import ast
import dataclasses
import os
import resource
import sys
import tempfile
import time

import pytest
import zmq
from nbformat.v4 import output_from_msg
from nbval.kernel import NbvalKernelspecManager, RunningKernel
from nbval.plugin import IPyNbCell, IPyNbFile

from ftlab.course.runner import displayed_in as displayed
from ftlab.errors import NotHeld
from ftlab.files import write_json
from ftlab.teach.check import Result
from ftlab.teach.compare import difference
from ftlab.teach.display import CHECK_MIME, PROBE_MIME
from ftlab.teach.names import UNREADABLE, python_of

HIDDEN_SHARE = 0.75  # of an exercise's points; the rest hangs on the check, and is paid only when the hidden tier passes, too
RTOL, ATOL = 1e-3, 1e-5
LIFE_SECONDS, GRACE_SECONDS, IDLE_SECONDS = 0.25, 5.0, 2.0
MESSAGE_BYTES, QUEUE = 4_000_000, 32  # the largest message that is read, and how many may wait: they bound our memory
RIGHT, WRONG, ERROR, NOT_RUN = "right", "wrong", "error", "not_run"
CHECKED = ("right", "mistake", "wrong", "error", "not attempted")
EXPLAINED = {  # what an error that ended a cell means where code is graded
    "SystemExit": "your code called exit()",
    "ModuleNotFoundError": "graded code has the course's packages and no network, so pip installs nothing here",
}


def pytest_addoption(parser):
    group = parser.getgroup("ftlab", "grading of ftlab's labs")
    group.addoption("--ftlab-result", metavar="FILE", help="write the points and what was found as JSON")
    group.addoption("--ftlab-cell-seconds", type=float, default=60.0, help="time limit of a cell (default: 60)")
    group.addoption("--ftlab-notebook-seconds", type=float, default=300.0, help="of a notebook (default: 300)")
    group.addoption("--ftlab-output-bytes", type=int, default=2_000_000, help="output limit of a cell (default: 2 MB)")
    group.addoption("--ftlab-record", action="store_true", help="write the probes' records: these notebooks are the reference")


def pytest_configure(config):
    config.ftlab = Outcome()


@pytest.hookimpl(wrapper=True)
def pytest_collect_file():
    found = yield
    for collector in found:
        if isinstance(collector, IPyNbFile):
            # Not by another class in nbval's place: its methods name their own in `super`.
            collector.__class__ = GradedNotebook
    return found


def pytest_sessionfinish(session):
    config = session.config
    if config.option.ftlab_result:
        write_json(config.option.ftlab_result, config.ftlab.as_json(config.option.ftlab_record))


def pytest_terminal_summary(terminalreporter, config):
    for row in config.ftlab.points():
        terminalreporter.write_line(f"{row['exercise']}: {row['points']:g} of {row['max_points']:g} points")


def points_of(visible, hidden, max_points):
    """The points of an exercise whose check found `visible` and whose probe `hidden` (statuses)."""
    if hidden != RIGHT:
        return 0.0
    return max_points if visible == RIGHT else HIDDEN_SHARE * max_points


@dataclasses.dataclass
class Found:
    """What a tier found of an exercise. mistake: the id that the check named, or None."""

    status: str
    message: str = ""
    mistake: str | None = None

    def __post_init__(self):
        # JSON can hold half of a surrogate pair, which no file in UTF-8 can.
        self.message = self.message.encode("utf-8", "replace").decode("utf-8")
        self.mistake = self.mistake and self.mistake.encode("utf-8", "replace").decode("utf-8")


class Outcome:
    """What was found so far. tiers: {"visible" or "hidden": {exercise id: Found}}."""

    def __init__(self):
        self.tiers = {"visible": {}, "hidden": {}}
        self.max_points, self.records, self.flags, self.broken = {}, {}, [], None
        self.hung = set()  # ids of exercises whose check ran into the time limit

    def points(self):
        """A row for each exercise that both tiers have judged: dict(exercise, points, max_points)."""
        both = [id for id in self.tiers["hidden"] if id in self.tiers["visible"]]
        return [{"exercise": id, "points": self.earned(id), "max_points": self.max_points[id]} for id in both]

    def earned(self, id):
        return points_of(self.tiers["visible"][id].status, self.tiers["hidden"][id].status, self.max_points[id])

    def flag(self, kind, id, message):
        entry = {"kind": kind, "exercise": id, "message": message}
        if entry not in self.flags:
            self.flags.append(entry)

    def as_json(self, record=False):
        tiers = {tier: {id: dataclasses.asdict(found) for id, found in all_.items()} for tier, all_ in self.tiers.items()}
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
        result = {"tiers": tiers, "exercises": self.points(), "flags": self.flags, "broken": self.broken,
                  "peak_rss_mib": round(peak, 1)}  # fmt: skip
        return result | ({"records": self.records} if record else {})


class GradedNotebook(IPyNbFile):
    """nbval's notebook with a kernel that is watched; one that is none of ours is left to nbval.

    gone: why there is no kernel any more, or None; stops: {exercise id: the Ran of its cell that did not end well};
    begun: whether a line of the student's has run; left: seconds that the notebook may still run.
    """

    gone, stops, begun, left = None, None, False, None

    def collect(self):
        for cell in super().collect():
            if not self.is_ours():
                yield cell
                continue
            ours = cell.cell.metadata.ftlab
            name = f"{ours.kind} {ours.get('id', cell.cell_num)}"
            yield GradedCell.from_parent(self, name=name, cell_num=cell.cell_num, cell=cell.cell, options=cell.options)

    def ids(self):
        """The ids of the notebook's exercises."""
        return [cell.metadata.ftlab.id for cell in self.nb.cells if "id" in cell.metadata.ftlab]

    def is_ours(self):
        return "tier" in self.nb.metadata.get("ftlab", {})

    def setup(self):
        if not self.is_ours():
            return super().setup()
        option = self.config.option
        self.stops, self.left = {}, option.ftlab_notebook_seconds
        self.folder = tempfile.TemporaryDirectory(prefix="ftlab-cell-")  # an empty one: nothing of ours lies beside a kernel
        name = self.nb.metadata.get("kernelspec", {}).get("name", "python3")
        self.kernel = WatchedKernel(name, self.folder.name, option.nbval_kernel_startup_timeout)

    def teardown(self):
        if not self.is_ours():
            super().teardown()
        elif self.kernel is not None:
            self.kernel.close()
            self.folder.cleanup()


class GradedCell(IPyNbCell):
    """nbval's cell, judged by what it is: setup, exercise, check or probe."""

    def runtest(self):
        notebook, outcome = self.parent, self.config.ftlab
        kind, id = self.cell.metadata.ftlab.kind, self.cell.metadata.ftlab.get("id")
        ran = self._ran(kind, id)
        notebook.gone = notebook.gone or ran.gone
        self.test_outputs = ran.outputs
        found = getattr(self, f"_{kind}")(id, ran)
        self._forged(kind, id, ran)
        if kind in ("check", "probe"):
            tier = notebook.nb.metadata.ftlab.tier
            outcome.tiers[tier][id], outcome.max_points[id] = found, float(self.cell.metadata.ftlab.points)
            if all(id in found_ for found_ in outcome.tiers.values()):
                self.user_properties += [("exercise", id), ("points", outcome.earned(id)),
                                         ("max_points", outcome.max_points[id])]  # fmt: skip
        if found.status != RIGHT:
            self.raise_cell_error(found.message or found.status)

    def _ran(self, kind, id):
        """Run the cell, unless it is known how that would end."""
        option, notebook, hung = self.config.option, self.parent, self.config.ftlab.hung
        if notebook.gone is not None:
            return Ran(NOT_RUN, message=f"not run: the kernel was gone ({notebook.gone})")
        if notebook.left <= 0:
            return Ran(NOT_RUN, message="not run: the notebook had used up its time")
        if kind == "probe" and id in hung:
            return Ran("timeout", message=_slow(option.ftlab_cell_seconds))
        began, seconds = time.monotonic(), min(option.ftlab_cell_seconds, notebook.left)
        ran = notebook.kernel.run(self.cell.source, seconds, option.ftlab_output_bytes)
        notebook.left -= time.monotonic() - began
        if ran.status == "timeout" and kind == "check":
            hung.add(id)
        return ran

    def setup(self):
        """Nothing of nbval's: a cell after one that timed out is run as any other."""

    def _setup(self, id, ran):
        if ran.status != "ok" and not self.parent.begun and self.config.ftlab.broken is None:
            # No line of the student's has run: the fault is ours, or the machine's.
            self.config.ftlab.broken = f"the lab's setup did not run: {ran.status}: {ran.message}"
        return Found(RIGHT if ran.status == "ok" else ran.status, ran.message)

    def _exercise(self, id, ran):
        self.parent.begun = True
        if ran.status != "ok":
            self.parent.stops[id] = ran
        return Found(RIGHT if ran.status == "ok" else ran.status, ran.message)

    def _check(self, id, ran):
        stop = self.parent.stops.get(id)
        if ran.status == "ok":
            found = _checked(id, displayed(ran.outputs, CHECK_MIME))
        else:
            found = Found(ran.status, ran.message)
        return Found(stop.status, stop.message) if stop and found.status in (ERROR, NOT_RUN) else found

    def _probe(self, id, ran):
        stop = self.parent.stops.get(id)
        if ran.status != "ok":
            ended = stop if stop and ran.status in (ERROR, NOT_RUN) else ran
            return Found(ended.status, ended.message)
        if self.config.option.ftlab_record:
            self.config.ftlab.records[id] = (displayed(ran.outputs, PROBE_MIME) or [None])[0]
            return Found(RIGHT)
        if self.compare_outputs(ran.outputs, self.cell.outputs):
            return Found(RIGHT)
        return Found(WRONG, "\n".join(self.comparison_traceback))

    def compare_outputs(self, test, ref, skip_compare=None):
        """Whether the one probe record in the outputs `test` is that of `ref`; comparison_traceback says where it is not."""
        ours, seed = self.cell.metadata.ftlab, self.cell.metadata.ftlab.get("seed")
        got, [want] = displayed(test, PROBE_MIME), displayed(ref, PROBE_MIME)
        try:
            if len(got) != 1:
                problem = f"{len(got)} probe results were shown, one is asked for"
            elif not isinstance(got[0], dict) or set(got[0]) != {"id", "seed", "value"}:
                problem = "the probe's record has not the form of one"
            elif got[0]["id"] != ours.id or type(got[0]["seed"]) is not int or got[0]["seed"] not in (seed, want["seed"]):
                problem = "the probe's record is another exercise's, or of another seed"
            else:
                problem = difference(got[0]["value"], want["value"], RTOL, ATOL)
        except RecursionError:
            problem = "the probe's result is nested too deep to be compared"
        self.comparison_traceback = [problem] if problem else []
        return problem is None

    def _forged(self, kind, id, ran):
        """Flag results of checks and probes that a cell shows and should not.

        A student may call `lab.check` in the exercise's cell: what it shows there is expected, and counts for nothing.
        """
        for mime, owner in ((CHECK_MIME, "check"), (PROBE_MIME, "probe")):
            shown = displayed(ran.outputs, mime)
            if kind == "exercise" and owner == "check" and _calls_check(self.cell.source):
                shown = [result for result in shown if not _is_result(result, self.parent.ids())]
            count = len(shown)
            if count > (kind == owner):
                self.config.ftlab.flag("forged_display", id, f"a {kind} cell showed {count} results of a {owner}")


def _calls_check(source):
    """Whether the code of an exercise's cell names `lab.check`, as it does where the two cells were merged."""
    try:
        tree = ast.parse(python_of(source))
    except UNREADABLE:
        return False
    return any(isinstance(node, ast.Attribute) and node.attr == "check" and getattr(node.value, "id", "") == "lab"
               for node in ast.walk(tree))


def _is_result(result, ids):
    """Whether a displayed value has the form of what `lab.check` shows for one of the lab's exercises."""
    fields = {field.name for field in dataclasses.fields(Result)}
    return isinstance(result, dict) and set(result) == fields and result["id"] in ids and result["status"] in CHECKED


def _checked(id, shown):
    """The Found of what a check cell displayed: exactly one result of this exercise's, of the form that `lab.check` gives."""
    if len(shown) != 1:
        return Found(ERROR, "The check showed no result." if not shown else "The check showed more than one result.")
    result = shown[0]
    if not isinstance(result, dict) or result.get("id") != id or result.get("status") not in CHECKED:
        return Found(ERROR, "The check's result is not one of this exercise's.")
    mistake, message = result.get("mistake"), result.get("message")
    return Found(result["status"], message[:4000] if isinstance(message, str) else "",
                 mistake if isinstance(mistake, str) else None)  # fmt: skip


# Running a cell


@dataclasses.dataclass
class Ran:
    """How a cell's run ended. status: ok, error, timeout, kernel_died, oom, not_run; gone: why the kernel is, or None."""

    status: str
    outputs: list = dataclasses.field(default_factory=list)
    message: str = ""
    gone: str | None = None


class WatchedKernel(RunningKernel):
    """nbval's kernel, with bounds: for the size of a message, of a cell's output, for its time; and it is seen to die."""

    def __init__(self, kernel_name, folder, startup_timeout):
        from jupyter_client.manager import KernelManager

        self.context = zmq.Context()
        self.context.setsockopt(zmq.MAXMSGSIZE, MESSAGE_BYTES)
        self.context.setsockopt(zmq.RCVHWM, QUEUE)
        self.km = KernelManager(kernel_name=kernel_name, kernel_spec_manager=NbvalKernelspecManager(), context=self.context)
        try:
            with open(os.devnull, "w") as nowhere:
                self.km.start_kernel(cwd=folder, stderr=nowhere, stdout=nowhere)
            self.kc = self.km.client(context=self.context)
            self.kc.start_channels(stdin=False, hb=False)
            self._wait_until_ready(startup_timeout)
        except Exception as error:
            self.close()
            raise NotHeld(f"no kernel {kernel_name}: {error}") from error

    def _wait_until_ready(self, seconds):
        """Until the kernel answers and its output comes through: a subscription takes a moment to be there.

        jupyter_client's `wait_for_ready` does the first only, and waits a fifth of a second for silence.
        """
        deadline, channels = time.monotonic() + seconds, [self.kc.iopub_channel, self.kc.shell_channel]
        while time.monotonic() < deadline:
            if not self.is_alive():
                raise RuntimeError("it ended while it started")
            asked, kinds, until = self.kc.kernel_info(), set(), time.monotonic() + 0.5
            while time.monotonic() < until:
                for header, parent, _ in self._messages(0.05, channels):
                    if parent.get("msg_id") == asked:
                        kinds.add(header.get("msg_type"))
                if kinds >= {"kernel_info_reply", "status"}:
                    return
        raise RuntimeError(f"it did not answer within {seconds:g} s")

    def run(self, source, seconds, output_bytes):
        """Run `source`; the Ran. At the time limit the cell is interrupted, and killed when it goes on."""
        watch = _Watch(self.kc.execute(source, store_history=False, allow_stdin=False, stop_on_error=False), output_bytes)
        deadline, look, interrupted = time.monotonic() + seconds, 0.0, False
        while not watch.finished():
            for message in self._messages(0.1, [self.kc.iopub_channel, self.kc.shell_channel], watch):
                watch.take(*message)
            now = time.monotonic()
            if now > look:
                look = now + LIFE_SECONDS
                if not self.is_alive():
                    return self._dead(watch)
            if now > deadline and not watch.replied:
                if interrupted:
                    self.close()
                    return Ran("timeout", watch.outputs, _slow(seconds), gone="timeout")
                self.interrupt()
                interrupted, deadline = True, now + GRACE_SECONDS
        if not watch.idle:
            self._reconnect()
        if interrupted:
            return Ran("timeout", watch.outputs, _slow(seconds))
        return Ran("error" if watch.error else "ok", watch.outputs, watch.error or "")

    def _reconnect(self):
        """Hear the kernel's output again: a message larger than is read ends the connection for good."""
        self.kc.iopub_channel.stop()
        self.kc._iopub_channel = None  # the client makes a new one when it is asked for it
        try:
            self._wait_until_ready(GRACE_SECONDS)
        except RuntimeError:
            pass  # the next cell will tell

    def _dead(self, watch):
        for message in self._messages(0.0, [self.kc.iopub_channel], watch):
            watch.take(*message)
        cause = self.cause()
        self.close()
        text = {"oom": "it needed more memory than there is for a submission"}.get(cause, "the code ended the kernel")
        return Ran(cause, watch.outputs, f"The kernel died: {text}.", gone=cause)

    def cause(self):
        """"oom" or "kernel_died", as the sandbox's provisioner tells it; without one, "kernel_died"."""
        told = getattr(self.km.provisioner, "cause", None)
        told = told() if callable(told) else told
        return told if told in ("oom", "kernel_died") else "kernel_died"

    def _messages(self, seconds, channels, watch=None):
        """[(header, parent header, content)] of what waits, or comes within `seconds`; a message of bad form is dropped."""
        poller, found = zmq.Poller(), []
        for channel in channels:
            poller.register(channel.socket, zmq.POLLIN)
        for socket, _ in poller.poll(int(1000 * seconds)):
            for _ in range(100):  # no more at once, so that a flood of messages does not hide the clock
                try:
                    frames = socket.recv_multipart(zmq.NOBLOCK)
                except zmq.Again:
                    break
                if watch is not None and watch.too_much(sum(map(len, frames))):
                    continue
                try:
                    message = self.kc.session.deserialize(self.kc.session.feed_identities(frames)[1], content=True)
                    found.append((message["header"], message["parent_header"] or {}, message["content"]))
                except Exception:  # forged, not JSON, nested too deep: a kernel's messages are a student's
                    continue
        return found

    def close(self):
        """End the kernel, whatever state it is in; a second call does nothing."""
        km, self.km = getattr(self, "km", None), None
        if km is None:
            return
        try:
            if getattr(self, "kc", None) is not None:
                self.kc.stop_channels()
            if km.has_kernel:
                km.shutdown_kernel(now=True)
        finally:
            self.context.destroy(linger=0)

    def is_alive(self):
        return self.km is not None and self.km.is_alive()


class _Watch:
    """What a running cell has said so far."""

    def __init__(self, msg_id, output_bytes):
        self.msg_id, self.left = msg_id, output_bytes
        self.outputs, self.error, self.idle, self.replied = [], None, False, None

    def finished(self):
        """When both the reply and the end of the output are there; a lost end of output is not waited for long."""
        return self.replied is not None and (self.idle or time.monotonic() > self.replied + IDLE_SECONDS)

    def too_much(self, size):
        """Whether a message of `size` bytes is dropped unread: the cell's output limit is reached. Small ones never are."""
        self.left -= size
        return self.left < 0 and size > 20_000

    def take(self, header, parent, content):
        if parent.get("msg_id") != self.msg_id or not isinstance(content, dict):
            return
        kind = header.get("msg_type")
        if kind == "execute_reply":
            self.replied = self.replied or time.monotonic()
            if content.get("status") != "ok":
                self._failed(content)
        elif kind == "status":
            self.idle = self.idle or content.get("execution_state") == "idle"
        elif kind == "error":
            self._failed(content)
        elif kind == "stream" and content.get("name") == "stderr":
            pass  # warnings and progress bars say nothing about an answer
        elif kind in ("stream", "display_data", "execute_result") and self.left > 0:
            try:
                self.outputs.append(output_from_msg({"header": header, "content": content, "metadata": {}}))
            except (KeyError, ValueError, TypeError, AttributeError, RecursionError):
                pass  # not of the form of an output

    def _failed(self, content):
        text = " ".join(str(content.get("evalue", "")).split())[:300]
        name = str(content.get("ename", ""))[:100] or str(content.get("status", "error"))
        self.error = self.error or ": ".join(filter(None, [name, text, EXPLAINED.get(name)]))


def _slow(seconds):
    return f"The cell took longer than {seconds:g} s and was stopped: is there a loop that never ends?"
