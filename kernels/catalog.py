"""The kernels as they are compiled ahead of time: one row a configuration that training uses, with its representative shape.

A row says what a launch would tell Triton: the type of each argument, the values known when compiling, and which pointers and
sizes are multiples of 16 (PyTorch's allocations are, so the loads may be 16 bytes wide).
"""

import importlib
from dataclasses import dataclass
from typing import Any

from . import ifgsm, philox


@dataclass(frozen=True)
class Case:
    """A kernel and the arguments that it is compiled for. Holds plain values alone, so that it travels as JSON."""

    name: str
    kernel: str  # "file.function" below fastgan.kernels; by name, for another process may have to load it uninterpreted
    shape: str  # what a program of this configuration works on, for the reader
    types: dict[str, str]  # of the arguments that a launch passes
    constexprs: dict[str, Any]  # the others: known when compiling, None for an absent tensor
    aligned: tuple[str, ...]  # arguments that are multiples of 16
    warps: int

    def load(self) -> Any:
        file, function = self.kernel.split(".")
        return getattr(importlib.import_module(f"{__package__}.{file}"), function)


def _ifgsm(options: str, dtype: str, columns: int, given: tuple[str, ...] = (), **constexprs: Any) -> Case:
    size = {"fp64": 8, "fp32": 4, "bf16": 2}[dtype]
    rows, block, warps = ifgsm.tile(columns, size)
    kinds = {"z": dtype, "grad": dtype, "origin": dtype, "velocity": dtype, "score": "fp32", "active": "i1"}
    kinds |= {"best_z": dtype, "best_score": "fp32"}
    types = {f"{tensor}_ptr": f"*{kind}" for tensor, kind in kinds.items() if tensor in ("z", "grad", *given)}
    absent = {f"{tensor}_ptr": None for tensor in kinds if f"{tensor}_ptr" not in types}
    types |= {"batch": "i32", "step_size": "fp64", "radius": "fp64", "momentum": "fp64", "stop_score": "fp64"}
    fixed = {"DIRECTION": "sign", "RADIUS_NORM": "none", "STOP": False, "COLUMNS": columns, "ROWS": rows, "BLOCK": block}
    return Case(
        name=f"ifgsm {options} {dtype} {columns}",
        kernel="ifgsm.ifgsm_kernel",
        shape=f"z (B, {columns})",
        types=types,
        constexprs=absent | fixed | constexprs,
        aligned=_pointers(types),
        warps=warps,
    )


def _philox(output: str, count: int) -> Case:
    rows, block = philox.tile(philox.blocks_of(output, count))
    out = {"words": "i64", "uniform": "fp32", "normal": "fp32"}[output]
    pairs = -(-count // 2)
    sizes = {"count": count} | ({"pairs": pairs} if output == "normal" else {})
    types = {"out_ptr": f"*{out}", "rows_ptr": "*i64", "batch": "i32"}
    types |= dict.fromkeys(sizes, "i32") | {"key": "u64", "step": "u32"}
    constexprs: dict[str, Any] = {"ROWS": rows, "BLOCK": block}
    constexprs |= {"SHIFT": pairs % 4} if output == "normal" else {"UNIFORM": output == "uniform"}
    return Case(
        name=f"philox {output} {count}",
        kernel="philox.normal_kernel" if output == "normal" else "philox.words_kernel",
        shape=f"{output} (B, {count})",
        types=types,
        constexprs=constexprs,
        aligned=_pointers(types) + tuple(name for name, size in sizes.items() if size % 16 == 0),
        warps=philox.WARPS,
    )


def _pointers(types: dict[str, str]) -> tuple[str, ...]:
    return tuple(argument for argument, kind in types.items() if kind.startswith("*"))


_EVERYTHING = ("origin", "velocity", "score", "active", "best_z", "best_score")
_ALL_OPTIONS: dict[str, Any] = {"DIRECTION": "l2", "RADIUS_NORM": "l2", "STOP": True}

CATALOG: tuple[Case, ...] = (
    _ifgsm("sign", "fp32", 128),
    _ifgsm("sign", "fp32", 100),  # the z_dim of AdvLatGAN's networks: aligned to 16 bytes, no multiple of 16
    _ifgsm("sign", "bf16", 128),
    _ifgsm("sign+linf", "fp32", 128, ("origin",), RADIUS_NORM="linf"),
    _ifgsm("sign+best", "fp32", 128, ("score", "best_z", "best_score")),
    _ifgsm("sign+stop", "fp32", 128, ("score", "active"), STOP=True),
    _ifgsm("everything", "fp32", 512, _EVERYTHING, **_ALL_OPTIONS),
    _ifgsm("everything", "bf16", 512, _EVERYTHING, **_ALL_OPTIONS),
    _ifgsm("everything", "fp32", 18 * 512, _EVERYTHING, **_ALL_OPTIONS),  # StyleGAN2's W+: several blocks of columns
    _philox("words", 128),
    _philox("uniform", 3072),  # dequantisation noise of a 32 x 32 image
    _philox("normal", 128),
    _philox("normal", 100),  # its angles don't begin at a block of words
)
