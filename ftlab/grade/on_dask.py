"""Jobs on Dask workers: a local cluster's, or any scheduler's. A worker that is killed costs a retry, never a grade."""

import contextlib
import itertools
import json
import logging
import signal
import threading
import time
import uuid

from ftlab.errors import NotHeld, UsageError
from ftlab.grade.batch import AHEAD, CONNECT_SECONDS, RETRIES, WORKER_SECONDS, close_walls, work

# Scheduler and workers serve pages to whoever asks, without a password: of a local cluster they tell of jobs.
NO_PAGES = {"distributed.scheduler.http.routes": [], "distributed.worker.http.routes": []}


@contextlib.contextmanager
def connected(jobs, scheduler, report):
    """A client of `scheduler` (an address or a cluster object), or of a local cluster of `jobs` worker processes.

    Raises UsageError where there is no scheduler, or where it has no worker after ten minutes.
    """
    try:
        import distributed
    except ImportError:
        raise UsageError("grading on several workers needs dask: pip install 'ftlab[grade]'") from None
    import dask

    with contextlib.ExitStack() as stack:
        # Deaths are counted here (run), so that a job is tried again alone before it is blamed.
        stack.enter_context(dask.config.set({"distributed.scheduler.allowed-failures": 0, **NO_PAGES}))
        if scheduler is None:
            report(f"starting {jobs} workers")
            cluster = stack.enter_context(local_cluster(distributed, jobs))
            client = stack.enter_context(distributed.Client(cluster, set_as_default=False))
        else:
            client = stack.enter_context(_client(distributed, scheduler))
        stack.callback(_close_walls, client)
        _wait_for_a_worker(client, scheduler, report)
        yield client


@contextlib.contextmanager
def local_cluster(distributed, jobs):
    """`jobs` worker processes of one thread, on loopback, behind certificates that exist in memory only.

    Without them every user of this machine could give the workers orders.
    """
    with _sigint_ignored():
        cluster = distributed.LocalCluster(
            n_workers=jobs, threads_per_worker=1, processes=True, host="127.0.0.1", dashboard_address=None,
            memory_limit=None, silence_logs=logging.CRITICAL, security=True,
        )  # fmt: skip
    try:
        yield cluster
    finally:
        cluster.close(timeout=10)


@contextlib.contextmanager
def _sigint_ignored():
    """Processes started in this block do not get the terminal's Ctrl-C: this one does, and ends them in order."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _client(distributed, scheduler):
    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # its tracebacks say no more than the line below
    try:
        return distributed.Client(scheduler, timeout=CONNECT_SECONDS, set_as_default=False)
    except (OSError, TimeoutError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise UsageError(f"no Dask scheduler answers at {_address(scheduler)} within {CONNECT_SECONDS} s ({reason})") from None


def _address(scheduler):
    return getattr(scheduler, "scheduler_address", scheduler)


def _wait_for_a_worker(client, scheduler, report):
    began = time.monotonic()
    while not threads(client):
        if time.monotonic() - began > WORKER_SECONDS:
            raise UsageError(f"the scheduler at {_address(scheduler)} has no workers: start some, then run this again")
        report("waiting for the first worker")
        time.sleep(1)


def threads(client):
    """Threads of all workers of `client`'s scheduler."""
    return sum(worker["nthreads"] for worker in client.scheduler_info(n_workers=-1)["workers"].values())


def _close_walls(client):
    """Take the walls down on all workers; one that does not answer takes its own down when it ends."""
    if client.status == "running":
        with contextlib.suppress(Exception):
            client.sync(client._run, close_walls, callback_timeout=10)


def run(client, jobs):
    """Yield (key, reply) for each of `jobs` as it is done.

    Only so many jobs are sent as keep the workers busy. A job whose worker died is sent again; after a second death it is
    tried alone, when nothing else runs, so that no other job's fault can be laid on it; after the third it has failed.
    """
    flying, again, alone = {}, [], []
    todo = iter(jobs)
    with contextlib.closing(_Queue(client)) as done:
        while True:
            room = AHEAD * max(1, threads(client)) - len(flying)
            for job in itertools.chain(_drain(again), itertools.islice(todo, max(0, room - len(again)))):
                flying[done.send(job)] = job
            if not flying and alone:
                job = alone.pop(0)
                flying[done.send(job)] = job
            if not flying:
                return
            name, reply = done.next()
            job = flying.pop(name)
            if reply is not None:
                yield job.key, reply
                continue
            job.deaths += 1
            if job.deaths > RETRIES:
                yield job.key, {"failed": f"the grader failed on it: {job.deaths} workers ended while they had it"}
            else:
                (again if job.deaths < RETRIES else alone).append(job)


def _drain(jobs):
    while jobs:
        yield jobs.pop(0)


class _Queue:
    """Futures in flight, in the order in which they end."""

    def __init__(self, client):
        from distributed import as_completed

        self.client, self.completed, self.flying = client, as_completed(loop=client.loop), {}

    def send(self, job):
        """Send a job; returns the name under which `next` will tell of it."""
        name = f"ftlab-grade-{uuid.uuid4().hex}"
        future = self.client.submit(work, job.order, job.data(), key=name, pure=False, retries=0)
        self.flying[name] = future
        self.completed.add(future)
        return name

    def next(self):
        """(name, reply) of the next job that ended; reply None: its worker died. Raises NotHeld when the scheduler did."""
        from distributed.scheduler import KilledWorker

        future = next(self.completed)
        del self.flying[future.key]
        status = future.status
        if status == "finished":
            reply = json.loads(future.result())
        elif status == "error":
            error = future.exception()
            reply = None if isinstance(error, KilledWorker) else {"failed": f"a worker could not start on it: {error}"}
        else:
            raise NotHeld("the Dask scheduler went away; the same command goes on from here")
        future.release()
        return future.key, reply

    def close(self):
        with contextlib.suppress(Exception):
            self.client.cancel(list(self.flying.values()), force=True)
