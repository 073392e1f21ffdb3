"""Networks whose features images are judged by.

    digits       the classifier of digits.py, with its logits; trained in seconds, nothing is fetched
    inception    torch-fidelity's InceptionV3 with the weights of the published FID, a file that the user has fetched
    pixels       the images themselves, in [0, 1], as vectors
    random       the convolutions of VGG16 with random weights, the same everywhere; nothing is fetched or trained
    others       what the user registers here or with torch-fidelity (vgg16, clip-vit-b-32, ...), with a weights file

Every extractor takes bytes, as files hold them: whoever has numbers in [-1, 1] rounds them by `quantised`. Nothing is ever
downloaded; a missing weights file is asked for in one line.
"""

import hashlib
import os
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from fastgan.checked import UserError, nearest
from fastgan.draw import Draw
from fastgan.evaluation.digits import DigitsClassifier

INCEPTION_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
"""Of the weights behind published FIDs: TensorFlow's of 2015-12-05, as torch-fidelity and pytorch-fid distribute them."""
WEIGHTS = "FASTGAN_FEATURE_WEIGHTS"
"""The environment variable that names a weights file where no option does."""

_SEED = 0  # of the random weights: another one makes other features, whose digest says so
_SMALLEST = 32  # side in pixels: VGG16 halves its maps five times
_AT_ONCE = 2**20  # pixels looked at together: VGG16's first maps of so many take 0.27 GB


@dataclass(frozen=True)
class Extractor:
    """A network seen as a function of images.

    Attributes:
        name: in `--features`.
        digest: names everything that its features depend on; equal digests mean that numbers may be compared.
        extract: uint8 (B, 1 or 3, H, W), on any device -> float32 (B, F) and, where it classifies, logits (B, C), else None;
            without a graph, each image's own, whatever the others of its batch are.
        published: whether its Fréchet distance is what the literature calls FID.
    """

    name: str
    digest: str
    extract: Callable[[Tensor], tuple[Tensor, Tensor | None]]
    published: bool = False

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """As `extract`, on the CPU.

        Raises:
            ValueError: images of another type or shape.
        """
        if images.dtype != torch.uint8 or images.dim() != 4 or images.shape[1] not in (1, 3):
            raise ValueError(f"images come as uint8 (B, 1 or 3, H, W), not {images.dtype} {tuple(images.shape)}")
        features, logits = self.extract(images)
        return features.cpu(), None if logits is None else logits.cpu()

    def title(self, metric: str) -> str:
        """A metric's name with these features: "FID", "KID-digits". Only the published network's goes without its name, and
        a Fréchet distance of other features is no FID."""
        if self.published:
            return metric
        return f"{metric.replace('FID', 'FD')}-{self.name}"


Maker = Callable[[Path | None, torch.device], Extractor]
"""(weights file, device) -> extractor; raises UserError where it can't be had."""


def quantised(images: Tensor) -> Tensor:
    """Images in [-1, 1] as a file would hold them: uint8. What lies outside is clamped.

    Raises:
        ValueError: not floating point, or numbers that are not finite.
    """
    if not images.is_floating_point():
        raise ValueError(f"images come as floating-point numbers in [-1, 1], but these are {images.dtype}")
    if not images.isfinite().all():
        raise ValueError("the images hold numbers that are not finite")
    return ((images.detach().float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def register(name: str, make: Maker) -> None:
    """Make an extractor of one's own known by a name that `--features` takes. Raises ValueError where the name is taken."""
    if not name.strip() or is_known(name):
        raise ValueError(f"there is an extractor {name!r} already" if name.strip() else "an extractor needs a name")
    _MAKERS[name] = make


def is_known(name: str) -> bool:
    """Whether there is an extractor of this name. (torch-fidelity, slow to load, is asked last.)"""
    return name == "digits" or name in _MAKERS or name in known()


def known() -> list[str]:
    """Every extractor's name."""
    return sorted({"digits", *_MAKERS, *_registry()} - {"inception-v3-compat"})


def make(name: str, weights: Path | None = None, device: torch.device | str = "cpu") -> Extractor:
    """Any extractor but "digits", which belongs to its data (`of_digits`).

    Args:
        name: one of `known`.
        weights: its file; where None, the one that `FASTGAN_FEATURE_WEIGHTS` names, and for inception the file that
            torch-fidelity has left in torch's cache.

    Raises:
        UserError: there is no such extractor, or its weights are missing, damaged, or another network's.
    """
    device = torch.device(device)
    if weights is None and os.environ.get(WEIGHTS):
        weights = Path(os.environ[WEIGHTS])
    if name in _MAKERS:
        return _MAKERS[name](weights, device)
    if name in _registry():
        return _fidelity(name, weights, device)
    raise UserError(f"there are no features {name!r}: {nearest(name, known())}")


def of_digits(classifier: DigitsClassifier) -> Extractor:
    """The features and logits of a classifier of digits, which stays on the CPU."""

    def extract(images: Tensor) -> tuple[Tensor, Tensor]:
        return classifier.judged(images.cpu().float() / 127.5 - 1)

    return Extractor("digits", classifier.digest(), extract)


def has_inception() -> bool:
    """Whether a weights file for it is at hand without being named."""
    return bool(os.environ.get(WEIGHTS)) or _in_torch_cache().is_file()


def _pixels(weights: Path | None, device: torch.device) -> Extractor:
    return Extractor("pixels", "pixels", lambda images: (images.flatten(1).float() / 255, None))


def _random(weights: Path | None, device: torch.device) -> Extractor:
    """The mean of the last feature map of torchvision's VGG16 with random weights: 512 numbers an image, at its own size.

    Naeem, Oh, Uh, Choi, Yoo, "Reliable fidelity and diversity metrics for generative models" (ICML 2020), section on random
    embeddings, judge by a VGG16 with random weights where images are far from ImageNet's. They enlarge images to 224 pixels
    and take fc2, or a layer of 64 numbers in its place. Here the convolutions alone: the 4,096 numbers of fc2 leave the
    covariance of a few thousand images without full rank, and nothing has to be enlarged.

    Weights are uniform with He et al.'s variance 2 / inputs ("Delving deep into rectifiers", 2015, equation 10), biases 0;
    they are counter-based numbers, so equal bit for bit on every machine, and no global random state is touched. The digest
    is theirs. Images of three channels, or one that is repeated, in [-1, 1]; fp32. Below 32 pixels VGG16 leaves no map:
    such images are refused (ValueError).
    """
    from torchvision.models import vgg16  # slow to import

    with torch.device("meta"):  # nine tenths of its weights are those of layers that are left out
        network = vgg16(init_weights=False).features.requires_grad_(False)
    network = network.to_empty(device="cpu")
    digest = hashlib.sha256()
    for number, layer in enumerate(layer for layer in network if isinstance(layer, nn.Conv2d)):
        draw = Draw(_SEED, "random features", number, torch.arange(layer.out_channels))
        spread = (6 / layer.weight[0].numel()) ** 0.5
        layer.weight.copy_((2 * draw.uniform("weights", *layer.weight.shape[1:]) - 1) * spread)
        layer.bias.zero_()
        digest.update(layer.weight.numpy().tobytes())
    network = network.to(device, memory_format=torch.channels_last).eval()

    @torch.no_grad()
    def extract(images: Tensor) -> tuple[Tensor, None]:
        if min(images.shape[2:]) < _SMALLEST:
            raise ValueError(f"they have {images.shape[3]}x{images.shape[2]} pixels, fewer than {_SMALLEST} a side")
        found = []
        with _precise(device):
            for piece in images.split(max(1, _AT_ONCE // images[0, 0].numel())):
                shown = piece.to(device).expand(-1, 3, -1, -1).float() / 127.5 - 1
                found.append(network(shown.contiguous(memory_format=torch.channels_last)).mean((2, 3)))
        return torch.cat(found), None

    return Extractor("random", f"random vgg16 {digest.hexdigest()}", extract)


def _inception(weights: Path | None, device: torch.device) -> Extractor:
    if weights is None and _in_torch_cache().is_file():
        weights = _in_torch_cache()
    return _fidelity("inception-v3-compat", weights, device, "inception")


def _fidelity(registered: str, weights: Path | None, device: torch.device, name: str | None = None) -> Extractor:
    """An extractor of torch-fidelity's registry, made from a weights file: without one its own classes would download it."""
    kind = _registry()[registered]
    theirs = kind.__module__.startswith("torch_fidelity.")
    if weights is None and theirs:
        raise UserError(f"{name or registered} features need a weights file that is not at hand: {_to_fetch(registered)}")
    digest = registered if weights is None else _checked_digest(registered, Path(weights), theirs)
    features = kind.get_default_feature_layer_for_metric("fid")
    try:
        logits = kind.get_default_feature_layer_for_metric("isc") if theirs and registered == "inception-v3-compat" else None
        layers = [features] if logits in (None, features) else [features, logits]
        network = kind(registered, layers, feature_extractor_weights_path=None if weights is None else str(weights))
    except (RuntimeError, KeyError, AttributeError, TypeError, ValueError) as error:
        problem = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{weights} is not the weights file of {registered} ({problem}): {_to_fetch(registered)}") from None
    except NotImplementedError:
        raise UserError(f"torch-fidelity can't read {registered} from a file, and nothing is downloaded silently") from None
    network = network.to(device).eval().requires_grad_(False)
    published = registered == "inception-v3-compat" and digest == INCEPTION_SHA256
    shown = name or registered
    if registered == "inception-v3-compat" and not published:
        shown += f"-{digest[:8]}"  # other weights: whoever reads the number must see it
    return Extractor(shown, f"{registered} {digest}", _of_network(network, device, len(layers)), published)


def _of_network(network: nn.Module, device: torch.device, layers: int) -> Callable[[Tensor], tuple[Tensor, Tensor | None]]:
    @torch.no_grad()
    def extract(images: Tensor) -> tuple[Tensor, Tensor | None]:
        with _precise(device):
            found = network(images.to(device).expand(-1, 3, -1, -1).contiguous())
        return found[0].float().flatten(1), found[1].float() if layers > 1 else None

    return extract


def _checked_digest(registered: str, path: Path, theirs: bool) -> str:
    """SHA-256 of a weights file that holds tensors alone: torch-fidelity would unpickle, and so run, whatever it holds."""
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if theirs:
            torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"the weights file {path} can't be read ({error.strerror}): {_to_fetch(registered)}") from None
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError):
        raise UserError(f"the weights file {path} is damaged: {_to_fetch(registered)}") from None
    return digest


def _to_fetch(registered: str) -> str:
    named = f"and name it by --feature-weights FILE or {WEIGHTS}"
    if registered != "inception-v3-compat":
        return f"fetch the weights that torch-fidelity's {registered} takes {named}"
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

    return f"fetch {URL_INCEPTION_V3} (SHA-256 {INCEPTION_SHA256}) {named}"


def _in_torch_cache() -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints" / "weights-inception-2015-12-05-6726825d.pth"


def _registry() -> dict[str, type]:
    from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY  # slow to import

    return FEATURE_EXTRACTORS_REGISTRY


@contextmanager
def _precise(device: torch.device) -> Iterator[None]:
    """float32 as IEEE has it: a training loop may have asked for less, which must not change its judge."""
    backends = [torch.backends.mkldnn.matmul, torch.backends.mkldnn.conv]
    backends += [torch.backends.cuda.matmul, torch.backends.cudnn.conv] if device.type == "cuda" else []
    before = [backend.fp32_precision for backend in backends]
    try:
        for backend in backends:
            backend.fp32_precision = "ieee"
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        for backend, precision in zip(backends, before, strict=True):
            backend.fp32_precision = precision


_MAKERS: dict[str, Maker] = {"inception": _inception, "pixels": _pixels, "random": _random}
