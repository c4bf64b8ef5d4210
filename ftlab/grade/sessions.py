"""pytest sessions, each in a process of its own that costs next to nothing: forked from one that has imported pytest and nbval.

`Sessions` is a worker's end; `python -m ftlab.grade.sessions` the other one, which reads a JSON line for each session and
writes two: the child's process id, and how it ended. The server makes no thread, no ZMQ context and no event loop, so that its
forks are safe; it never sees a student's code, only file names.
"""

import contextlib
import gc
import importlib
import json
import os
import signal
import subprocess
import sys
import threading

from ftlab.errors import NotHeld
from ftlab.files import with_this_package

PLUGINS = ("nbval.plugin", "ftlab.grade.nbval_plugin",
           # Not needed here; the last two collect all garbage five times at the end of each session.
           "no:cacheprovider", "no:warnings", "no:unraisableexception", "no:threadexception")  # fmt: skip
# What a session imports, here once for all.
IMPORTED = ("_pytest.unittest", "pdb", "jupyter_client.manager", "ipykernel.kernelspec", "IPython", "nbval.plugin",
            "ftlab.grade.kernel", "ftlab.grade.nbval_plugin")  # fmt: skip
PR_SET_PDEATHSIG = 1


class Sessions:
    """Runs pytest in forked children of one server; a context manager. Not for several threads at once."""

    def __init__(self):
        self._server = None

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()

    def run(self, arguments, folder, log, seconds):
        """Run pytest with `arguments` in `folder`, its output to the file `log`; its exit status.

        After `seconds` the session's process group is killed and NotHeld raised, as when the server is gone.
        """
        server, pid, late = self._started(), None, None
        plugins = [part for name in PLUGINS for part in ("-p", name)]
        request = {"arguments": [*plugins, *map(str, arguments)], "folder": str(folder), "log": str(log),
                   "environment": dict(os.environ, PYTEST_DISABLE_PLUGIN_AUTOLOAD="1", PYTEST_ADDOPTS="")}  # fmt: skip
        try:
            server.stdin.write(json.dumps(request) + "\n")
            server.stdin.flush()
            pid = json.loads(server.stdout.readline())["pid"]
            late = threading.Timer(seconds, _kill_group, [pid])
            late.start()
            ended = json.loads(server.stdout.readline())
        except BaseException as error:  # Ctrl-C, too: the session is in a group of its own, and would go on
            if pid:
                _kill_group(pid)
            self.close()
            if isinstance(error, (OSError, ValueError, KeyError)):
                raise NotHeld(f"the process that runs pytest ended: {error}") from None
            raise
        finally:
            if late:
                late.cancel()
        if ended["signal"]:
            raise NotHeld(f"pytest was ended by signal {ended['signal']} (the limit is {seconds:.0f} s)")
        return ended["status"]

    def close(self):
        server, self._server = self._server, None
        if server is not None:
            with contextlib.suppress(OSError):  # a server that has died leaves a broken pipe
                server.stdin.close()
            try:
                server.wait(5)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()
            server.stdout.close()

    def _started(self):
        if self._server is None or self._server.poll() is not None:
            # -P: the current folder may hold a clone called ftlab, which is no package and would be taken for one.
            self._server = subprocess.Popen([sys.executable, "-P", "-m", "ftlab.grade.sessions"], stdin=subprocess.PIPE,
                                            stdout=subprocess.PIPE, text=True, start_new_session=True,
                                            env=with_this_package())  # fmt: skip
        return self._server


def _kill_group(pid):
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def serve():
    """The server's loop, until its stdin ends."""
    _die_with_parent()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever is printed by mistake must not look like an answer
    # jsonschema would make a grammar of URIs with it, for almost two seconds; notebooks are checked without.
    sys.modules.setdefault("rfc3987_syntax", None)
    import nbformat
    from _pytest.config import default_plugins

    for name in (*(f"_pytest.{name}" for name in default_plugins), *IMPORTED):
        importlib.import_module(name)
    nbformat.validate(nbformat.v4.new_notebook())  # makes the validator
    gc.freeze()  # the children need not look at what will never be garbage
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            _session(json.loads(line))
        print(json.dumps({"pid": pid}), file=answers, flush=True)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        print(json.dumps({"status": max(status, 0), "signal": max(-status, 0)}), file=answers, flush=True)


def _session(request):
    """A child: one pytest session. Does not return."""
    status = 1
    try:
        os.setsid()
        _die_with_parent()
        log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0), os.dup2(log, 1), os.dup2(log, 2)
        os.environ.clear()
        os.environ.update(request["environment"])
        os.chdir(request["folder"])
        # What this process inherited was read when its server began; the sandbox may have been set up since.
        places = request["environment"].get("PYTHONPATH", "").split(os.pathsep)
        sys.path[:0] = [place for place in places if place and place not in sys.path]
        import pytest

        status = int(pytest.main(request["arguments"]))
        sys.stdout.flush()
    finally:
        os._exit(status)


def _die_with_parent():
    """On Linux: be killed when the parent ends, however it does."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    serve()
