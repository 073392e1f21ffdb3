"""Named augmentations of images: the T of consistency regularisation, and what D is shown all images through."""

from typing import Literal

from fastgan.kernels.augment import CONSISTENCY, DIFFAUGMENT, Policy

_COLOURS = {name: getattr(DIFFAUGMENT, name) for name in ("brightness", "saturation", "contrast")}

PolicyName = Literal[
    "flip-shift",
    "shift",
    "cutout",
    "large-cutout",
    "covering-cutout",
    "white-cutout",
    "diffaugment",
    "color",
    "translation",
    "color-translation",
    "color-cutout",
    "translation-cutout",
    "ada",
]

POLICIES: dict[str, Policy] = {
    # Consistency regularisation's: as published; without the mirror image, for what has a left and a right (digits, letters);
    # with a rectangle cut out; with a large rectangle cut out, and nothing else; with one so large that it covers the whole of
    # every fourth image, and nine sixteenths of any; with a white one of half the side cut out, and nothing else.
    "flip-shift": CONSISTENCY,
    "shift": Policy(shift=1 / 8, border="reflect"),
    "cutout": Policy(flip=0.5, shift=1 / 8, border="reflect", cutout=1 / 4),
    "large-cutout": Policy(cutout=3 / 4),
    "covering-cutout": Policy(cutout=3 / 2),
    "white-cutout": Policy(cutout=1 / 2, fill=1.0),
    # Differentiable augmentation's "color,translation,cutout" (Zhao et al., NeurIPS 2020) and its parts.
    "diffaugment": DIFFAUGMENT,
    "color": Policy(**_COLOURS),
    "translation": Policy(shift=DIFFAUGMENT.shift),
    "color-translation": Policy(shift=DIFFAUGMENT.shift, **_COLOURS),
    "color-cutout": Policy(cutout=DIFFAUGMENT.cutout, **_COLOURS),
    "translation-cutout": Policy(shift=DIFFAUGMENT.shift, cutout=DIFFAUGMENT.cutout),
    # For an adaptive probability, after Karras et al. (NeurIPS 2020): pixel blitting and colours, ranges about theirs, as far
    # as one gathering pass goes: no rotation and no scaling.
    "ada": Policy(flip=0.5, shift=1 / 8, border="reflect", brightness=(-0.4, 0.4), saturation=(0.0, 2.0), contrast=(0.5, 2.0)),
}
