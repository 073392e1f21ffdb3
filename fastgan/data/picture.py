"""Image files through Pillow: whether one decodes, and the pixels of those that DALI's decoders don't show as they look.

DALI 2.4's CPU decoders, pixel by pixel: JPEG (baseline, progressive, grey, RGB, CMYK), PNG (grey, colour, palette, 1 and 16
bit), WebP and BMP showed what they should. Two kinds did not, and go through Pillow:

    transparency    DALI drops the alpha channel and shows the colours that lie under it: 72 grey levels off on average
    turned          DALI reads the orientation in EXIF, but not in XMP; a crop by the wrong sides would lie outside the image

so the stream tells DALI to leave orientation alone. What Pillow shows is handed to DALI as PNM, a header before the bytes.
"""

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageChops, ImageOps

from fastgan.data.source import first_line

FORMATS = ("JPEG", "PNG", "WEBP", "BMP")
SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".webp")

_GREY = ("1", "L", "LA", "La", "I;16", "I;16B", "I")
_ORIENTATION = 0x0112  # EXIF 2.3, table 4
_BACKGROUND = "white"  # what a page shows behind a transparent image


@dataclass(frozen=True)
class Picture:
    """What a file holds: height and width as it should be looked at, grey or colour, and whether DALI shows it so."""

    height: int
    width: int
    grey: bool
    plain: bool


def inspect(content: bytes) -> Picture:
    """Decode a whole file to find out what it is.

    Raises:
        Exception: it does not decode. Pillow's decoders raise many types on damage, SyntaxError and struct.error among them.
    """
    image = _open(content)
    orientation = _orientation(image)
    width, height = image.size[::-1] if orientation >= 5 else image.size
    plain = orientation == 1 and not image.has_transparency_data and image.mode not in ("LAB", "YCbCr")
    if plain and image.format == "PNG":
        # A wrong checksum beside the pixels, or a missing end, is no matter to Pillow, but DALI's decoder refused such files.
        try:
            Image.open(io.BytesIO(content), formats=FORMATS).verify()
        except Exception:
            plain = False
    return Picture(height, width, image.mode in _GREY, plain)


def to_pnm(content: bytes, grey: bool) -> bytes:
    """A file's pixels as binary PNM: turned upright, transparent ones over white, 16 bits in 8.

    Args:
        grey: one channel (P5) or three (P6).
    """
    image = to_image(content).convert("L" if grey else "RGB")
    return b"P%d\n%d %d\n255\n" % (5 if grey else 6, *image.size) + image.tobytes()


def to_image(content: bytes) -> Image.Image:
    """A file's pixels in mode L or RGB, whichever it holds: turned upright, transparent ones over white, 16 bits in 8.

    Raises:
        Exception: as `inspect` does.
    """
    image = _open(content)
    grey = image.mode in _GREY
    if _orientation(image) != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode == "CMYK" and "adobe" not in image.info:  # Pillow takes all of them for Adobe's, which are inverted
        image = ImageChops.invert(image)
    if image.mode.startswith("I"):  # Pillow's own conversion saturates at 255
        image = Image.fromarray(np.rint(np.asarray(image) / 257).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        background = Image.new("RGBA", image.size, _BACKGROUND)
        background.alpha_composite(image)
        image = background.convert("RGB")
    return image.convert("L" if grey else "RGB")


def header_size(content: bytes) -> tuple[int, int] | None:
    """Height and width as a file's header says, or None where it is not written by the book; some microseconds.

    DALI 2.4's decoder ends the process with a segmentation fault where one header in a batch of a hundred can't be parsed, or
    says another size than the crop expects. Damage behind the header it reports as an error.
    """
    if content[:2] == b"\xff\xd8":  # JPEG: segments up to the frame's, ITU-T T.81, B.1.1.3 and B.2.2
        at, end = 2, len(content)
        while at + 9 <= end and content[at] == 0xFF:
            marker = content[at + 1]
            if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
                return int.from_bytes(content[at + 5 : at + 7], "big"), int.from_bytes(content[at + 7 : at + 9], "big")
            if marker < 0xC0 or 0xD0 <= marker <= 0xDA:
                return None
            at += 2 + int.from_bytes(content[at + 2 : at + 4], "big")
        return None
    if content[:16] == b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" and len(content) >= 33:
        return int.from_bytes(content[20:24], "big"), int.from_bytes(content[16:20], "big")
    try:  # of formats that are rare, Pillow reads the header
        with Image.open(io.BytesIO(content), formats=("WEBP", "BMP")) as image:
            return image.height, image.width
    except Exception:
        return None


def reason(error: Exception) -> str:
    """Why a file does not decode, on one line."""
    said = first_line(error)
    return "no JPEG, PNG, WebP or BMP file" if said.startswith("cannot identify image file") else said


def _open(content: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(content), formats=FORMATS)
    image.load()
    return image


def _orientation(image: Image.Image) -> int:
    """1 to 8; 1 is upright, and so is what does not say."""
    try:
        orientation = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # damaged EXIF says nothing
        return 1
    return orientation if isinstance(orientation, int) and 1 <= orientation <= 8 else 1
