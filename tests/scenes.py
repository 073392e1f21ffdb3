"""What a term looks at, small and in float64, and T written anew, sample by sample: for the tests of terms and augmentation."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from fastgan.draw import Draw
from fastgan.judgement import View, judge
from fastgan.kernels.augment import Policy, Transforms
from fastgan.terms import Imagined, Scene, Term

SIDE = (7, 6)
"""Odd, and not square."""


class Critic(nn.Module):
    """A smooth convolutional D in float64: one score an image or, with `maps`, one a place; with labels it adds them."""

    def __init__(self, maps: bool = False, classes: int = 0, slope: float = 1.0) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.maps = maps
        self.first, self.second = nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.Conv2d(4, 5, 3)
        self.last = nn.Conv2d(5, 1, 1 if maps else (2, 1))
        self.classes = nn.Embedding(classes, 1) if classes else None
        self.double()
        with torch.no_grad():
            self.last.weight.mul_(slope)

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        x = x.to(self.last.weight.dtype)
        x = torch.tanh(self.second(nn.functional.softplus(self.first(x))))
        if self.classes is not None:
            x = x * (1 + self.classes(labels)[:, :, None, None])
        scores = self.last(x)
        return scores if self.maps else scores.flatten()


class Maker(nn.Module):
    """A smooth G in float64: (B, 5) latents -> images."""

    def __init__(self, classes: int = 0) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.body = nn.Linear(5, 3 * SIDE[0] * SIDE[1])
        self.classes = nn.Embedding(classes, 5) if classes else None
        self.double()

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        z = z.double() if self.classes is None else z.double() + self.classes(labels)
        return torch.tanh(2 * self.body(z)).view(-1, 3, *SIDE)


class Given(nn.Module):
    """A function as a D."""

    def __init__(self, function: Callable) -> None:
        super().__init__()
        self.forward = function


def scene(generate: nn.Module | None = None, batch: int = 5, classes: int = 0, purpose: str = "D", **options) -> Scene:
    """Random images and latents; those of D's phase, where `generate` takes no graph, are the caller's to choose."""
    torch.manual_seed(3)
    generate = generate or Maker(classes)
    real = torch.rand(batch, 3, *SIDE, dtype=torch.float64) * 2 - 1
    z = torch.randn(batch, 5, dtype=torch.float64)
    labels = (torch.arange(batch) % classes, torch.arange(batch).flip(0) % classes) if classes else (None, None)
    draw = Draw(7, purpose, options.pop("step", 2), torch.arange(40, 40 + batch))

    def imagine() -> Imagined:
        return Imagined(z, labels[1], generate(z, labels[1]))

    def latents(name: str) -> Tensor:
        return draw.normal(name, 5).double()

    return Scene(real, labels[0], imagine, generate, draw, latents, **options)


def applied(term: Term, network: Callable, seen: Scene) -> Tensor:
    """The term's loss, as a game would ask for it: beside the objective's own views."""
    views = {"real": View(seen.real, seen.real_labels), "fake": View(seen.fake.images, seen.fake.labels)}
    network = network if isinstance(network, nn.Module) else Given(network)
    return term.loss(seen, judge(network, views | term.views(seen)))


def assert_same(found: Tensor, expected: Tensor, wrt: Sequence[Tensor], tolerance: float = 1e-9) -> None:
    """Two losses and their gradients; a parameter that one does not reach, the other doesn't either, or with 0."""
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-14)
    given = [torch.autograd.grad(loss, wrt, allow_unused=True, retain_graph=True) for loss in (found, expected)]
    assert any(theirs is not None and theirs.abs().max() > 1e-6 for theirs in given[1])
    for mine, theirs in zip(*given, strict=True):
        if mine is None or theirs is None:
            assert all(g is None or not g.any() for g in (mine, theirs))
        else:
            torch.testing.assert_close(mine, theirs, rtol=tolerance, atol=tolerance * 1e-2)


def weights(network: nn.Module) -> list[Tensor]:
    return list(network.parameters())


def squared_norms(network: Callable, images: Tensor, labels: Tensor | None = None) -> list[Tensor]:
    """|grad D|^2 at each image, one after the other."""
    found = []
    for i, image in enumerate(images):
        x = image.detach()[None].clone().requires_grad_()
        score = network(x) if labels is None else network(x, labels[i : i + 1])
        (slope,) = torch.autograd.grad(score.sum(), x, create_graph=True)
        found.append((slope * slope).sum())
    return found


def transformed(images: Tensor, transforms: Transforms, policy: Policy) -> Tensor:
    """T, one sample after the other, as its formula has it; differentiable."""
    return torch.stack([_transformed(image, transforms, i, policy.border, policy.fill) for i, image in enumerate(images)])


def _transformed(x: Tensor, transforms: Transforms, i: int, border: str, fill: float) -> Tensor:
    t = {name: None if value is None else value[i].tolist() for name, value in vars(transforms).items()}
    if t["flip"]:
        x = x.flip(-1)
    if t["brightness"] is not None:
        x = x + t["brightness"]
    if t["saturation"] is not None:
        grey = sum(x) / len(x)
        x = torch.stack([grey + t["saturation"] * (channel - grey) for channel in x])
    if t["contrast"] is not None:
        level = x.sum() / x.numel()
        x = level + t["contrast"] * (x - level)
    if t["shift"] is not None:
        for axis, by in ((1, t["shift"][0]), (2, t["shift"][1])):
            size, lines = x.shape[axis], []
            for to in range(size):
                at = to - by
                if border == "reflect":
                    while not 0 <= at < size:
                        at = -at if at < 0 else 2 * (size - 1) - at
                inside = 0 <= at < size
                lines.append(x.select(axis, at) if inside else torch.zeros_like(x.select(axis, 0)))
            x = torch.stack(lines, dim=axis)
    if t["cutout"] is not None:
        top, left, height, width = t["cutout"]
        kept = torch.ones_like(x)
        for row in range(max(top, 0), min(top + height, x.shape[1])):
            for column in range(max(left, 0), min(left + width, x.shape[2])):
                kept[:, row, column] = 0
        x = x * kept + fill * (1 - kept)
    return x
