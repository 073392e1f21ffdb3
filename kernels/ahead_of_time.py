"""Kernels compiled without a GPU, and what the machine code says of them: registers, spills, shared memory, load width.

    python -m fastgan.kernels.ahead_of_time sm_80 sm_90        one JSON list of reports on standard output

Triton brings the assembler (ptxas) and the disassembler (cuobjdump) with it, so any machine can look. Where TRITON_INTERPRET is
set, every kernel of the process, and Triton's own library with it, was replaced by its interpreted form when it was imported:
there the work goes to a fresh Python process without the variable.
"""

import importlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from .launch import Launch

# What the assemblers of Triton 3.5 to 3.8 know, from the first generation with bfloat16.
ARCHITECTURES = ("sm_80", "sm_86", "sm_87", "sm_89", "sm_90", "sm_100", "sm_103", "sm_120", "sm_121")


@dataclass(frozen=True)
class Report:
    """One launch on one architecture. Sizes in bytes; `spills` counts the instructions that touch a thread's stack."""

    name: str  # of the launch
    kernel: str
    architecture: str
    warps: int
    registers: int  # a thread
    spills: int
    stack: int
    local: int
    shared: int  # a block of threads
    barriers: int
    loads: int  # instructions that read global memory, in the program's text
    widest_load: int  # of one thread, from global memory
    widest_store: int


def compile_kernel(launch: Launch, arch: str) -> Report:
    """Compiles one launch for one architecture, say "sm_90".

    Raises:
        ValueError: an architecture that is not one of ARCHITECTURES.
    """
    return compile_launches([launch], [arch])[0]


def compile_catalog(archs: Sequence[str]) -> list[Report]:
    """Compiles every launch of the catalogue for every architecture. Raises as `compile_kernel` does."""
    from .catalog import launches

    return compile_launches(launches(), archs)


def compile_launches(launches: Sequence[Launch], archs: Sequence[str]) -> list[Report]:
    """Compiles each launch for each architecture, in this order: the first architecture's first."""
    for arch in archs:
        if arch not in ARCHITECTURES:
            raise ValueError(f"unknown architecture {arch!r}: choose from {', '.join(ARCHITECTURES)}")
    if triton.knobs.runtime.interpret:
        return _in_fresh_process(launches, archs)
    return [_compile(launch, arch) for arch in archs for launch in launches]


def _in_fresh_process(launches: Sequence[Launch], archs: Sequence[str]) -> list[Report]:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", f"{__package__}.ahead_of_time", "--launches", *archs]
    launches_json = json.dumps([asdict(launch) for launch in launches])
    run = subprocess.run(command, input=launches_json, env=environment, capture_output=True, text=True)
    if run.returncode:
        raise RuntimeError(f"compiling in a fresh process failed: {' '.join(command)}\n{run.stderr}")
    return [Report(**report) for report in json.loads(run.stdout)]


def _compile(launch: Launch, arch: str) -> Report:
    file, function = launch.kernel.split(".")
    kernel = getattr(importlib.import_module(f"{__package__}.{file}"), function)
    signature = {argument: launch.types.get(argument, "constexpr") for argument in kernel.arg_names}
    constexprs = {_place(kernel, name): _hashable(value) for name, value in launch.constexprs.items()}
    parts = [name.split(".") for name in (*launch.types, *launch.constexprs) if "." in name]
    for argument in {argument for argument, _ in parts}:
        names = sorted((".".join(part) for part in parts if part[0] == argument), key=lambda name: int(name.split(".")[1]))
        signature[argument] = tuple(launch.types.get(name, "constexpr") for name in names)
    attributes = {_place(kernel, name): [["tt.divisibility", 16]] for name in launch.aligned}
    compiled = triton.compile(
        ASTSource(kernel, signature, constexprs, attributes),
        target=GPUTarget("cuda", int(arch.removeprefix("sm_")), 32),
        options={
            "num_warps": launch.warps,
            "enable_fp_fusion": False,
        },  # as `launch` sets it
    )
    usage, stack_accesses = _inspect(compiled.asm["cubin"])
    ptx = compiled.asm["ptx"]
    return Report(
        name=launch.name,
        kernel=launch.kernel,
        architecture=arch,
        warps=launch.warps,
        registers=usage["REG"],
        spills=stack_accesses,
        stack=usage["STACK"],
        local=usage["LOCAL"],
        shared=compiled.metadata.shared,  # asked for at launch: cuobjdump sees static shared memory alone
        barriers=len(re.findall(r"\bbar(?:rier)?\.sync\b", ptx)),
        loads=len(_widths("ld", ptx)),
        widest_load=max(_widths("ld", ptx), default=0),
        widest_store=max(_widths("st", ptx), default=0),
    )


def _place(kernel: Any, name: str) -> tuple[int, ...]:
    """Where an argument is: its number, and its place in it where it is a tuple ("z_ptrs.1")."""
    argument, *place = name.split(".")
    return (kernel.arg_names.index(argument), *map(int, place))


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value  # JSON has no tuples


def _inspect(cubin: bytes) -> tuple[dict[str, int], int]:
    """cuobjdump's table of resources, and how many instructions read or write local memory (LDL, STL)."""
    cuobjdump = triton.knobs.nvidia.cuobjdump.path
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        run = subprocess.run([cuobjdump, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True)
        sass = subprocess.run([cuobjdump, "-sass", file.name], capture_output=True, text=True, check=True).stdout
    usage = {name: int(value) for name, value in re.findall(r"\b(REG|STACK|SHARED|LOCAL):(\d+)", run.stdout)}
    if set(usage) != {"REG", "STACK", "SHARED", "LOCAL"} or "EXIT" not in sass:
        raise RuntimeError(f"cuobjdump's answer isn't understood:\n{run.stdout}{sass[:1000]}")
    return usage, len(re.findall(r"\b(?:LDL|STL)\b", sass))


def _widths(instruction: str, ptx: str) -> list[int]:
    """Bytes of each access to global memory by one thread: `ld.global.v4.b32` has 16."""
    accesses = re.findall(rf"\b{instruction}\.global(?:\.[\w:]+?)*?(?:\.v(\d))?\.[busf](\d+)\b", ptx)
    return [int(lanes or 1) * int(bits) // 8 for lanes, bits in accesses]


def main(arguments: Sequence[str]) -> None:
    """Architectures, and --launches where the launches come as JSON on standard input instead of from the catalogue."""
    archs = [argument for argument in arguments if argument != "--launches"]
    try:
        if "--launches" in arguments:
            reports = compile_launches([Launch(**launch) for launch in json.load(sys.stdin)], archs)
        else:
            reports = compile_catalog(archs)
    except ValueError as error:
        sys.exit(str(error))
    json.dump([asdict(report) for report in reports], sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1:])
