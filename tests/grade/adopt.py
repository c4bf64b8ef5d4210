"""Runs a command and tells what outlives it: `python -m grade.adopt FILE COMMAND...`; its exit status is the command's.

Orphans of all that the command starts come to this process, not to the machine's first one. It waits for them for three
seconds after the command's end and writes the command lines of those that are still there to FILE, as JSON.
"""

import contextlib
import ctypes
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

PR_SET_CHILD_SUBREAPER, PR_SET_PDEATHSIG = 36, 1
PATIENCE = 3.0


def children():
    return pathlib.Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()


def left():
    """Command lines of this process's children that do not end in time; the dead are buried."""
    until = time.monotonic() + PATIENCE
    with contextlib.suppress(ChildProcessError):  # no child is left
        while time.monotonic() < until:
            if os.waitpid(-1, os.WNOHANG) == (0, 0):
                time.sleep(0.02)
    return [pathlib.Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ") for pid in children()]


def main(file, *command):
    prctl = ctypes.CDLL(None).prctl
    prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    # Where a test is broken off, the command does not go on alone.
    status = subprocess.Popen(command, preexec_fn=lambda: prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)).wait()
    pathlib.Path(file).write_text(json.dumps(left()))
    return status if status >= 0 else 128 - status


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
