"""Image files of every kind, made here, for the tests of folders."""

import io
import struct
import zlib

import numpy as np
from PIL import Image


def smooth(height, width, channels, seed=0):
    """Smoothed noise, uint8 (height, width, channels): JPEG keeps it to some levels."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (height // 12 + 2, width // 12 + 2, channels), dtype=np.uint8)
    planes = [Image.fromarray(coarse[..., c]).resize((width, height), Image.Resampling.BICUBIC) for c in range(channels)]
    return np.stack(planes, axis=-1)


def encoded(image, kind, **options):
    """The bytes of a file."""
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image.squeeze())
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png16(pixels):
    """A PNG of 16 bits a channel, which Pillow writes in grey alone: uint16 (height, width, 1 or 3)."""
    height, width, channels = pixels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 16, 0 if channels == 1 else 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def with_junk(jpeg):
    """A JPEG with two bytes between its segments that don't belong there: DALI refuses it, Pillow passes over them."""
    start = jpeg.index(b"\xff\xdb")
    return jpeg[:start] + b"\0\0" + jpeg[start:]


def without_adobe(jpeg):
    """A JPEG without Adobe's marker: CMYK is then not inverted."""
    start = jpeg.index(b"\xff\xee")
    return jpeg[:start] + jpeg[start + 2 + int.from_bytes(jpeg[start + 2 : start + 4], "big") :]


def turned(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def every_kind(height=61, width=83, seed=0):
    """Name -> (the file, the pixels that it should show as uint8 (height, width, 3), by how many levels they may differ)."""
    colour, alpha = smooth(height, width, 3, seed), smooth(height, width, 1, seed + 1)
    grey = smooth(height, width, 1, seed + 2)
    as_colour = np.repeat(grey, 3, axis=2)
    white = np.rint(colour * (alpha / 255.0) + 255 * (1 - alpha / 255.0)).astype(np.uint8)
    rgba = np.concatenate([colour, alpha], axis=2)
    palette = Image.fromarray(colour).quantize(64)
    holed = np.asarray(palette.convert("RGB")).copy()
    holed[np.asarray(palette) == 3] = 255
    bilevel = np.where(grey > 127, 255, 0).astype(np.uint8)
    cmyk = Image.fromarray(colour).convert("CMYK")
    sixteen = 257 * np.concatenate([colour, grey], axis=2).astype(np.uint16)
    jpeg = {"quality": 95, "subsampling": 0}
    files = {
        "colour.jpg": (encoded(colour, "JPEG", **jpeg), colour, 12),
        "progressive.JPEG": (encoded(colour, "JPEG", progressive=True, **jpeg), colour, 12),
        "grey.jpg": (encoded(grey, "JPEG", quality=95), as_colour, 12),
        "cmyk-adobe.jpg": (encoded(cmyk, "JPEG", **jpeg), colour, 14),
        "cmyk.jpg": (without_adobe(encoded(Image.fromarray(255 - np.asarray(cmyk), "CMYK"), "JPEG", **jpeg)), colour, 14),
        "colour.png": (encoded(colour, "PNG"), colour, 0),
        "grey.png": (encoded(grey, "PNG"), as_colour, 0),
        "rgba.png": (encoded(rgba, "PNG"), white, 1),
        "palette.png": (encoded(palette, "PNG"), np.asarray(palette.convert("RGB")), 0),
        "holed.png": (encoded(palette, "PNG", transparency=3), holed, 0),
        "bilevel.png": (encoded(Image.fromarray(bilevel.squeeze()).convert("1", dither=0), "PNG"), np.repeat(bilevel, 3, 2), 0),
        "grey16.png": (png16(sixteen[..., 3:]), as_colour, 0),
        "colour16.png": (png16(sixteen[..., :3]), colour, 0),
        "lossy.webp": (encoded(colour, "WEBP", quality=95), colour, 30),
        "lossless.webp": (encoded(colour, "WEBP", lossless=True), colour, 0),
        "alpha.webp": (encoded(rgba, "WEBP", lossless=True, exact=True), white, 1),
        "colour.BMP": (encoded(colour, "BMP"), colour, 0),
        "palette.bmp": (encoded(palette, "BMP"), np.asarray(palette.convert("RGB")), 0),
        "mirrored.png": (encoded(colour, "PNG", exif=turned(2)), colour[:, ::-1], 0),
        "upside-down.png": (encoded(colour, "PNG", exif=turned(3)), colour[::-1, ::-1], 0),
        "lying.jpg": (encoded(colour, "JPEG", exif=turned(6), **jpeg), np.rot90(colour, -1), 12),
        "lying.webp": (encoded(colour, "WEBP", lossless=True, exif=turned(8)), np.rot90(colour, 1), 0),
        "upright.jpg": (encoded(colour, "JPEG", exif=turned(1), **jpeg), colour, 12),
    }
    return {name: (content, np.ascontiguousarray(pixels), tolerance) for name, (content, pixels, tolerance) in files.items()}


def damaged(kind, seed=0):
    """Bytes that do not decode: a name's ending -> several ways."""
    good = encoded(smooth(40, 50, 3, seed), {".jpg": "JPEG", ".png": "PNG", ".webp": "WEBP", ".bmp": "BMP"}[kind])
    return {"empty": b"", "cut": good[: len(good) // 2], "text": b"no image", "header alone": good[:30]}


def write(root, files):
    """Make files below a folder: name -> content."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def photos(count=12, height=40, width=50):
    """Name -> file of small JPEGs in two class folders."""
    return {f"{'cat' if n % 3 else 'dog'}/{n:03d}.jpg": encoded(smooth(height, width, 3, n), "JPEG") for n in range(count)}
