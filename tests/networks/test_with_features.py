"""Features of every family's discriminator, and what is said of networks without."""

import pytest
import torch
from families import pair_of
from torch import nn

from fastgan.config import override
from fastgan.judgement import Judgement, View, judge
from fastgan.networks import FAMILIES, build
from fastgan.networks.with_features import WithFeatures
from fastgan.presets import DEFAULT, preset


@pytest.mark.parametrize(
    "family", [name for name in FAMILIES if name not in ("mlp", "dcgan-conditional", "biggan", "style-content")]
)
def test_features_are_what_the_last_layer_is_given(family):
    _, discriminator = pair_of(family, width=4)
    images = torch.rand(3, 3, 32, 32) * 2 - 1
    wrapped = WithFeatures(discriminator)
    seen = wrapped(images)
    assert isinstance(seen, Judgement)
    assert seen.features.dim() == 2
    assert seen.features.dtype == torch.float32
    torch.testing.assert_close(wrapped.network.get_submodule(wrapped.last)(seen.features).squeeze(1), seen.score)
    wrapped.eval()
    assert isinstance(wrapped(images), torch.Tensor)
    assert not discriminator.get_submodule(wrapped.last)._forward_pre_hooks


def test_gradients_and_views_reach_the_features():
    _, discriminator = build(override(preset("grid25"), ["objective=mmd", "terms.r1=null", "network.width=8"]))
    x, y = torch.randn(4, 2, requires_grad=True), torch.randn(3, 2)
    judged = judge(discriminator, {"x": View(x), "y": View(y)})
    assert (judged["x"].features.shape, judged["y"].features.shape) == ((4, 8), (3, 8))
    judged["x"].features.sum().backward()
    assert x.grad.abs().sum() > 0
    assert discriminator.network.main[0].weight.grad.abs().sum() > 0


def test_labels_reach_the_network():
    settings = ["network.family=dcgan-conditional", "network.classes=10", "network.width=2", "objective=mcgan"]
    _, discriminator = build(override(preset(DEFAULT), [*settings, "latent.refine_steps=0"]))
    seen = discriminator(torch.rand(3, 1, 32, 32), torch.tensor([0, 1, 2]))
    assert seen.features.shape == (3, 16 * 4 * 4)


def test_a_network_without_a_linear_head_is_refused():
    with pytest.raises(ValueError, match="no linear last layer"):
        WithFeatures(nn.Sequential(nn.Conv2d(3, 1, 4), nn.Flatten()))


def test_several_outputs_are_compared_with_a_class_s_vector():
    settings = ["network.family=r3gan", "network.classes=10", "network.width=8", "latent.refine_steps=0", "terms.r1.gamma=1"]
    _, discriminator = build(override(preset("cifar10-r3gan"), settings))
    with pytest.raises(ValueError, match="no linear last layer"):
        WithFeatures(discriminator)
    seen = WithFeatures(discriminator, projected=True)(torch.rand(3, 3, 32, 32), torch.tensor([0, 1, 2]))
    assert seen.features.shape == (3, discriminator.linear.in_features)
    torch.testing.assert_close(seen.score, (discriminator.linear(seen.features) * discriminator.embed.weight[:3]).sum(1))
