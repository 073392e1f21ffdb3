"""Published data sets, read from the files that their authors distribute. Nothing is downloaded.

    cifar10, cifar100     Krizhevsky 2009: the binary or the Python version, unpacked or as the .tar.gz
    stl10                 Coates, Ng, Lee 2011: 5,000 train and 8,000 test images with labels, 96x96
    stl10-unlabeled       its 100,000 images without labels, which GANs are trained on
    svhn                  Netzer et al. 2011, format 2 (cropped digits), .mat files
    mnist                 LeCun et al. 1998, and whoever copied the format (Fashion-MNIST, KMNIST): idx files, .gz or not

Split "train" is what the authors call so, "held-out" is their test set.
"""

import gzip
import io
import pickle
import tarfile
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from fastgan.data.source import AnyPath, DataError, Source, first_line, in_memory

_SETS = {
    "cifar10": ("cifar-10-binary.tar.gz or cifar-10-python.tar.gz", "https://www.cs.toronto.edu/~kriz/cifar.html"),
    "cifar100": ("cifar-100-binary.tar.gz or cifar-100-python.tar.gz", "https://www.cs.toronto.edu/~kriz/cifar.html"),
    "stl10": ("stl10_binary.tar.gz, unpacked", "https://cs.stanford.edu/~acoates/stl10"),
    "stl10-unlabeled": ("stl10_binary.tar.gz, unpacked", "https://cs.stanford.edu/~acoates/stl10"),
    "svhn": ("train_32x32.mat and test_32x32.mat", "http://ufldl.stanford.edu/housenumbers"),
    "mnist": ("train-images-idx3-ubyte.gz and its three siblings", "http://yann.lecun.com/exdb/mnist"),
}
_CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_STL10_CLASSES = ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck")
_PARTS = {"train": ("train",), "held-out": ("test",), "all": ("train", "test")}


# ---- CIFAR


def _cifar10(path: AnyPath | None, split: str) -> Source:
    batches = {"train": [f"data_batch_{number}" for number in range(1, 6)], "test": ["test_batch"]}
    return _cifar("cifar10", path, split, batches, b"labels", 1, _CIFAR10_CLASSES)


def _cifar100(path: AnyPath | None, split: str) -> Source:
    batches = {"train": ["train"], "test": ["test"]}
    return _cifar("cifar100", path, split, batches, b"fine_labels", 2, tuple(str(label) for label in range(100)))


def _cifar(
    name: str,
    path: AnyPath | None,
    split: str,
    batches: dict[str, list[str]],
    key: bytes,
    label_bytes: int,
    classes: tuple[str, ...],
) -> Source:
    """Both versions hold a row of 3,072 bytes for each image: its red plane, then green, then blue, each row by row."""
    wanted = [batch for part in _PARTS[split] for batch in batches[part]]
    files = _Files(name, path)
    images, labels = [], []
    if files.has(f"{wanted[0]}.bin"):
        for batch, content in files.read_all([f"{batch}.bin" for batch in wanted]).items():
            rows = _records(files, batch, content, label_bytes + 3072)
            images.append(rows[:, label_bytes:])
            labels.append(rows[:, label_bytes - 1])  # CIFAR-100 has the coarse label before the fine one
    else:
        for batch, content in files.read_all(wanted).items():
            found = _unpickle(files, batch, content)
            rows, named = (found.get(b"data"), found.get(key)) if isinstance(found, dict) else (None, None)
            if not isinstance(rows, np.ndarray) or rows.ndim != 2 or rows.shape[1] != 3072 or not isinstance(named, list):
                raise DataError(f"{files.path}: {batch} is not a batch of {name}: it lacks 'data' or {key.decode()!r}")
            images.append(rows)
            labels.append(np.array([label for label in named if isinstance(label, int)], dtype=np.int64))
    pixels = np.concatenate(images).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return _labelled(files, classes, pixels, np.concatenate(labels))


def _unpickle(files: "_Files", name: str, content: bytes) -> Any:
    """A pickle of plain values and byte arrays. Nothing of it is executed: arrays are rebuilt here, not by NumPy."""
    try:
        return _plain(_Unpickler(io.BytesIO(content), encoding="bytes").load())
    except DataError:
        raise
    except Exception as error:  # a damaged pickle raises whatever its opcodes happen to do
        raise DataError(f"{files.path}: {name} can't be read as a pickled batch ({first_line(error)})") from None


class _Unpickler(pickle.Unpickler):
    """Knows four names, those of a pickled uint8 array, and gives stand-ins for them; any other name is refused."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in (("numpy.core.multiarray", "_reconstruct"), ("numpy._core.multiarray", "_reconstruct")):
            return lambda *_: _Array()
        if module == "numpy" and name in ("ndarray", "dtype"):
            return _Array if name == "ndarray" else _Dtype
        raise DataError(f"a pickled batch asks for {module}.{name}, which no batch of CIFAR needs: it is not what it seems")


class _Dtype:
    def __init__(self, code: bytes | str, *_: object) -> None:
        self.code = code.decode() if isinstance(code, bytes) else code

    def __setstate__(self, state: object) -> None: ...


class _Array:
    def __setstate__(self, state: tuple) -> None:
        _, self.shape, self.dtype, self.fortran, self.content = state

    def array(self) -> np.ndarray:
        if not isinstance(self.dtype, _Dtype) or self.dtype.code not in ("u1", "|u1", "uint8"):
            raise ValueError("an array that is not of bytes")
        order = "F" if self.fortran else "C"
        return np.frombuffer(self.content, dtype=np.uint8).reshape(self.shape, order=order)


def _plain(value: Any) -> Any:
    return {key: _plain(item) for key, item in value.items()} if isinstance(value, dict) else _as_array(value)


def _as_array(value: Any) -> Any:
    return value.array() if isinstance(value, _Array) else value


# ---- STL-10


def _stl10(path: AnyPath | None, split: str) -> Source:
    files = _Files("stl10", path)
    parts = _PARTS[split]
    pixels = np.concatenate([_stl10_pixels(files, f"{part}_X.bin") for part in parts])
    labels = np.concatenate([np.frombuffer(files.read(f"{part}_y.bin"), dtype=np.uint8) for part in parts])
    return _labelled(files, _STL10_CLASSES, pixels, labels.astype(np.int64) - 1)


def _stl10_unlabeled(path: AnyPath | None, split: str) -> Source:
    files = _Files("stl10-unlabeled", path)
    if split == "held-out":
        raise DataError("the images of 'stl10-unlabeled' have no held-out split: judge against the source 'stl10'")
    pixels = _stl10_pixels(files, "unlabeled_X.bin")  # mapped: 2.8 GB that need not be in memory
    labels = np.zeros(len(pixels), dtype=np.int64)
    labels.flags.writeable = False
    return Source(files.name, ("all",), labels, 3, lambda index: np.ascontiguousarray(pixels[index]))


def _stl10_pixels(files: "_Files", name: str) -> np.ndarray:
    """Images are stored plane by plane, each plane column by column."""
    rows = _records(files, name, files.map(name), 3 * 96 * 96)
    return rows.reshape(-1, 3, 96, 96).transpose(0, 3, 2, 1)


# ---- SVHN


def _svhn(path: AnyPath | None, split: str) -> Source:
    files = _Files("svhn", path)
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise DataError("the source 'svhn' reads .mat files with SciPy: pip install scipy") from error
    images, labels = [], []
    for part in _PARTS[split]:
        name = f"{part}_32x32.mat"
        content = files.read(name)
        try:
            found = loadmat(io.BytesIO(content), variable_names=["X", "y"])
            pixels, digits = found["X"], found["y"].reshape(-1)
        except Exception as error:  # SciPy's reader raises a dozen types on damage
            raise DataError(f"{files.path}: {name} can't be read as SVHN's .mat file ({first_line(error)})") from None
        if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[:3] != (32, 32, 3):
            raise DataError(f"{files.path}: {name} must hold uint8 X (32, 32, 3, N), but it is {pixels.dtype} {pixels.shape}")
        images.append(pixels.transpose(3, 0, 1, 2))
        labels.append(digits.astype(np.int64) % 10)  # the authors call the digit 0 class 10
    return _labelled(files, tuple("0123456789"), np.concatenate(images), np.concatenate(labels))


# ---- MNIST


def _mnist(path: AnyPath | None, split: str) -> Source:
    files = _Files("mnist", path)
    images, labels = [], []
    for part in _PARTS[split]:
        part = {"train": "train", "test": "t10k"}[part]
        images.append(_idx(files, f"{part}-images", 3))
        labels.append(_idx(files, f"{part}-labels", 1))
    if len({array.shape[1:] for array in images}) > 1:
        raise DataError(f"{files.path}: the images of train and test differ in size")
    labels = np.concatenate(labels).astype(np.int64)
    names = tuple(str(label) for label in range(max(int(labels.max(initial=0)) + 1, 10)))
    return _labelled(files, names, np.concatenate(images)[..., None], labels)


def _idx(files: "_Files", stem: str, dimensions: int) -> np.ndarray:
    """An idx file of bytes: two zeros, 8 for uint8, the number of dimensions, their sizes as big-endian int32, the values."""
    spellings = [f"{stem}{dot}idx{dimensions}-ubyte{gz}" for dot in ("-", ".") for gz in ("", ".gz")]
    name = next((spelling for spelling in spellings if files.has(spelling)), spellings[1])
    content = files.read(name)
    if content[:2] == b"\x1f\x8b":
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{files.path}: {name} can't be unpacked ({first_line(error)})") from None
    start = 4 + 4 * dimensions
    shape = np.frombuffer(content[4:start], dtype=">i4") if len(content) >= start else np.zeros(0)
    whole = content[:4] == bytes([0, 0, 8, dimensions]) and (shape >= 0).all()
    if not whole or len(content) != start + shape.astype(object).prod():  # objects: sizes of damaged files overflow
        raise DataError(f"{files.path}: {name} is not an idx file of bytes in {dimensions} dimensions, or is cut short")
    return np.frombuffer(content, dtype=np.uint8, offset=start).reshape(shape)


# ---- what they share


class _Files:
    """The files of one set: in a folder, in a folder below it, or in the archive that the authors publish."""

    def __init__(self, name: str, path: AnyPath | None) -> None:
        archive, page = _SETS[name]
        self.name, self._help = name, f"get {archive} from {page} and set data.path to where it lies"
        if path is None:
            raise DataError(f"the source {name!r} needs a path: {self._help}")
        self.path = Path(path).expanduser()
        if not self.path.exists():
            raise DataError(f"{self.path} does not exist: {self._help}")
        try:
            if self.path.is_dir():
                self._members = {file.name: file for file in self._below(self.path)}
            elif name.startswith("cifar"):
                with tarfile.open(self.path) as tar:
                    self._members = {Path(member.name).name: member for member in tar if member.isfile()}
            else:
                raise DataError(f"{self.path} is a file, not the folder that holds {name}: {self._help}")
        except (tarfile.TarError, EOFError, zlib.error) as error:
            raise DataError(f"{self.path} can't be read as an archive of {name} ({first_line(error)})") from None
        except OSError as error:
            raise DataError(f"{self.path} can't be read: {error.strerror or first_line(error)}") from None

    @staticmethod
    def _below(path: Path) -> Iterable[Path]:
        entries = sorted(path.iterdir())
        for folder in entries:
            if folder.is_dir() and not folder.name.startswith("."):
                yield from (file for file in sorted(folder.iterdir()) if file.is_file())
        yield from (file for file in entries if file.is_file())  # last, so that a nearer file of a name counts

    def has(self, name: str) -> bool:
        return name in self._members

    def read(self, name: str) -> bytes:
        return self.read_all([name])[name]

    def read_all(self, names: list[str]) -> dict[str, bytes]:
        for name in names:
            if not self.has(name):
                raise DataError(f"{self.path} holds no {name}: {self._help}")
        try:
            if self.path.is_dir():
                return {name: self._members[name].read_bytes() for name in names}
            with tarfile.open(self.path) as tar:  # members in memory: no name in the archive becomes a path
                found = {name: tar.extractfile(self._members[name]).read() for name in names}
        except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
            raise DataError(f"{self.path} can't be read ({first_line(error)})") from None
        return found

    def map(self, name: str) -> np.ndarray:
        """The bytes of a file, mapped."""
        if not self.has(name):
            raise DataError(f"{self.path} holds no {name}: {self._help}")
        if not self._members[name].stat().st_size:
            raise DataError(f"{self.path}: {name} is empty")
        return np.asarray(np.memmap(self._members[name], dtype=np.uint8, mode="r"))


def _records(files: _Files, name: str, content: bytes | np.ndarray, size: int) -> np.ndarray:
    """Rows of `size` bytes."""
    rows = np.frombuffer(content, dtype=np.uint8) if isinstance(content, bytes) else content
    if not len(rows) or len(rows) % size:
        raise DataError(f"{files.path}: {name} has {len(rows)} bytes, no multiple of {size}: it is cut short, or another file")
    return rows.reshape(-1, size)


def _labelled(files: _Files, classes: tuple[str, ...], pixels: np.ndarray, labels: np.ndarray) -> Source:
    if len(pixels) != len(labels):
        raise DataError(f"{files.path} holds {len(pixels)} images of {files.name}, but {len(labels)} labels")
    if not len(labels):
        raise DataError(f"{files.path} holds no images of {files.name}")
    if labels.min() < 0 or labels.max() >= len(classes):
        raise DataError(
            f"{files.path}: the labels of {files.name} must be from 0 to {len(classes) - 1}, "
            f"but run {labels.min()} to {labels.max()}"
        )
    return in_memory(files.name, classes, pixels, labels)


PUBLISHED: dict[str, Callable[[AnyPath | None, str], Source]] = {
    "cifar10": _cifar10,
    "cifar100": _cifar100,
    "stl10": _stl10,
    "stl10-unlabeled": _stl10_unlabeled,
    "svhn": _svhn,
    "mnist": _mnist,
}
