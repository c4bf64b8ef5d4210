"""What a long command says while it runs, where its output is no terminal: one plain line every half minute."""

import sys
import threading
import time

EVERY = 30  # seconds


class PlainLines:
    """Writes the newest text that it was told, every `every` seconds, to `stream`; a context manager.

    command: the name that each line begins with. A command that takes less than that long writes nothing; one that has
    nothing new to tell still says that it runs. stream: default is sys.stderr at the time of writing.
    """

    def __init__(self, command, stream=None, every=EVERY, clock=time.monotonic):
        self.command, self.stream, self.every, self.clock = command, stream, every, clock
        self._text, self._done, self._thread = "", threading.Event(), None

    def __enter__(self):
        self._begun = self.clock()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._done.set()
        self._thread.join()

    def note(self, text):
        """Remember `text` as the newest; nothing is written yet."""
        self._text = " ".join(str(text).split())

    def event(self, event):
        """A callback of the training loop: notes each step."""
        if event["kind"] == "step":
            from ftlab.show.terminal import step_text

            self.note(f"step {event['step']}/{event['steps']}  {step_text(event)}")

    def write(self):
        """Write one line: the command, the newest text, and for how long it has run."""
        seconds = int(self.clock() - self._begun)
        took = f"{seconds} s" if seconds < 120 else f"{seconds // 60} min"
        print(f"{self.command}: {self._text or 'running'} ({took} so far)", file=self.stream or sys.stderr, flush=True)

    def _run(self):
        while not self._done.wait(self.every):
            try:
                self.write()
            except (OSError, ValueError):  # the reader is gone, or the file closed
                return
