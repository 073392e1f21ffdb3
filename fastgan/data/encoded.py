"""Reading image files by number, wherever their bytes lie, as DALI's decoders show them as they look."""

from collections.abc import Callable

import numpy as np

from fastgan.data import picture
from fastgan.data.source import DataError


class Encoded:
    """`Source.read` and `Source.mistrust` over encoded images; several threads may read at once.

    Args:
        content: the bytes of image `index`. Raises DataError where they can't be had any more.
        shown: what a sentence calls image `index`.
        sizes: integers (N, 2), height and width of each.
        plain: bool (N,), which images DALI's decoders show as they look; the others go through Pillow.
        grey: whether those become one channel, or three.
        since: what was done to the images when their sizes were found, for sentences.
    """

    def __init__(
        self,
        content: Callable[[int], bytes],
        shown: Callable[[int], str],
        sizes: np.ndarray,
        plain: np.ndarray,
        grey: bool,
        since: str = "scanned",
    ) -> None:
        self.shown, self._content, self._plain, self._grey = shown, content, plain, grey
        self._sizes, self._since = sizes, since

    def __call__(self, index: int) -> np.ndarray:
        content, size = self._content(index), tuple(self._sizes[index].tolist())
        if self._plain[index] and picture.header_size(content) != size:
            self._plain[index] = False
        if not self._plain[index]:
            try:
                content = picture.to_pnm(content, self._grey)
            except Exception as error:  # it did decode when it was looked at
                why = picture.reason(error)
                raise DataError(f"{self.shown(index)} has changed since it was {self._since} ({why})") from None
            if not content.startswith(b"P%d\n%d %d\n" % (5 if self._grey else 6, *size[::-1])):
                raise DataError(f"{self.shown(index)} has changed since it was {self._since}: its size is another one")
        return np.frombuffer(content, dtype=np.uint8)

    def mistrust(self, index: int) -> bool:
        """Decode this file with Pillow from now on. Whether that is new."""
        trusted = bool(self._plain[index])
        self._plain[index] = False
        return trusted
