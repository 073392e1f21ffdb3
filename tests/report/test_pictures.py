"""Pictures keep to their share of the page."""

import base64
import io
import re

import numpy as np
import pytest
import torch
from PIL import Image

from fastgan.report.pictures import Album


def opened(found):
    form, data = re.search(r'src="data:image/(\w+);base64,([^"]*)"', found).groups()
    return form, Image.open(io.BytesIO(base64.b64decode(data))), len(data)


def test_a_small_picture_is_kept_exactly():
    pixels = torch.randint(0, 256, (3, 20, 30))
    form, picture, _ = opened(Album(10_000).picture(pixels / 255, "what"))
    assert form == "png"
    assert picture.size == (30, 20)
    assert torch.equal(torch.from_numpy(np.array(picture.convert("RGB"))).long(), pixels.permute(1, 2, 0))


@pytest.mark.parametrize("most", [200_000, 20_000])
def test_a_large_one_is_made_to_fit(most):
    noise = torch.rand(3, 500, 1000)  # nothing compresses worse
    form, picture, size = opened(Album(most).picture(noise, "noise"))
    assert form == "jpeg"
    assert size <= most
    assert picture.size[0] == pytest.approx(2 * picture.size[1], abs=2)


def test_the_size_beside_it_and_the_words(tmp_path):
    Image.new("L", (8, 4), 128).save(tmp_path / "grey.png")
    found = Album(10_000).picture(tmp_path / "grey.png", 'a "grey" one', "pixels")
    assert 'alt="a &quot;grey&quot; one"' in found
    assert 'width="8" height="4"' in found
    assert opened(found)[1].convert("L").getpixel((3, 3)) == 128


def test_what_is_no_picture_is_an_os_error(tmp_path):
    (tmp_path / "cut.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    with pytest.raises(OSError, match="no picture"):
        Album(10_000).picture(tmp_path / "cut.png", "")
    with pytest.raises(OSError, match="missing"):
        Album(10_000).picture(tmp_path / "missing.png", "")
