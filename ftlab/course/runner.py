"""Run notebooks headless, each in a fresh kernel, and write down what it took."""

import contextlib
import logging
import os
import pathlib
import subprocess
import tempfile
import threading
import time

from ftlab import profile
from ftlab.course import catalogue
from ftlab.errors import NotHeld, UsageError
from ftlab.files import atomic_write_text, with_this_package, write_json
from ftlab.teach.display import CLAIM_MIME

SAMPLE_SECONDS = 0.2
GPU_SAMPLE_SECONDS = 1.0  # asking the driver takes a process of its own


def run_labs(labs, out, report):
    """Run the solutions of `labs`, write `out`/<lab>.ipynb and `out`/run.json after each; report(text) shows progress.

    Raises NotHeld when a lab failed, after all have run. A KeyboardInterrupt keeps what is finished.
    """
    from ftlab.course.notebooks import notebook_text, solution_notebook
    from ftlab.course.source import read_lab

    out = pathlib.Path(out)
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out} is a file: name a folder")
    try:
        out.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=out).close()
    except OSError as error:
        raise UsageError(f"--out {out} cannot be written to ({error.strerror}): name another folder") from None
    notebooks = {lab: solution_notebook(lab, read_lab(lab)) for lab in labs}
    run = {"machine": profile.machine(measure=not profile.fast()), "labs": [], "claims": []}
    for number, (lab, notebook) in enumerate(notebooks.items(), 1):
        prefix = f"{lab} ({number} of {len(labs)})"
        report(f"{prefix}: starting a kernel")
        outcome = execute(notebook, on_cell=lambda text, prefix=prefix: report(f"{prefix}: {text}"))
        atomic_write_text(out / f"{lab}.ipynb", notebook_text(notebook))
        run["labs"].append({"lab": lab, **outcome})
        run["claims"] += [{"lab": lab, **claim} for claim in displayed(notebook, CLAIM_MIME)]
        write_json(out / "run.json", run)
        report(f"{prefix}: {outcome['error'] or 'passed'} in {outcome['seconds']:.0f} s")
    failed = [entry["lab"] for entry in run["labs"] if entry["status"] != "passed"]
    if failed:
        raise NotHeld(f"{len(failed)} of {len(labs)} labs failed: {', '.join(failed)}; see {out}/run.json")


def execute(notebook, on_cell=None, fast=None, environment=None):
    """Execute `notebook` in place in a fresh kernel, up to its first error.

    on_cell(text) is called after each code cell. fast: True or False sets FTLAB_FAST for the kernel, None leaves it.
    Returns dict(status "passed" or "failed", seconds, peak_rss_mib of the kernel and its children,
    cells [dict(cell, kind, seconds)], error text or None); where there is an NVIDIA GPU and the profile is not cpu, also
    gpu (its name) and peak_gpu_mib, what the whole card had in use at its highest sample.
    """
    from jupyter_client.manager import AsyncKernelManager
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, DeadKernelError

    # What goes wrong comes back as an exception, below; the libraries' own words about it, with tracebacks, come besides.
    silent = logging.getLogger("ftlab.course.runner.kernels")
    silent.propagate, silent.disabled = False, True
    manager = AsyncKernelManager(kernel_name="python3", log=silent)
    watch = _Watch(notebook, on_cell)
    client = NotebookClient(
        notebook, km=manager, timeout=None, record_timing=False, store_widget_state=False,
        on_cell_start=watch.cell_starts, on_cell_executed=watch.cell_ends, log=silent,
    )  # fmt: skip
    client.owns_km = True  # so that the client shuts the kernel down, whatever happens
    start, sampler = time.perf_counter(), _Sampler(manager)
    # The kernel's own log lines are of no use to a reader; what a cell writes to stderr comes by message.
    options = {"env": _environment(fast, environment or {}), "cwd": str(catalogue.ROOT), "stderr": subprocess.DEVNULL}
    with sampler:
        problem = _in_thread(lambda: client.execute(**options), manager)
    if isinstance(problem, CellExecutionError):
        error = f"cell {watch.current}: {problem.ename}: {' '.join(str(problem.evalue).split())[:300]}"
    elif isinstance(problem, DeadKernelError):
        error = f"cell {watch.current}: the kernel died (out of memory?)"
    elif problem is not None:
        raise problem
    else:
        error = None
    return {
        "status": "failed" if error else "passed",
        "seconds": round(time.perf_counter() - start, 2),
        "peak_rss_mib": round(sampler.peak / 2**20, 1),
        "cells": watch.cells,
        "error": error,
        **sampler.gpu(),
    }


def _in_thread(work, manager):
    """Do `work` in a thread; return the exception that ended it or None. Ctrl-C kills the kernel and goes on up.

    In the main thread nbclient would take SIGINT for itself and end with an assertion.
    """
    ended = []

    def target():
        try:
            work()
        except BaseException as problem:  # also a cancelled task: a thread's exceptions are printed if nobody takes them
            ended.append(problem)

    thread = threading.Thread(target=target, daemon=True)
    try:
        thread.start()
        while thread.is_alive():
            thread.join(0.1)
    except KeyboardInterrupt:
        _end(thread, manager)
        raise KeyboardInterrupt from None
    return ended[0] if ended else None


def _end(thread, manager, seconds=10):
    """Kill the kernel until the `thread` that drives it has ended, at most for `seconds`; a second Ctrl-C changes nothing.

    A kernel that is just being started has no process yet, so once is not enough.
    """
    import psutil

    until = time.monotonic() + seconds
    logging.getLogger("asyncio").disabled = True  # it would print the exceptions of tasks that nobody waits for now
    try:
        while thread.is_alive() and time.monotonic() < until:
            with contextlib.suppress(KeyboardInterrupt):
                for process in _processes(manager):
                    with contextlib.suppress(psutil.Error):
                        process.kill()
                thread.join(0.2)
    finally:
        logging.getLogger("asyncio").disabled = thread.is_alive()


def _processes(manager):
    """The kernel's process and its children; [] before it starts and after it ends."""
    import psutil

    pid = getattr(getattr(manager, "provisioner", None), "pid", None)
    try:
        kernel = psutil.Process(pid) if pid else None
        return [kernel, *kernel.children(recursive=True)] if kernel else []
    except psutil.Error:
        return []


def displayed(notebook, mime):
    """All values of MIME type `mime` in the outputs of `notebook`, in order."""
    return displayed_in([output for cell in notebook.cells for output in cell.get("outputs", ())], mime)


def displayed_in(outputs, mime):
    """The values of MIME type `mime` in a cell's outputs, in order."""
    return [output["data"][mime] for output in outputs if mime in output.get("data", {})]


class _Watch:
    """Times the cells and tells how far it is."""

    def __init__(self, notebook, on_cell):
        self.kinds = [cell.metadata.get("ftlab", {}).get("kind", "code") for cell in notebook.cells]
        self.total = sum(cell.cell_type == "code" and bool(cell.source.strip()) for cell in notebook.cells)
        self.on_cell, self.cells, self.current = on_cell, [], 0
        self.began = time.perf_counter()

    def cell_starts(self, cell, cell_index):
        if cell.cell_type == "code":
            self.current, self.start = cell_index + 1, time.perf_counter()

    def cell_ends(self, cell, cell_index, execute_reply):
        now = time.perf_counter()
        entry = {"cell": cell_index + 1, "kind": self.kinds[cell_index], "seconds": round(now - self.start, 3)}
        self.cells.append(entry)
        if self.on_cell:
            done = len(self.cells)
            left = (now - self.began) / done * (self.total - done)
            took = f"{entry['kind']}, {entry['seconds']:.1f} s"
            self.on_cell(f"cell {done} of {self.total}, {took}; about {left:.0f} s left")


class _Sampler:
    """The peak of the resident memory of a kernel and its children, sampled; `peak` in bytes. On a GPU the card's, too."""

    def __init__(self, manager):
        self.manager, self.peak, self.gpu_peak = manager, 0, 0
        self.cards = profile.nvidia_gpus() if profile.requested() != "cpu" else []
        self.done = threading.Event()
        self.threads = [threading.Thread(target=self._sample, daemon=True)]
        self.threads += [threading.Thread(target=self._sample_gpu, daemon=True)] if self.cards else []

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *exception):
        self.done.set()
        for thread in self.threads:
            thread.join()

    def gpu(self):
        """{"gpu", "peak_gpu_mib"} of the first card, or nothing."""
        return {"gpu": self.cards[0], "peak_gpu_mib": self.gpu_peak} if self.cards else {}

    def _sample_gpu(self):
        while True:
            self.gpu_peak = max([self.gpu_peak, *profile.nvidia_memory_used()[:1]])
            if self.done.wait(GPU_SAMPLE_SECONDS):
                return

    def _sample(self):
        import psutil

        while not self.done.wait(SAMPLE_SECONDS):
            try:
                self.peak = max(self.peak, sum(process.memory_info().rss for process in _processes(self.manager)))
            except psutil.Error:
                pass  # one ended between two looks


def _environment(fast, extra):
    environment = with_this_package(dict(os.environ, FTLAB_HEADLESS="1", PYTHONHASHSEED="0", **extra))
    if fast is not None:
        environment["FTLAB_FAST"] = "1" if fast else "0"
    return environment
