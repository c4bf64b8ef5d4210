"""`python -m grade.small_limits ARGUMENTS...`: the command `ftlab` with kernels that may use little, so that bombs are small.

At the end it tells the largest memory of the pytest processes that talked to kernels: "peak: 123 MiB".
Dask's workers, which multiprocessing spawns, import this module too, and have the same limits.
"""

import sys

from ftlab import cli, profile
from ftlab.grade import kernel, one

LIMITS = {"cell_seconds": 2 if profile.fast() else 5, "memory_mib": 512, "processes": 48, "scratch_mib": 64, "files": 500}

fields = kernel.Limits.__dataclass_fields__
kernel.Limits.__init__.__defaults__ = tuple(LIMITS.get(name, field.default) for name, field in fields.items())
peaks = [0.0]


def watched(run):
    def watching(*arguments):
        found = run(*arguments)
        peaks.append(found["peak_rss_mib"])
        return found

    return watching


if __name__ == "__main__":
    one._run = watched(one._run)
    status = cli.main(sys.argv[1:])
    print(f"peak: {max(peaks)} MiB")
    sys.exit(status)
