"""Runs the tests whose numbers come from libraries under each instruction set that this processor has: `make test-isa`.

`python tests/instruction_sets.py [pytest's arguments]`: without a path among them, the folders of FOLDERS. The exit status
is 1 where a run failed. torch, MKL and oneDNN are each told which instructions to use; the last run has bitsandbytes take
the processor for one with AVX-512-BF16 (avx512_bf16.py), whatever it has.
"""

import os
import pathlib
import subprocess
import sys

import torch

TESTS = pathlib.Path(__file__).parent
FOLDERS = ("tune", "model", "train", "align", "measure", "labs")
SETS = {  # name: (the capability that torch reports where it has it, environment), least first
    "default": (None, {"ATEN_CPU_CAPABILITY": "default", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2", "ONEDNN_MAX_CPU_ISA": "SSE41"}),
    "avx2": ("AVX2", {"ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2", "ONEDNN_MAX_CPU_ISA": "AVX2"}),
    "avx512": ("AVX512", {"ATEN_CPU_CAPABILITY": "avx512"}),
}


def available():
    """Names of SETS that this processor has. On a processor that is not x86 there is the default only."""
    capabilities = [capability for capability, _ in SETS.values()]
    here = torch.backends.cpu.get_cpu_capability()
    return list(SETS)[:capabilities.index(here) + 1 if here in capabilities else 1]


def main(arguments):
    """Run pytest once for each set and print a line for each; returns the exit status."""
    if not any(os.path.exists(argument.partition("::")[0]) for argument in arguments):
        arguments = [*arguments, *(str(TESTS / name) for name in FOLDERS)]
    runs = {name: (SETS[name][1], []) for name in available()}
    runs["bitsandbytes with AVX-512-BF16"] = ({"PYTHONPATH": str(TESTS)}, ["-p", "avx512_bf16"])
    failed = []
    for name, (environment, options) in runs.items():
        print(f"== {name}", flush=True)
        command = [sys.executable, "-m", "pytest", *options, *arguments]
        if subprocess.run(command, env=os.environ | environment).returncode:
            failed.append(name)
    for name in runs:
        print(f"{name}: {'failed' if name in failed else 'passed'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
