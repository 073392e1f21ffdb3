"""The averaged generator for other programs: its weights as safetensors, or a graph of plain operators as ONNX.

A file is written aside, read back and compared with the network that it was made of, and only then gets its name.
"""

import importlib
import json
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fastgan import config as configuration
from fastgan.checked import UserError
from fastgan.draw import Draw
from fastgan.networks import build
from fastgan.training.coding import prior_of
from fastgan.training.files import make_room_for
from fastgan.training.run import Run, of_latents
from fastgan.training.sampling import classes_in_turn, cycled

TOLERANCE = 1e-4
"""How far an exported generator's images in [-1, 1] may be from torch's, in fp32."""
FORMAT = "fastgan generator 1"
_COMPARED = (1, 4, 7)
"""Batches that are compared: the exporter is shown the second, other sizes must do as well."""


class Exported(NamedTuple):
    """What was written."""

    path: Path
    difference: float
    """The largest to torch, over all pixels compared."""
    parameters: int


def export(run: Run, out: Path) -> Exported:
    """Write a run's averaged generator, in fp32, to a file that ends in .safetensors or .onnx.

    A .safetensors file has the weights by their names in the generator, and in its metadata what rebuilds it (`load_generator`
    does): "format", "config" (JSON of the whole configuration), "class", "round", "images", "rebuild".

    A .onnx file takes "z" (B, dim), float32, as the run's prior gives them, and in class-conditional runs "labels" (B,),
    int64, for any B; it gives "images" (B, C, H, W) in [-1, 1], or "points" (B, 2). The same metadata stand in its properties.

    Raises:
        UserError: another ending, a file that can't be written, packages that are missing, or a file that onnxruntime refuses
            or whose images are more than `TOLERANCE` from torch's; then none is left.
    """
    write = WRITERS.get(out.suffix.lower())
    if write is None:
        raise UserError(f"{out}: generators are exported as {' or '.join(WRITERS)}")
    make_room_for(out)
    generator = deepcopy(run.ema_generator).cpu().float().eval().requires_grad_(False)
    compared = [_inputs(run, batch) for batch in _COMPARED]
    partial = out.with_name(f"{out.name}.partial")
    try:
        again = write(generator, compared[1], partial, _metadata(run, generator))
        difference = max(_difference(generator(*given), again(*given)) for given in compared)
        if not difference <= TOLERANCE:
            raise UserError(f"the exported generator's images differ from torch's by {difference:.2g}: {out} is not written")
        os.replace(partial, out)
    except OSError as error:
        raise UserError(f"{out} can't be written: {error.strerror or error}") from None
    finally:
        partial.unlink(missing_ok=True)
    return Exported(out, difference, sum(weight.numel() for weight in generator.parameters()))


def load_generator(path: str | Path) -> nn.Module:
    """The generator of a .safetensors file that `export` wrote, on the CPU, in evaluation mode: `generator(z)`, with classes
    `generator(z, labels)` -> images in [-1, 1], or points.

    Raises:
        UserError: the file can't be read, is none of these, or its weights do not fit its configuration.
    """
    safetensors = _needed("safetensors", "safetensors.torch")
    try:
        with safetensors.safe_open(str(path), "pt") as file:
            metadata = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no dictionary
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(f"{path} can't be read: {error}") from None
    if metadata.get("format") != FORMAT:
        raise UserError(f"{path} holds no generator that fastgan exported")
    config = configuration.from_dict(json.loads(metadata["config"]))
    generator = of_latents(build(config)[0], config)
    try:
        generator.load_state_dict(weights)
    except RuntimeError as error:
        raise UserError(f"the weights in {path} do not fit its configuration: {str(error).splitlines()[0]}") from None
    return generator.eval().requires_grad_(False)


def _write_safetensors(
    generator: nn.Module, example: tuple[Tensor, ...], path: Path, metadata: Mapping[str, str]
) -> Callable[..., Tensor]:
    save = _needed("safetensors", "safetensors.torch")
    weights = {name: tensor.contiguous() for name, tensor in generator.state_dict().items()}
    path.write_bytes(save.torch.save(weights, metadata=dict(metadata)))  # `save_file` would let its owner alone read it
    return load_generator(path)


def _write_onnx(
    generator: nn.Module, example: tuple[Tensor, ...], path: Path, metadata: Mapping[str, str]
) -> Callable[..., Tensor]:
    _needed("onnx")
    _needed("onnxscript")
    runtime = _needed("onnxruntime")
    names, result = ["z", "labels"][: len(example)], "images" if generator(*example).dim() == 4 else "points"
    batch = torch.export.Dim("batch", min=1)
    with _quiet():
        program = torch.onnx.export(
            generator,
            example,
            dynamo=True,
            input_names=names,
            output_names=[result],
            dynamic_shapes=tuple({0: batch} for _ in example),
            verbose=False,
        )
    program.model.metadata_props.update(metadata)
    program.save(path)
    with _refusals():
        session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def again(*given: Tensor) -> Tensor:
        with _refusals():
            return torch.from_numpy(session.run(None, {n: x.numpy() for n, x in zip(names, given, strict=True)})[0])

    return again


WRITERS = {".safetensors": _write_safetensors, ".onnx": _write_onnx}
"""Ending -> (generator, example, path, metadata) -> what the file computes, as a function."""


def _metadata(run: Run, generator: nn.Module) -> dict[str, str]:
    return {
        "format": FORMAT,
        "config": json.dumps(configuration.to_dict(run.config)),
        "class": f"{type(generator).__module__}.{type(generator).__qualname__}",
        "round": str(run.round),
        "images": str(run.images),
        "rebuild": "fastgan.training.export.load_generator(FILE)",
    }


def _inputs(run: Run, batch: int) -> tuple[Tensor, ...]:
    """The latents, and the labels, of as many samples."""
    rows = torch.arange(batch)
    z = prior_of(run)(Draw(0, "samples", 0, rows))
    classes = classes_in_turn(run, None)
    return (z, cycled(classes, rows)) if classes else (z,)


def _difference(expected: Tensor, found: Tensor) -> float:
    """The largest between two sets of images; infinite where their shapes are not the same."""
    return (expected - found).abs().max().item() if expected.shape == found.shape else float("inf")


def _needed(name: str, *parts: str) -> Any:
    try:
        module = importlib.import_module(name)
        for part in parts:
            importlib.import_module(part)
    except ImportError:
        raise UserError(f"exported generators need the package {name}: pip install 'fastgan[export]'") from None
    return module


@contextmanager
def _refusals() -> Iterator[None]:
    """Inside, what onnxruntime refuses is a UserError."""
    try:
        yield
    except Exception as error:  # its errors have no class in common but this
        raise UserError(f"onnxruntime refuses the exported generator: {(str(error) or repr(error)).splitlines()[0]}") from None


@contextmanager
def _quiet() -> Iterator[None]:
    """Inside, the exporter does not speak of what it has passed over."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
