"""What AdvLatGAN-z does to a plane of latents, as numbers and as a picture; drawn by `python -m bench.advlatgan plane`.

After Li et al. (NeurIPS 2022), section 4: a generator of digits whose z has two coordinates maps every point of the plane to an
image; between the digits lie images of nothing. Refinement empties those regions.
"""

from pathlib import Path

import numpy as np
import torch
from sklearn.neighbors import KernelDensity
from torch import Tensor

from fastgan.draw import Draw
from fastgan.evaluation import Tally
from fastgan.judgement import Judgement
from fastgan.latent import Prior, refine
from fastgan.training.assess import digits_judge
from fastgan.training.run import Run
from fastgan.training.sampling import grid

_COUNT = 4000  # latents
_SIDE = 15  # images along a side of the plane
_REACH = 2.2  # of the plane that is drawn, in standard deviations
_STEPS = 12  # from one mode to another
_PATHS = 200  # of them
_BANDWIDTH = 0.1
_SURE = 0.7  # the classifier's probability below which an image is taken for none


class Plane:
    """Everything that is measured of a run whose latents have two coordinates."""

    def __init__(self, run: Run, refine_steps: int, step_size: float) -> None:
        self.generator, self.discriminator = run.ema_generator, run.discriminator
        self.options = {"steps": refine_steps, "step_size": step_size, "objective": run.config.objective}
        self.judge = digits_judge(run.path, run.config.data.resolution)
        self.title = f"{refine_steps} x {step_size:g}"
        draw = Draw(0, "plane", 0, torch.arange(_COUNT))
        self.before = Prior(2)(draw)
        self.after = self.refined(self.before)
        self.paths = self._paths(draw)

    def refined(self, z: Tensor) -> Tensor:
        """-z, in parts."""
        return torch.cat([refine(self.generator, self.discriminator, part, **self.options) for part in z.split(250)])

    @torch.no_grad()
    def images(self, z: Tensor) -> Tensor:
        """G's."""
        return torch.cat([self.generator(part).float() for part in z.split(250)])

    @torch.no_grad()
    def scores(self, images: Tensor) -> Tensor:
        """D's."""
        return torch.cat([Judgement.of(self.discriminator(part)).score.float() for part in images.split(250)])

    def look(self, z: Tensor) -> Tally:
        """What a classifier of digits says of the images of z."""
        return self.judge.look(self.images(z))

    def numbers(self) -> dict:
        """D's mean score, the classifier's mean confidence and the share of images that it is not sure of: before and after
        refinement, by tenths of the density of refined latents, and on straight paths between two digits."""
        found = {name: self._summary(z) for name, z in {"before": self.before, "after": self.after}.items()}
        density = _density(self.after, self.after)
        scores, confidences = self.scores(self.images(self.after)), self.look(self.after).confidences
        found["by_density"] = [
            {"density": density[t].mean().item(), "score": scores[t].mean().item(), "confidence": confidences[t].mean().item()}
            for t in density.argsort().chunk(10)
        ]
        flat = self.paths.flatten(0, 1)
        found["paths"] = {name: self._summary(z) for name, z in {"plain": flat, "refined": self.refined(flat)}.items()}
        return found

    def _summary(self, z: Tensor) -> dict[str, float]:
        confidences = self.look(z).confidences
        return {
            "score": self.scores(self.images(z)).mean().item(),
            "confidence": confidences.mean().item(),
            "unsure": (confidences < _SURE).double().mean().item(),
        }

    def draw(self, path: Path) -> None:
        """The picture: density before and after, images over the plane, one path plain and refined, quality by density."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(12, 8.2), dpi=90, layout="constrained")
        top, bottom = figure.subfigures(2, 1, height_ratios=(5, 3))
        axes = top.subplots(1, 3)
        edges = np.linspace(-_REACH, _REACH, 120)
        for axis, z, title in zip(axes, (self.before, self.after), ("z before", f"z after, {self.title}"), strict=False):
            axis.hist2d(*z.T.numpy(), bins=(edges, edges), cmap="magma")
            axis.set_title(title)
            axis.set_aspect("equal")
        lines = torch.linspace(-_REACH, _REACH, _SIDE)
        plane = torch.cartesian_prod(-lines, lines).flip(1)  # from the top left, x first
        axes[2].imshow(_picture(self.images(plane), _SIDE), extent=(-_REACH, _REACH, -_REACH, _REACH))
        axes[2].set_title("images over the plane")
        left, right = bottom.subfigures(1, 2, width_ratios=(3, 1))
        rows = left.subplots(2, 1)
        for axis, z, title in zip(rows, (self.paths[0], self.refined(self.paths[0])), ("plain", "refined"), strict=True):
            axis.imshow(_picture(self.images(z), _STEPS))
            axis.set_title(f"equal steps between two digits, {title}", fontsize=10)
            axis.axis("off")
        axis = right.subplots()
        found = self.numbers()["by_density"]
        axis.plot([tenth["confidence"] for tenth in found], marker="o", color="tab:blue")
        axis.set_ylabel("classifier's confidence", color="tab:blue")
        axis.set_xlabel("tenths of refined z, thin to thick")
        twin = axis.twinx()
        twin.plot([tenth["score"] for tenth in found], marker="s", color="tab:red")
        twin.set_ylabel("D's score", color="tab:red")
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)

    def _paths(self, draw: Draw) -> Tensor:
        """Straight lines between two refined latents, of the surest quarter, of different digits where there are such: (paths,
        steps, 2)."""
        seen = self.look(self.after)
        sure = seen.confidences >= seen.confidences.quantile(0.75)
        ends, digits = self.after[sure], seen.predictions[sure]
        order = draw.uniform("order")[: len(ends)].argsort()
        first, second = ends[order], ends[order.roll(1)]
        differ = digits[order] != digits[order.roll(1)]
        if not differ.any():
            differ = ~differ
        first, second = first[differ][:_PATHS], second[differ][:_PATHS]
        share = torch.linspace(0, 1, _STEPS)[None, :, None]
        return (1 - share) * first[:, None] + share * second[:, None]


def _density(of: Tensor, at: Tensor) -> Tensor:
    return torch.from_numpy(KernelDensity(bandwidth=_BANDWIDTH).fit(of.numpy()).score_samples(at.numpy())).exp()


def _picture(images: Tensor, columns: int) -> np.ndarray:
    return grid(images, columns).permute(1, 2, 0).numpy()
