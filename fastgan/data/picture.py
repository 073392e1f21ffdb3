"""Image files through Pillow: whether one decodes, and the pixels of those that DALI's decoders don't show as they look.

DALI 2.4's CPU decoders, pixel by pixel: JPEG (baseline, progressive, grey, RGB, CMYK), PNG (grey, colour, palette, 1 and 16
bit), WebP and BMP showed what they should. Two kinds did not, and go through Pillow:

    transparency    DALI drops the alpha channel and shows the colours that lie under it: 72 grey levels off on average
    turned          DALI reads the orientation in EXIF, but not in XMP; a crop by the wrong sides would lie outside the image

so the stream tells DALI to leave orientation alone. What Pillow shows is handed to DALI as PNM, a header before the bytes.
"""

import io
import re
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageChops, ImageOps

from fastgan.data.source import first_line

FORMATS = ("JPEG", "PNG", "WEBP", "BMP")
SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".webp")
UNREAD = (".avif", ".gif", ".heic", ".heif", ".jp2", ".jxl", ".tif", ".tiff")
"""What the names of images end in that are of kinds that are not read."""

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


def header(content: bytes) -> Picture:
    """What an image file says that it is, not decoded; of one that is upright and opaque, and so plain."""
    with Image.open(io.BytesIO(content), formats=FORMATS) as image:
        return Picture(image.height, image.width, image.mode in _GREY, plain=True)


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

    DALI 2.4's decoder may end the process with a segmentation fault where one header in a batch of a hundred can't be parsed,
    or says another size than the crop expects. Of a JPEG all segments up to the first scan's count, tables included. Damage
    behind that is not looked for: it is an error of DALI's, or decodes to garbage.
    """
    if content[:2] == b"\xff\xd8":
        return _jpeg_size(content)
    if content[:16] == b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" and len(content) >= 33:
        return int.from_bytes(content[20:24], "big"), int.from_bytes(content[16:20], "big")
    try:  # of formats that are rare, Pillow reads the header
        with Image.open(io.BytesIO(content), formats=("WEBP", "BMP")) as image:
            return image.height, image.width
    except Exception:
        return None


def _jpeg_size(content: bytes) -> tuple[int, int] | None:
    """`header_size` of a JPEG: its segments up to the first scan's header, ITU-T T.81, B.1.1.3 to B.2.4."""
    at, end, size, components = 2, len(content), None, b""
    while at + 4 <= end and content[at] == 0xFF:
        marker, after = content[at + 1], at + 2 + (content[at + 2] << 8 | content[at + 3])
        if marker < 0xC0 or 0xD0 <= marker <= 0xD9 or marker == 0xFF or not at + 4 <= after <= end:
            return None
        body = content[at + 4 : after]
        if marker == 0xC4:
            if not _huffman_tables(body):
                return None
        elif marker == 0xDB:
            if not _quantisation_tables(body):
                return None
        elif marker == 0xDA:
            selected = body[1 : 1 + 2 * body[0] : 2] if body else b""
            by_the_book = 1 <= len(selected) <= 4 and len(body) == 4 + 2 * len(selected) and set(selected) <= set(components)
            return size if by_the_book else None
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC8, 0xCC):
            if size is not None or not _frame(body):
                return None
            components = body[6::3]
            size = body[1] << 8 | body[2], body[3] << 8 | body[4]
        at = after
    return None


@lru_cache(1024)
def _frame(body: bytes) -> bool:
    """Whether a frame's header (B.2.2) makes sense."""
    if len(body) < 9 or not 1 <= body[5] <= 4 or len(body) != 6 + 3 * body[5] or len(set(body[6::3])) != body[5]:
        return False
    factors = all(1 <= one >> 4 <= 4 and 1 <= one & 15 <= 4 for one in body[7::3])
    sides = body[1] << 8 | body[2], body[3] << 8 | body[4]
    return factors and body[0] in (8, 12) and all(sides) and all(one <= 3 for one in body[8::3])


@lru_cache(1024)  # most encoders write the same few
def _huffman_tables(body: bytes) -> bool:
    """Whether a DHT segment holds whole tables (B.2.4.2), none with more codes of a length than there are (annex C)."""
    at = 0
    while at + 17 <= len(body):
        counts, left = body[at + 1 : at + 17], 1
        for count in counts:
            left = 2 * left - count
            if left < 0:
                return False
        if body[at] >> 4 > 1 or body[at] & 15 > 3 or sum(counts) > 256:
            return False
        at += 17 + sum(counts)
    return 0 < at == len(body)


@lru_cache(1024)
def _quantisation_tables(body: bytes) -> bool:
    """Whether a DQT segment holds whole tables (B.2.4.1)."""
    at = 0
    while at < len(body):
        if body[at] >> 4 > 1 or body[at] & 15 > 3:
            return False
        at += 129 if body[at] >> 4 else 65
    return 0 < at == len(body)


def reason(error: Exception) -> str:
    """Why a file does not decode, on one line."""
    said = first_line(error)
    if said.startswith("cannot identify image file"):
        return "no JPEG, PNG, WebP or BMP file"
    return re.sub(r"b(['\"])(.*?)\1", r"\2", re.sub(r" ?<[^<>]* at 0x[^<>]*>", "", said))  # what Python calls things is no help


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
