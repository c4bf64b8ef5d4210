"""Where am I: device, dtype, threads, memory, and how much work to do. The one place that decides.

Importing this module loads nothing heavy; torch comes in when a function needs it.
"""

import dataclasses
import functools
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import time

from ftlab.errors import UsageError

NAMES = ("cpu", "gpu")
ON, OFF = ("1", "true", "yes", "on"), ("", "0", "false", "no", "off")  # what a switch in the environment may be set to
DEFAULT_BASE = "HuggingFaceTB/SmolLM2-135M"  # of the gpu profile: 135 million parameters, Llama's layout
_GIB = 2**30
# cgroup v1 says "no limit" with a number close to 2**63.
_NO_LIMIT = 2**60


@dataclasses.dataclass(frozen=True)
class Profile:
    """What the labs run on.

    name: "cpu" (our small models) or "gpu" (a real pretrained model).
    device: a torch device string, such as "cpu" or "cuda".
    dtype: "float32" or "bfloat16".
    threads: CPU threads that torch may use.
    memory_gib: memory of this process's machine or container, in GiB; of the GPU where the device is one.
    fast: FTLAB_FAST=1, every lab with few steps.
    """

    name: str
    device: str
    dtype: str
    threads: int
    memory_gib: float
    fast: bool


def current():
    """The profile in force: FTLAB_PROFILE when set, else "gpu" where torch sees a CUDA device, else "cpu".

    Raises UsageError when FTLAB_PROFILE holds another name, or "gpu" where torch sees no GPU.
    """
    wanted = requested()
    gpu = _gpu() if wanted != "cpu" else None
    if wanted == "gpu" and gpu is None:
        raise UsageError(
            "FTLAB_PROFILE=gpu, but torch sees no CUDA device: run `ftlab doctor`, or unset FTLAB_PROFILE for the CPU"
        )
    if gpu is not None:
        dtype = "bfloat16" if gpu["bfloat16"] else "float32"
        return Profile("gpu", "cuda", dtype, cores(), gpu["memory_gib"], fast())
    # float32 on every CPU: where there is no AMX or AVX512-BF16, bfloat16 is emulated, and a matrix product takes
    # about 170 times as long.
    return Profile("cpu", "cpu", "float32", cores(), memory_gib(), fast())


def requested():
    """The profile that FTLAB_PROFILE asks for, or None when it is unset, empty or "auto".

    Raises UsageError for any other value.
    """
    value = os.environ.get("FTLAB_PROFILE", "").strip().lower()
    if value in ("", "auto"):
        return None
    if value not in NAMES:
        raise UsageError(f"FTLAB_PROFILE={value!r} is no profile: set it to cpu, gpu or auto")
    return value


def base():
    """The pretrained model, a folder or a Hub id, from which the labs on fine-tuning start; None: the shipped bases.

    FTLAB_BASE when set, under either profile; else DEFAULT_BASE under the gpu profile.
    """
    named = os.environ.get("FTLAB_BASE", "").strip()
    return named or (DEFAULT_BASE if current().name == "gpu" else None)


def autocast(device):
    """A context in which matrix products on `device` ("cuda", "cpu") run in the profile's dtype, weights staying in
    float32: bfloat16 on a GPU that can, no change elsewhere."""
    import torch

    low = device == "cuda" and current().dtype == "bfloat16"
    return torch.autocast(device, torch.bfloat16, enabled=low)


def fast():
    """Whether FTLAB_FAST asks for few steps everywhere. Needs no torch. Raises UsageError for an unknown value."""
    return _asked_fast()


def steps(full, fast):
    """`fast` under FTLAB_FAST=1, else `full`: how a lab names both of its numbers of steps in one place."""
    return fast if _asked_fast() else full


def cores():
    """CPU cores that this process may use: affinity and a container's CPU quota counted, never less than 1."""
    try:
        allowed = len(os.sched_getaffinity(0))
    except AttributeError:  # macOS and Windows have no affinity call
        allowed = os.cpu_count() or 1
    quota = _cgroup_cpus()
    return max(1, min(allowed, int(quota + 0.5)) if quota else allowed)


def memory_gib():
    """Memory that this process may use, in GiB: the machine's, or the container's limit where that is lower.

    0.0 where the system does not say.
    """
    limits = [value for value in (_machine_memory(), _cgroup_memory()) if value]
    return round(min(limits) / _GIB, 2) if limits else 0.0


def isa(load=True):
    """The CPU's vector instructions as torch names them ("AVX2", "AVX512", ...), or from the system, or "unknown".

    load: whether torch may be imported to be asked, which takes seconds.
    """
    if "torch" in sys.modules or load and _has("torch"):
        try:
            import torch

            return torch.backends.cpu.get_cpu_capability()
        except (ImportError, AttributeError, OSError):
            pass
    flags = _cpu_flags()
    for flag, name in (("avx512f", "AVX512"), ("avx2", "AVX2"), ("asimd", "NEON"), ("sse4_2", "SSE4.2")):
        if flag in flags:
            return name
    return "NEON" if platform.machine().lower() in ("arm64", "aarch64") else "unknown"


def machine(measure=True):
    """What a reader needs to compare timings: `cores`, `isa`, `memory_gib`, `matmul_gflops` (None unless measured).

    Holds no host name. Measuring takes about a second; without it torch is not imported.
    """
    return {
        "cores": cores(),
        "isa": isa(load=measure),
        "memory_gib": memory_gib(),
        "matmul_gflops": round(matmul_gflops(), 1) if measure else None,
    }


def matmul_gflops(size=1536, repeats=7, dtype="float32"):
    """Rate of a large matrix product on the CPU, in GFLOP/s: the median of `repeats`, after one to warm up.

    A product of two (size, size) matrices counts 2 * size**3 operations. dtype: the name of a floating dtype of torch.
    """
    import torch

    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(size, size, generator=generator).to(getattr(torch, dtype)) for _ in range(2))
    out = torch.empty(size, size, dtype=a.dtype)
    torch.mm(a, b, out=out)
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        torch.mm(a, b, out=out)
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / statistics.median(seconds) / 1e9


def nvidia_gpus():
    """Names of the GPUs that the NVIDIA driver reports, whatever torch can use; [] without driver or GPU."""
    return _nvidia_smi("name")


def nvidia_driver():
    """The version of the NVIDIA driver, such as "535.104.05", or None."""
    return next(iter(_nvidia_smi("driver_version")), None)


def nvidia_memory_used():
    """MiB in use on each GPU, by whoever; [] without driver or GPU."""
    return [int(text.split()[0]) for text in _nvidia_smi("memory.used") if text[:1].isdigit()]


def _nvidia_smi(field):
    """What nvidia-smi says of each GPU in one field; [] without driver or GPU."""
    try:
        done = subprocess.run(
            ["nvidia-smi", f"--query-gpu={field}", "--format=csv,noheader"],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=10, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [line.strip() for line in done.stdout.splitlines() if line.strip()] if done.returncode == 0 else []


def _asked_fast():
    return switched_on("FTLAB_FAST", "few steps")


def switched_on(variable: str, meaning: str = "") -> bool:
    """Whether an environment variable is 1, true, yes or on, in any case; False for 0, false, no, off, empty or unset.

    meaning: what 1 asks for, for the error. Raises UsageError for any other value.
    """
    value = os.environ.get(variable, "").strip()
    if value.lower() in (*ON, *OFF):
        return value.lower() in ON
    raise UsageError(f"{variable}={value!r} is neither 1{f' ({meaning})' if meaning else ''} nor 0: set it to 1 or unset it")


def headless() -> bool:
    """Whether FTLAB_HEADLESS asks for notebooks that are run for readers: pictures, no widgets, nothing kept outside them."""
    return switched_on("FTLAB_HEADLESS", "pictures in place of widgets")


def _has(module):
    import importlib.util

    return importlib.util.find_spec(module) is not None


def _gpu():
    """dict(memory_gib, bfloat16) of the first CUDA device that torch can use, or None."""
    try:
        import torch
    except (ImportError, OSError):
        return None
    if not torch.cuda.is_available():
        return None
    properties = torch.cuda.get_device_properties(0)
    # is_bf16_supported() also counts emulation; before Ampere (8.0) bfloat16 is emulated and slow.
    return {"memory_gib": round(properties.total_memory / _GIB, 2), "bfloat16": properties.major >= 8}


def _read(path):
    try:
        return pathlib.Path(path).read_text(encoding="ascii", errors="replace").strip()
    except (OSError, ValueError):
        return ""


def _machine_memory():
    for line in _read("/proc/meminfo").splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) * 1024
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")  # macOS and other Unix
    except (AttributeError, ValueError, OSError):
        return _windows_memory()


def _windows_memory():
    if sys.platform != "win32":
        return None
    import ctypes

    class Status(ctypes.Structure):  # MEMORYSTATUSEX
        _fields_ = [("length", ctypes.c_ulong), ("load", ctypes.c_ulong)] + [
            (name, ctypes.c_ulonglong)
            for name in ("total", "free", "page", "page_free", "virtual", "virtual_free", "extended")
        ]

    status = Status(length=ctypes.sizeof(Status))
    return status.total if ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status)) else None


@functools.cache
def _cgroup_paths():
    """{controller: path} of this process; the key "" is cgroup v2's single tree."""
    paths = {}
    for line in _read("/proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            paths[controller] = path.lstrip("/")
    return paths


def _cgroup_files(controller, v2_name, v1_name):
    """Contents of one limit's file at this process's cgroup and every one above it (the tightest limit holds)."""
    root = pathlib.Path("/sys/fs/cgroup")
    paths = _cgroup_paths()
    places = []
    if "" in paths:
        places.append((root, paths[""], v2_name))
    if controller in paths:
        # Inside a container the path in /proc may be the host's; the mount's root is then the right one, and is tried.
        places.append((root / controller, paths[controller], v1_name))
    for base, path, name in places:
        folder = base / path
        while True:
            text = _read(folder / name)
            if text:
                yield folder, text
            if folder == base or base not in folder.parents:
                break
            folder = folder.parent


def _cgroup_memory():
    limits = [int(text) for _, text in _cgroup_files("memory", "memory.max", "memory.limit_in_bytes") if text.isdigit()]
    limits = [limit for limit in limits if 0 < limit < _NO_LIMIT]
    return min(limits) if limits else None


def _cgroup_cpus():
    quotas = []
    for folder, text in _cgroup_files("cpu", "cpu.max", "cpu.cfs_quota_us"):
        fields = text.split()
        if len(fields) == 1:
            fields.append(_read(folder / "cpu.cfs_period_us"))
        if fields[0].isdigit() and fields[1].isdigit() and int(fields[1]):
            quotas.append(int(fields[0]) / int(fields[1]))
    return min(quotas) if quotas else None


def _cpu_flags():
    for line in _read("/proc/cpuinfo").splitlines():
        if line.lower().startswith(("flags", "features")):
            return set(line.partition(":")[2].split())
    return set()
