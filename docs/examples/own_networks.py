"""Refine and sample from a pair of networks that fastgan has never seen: `python docs/examples/own_networks.py`.

Two plain `nn.Module`s are trained here by an ordinary loop on eight Gaussians on a circle, as anybody's networks would have
been elsewhere; then `fastgan.latent.refine` moves latents before the generator draws them (AdvLatGAN-z). All that it asks for:
`generator(z)` gives samples, `discriminator(x)` a score each, higher = more real.
"""

import sys
from math import cos, pi, sin

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fastgan
from fastgan.evaluation import good_samples

CENTRES = [(2 * cos(2 * pi * k / 8), 2 * sin(2 * pi * k / 8)) for k in range(8)]
SIGMA = 0.02


def network(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(
        nn.Linear(inputs, 128),
        nn.ReLU(),
        nn.Linear(128, 128),
        nn.ReLU(),
        nn.Linear(128, 128),
        nn.ReLU(),
        nn.Linear(128, outputs),
    )


def real_points(count: int) -> Tensor:
    return torch.tensor(CENTRES)[torch.randint(8, (count,))] + SIGMA * torch.randn(count, 2)


def train(generator: nn.Module, discriminator: nn.Module, rounds: int, batch: int = 256) -> None:
    """The non-saturating game with R1."""
    of_g = torch.optim.Adam(generator.parameters(), 1e-3, betas=(0.5, 0.9))
    of_d = torch.optim.Adam(discriminator.parameters(), 1e-3, betas=(0.5, 0.9))
    for _ in range(rounds):
        real = real_points(batch).requires_grad_()
        score_real, score_fake = discriminator(real), discriminator(generator(torch.randn(batch, 2)).detach())
        (slope,) = torch.autograd.grad(score_real.sum(), real, create_graph=True)
        of_d.zero_grad()
        (F.softplus(-score_real) + F.softplus(score_fake) + 0.05 * slope.square().sum(1, keepdim=True)).mean().backward()
        of_d.step()
        of_g.zero_grad()
        F.softplus(-discriminator(generator(torch.randn(batch, 2)))).mean().backward()
        of_g.step()


def main(rounds: int = 3000) -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    generator, discriminator = network(2, 2), network(2, 1)
    train(generator, discriminator, rounds)

    z = torch.randn(5000, 2)
    refined = fastgan.latent.refine(generator, discriminator, z, steps=20, step_size=0.01, objective="non-saturating")
    with torch.no_grad():
        for name, latents in {"plain": z, "refined": refined}.items():
            print(f"{name}: {good_samples(generator(latents), CENTRES, SIGMA).shown}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
