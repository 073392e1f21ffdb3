"""Invert a generator that fastgan has never seen: `python docs/examples/own_inversion.py`.

A plain decoder of handwritten digits is trained here by an ordinary loop (each image has a latent of its own, learnt beside the
weights), as anybody's generator would have been elsewhere. `fastgan.latent.invert` then looks for the latents of digits that it
has not seen, of pictures that it drew itself, and of noise. All that it asks for: `generator(z)` gives images in [-1, 1].
"""

import sys

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import fastgan

DIM = 12


def network() -> nn.Module:
    return nn.Sequential(
        nn.Linear(DIM, 256),
        nn.ReLU(),
        nn.Unflatten(1, (64, 2, 2)),
        nn.ConvTranspose2d(64, 32, 4, 2, 1, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.ConvTranspose2d(32, 1, 4, 2, 1),
        nn.Tanh(),
    )


def digits() -> tuple[Tensor, Tensor]:
    """Real 8x8 digits in [-1, 1]: to train with, and held out."""
    images = torch.tensor(load_digits().images, dtype=torch.float32)[:, None] / 8 - 1
    return images[:1500], images[1500:1550]


def train(generator: nn.Module, images: Tensor, epochs: int, batch: int = 100) -> None:
    """Generative latent optimisation (Bojanowski et al. 2018): weights and latents by gradient descent on one squared error."""
    z = nn.Parameter(torch.randn(len(images), DIM))
    of_weights, of_latents = torch.optim.Adam(generator.parameters(), 2e-3), torch.optim.Adam([z], 2e-2)
    for _ in range(epochs):
        for some in torch.randperm(len(images)).split(batch):
            error = (generator(z[some]) - images[some]).square().mean() + 1e-3 * z[some].square().mean()
            of_weights.zero_grad()
            of_latents.zero_grad()
            error.backward()
            of_weights.step()
            of_latents.step()


def main(epochs: int = 60) -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    seen, unseen = digits()
    generator = network()
    train(generator, seen, epochs)

    with torch.no_grad():
        drawn = generator.eval()(torch.randn(50, DIM))
    for name, images in {"drawn": drawn, "unseen": unseen, "noise": torch.rand_like(unseen) * 2 - 1}.items():
        found = fastgan.latent.invert(generator, images, dim=DIM, starts=4, nearest=500)
        print(f"{name}: error {found.errors.mean():.1e}, length of the latents {found.latents.norm(dim=1).mean():.1f}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
