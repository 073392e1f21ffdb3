"""Where real images come from, by name.

    digits    scikit-learn's 1,797 real 8x8 digits in ten classes, embedded in that package: nothing is downloaded
    stacked-  three of them, one a channel: 60,000 images in 1,000 classes, after StackedMNIST
    digits
    arrays    a user's .npz (images, labels) or .npy (images)
    folder    a user's folder of images, or of a folder for each class (`folder`); a packed set is taken for what it is
    shards    a set that `fastgan data pack` wrote (`shards`)
    others    published sets, in the files that their authors distribute (`published`)

Neither torch nor DALI is loaded here, so a command can refuse a wrong name or file within milliseconds.
"""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np

from fastgan.data.folder import IN_CONFIG, ON_BAD_IMAGE, Options, open_folder
from fastgan.data.published import PUBLISHED
from fastgan.data.shards import is_packed, open_shards
from fastgan.data.source import SPLITS, AnyPath, DataError, Source, first_line, in_memory

_HELD_OUT_EVERY = 5  # every fifth digit of a class, in file order, is held out: 355 of 1,797
_STACKS = 60_000  # of three digits: as many as MNIST has training images
_STACKED_SEED = 1000
_MOST_CLASSES = 1 << 16  # above this a "label" is an identifier, and a table of class names would fill the memory


def open_source(
    name: str,
    path: AnyPath | None = None,
    split: str = "train",
    *,
    on_bad_image: str = "refuse",
    quiet: bool = False,
    options: Options = IN_CONFIG,
) -> Source:
    """Open a source by its name.

    Args:
        name: a key of `SOURCES`.
        path: the file or folder, for sources that read one.
        split: "train", "held-out" or "all".
        on_bad_image: "refuse" a folder that holds images which do not decode, or "skip" these.
        quiet: print no progress of a folder's scan.
        options: what the user calls `path` and `on_bad_image`, for sentences about a folder.

    Raises:
        DataError: an unknown name or split, a split that the source lacks, a missing or needless path, or a file that holds
            something else than images and labels.
    """
    if name not in SOURCES:
        raise DataError(f"there is no data source {name!r}; the known ones are {', '.join(SOURCES)}")
    if split not in SPLITS:
        raise DataError(f"there is no split {split!r}; the known ones are {', '.join(SPLITS)}")
    if on_bad_image not in ON_BAD_IMAGE:
        raise DataError(f"on_bad_image must be one of {', '.join(ON_BAD_IMAGE)}, but is {on_bad_image!r}")
    if name == "folder" and path is not None and is_packed(Path(path).expanduser()):
        return open_shards(path, split)
    if name == "folder":  # the one whose images may be bad
        return open_folder(path, split, on_bad_image=on_bad_image, quiet=quiet, options=options)
    return SOURCES[name](path, split)


def _digits(path: AnyPath | None, split: str) -> Source:
    if path is not None:
        raise DataError(f"the source 'digits' is embedded in scikit-learn and takes no path, but was given {str(path)!r}")
    images, labels = _embedded_digits()
    held_out = np.zeros(len(labels), dtype=bool)
    for label in range(10):
        held_out[np.flatnonzero(labels == label)[_HELD_OUT_EVERY - 1 :: _HELD_OUT_EVERY]] = True
    chosen = {"train": ~held_out, "held-out": held_out, "all": np.ones_like(held_out)}[split]
    return in_memory("digits", tuple("0123456789"), images[chosen], labels[chosen])


def _stacked_digits(path: AnyPath | None, split: str) -> Source:
    """Three training digits, each as likely, in the three channels of an image; its class is 100 a + 10 b + c. For counting
    modes (Metz, Poole, Pfau, Sohl-Dickstein, "Unrolled generative adversarial networks", ICLR 2017, section 3.3.1)."""
    if path is not None:
        raise DataError(
            f"the source 'stacked-digits' is made of embedded digits and takes no path, but was given {str(path)!r}"
        )
    if split == "held-out":
        raise DataError("the source 'stacked-digits' has no held-out split")
    digits = _digits(None, "train")
    images = np.stack([digits.read(index)[..., 0] for index in range(len(digits))])
    # Four numbers of 64 bits from each count: image i is a function of i alone, whatever numpy's generators become.
    numbers = np.random.Philox(key=_STACKED_SEED).random_raw(4 * _STACKS).reshape(_STACKS, 4)
    chosen = (numbers[:, :3] % np.uint64(len(digits))).astype(np.int64)
    stacks = images[chosen].transpose(0, 2, 3, 1)
    classes = tuple(f"{number:03}" for number in range(1000))
    return in_memory("stacked-digits", classes, stacks, digits.labels[chosen] @ np.array([100, 10, 1]))


@cache
def _embedded_digits() -> tuple[np.ndarray, np.ndarray]:
    """The 1,797 digits, uint8 (1797, 8, 8, 1), and their labels."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise DataError("the source 'digits' needs scikit-learn: pip install scikit-learn") from error
    digits = load_digits()
    levels = digits.images.astype(np.int64)  # whole numbers from 0 to 16
    return ((levels * 255 + 8) // 16).astype(np.uint8)[..., None], digits.target


def _arrays(path: AnyPath | None, split: str) -> Source:
    if path is None:
        raise DataError("the source 'arrays' needs the path of an .npz or .npy file")
    if split == "held-out":
        raise DataError(f"{path} has no held-out split: give the held-out images as a file of their own")
    images, labels = _load_arrays(Path(path).expanduser())

    if images.dtype != np.uint8:
        raise DataError(f"{path} must hold uint8 images, but they are {images.dtype}")
    if images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[3] not in (1, 3)):
        raise DataError(f"{path} must hold images of shape (N, H, W), (N, H, W, 1) or (N, H, W, 3), but it is {images.shape}")
    if images.size == 0:
        raise DataError(f"{path} holds no images: their shape is {images.shape}")
    if images.ndim == 3:
        images = images[..., None]

    if labels is None:
        return in_memory("arrays", ("all",), images, np.zeros(len(images), dtype=np.int64))
    if labels.dtype.kind not in "iu":
        raise DataError(f"{path} must hold integer labels, but they are {labels.dtype}")
    if labels.shape != (len(images),):
        raise DataError(f"{path} holds {len(images)} images, but labels of shape {labels.shape} instead of ({len(images)},)")
    if labels.min() < 0 or labels.max() >= _MOST_CLASSES:
        raise DataError(f"{path} must hold labels from 0 to {_MOST_CLASSES - 1}, but they run {labels.min()} to {labels.max()}")
    return in_memory("arrays", tuple(str(label) for label in range(int(labels.max()) + 1)), images, labels)


def _load_arrays(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """The images and, where there are any, labels of an .npz or .npy file, as they were saved."""
    if not path.is_file():
        raise DataError(f"{path} is a folder, not an .npz or .npy file" if path.is_dir() else f"{path} does not exist")
    try:
        with path.open("rb") as file:
            start = file.read(6)
            if start == b"\x93NUMPY":
                # Mapped, it is read as it is used, and the processes of a machine share one copy. An .npz can't be mapped.
                return np.load(path, allow_pickle=False, mmap_mode="r"), None
            if not start.startswith(b"PK"):
                raise DataError(f"{path} is not an .npz or .npy file: it starts with {start!r}")
            file.seek(0)
            with np.load(file, allow_pickle=False) as archive:
                if "images" not in archive.files:
                    found = ", ".join(sorted(archive.files)) or "nothing"
                    raise DataError(f"{path} must hold an array named 'images', but it holds {found!r}")
                return archive["images"], archive["labels"] if "labels" in archive.files else None
    except DataError:
        raise
    except Exception as error:  # on random damage NumPy's parser raised eight types, TokenError and TypeError among them
        raise DataError(f"{path} can't be read as an .npz or .npy file of plain arrays ({first_line(error)})") from error


SOURCES: dict[str, Callable[[AnyPath | None, str], Source]] = {
    "digits": _digits,
    "stacked-digits": _stacked_digits,
    "arrays": _arrays,
    "folder": open_folder,
    "shards": open_shards,
    **PUBLISHED,
}
