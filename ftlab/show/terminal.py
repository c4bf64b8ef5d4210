"""Progress of a training run as text: one updating line on a terminal, a few plain lines in a log."""

import math
import sys
import time

from ftlab.show import style


class TextProgress:
    """A callback for `ftlab.train.train`.

    On a terminal one line updates itself (at most five times a second); evaluations stay as lines of their own. In a
    file or a pipe a line appears about every tenth of the run, or none with `silent` (the default for commands whose
    output a program reads). stream: where to write, by default stderr. silent: None means "write in either case".
    """

    def __init__(self, stream=None, silent=False, label="", floor=None, clock=time.perf_counter):
        self.stream, self.label, self.floor, self.clock = stream, label, floor, clock
        self.silent = silent
        self._last, self._tenth, self._width = -math.inf, -1, 0

    def __call__(self, event):
        """Take one event of the training loop."""
        stream = self.stream or sys.stderr
        tty = bool(getattr(stream, "isatty", lambda: False)())
        if self.silent:
            return
        kind = event["kind"]
        if kind == "start":
            self._last, self._tenth = -math.inf, int(10 * event.get("step", 0) / max(1, event["steps"]))
        elif kind == "step":
            self._step(stream, tty, event)
        elif kind == "eval":
            self._line(stream, tty, self._prefix(event) + metrics_text(event.get("metrics") or {}))
        elif kind == "recovery":
            mended = event["recovery"]
            self._line(stream, tty, f"diverged at step {mended.step}: back to step {mended.back_to}, on with learning "
                                    f"rate {mended.lr:.3g}")
        elif kind == "end" and tty and self._width:
            stream.write("\n")
            self._width = 0
            stream.flush()

    def _step(self, stream, tty, event):
        last = event["step"] >= event["steps"]
        if tty:
            now = self.clock()
            if last or now - self._last >= 0.2:
                self._last = now
                text = self._prefix(event) + step_text(event, self.floor)
                stream.write("\r" + text.ljust(self._width))
                self._width = len(text)
                stream.flush()
            return
        tenth = int(10 * event["step"] / max(1, event["steps"]))
        if tenth > self._tenth or event["step"] == 1:
            self._tenth = max(tenth, self._tenth)
            self._line(stream, tty, self._prefix(event) + step_text(event, self.floor))

    def _prefix(self, event):
        steps = str(event["steps"])
        label = f"{self.label} " if self.label else ""
        return f"{label}step {event['step']:>{len(steps)}}/{steps}  "

    def _line(self, stream, tty, text):
        stream.write(("\r" + text.ljust(self._width) if tty else text) + "\n")
        self._width = 0
        stream.flush()


def step_text(event, floor=None):
    """"loss 1.234  lr 0.0030  5.2k tokens/s  12 s left" from a step event, its metrics before the time; what the event
    lacks is left out."""
    parts = []
    if event.get("loss") is not None:
        gap = f" (floor {floor:.3f})" if floor is not None else ""
        parts.append(f"loss {event['loss']:.3f}{gap}")
    if event.get("lr") is not None:
        parts.append(f"lr {event['lr']:.3g}")
    if event.get("tokens_per_second"):
        parts.append(f"{style.number(event['tokens_per_second'])} tokens/s")
    if event.get("metrics"):
        parts.append(metrics_text(event["metrics"]))
    if event.get("eta_seconds") is not None and event["step"] < event["steps"]:
        parts.append(f"{style.duration(event['eta_seconds'])} left")
    return "  ".join(parts)


def metrics_text(metrics):
    """"loss 1.203  kept 0.81" from a dict of metrics; what is no number is left out."""
    return "  ".join(f"{name.replace('_', ' ')} {style.number(value)}" for name, value in metrics.items()
                     if isinstance(value, (int, float)) and not isinstance(value, bool))
