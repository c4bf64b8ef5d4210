"""Freed memory is found again: pages that were filled once are not filled a second time."""

import platform
import subprocess
import sys

import pytest

from ftlab.train.allocator import keep_freed_memory

FAULTS = """
import resource, torch
from ftlab.train.allocator import keep_freed_memory
if {keep}:
    keep_freed_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def step():
    blocks = [torch.empty(2**20).fill_(1) for _ in range(30)]  # 30 times 4 MiB: 30,720 pages of 4 KiB
step()
before = faults()
step()
print(faults() - before)
"""


def page_faults(keep):
    done = subprocess.run([sys.executable, "-c", FAULTS.format(keep=keep)], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt's settings are glibc's")
def test_the_pages_of_freed_memory_are_kept():
    assert keep_freed_memory()
    kept, given_back = page_faults(True), page_faults(False)
    assert kept < 0.5 * given_back
