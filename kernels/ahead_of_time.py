"""Kernels compiled without a GPU, and what the machine code says of them: registers, spills, shared memory, load width.

    python -m fastgan.kernels.ahead_of_time sm_80 sm_90        one JSON list of reports on standard output

Triton brings the assembler (ptxas) and the disassembler (cuobjdump) with it, so any machine can look. Where TRITON_INTERPRET is
set, every kernel of the process, and Triton's own library with it, was replaced by its interpreted form when it was imported:
there the work goes to a fresh Python process without the variable.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from .catalog import CATALOG, Case

# What the assemblers of Triton 3.5 to 3.8 know, from the first generation with bfloat16.
ARCHITECTURES = ("sm_80", "sm_86", "sm_87", "sm_89", "sm_90", "sm_100", "sm_103", "sm_120", "sm_121")


@dataclass(frozen=True)
class Report:
    """One kernel on one architecture. Sizes in bytes; `spills` counts the instructions that touch a thread's stack."""

    name: str
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


def compile_kernel(case: Case, arch: str) -> Report:
    """Compiles one configuration for one architecture, say "sm_90".

    Raises:
        ValueError: an architecture that is not one of ARCHITECTURES.
    """
    return compile_cases([case], [arch])[0]


def compile_catalog(archs: Sequence[str]) -> list[Report]:
    """Compiles every row of the catalogue for every architecture. Raises as `compile_kernel` does."""
    return compile_cases(CATALOG, archs)


def compile_cases(cases: Sequence[Case], archs: Sequence[str]) -> list[Report]:
    """Compiles each case for each architecture, in this order: the first architecture's cases first."""
    for arch in archs:
        if arch not in ARCHITECTURES:
            raise ValueError(f"unknown architecture {arch!r}: choose from {', '.join(ARCHITECTURES)}")
    if triton.knobs.runtime.interpret:
        return _in_fresh_process(cases, archs)
    return [_compile(case, arch) for arch in archs for case in cases]


def _in_fresh_process(cases: Sequence[Case], archs: Sequence[str]) -> list[Report]:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", f"{__package__}.ahead_of_time", "--cases", *archs]
    cases_json = json.dumps([asdict(case) for case in cases])
    run = subprocess.run(command, input=cases_json, env=environment, capture_output=True, text=True)
    if run.returncode:
        raise RuntimeError(f"compiling in a fresh process failed: {' '.join(command)}\n{run.stderr}")
    return [Report(**report) for report in json.loads(run.stdout)]


def _compile(case: Case, arch: str) -> Report:
    kernel = case.load()
    signature = {argument: case.types.get(argument, "constexpr") for argument in kernel.arg_names}
    attributes = {(kernel.arg_names.index(argument),): [["tt.divisibility", 16]] for argument in case.aligned}
    compiled = triton.compile(
        ASTSource(kernel, signature, case.constexprs, attributes),
        target=GPUTarget("cuda", int(arch.removeprefix("sm_")), 32),
        options={"num_warps": case.warps, "enable_fp_fusion": False},  # as the launchers set it; its default changes with 3.10
    )
    usage, stack_accesses = _inspect(compiled.asm["cubin"])
    ptx = compiled.asm["ptx"]
    return Report(
        name=case.name,
        architecture=arch,
        warps=case.warps,
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
    """Architectures, and --cases where the cases come as JSON on standard input instead of from the catalogue."""
    cases: Sequence[Case] = CATALOG
    if "--cases" in arguments:
        cases = [Case(**case) for case in json.load(sys.stdin)]
    archs = [argument for argument in arguments if argument != "--cases"]
    try:
        reports = compile_cases(cases, archs)
    except ValueError as error:
        sys.exit(str(error))
    json.dump([asdict(report) for report in reports], sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1:])
