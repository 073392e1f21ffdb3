"""Pictures inside the page, each within its share of the page's bytes."""

import base64
import io
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from fastgan.report.markup import Markup, tag

_LARGEST = 2048
_SMALLEST = 64
_QUALITY = 85


@dataclass(frozen=True)
class Album:
    """Makes pictures of at most `most_bytes` each, as base64 counts them."""

    most_bytes: int

    def picture(self, content: Tensor | Path, alt: str, kind: str | None = None) -> Markup:
        """An <img> that holds its file.

        Args:
            content: (3, h, w) in [0, 1], or a picture's file.
            alt: what it shows, for those who don't see it.
            kind: its class in the style sheet: "pixels" for small images that are shown larger than they are.

        Raises:
            OSError: the file is no picture, or can't be read.
        """
        if isinstance(content, Tensor):
            pixels = content.detach().float().cpu().mul(255).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()
            shown = Image.fromarray(pixels)
        else:
            try:
                with Image.open(content) as file:
                    shown = file.convert("RGB")
            except (UnidentifiedImageError, Image.DecompressionBombError, SyntaxError, ValueError) as error:
                raise OSError(f"{content} is no picture") from error
        size = shown.size
        data, form = self._encoded(shown)
        source = f"data:image/{form};base64,{base64.b64encode(data).decode()}"
        return tag("img", src=source, alt=alt, width=size[0], height=size[1], class_=kind, loading="lazy")

    def _encoded(self, picture: Image.Image) -> tuple[bytes, str]:
        """As PNG where it is small enough; else as JPEG, and half as large until it is."""
        most = self.most_bytes * 3 // 4
        picture.thumbnail((_LARGEST, _LARGEST))
        grey = picture.convert("L")
        if max(picture.size) <= _LARGEST // 2 and not _coloured(picture):
            picture = grey
        data = _saved(picture, "PNG", optimize=True)
        if len(data) <= most:
            return data, "png"
        while True:
            data = _saved(picture, "JPEG", quality=_QUALITY)
            if len(data) <= most or max(picture.size) <= _SMALLEST:
                return data, "jpeg"
            picture = picture.resize([max(side * 3 // 4, 1) for side in picture.size], Image.Resampling.LANCZOS)


def _coloured(picture: Image.Image) -> bool:
    red, green, blue = picture.split()
    return red.tobytes() != green.tobytes() or red.tobytes() != blue.tobytes()


def _saved(picture: Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()
