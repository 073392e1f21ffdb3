"""What Pillow makes of a file: its size, whether DALI shows it right, and its pixels."""

import io

import numpy as np
import pytest
from pictures import damaged, encoded, every_kind, smooth, turned, with_junk
from PIL import Image

from fastgan.data import picture

KINDS = every_kind()
THROUGH_PILLOW = {
    "rgba.png", "holed.png", "alpha.webp", "mirrored.png", "upside-down.png", "lying.jpg", "lying.webp"
}  # fmt: skip


def pixels_of(pnm):
    magic, size, top, data = pnm.split(b"\n", 3)
    width, height = map(int, size.split())
    assert top == b"255"
    return np.frombuffer(data, np.uint8).reshape(height, width, {b"P5": 1, b"P6": 3}[magic])


@pytest.mark.parametrize("name", KINDS)
def test_a_file_shows_what_it_should(name):
    content, expected, tolerance = KINDS[name]
    found = picture.inspect(content)
    assert (found.height, found.width) == expected.shape[:2]
    assert found.grey == (name.startswith(("grey", "bilevel")))
    assert found.plain == (name not in THROUGH_PILLOW)
    shown = pixels_of(picture.to_pnm(content, grey=False))
    assert np.abs(shown.astype(int) - expected).max() <= tolerance
    if found.grey:
        assert np.array_equal(pixels_of(picture.to_pnm(content, grey=True)), shown[..., :1])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_turned_upright(orientation):
    upright = smooth(20, 31, 3)
    undo = {
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1],
        5: upright.transpose(1, 0, 2), 6: np.rot90(upright, 1), 7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]  # fmt: skip
    content = encoded(np.ascontiguousarray(undo), "PNG", exif=turned(orientation))
    assert np.array_equal(pixels_of(picture.to_pnm(content, grey=False)), upright)
    found = picture.inspect(content)
    assert (found.height, found.width, found.plain) == (20, 31, orientation == 1)


@pytest.mark.parametrize("orientation", [0, 9, 77])
def test_an_orientation_that_does_not_exist_is_none(orientation):
    content = encoded(smooth(20, 31, 3), "JPEG", exif=turned(orientation))
    assert picture.inspect(content) == picture.Picture(20, 31, grey=False, plain=True)


def test_16_bit_grey_that_is_turned_is_scaled_to_8():
    image = Image.fromarray(257 * np.arange(12, dtype=np.uint16).reshape(3, 4) + 100)
    shown = pixels_of(picture.to_pnm(encoded(image, "PNG", exif=turned(3)), grey=True))
    assert np.array_equal(shown[..., 0], np.arange(12).reshape(3, 4)[::-1, ::-1])


def test_a_png_without_its_end_goes_through_pillow():
    pixels = smooth(20, 31, 3)
    content = encoded(pixels, "PNG")[:-12]
    assert picture.inspect(content) == picture.Picture(20, 31, grey=False, plain=False)
    assert np.array_equal(pixels_of(picture.to_pnm(content, grey=False)), pixels)


@pytest.mark.parametrize("kind", [".jpg", ".png", ".webp", ".bmp"])
@pytest.mark.parametrize("way", ["empty", "cut", "text", "header alone"])
def test_what_does_not_decode_raises(kind, way):
    with pytest.raises(Exception):  # noqa: B017, PT011 - of many types
        picture.inspect(damaged(kind)[way])


@pytest.mark.parametrize("name", KINDS)
def test_the_header_gives_the_size_of_a_file_that_is_not_turned(name):
    content = KINDS[name][0]
    with Image.open(io.BytesIO(content)) as image:
        assert picture.header_size(content) == (image.height, image.width)


@pytest.mark.parametrize(
    "content", [b"", b"\xff\xd8", b"\xff\xd8\xff", b"no image", bytes(100), b"\x89PNG\r\n\x1a\n", b"BM", b"RIFF"]
)
def test_no_header_no_size(content):
    assert picture.header_size(content) is None


def test_a_header_that_was_cut_or_spoiled_gives_no_size_or_the_right_one():
    """DALI's parser goes from segment to segment as we do; where one does not begin with its mark, both give up."""
    jpeg = encoded(smooth(40, 50, 3), "JPEG")
    assert picture.header_size(with_junk(jpeg)) is None
    scan = jpeg.index(b"\xff\xda")
    for end in range(scan + 14):
        assert picture.header_size(jpeg[:end]) is None
    assert picture.header_size(jpeg[: scan + 14]) == (40, 50)
    looping = jpeg[:4] + bytes(2) + jpeg[6:]  # a segment of no length
    assert picture.header_size(looping) is None
    png = encoded(smooth(40, 50, 3), "PNG")
    assert [picture.header_size(png[:end]) for end in (32, 33)] == [None, (40, 50)]


@pytest.mark.parametrize("mark", ["dht", "dqt", "sof", "sos"])
def test_a_jpeg_s_tables_are_looked_at_too(mark):
    """One in a batch that DALI can't parse may end the process."""
    jpeg = encoded(smooth(40, 50, 3), "JPEG")
    at, spoiled = {
        "dht": (jpeg.index(b"\xff\xc4") + 5, [b"\3", b"\xff"]),  # three codes of one bit
        "dqt": (jpeg.index(b"\xff\xdb") + 4, [b"\4", b"\x10", b"\x20"]),
        "sof": (jpeg.index(b"\xff\xc0") + 4, [b"\7", b"\0"]),
        "sos": (jpeg.index(b"\xff\xda") + 4, [b"\0", b"\2", b"\5"]),
    }[mark]
    for byte in spoiled:
        assert picture.header_size(jpeg[:at] + byte + jpeg[at + 1 :]) is None
    start = at - 4
    assert picture.header_size(jpeg[:start] + bytes(200) + jpeg[start + 200 :]) is None


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("cannot identify image file <_io.BytesIO object at 0x7f>", "no JPEG, PNG, WebP or BMP file"),
        ("broken PNG file (chunk b'IDAT')", "broken PNG file (chunk IDAT)"),
        ("no data in <PIL.File object at 0x7f>\nmore", "no data in"),
    ],
)
def test_a_reason_is_one_line_without_python_s_names(said, reason):
    assert picture.reason(ValueError(said)) == reason
