"""Packed sets of images."""

from pathlib import Path
from typing import Annotated, Literal

import tyro

from fastgan.checked import UserError
from fastgan.commands.options import Metavar
from fastgan.commands.printing import OUT


def data() -> None:
    """Pack images into shards, and verify them: fastgan data pack | verify."""


def data_pack(
    source: Annotated[Path, tyro.conf.Positional, Metavar(metavar="SRC")],
    dest: Annotated[Path, tyro.conf.Positional, Metavar(metavar="DST")],
    /,
    *,
    resolution: int | None = None,
    whole: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
    shard_size: int = 10_000,
    workers: int | None = None,
    quality: int | None = None,
    lossless: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
    damaged: Literal["skip", "skip-archives", "refuse"] = "skip",
) -> None:
    """Pack a folder or an archive of images into shards; the same line goes on where it was stopped.

    Args:
        source: A folder of images or class folders, or an archive (.tar, .tar.gz, .zip ...). Archives in it count as folders.
        dest: The folder for the shards.
        resolution: Store the largest square in the middle at this side, by Lanczos' filter.
        whole: Store images as they are (what is done where no resolution is given).
        shard_size: Images of a shard.
        workers: Processes (default: one a core).
        quality: Of JPEGs at a resolution (default: 95).
        lossless: PNGs in the place of JPEGs.
        damaged: Leave out images that do not decode, but refuse archives that are broken or cut short; or take what can be read
            of those, too; or refuse either. DST/report.json lists what was left out.
    """
    from fastgan.data.pack import pack
    from fastgan.data.shards import REPORT

    if whole and resolution is not None:
        raise UserError("--whole keeps images as they are: leave out --resolution, or --whole")
    options = {"resolution": resolution, "shard_size": shard_size, "workers": workers}
    packed = pack(source, dest, **options, quality=quality, lossless=lossless, damaged=damaged)
    OUT.print(f"{'packed before, nothing to do: ' * packed.already}{packed.manifest.summary} -> {dest}", markup=False)
    for note in packed.manifest.notes:
        OUT.print(note, markup=False)
    if packed.manifest.damaged:
        left_out = "damaged one is" if packed.manifest.damaged == 1 else "damaged ones are"
        OUT.print(f"{packed.manifest.damaged} {left_out} left out: {dest / REPORT} lists them", markup=False)


def data_verify(
    dest: Annotated[Path, tyro.conf.Positional, Metavar(metavar="DST")],
    /,
    *,
    decode: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
    workers: int | None = None,
) -> None:
    """Compare a packed set with the checksums in its manifest, indexes and counts too.

    Args:
        dest: The folder that `fastgan data pack` wrote.
        decode: Decode every image as well.
        workers: Threads that read, processes that decode (default: one a core).
    """
    from fastgan.data.verify import verify

    manifest = verify(dest, decode=decode, workers=workers)
    OUT.print(f"{manifest.summary}: as packed{', and all decode' * decode}", markup=False)
