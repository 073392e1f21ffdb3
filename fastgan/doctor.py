"""What is installed, what will be used, what is missing and how to get it."""

import importlib.metadata
import os
import platform
import shutil
from collections.abc import Sequence

import torch
from rich.table import Table

from fastgan.checked import UserError
from fastgan.engine.precision import computes_bf16, resolve_device

_PACKAGES = {
    "torch": "networks, optimisers",
    "torchvision": "grids and PNG files",
    "triton": "fused kernels on CUDA",
    "nvidia-dali-cuda130": "data streams",
    "scikit-learn": "the embedded digits",
    "torch-fidelity": "Inception's features, KID, IS",
    "pydantic": "checked configuration",
    "tensorboard": "curves",
    "deepspeed": "optional: runs divided between processes (engine.kind=deepspeed)",
    "safetensors": "optional: fastgan export to .safetensors",
    "onnx": "optional: fastgan export to .onnx",
    "onnxscript": "optional: the same",
    "onnxruntime": "optional: the same",
    "wandb": "optional: metrics sent to Weights & Biases (training.wandb)",
}


def findings() -> list[Table | str]:
    """Tables and lines to print."""
    installed = Table("package", "version", "what it is for, or how to get it", box=None)
    for name, purpose in _PACKAGES.items():
        version = _version(name)
        installed.add_row(name, version or "missing", purpose if version else f"pip install {name}")
    installed.add_row("apex (NVIDIA)", *_apex())

    device = resolve_device("auto")
    used = Table("what", "will be used", box=None)
    used.add_row("machine", f"{platform.machine()}, {os.cpu_count()} cores, torch uses {torch.get_num_threads()} threads")
    used.add_row("device", _describe(device))
    used.add_row("precision auto", "bf16 (in hardware)" if computes_bf16(device) else "fp32 (no bf16 in hardware)")
    used.add_row("optimiser", "apex FusedAdam" if device.type == "cuda" and _apex()[0] == "present" else "torch's fused Adam")
    used.add_row("fused operations", "Triton kernels" if device.type == "cuda" else "vectorised torch")
    free = shutil.disk_usage(".").free / 2**30
    used.add_row("disk here", f"{free:.0f} GiB free")
    return [installed, "", used]


def kernel_table(architectures: Sequence[str]) -> Table:
    """Registers, spills, memory and access widths (bytes) of every kernel, compiled here for GPUs that need not be here.

    Raises:
        UserError: an architecture that the compiler does not know.
    """
    from fastgan.kernels.ahead_of_time import compile_catalog

    try:
        reports = compile_catalog(architectures)
    except ValueError as error:
        raise UserError(str(error)) from None
    columns = ("registers", "spills", "stack", "local", "shared", "widest_load", "widest_store")
    table = Table("kernel", "GPU", *(column.replace("_", " ") for column in columns), box=None)
    for report in reports:
        table.add_row(report.name, report.architecture, *(str(getattr(report, column)) for column in columns))
    return table


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _apex() -> tuple[str, str]:
    try:
        from apex.optimizers import FusedAdam  # noqa: F401
    except ImportError:
        return "missing", "optional, CUDA only: build it from NVIDIA's source (PyPI's apex is another package)"
    return "present", "fused optimiser on CUDA"


def _describe(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}"
    reason = "torch was built without CUDA" if torch.version.cuda is None else "torch sees no CUDA device"
    return f"CPU ({reason})"
