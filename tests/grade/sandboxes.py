"""What the sandbox's tests share: walls, a kernel to talk to, and a way to see whether processes are gone."""

import contextlib
import time
from types import SimpleNamespace

import pytest
from jupyter_client.manager import start_new_kernel

from ftlab.errors import UsageError
from ftlab.grade import processes
from ftlab.grade.kernel import Limits, Walls

LIMITS = Limits(memory_mib=512, processes=48, scratch_mib=64, files=500)


@contextlib.contextmanager
def walls_or_skip(mode, **settings):
    with contextlib.ExitStack() as stack:
        try:
            walls = stack.enter_context(Walls(mode, **{"limits": LIMITS, **settings}))
        except UsageError as error:
            pytest.skip(str(error))
        yield walls


class Kernel:
    """A kernel behind `walls`; `run` gives SimpleNamespace(status, text, error)."""

    def __init__(self, walls, environment=None, package=None):
        name = walls.kernel_name(package or getattr(walls, "package", None), environment)
        self.manager, self.client = start_new_kernel(kernel_name=name)
        self.process = self.manager.provisioner.kernel

    def run(self, code, timeout=30):
        texts, errors = [], []

        def hear(message):
            content = message["content"]
            if message["msg_type"] == "stream":
                texts.append(content["text"])
            elif message["msg_type"] == "error":
                errors.append(content["ename"])

        reply = self.client.execute_interactive(code, timeout=timeout, output_hook=hear, allow_stdin=False, stop_on_error=False)
        return SimpleNamespace(status=reply["content"]["status"], text="".join(texts), error=(errors or [None])[0])

    def value(self, expression):
        """What `expression` prints as."""
        done = self.run(f"print({expression})")
        assert done.status == "ok", done
        return done.text.strip()

    def raises(self, code):
        """The name of the error that `code` ends in, None when it ends in none."""
        return self.run(code).error

    def send(self, code):
        """Run `code` without waiting for it."""
        self.client.execute(code, stop_on_error=False)

    def wait_dead(self, seconds):
        """Seconds until the manager knows that the kernel is dead; fails when it takes longer than `seconds`."""
        begun = time.monotonic()
        while self.manager.is_alive():
            assert time.monotonic() - begun < seconds, "the kernel still lives"
            time.sleep(0.02)
        return time.monotonic() - begun

    def end(self):
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)


@contextlib.contextmanager
def kernel(walls, environment=None, package=None):
    running = Kernel(walls, environment, package)
    try:
        yield running
    finally:
        running.end()


def snapshot(*pids):
    """[(pid, start)] of these processes and all below them: names that stay true when numbers are used again."""
    return [(pid, processes.start(pid)) for top in pids for pid in processes.tree(top)]


def wait_until_gone(names, seconds=3.0):
    """Those of `names` that still live after at most `seconds`."""
    until = time.monotonic() + seconds
    while True:
        left = [pid for pid, start in names if start is not None and processes.start(pid) == start]
        if not left or time.monotonic() > until:
            return left
        time.sleep(0.02)
