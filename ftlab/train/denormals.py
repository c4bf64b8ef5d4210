"""Numbers too small to be normal are taken as zero while a model trains.

Below 1.2e-38 a float32 is denormal, and a processor takes a hundred times as long to multiply it. In pretraining such
numbers are rare. In fine-tuning only the response has a loss: what a prompt's tokens get of the gradient comes through
attention alone, and where a head that copies attends with a weight of 1e-30, that gradient is denormal. On our bases half
the time of a backward pass went there. As zeros they change no weight: what they would add is lost in rounding anyway.
"""

import contextlib
import ctypes
import functools
import pathlib
import re

import numpy as np
import torch


@contextlib.contextmanager
def flushed_denormals():
    """Inside the block denormals are zeros, on this thread and on those that share its work; as before afterwards.

    Yields whether the processor can.
    """
    for kind in (np.float32, np.float64):
        np.finfo(kind)  # numpy looks for the smallest number once, and would warn to find it zero
    before = _flushes()
    able = torch.set_flush_denormal(True)
    _renew_threads()
    try:
        yield able
    finally:
        torch.set_flush_denormal(before)
        _renew_threads()


def _flushes():
    """Whether this thread takes denormals as zeros just now."""
    return bool((torch.tensor([1e-38]) * 0.01 == 0).item())


def _renew_threads():
    """End OpenMP's idle threads. The setting is each thread's own, and a thread takes it from the one that starts it."""
    pause = _pause()
    if pause is not None:
        pause(1)  # omp_pause_soft, of OpenMP 5.0: nothing is lost but the threads, and they come back when needed


@functools.cache
def _pause():
    """omp_pause_resource_all of the OpenMP library that this process has loaded, or None."""
    try:
        maps = pathlib.Path("/proc/self/maps").read_text()
        [library] = set(re.findall(r"/\S*lib[gi]omp\S*", maps))
        return ctypes.CDLL(library).omp_pause_resource_all
    except (OSError, ValueError, AttributeError):  # another system, several libraries, an old one: this thread alone
        return None
