"""`ftlab bench import`: seconds that `import ftlab` takes in a fresh process. Limit: 0.2 s."""

import statistics
import subprocess
import sys

from ftlab import profile
from ftlab.bench.common import alone, tell

LIMIT = 0.2
PROGRAM = """
import sys, time
began = time.perf_counter()
import ftlab
seconds = time.perf_counter() - began
heavy = [name for name in ("torch", "numpy", "matplotlib", "transformers") if name in sys.modules]
print(seconds, *heavy)
"""


def run(report=None, quick=False):
    """Median and maximum over fresh processes. Raises RuntimeError when the import pulled in a heavy library."""
    seconds = []
    for index in range(3 if quick else 15):
        done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
        took, *heavy = done.stdout.split()
        if heavy:
            raise RuntimeError(f"import ftlab loaded {', '.join(heavy)}")
        seconds.append(float(took))
        tell(report, f"process {index + 1}: {seconds[-1]:.3f} s")
    return {"machine": profile.machine(measure=not quick), "rows": [
        alone("import ftlab, median", statistics.median(seconds), "s", LIMIT),
        alone("import ftlab, maximum", max(seconds), "s", LIMIT)]}
