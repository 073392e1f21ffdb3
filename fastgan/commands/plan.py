"""The bill of a run that is not started."""

from pathlib import Path
from typing import Annotated

import tyro

from fastgan.commands.options import Metavar, assignments
from fastgan.commands.printing import OUT


def plan(
    preset: Annotated[str, tyro.conf.Positional],
    /,
    *,
    gpus: int,
    gpu: str = "h100",
    zero_stage: int | None = None,
    efficiency: float = 0.5,
    interconnect: float | None = None,
    decode_rate: float | None = None,
    price: float | None = None,
    json: Annotated[Path | None, Metavar(metavar="FILE")] = None,
    plot: Annotated[Path | None, Metavar(metavar="FILE.png")] = None,
    set: Annotated[tyro.conf.UseAppendAction[tuple[tuple[str, ...], ...]], Metavar(metavar="NAME=VALUE ...")] = (),
) -> None:
    """What a run would take on GPUs: memory, work, traffic, time. Nothing is trained and no GPU needed; none has confirmed it.

    Args:
        preset: A name that `fastgan presets` lists.
        gpus: How many.
        gpu: Which: v100, a100, h100, h200 or b200.
        zero_stage: What DeepSpeed divides, 0 to 3 (default: the configuration's).
        efficiency: Share of the GPU's rate that convolutions and matrix products reach, by themselves.
        interconnect: GB/s from one machine of eight GPUs to the others, in one direction (default: the data sheet's).
        decode_rate: Images/s that are decoded for each GPU (default: 10000 from files; no bound on points and sets in memory).
        price: Of that GPU for an hour; other kinds are listed without cost.
        json: Write the result here as one JSON object.
        plot: Draw weak and strong scaling here.
        set: Fields of the configuration by dotted name, such as training.batch_size=512.
    """
    from fastgan.config import override
    from fastgan.planning import check_picture, draw, lines
    from fastgan.planning import plan as planned
    from fastgan.presets import preset as named
    from fastgan.training.files import make_room_for, write_json

    if plot is not None:
        check_picture(plot)
    for path in (json, plot):
        if path is not None:
            make_room_for(path)
    options = {"zero_stage": zero_stage, "efficiency": efficiency, "interconnect": interconnect}
    options |= {"decode_rate": decode_rate, "price": price}
    found = planned(override(named(preset), assignments(set)), gpus, gpu, **options)
    for line in lines(found):
        OUT.print(line)
    if json is not None:
        write_json(json, found.as_dict())
    if plot is not None:
        draw(found, plot)
