"""Other projects' weights."""

from pathlib import Path
from typing import Annotated

import tyro

from fastgan.commands.options import Settings, assignments
from fastgan.commands.printing import OUT


def import_run(
    project: Annotated[str, tyro.conf.Positional],
    file: Annotated[Path, tyro.conf.Positional],
    /,
    *,
    out: Path,
    set: Settings = (),
) -> None:
    """Make a run of another project's weights.

    Args:
        project: Whose: biggan-pytorch.
        file: One file of the checkpoint (G.pth, with D.pth and G_ema.pth beside it), or the folder.
        out: The run's folder.
        set: Fields of the configuration that weights don't tell, such as data.path=FOLDER and training.batch_size=256, for
            training to go on with.
    """
    from fastgan.training import converters

    run = converters.import_run(project, file, out, assignments(set))
    network = run.config.network
    what = f"{network.family} {network.width}, {run.config.data.resolution} px, {network.classes} classes"
    OUT.print(f"{what}: {file} -> {run.path}", markup=False)
