"""ftlab.profile: what the machine is, what the user asked for, and what container limits do."""

import pathlib
import subprocess
import sys

import pytest

from ftlab import profile
from ftlab.errors import UsageError


def test_cpu_profile_is_float32(monkeypatch):
    monkeypatch.setenv("FTLAB_PROFILE", "cpu")
    monkeypatch.setenv("FTLAB_FAST", "1")
    here = profile.current()
    assert (here.name, here.device, here.dtype, here.fast) == ("cpu", "cpu", "float32", True)
    assert here.threads >= 1 and here.memory_gib > 0


@pytest.mark.parametrize(("capable", "dtype"), [(True, "bfloat16"), (False, "float32")])
def test_gpu_is_chosen_by_itself(monkeypatch, capable, dtype):
    monkeypatch.delenv("FTLAB_PROFILE", raising=False)
    monkeypatch.setattr(profile, "_gpu", lambda: {"memory_gib": 15.0, "bfloat16": capable})
    here = profile.current()
    assert (here.name, here.device, here.dtype, here.memory_gib) == ("gpu", "cuda", dtype, 15.0)
    monkeypatch.setenv("FTLAB_PROFILE", "cpu")
    assert profile.current().name == "cpu"


def test_gpu_asked_for_without_one(monkeypatch):
    monkeypatch.setenv("FTLAB_PROFILE", "gpu")
    monkeypatch.setattr(profile, "_gpu", lambda: None)
    with pytest.raises(UsageError, match="sees no CUDA device"):
        profile.current()


def test_unknown_settings_are_refused(monkeypatch):
    monkeypatch.setenv("FTLAB_PROFILE", "tpu")
    with pytest.raises(UsageError, match="'tpu' is no profile: set it to cpu, gpu or auto"):
        profile.current()
    monkeypatch.setenv("FTLAB_PROFILE", "auto")
    assert profile.requested() is None
    monkeypatch.setenv("FTLAB_FAST", "maybe")
    with pytest.raises(UsageError, match="FTLAB_FAST='maybe'"):
        profile.fast()


@pytest.mark.parametrize("ask", [profile.fast, profile.headless])
def test_switches_in_the_environment_are_read_alike(monkeypatch, ask):
    name = f"FTLAB_{ask.__name__.upper()}"
    for value, expected in {"1": True, "true": True, "Yes": True, " on ": True, "0": False, "False": False, "no": False,
                            "OFF": False, "": False, " ": False}.items():  # fmt: skip
        monkeypatch.setenv(name, value)
        assert ask() is expected, value
    monkeypatch.setenv(name, "2")
    with pytest.raises(UsageError, match=f"{name}='2' is neither 1"):
        ask()
    monkeypatch.delenv(name)
    assert ask() is False


@pytest.mark.parametrize(("value", "expected"), [("1", 3), ("0", 500), ("", 500)])
def test_steps(monkeypatch, value, expected):
    monkeypatch.setenv("FTLAB_FAST", value)
    assert profile.steps(500, 3) == profile.steps(full=500, fast=3) == expected


def test_machine_holds_what_timings_need_and_no_more():
    described = profile.machine(measure=False)
    assert set(described) == {"cores", "isa", "memory_gib", "matmul_gflops"}
    assert described["matmul_gflops"] is None
    assert profile.matmul_gflops(size=64, repeats=3) > 0 and profile.matmul_gflops(64, 3, "bfloat16") > 0


@pytest.fixture
def cgroups(monkeypatch):
    """A stand-in for /proc and /sys/fs/cgroup: fill the dict with {path: text}."""
    files = {}
    monkeypatch.setattr(profile, "_read", lambda path: files.get(pathlib.PurePath(path).as_posix(), ""))
    monkeypatch.setattr(profile, "_machine_memory", lambda: 64 * 2**30)
    profile._cgroup_paths.cache_clear()
    yield files
    profile._cgroup_paths.cache_clear()


def test_cgroup_v2_limits_count(cgroups):
    cgroups["/proc/self/cgroup"] = "0::/a/b"
    cgroups["/sys/fs/cgroup/a/b/memory.max"] = "max"
    cgroups["/sys/fs/cgroup/a/memory.max"] = str(3 * 2**30)
    cgroups["/sys/fs/cgroup/a/cpu.max"] = "100000 100000"
    assert profile.memory_gib() == 3.0
    assert profile.cores() == 1


def test_cgroup_v1_limits_count(cgroups):
    cgroups["/proc/self/cgroup"] = "4:memory:/docker/x\n2:cpu,cpuacct:/docker/x"
    # Inside a container the limits lie at the mount's root.
    cgroups["/sys/fs/cgroup/memory/memory.limit_in_bytes"] = str(2**31)
    cgroups["/sys/fs/cgroup/cpu/cpu.cfs_quota_us"] = "50000"
    cgroups["/sys/fs/cgroup/cpu/cpu.cfs_period_us"] = "100000"
    assert profile.memory_gib() == 2.0
    assert profile.cores() == 1


def test_without_limits_the_machine_counts(cgroups):
    cgroups["/proc/self/cgroup"] = "4:memory:/\n2:cpu:/"
    cgroups["/sys/fs/cgroup/memory/memory.limit_in_bytes"] = "9223372036854771712"
    cgroups["/sys/fs/cgroup/cpu/cpu.cfs_quota_us"] = "-1"
    cgroups["/sys/fs/cgroup/cpu/cpu.cfs_period_us"] = "100000"
    assert profile.memory_gib() == 64.0


def test_systems_without_proc_and_affinity(monkeypatch):
    """macOS and Windows: nothing in /proc, no sched_getaffinity, perhaps no sysconf."""
    monkeypatch.setattr(profile, "_read", lambda path: "")
    monkeypatch.delattr("os.sched_getaffinity", raising=False)
    monkeypatch.delattr("os.sysconf", raising=False)
    profile._cgroup_paths.cache_clear()
    assert profile.cores() >= 1
    assert profile.memory_gib() == 0.0
    profile._cgroup_paths.cache_clear()


def test_isa_without_torch(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setattr(profile, "_cpu_flags", lambda: {"sse4_2", "avx2"})
    assert profile.isa() == "AVX2"


def test_no_driver_no_gpus(monkeypatch):
    def run(*args, **kwargs):
        raise FileNotFoundError("nvidia-smi")

    monkeypatch.setattr(subprocess, "run", run)
    assert profile.nvidia_gpus() == []
