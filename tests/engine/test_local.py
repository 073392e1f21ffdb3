import copy
import math

import pytest
import torch
from torch import nn

from fastgan.checked import UserError
from fastgan.config import Adam
from fastgan.engine import LocalEngine, rate_factor, resolve_device, resolve_precision
from fastgan.networks.layers import SNLinear


def adam_by_hand(weight, gradients, rates, betas, eps, decay):
    """Kingma & Ba 2015, algorithm 1, with L2 decay, in Python numbers."""
    first = second = 0.0
    for t, (gradient, rate) in enumerate(zip(gradients, rates, strict=True), 1):
        gradient += decay * weight
        first = betas[0] * first + (1 - betas[0]) * gradient
        second = betas[1] * second + (1 - betas[1]) * gradient**2
        weight -= rate * (first / (1 - betas[0] ** t)) / (math.sqrt(second / (1 - betas[1] ** t)) + eps)
    return weight


@pytest.mark.parametrize("main_share", [1.0, 0.8])
def test_the_step_is_adam_with_the_rate_that_was_set(main_share):
    layer = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        layer.weight.fill_(0.5)
    settings = Adam(rate=0.1, betas=(0.5, 0.9), eps=1e-8, weight_decay=0.01)
    engine = LocalEngine([layer], settings, "fp32", main_share)
    gradients, factors = [1.0, -2.0, 0.5, 3.0], [1.0, 0.5, 0.25, 0.0]
    for gradient, factor in zip(gradients, factors, strict=True):
        engine.set_rate(factor)
        engine.backward(gradient * layer.weight.sum())
        engine.step()
    c = main_share
    expected = adam_by_hand(0.5, gradients, [0.1 * c * f for f in factors], (0.5**c, 0.9**c), 1e-8, 0.01)
    assert layer.weight.item() == pytest.approx(expected, rel=1e-5)
    assert layer.weight.grad is None


def test_gradients_add_up_until_the_step_and_are_clipped_by_their_norm():
    layer = nn.Linear(2, 1, bias=False)
    engine = LocalEngine([layer], Adam(rate=1e-3, clip_norm=1.0), "fp32")
    seen = []
    engine.optimiser.register_step_pre_hook(lambda *_: seen.append(layer.weight.grad.clone()))
    engine.backward((layer.weight * torch.tensor([[1.0, 2.0]])).sum())
    engine.backward((layer.weight * torch.tensor([[2.0, 2.0]])).sum())
    engine.step()
    torch.testing.assert_close(seen[0], torch.tensor([[0.6, 0.8]]))


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("clip_norm", [None, 1.0])
def test_the_norm_that_is_measured_is_the_gradients_own(precision, clip_norm):
    """Before clipping, and without the loss's scale; who does not measure steps to the same weights."""
    torch.manual_seed(0)
    layer = nn.Linear(2, 2)
    other = copy.deepcopy(layer)
    measured, plain = (LocalEngine([it], Adam(rate=0.1, clip_norm=clip_norm), precision) for it in (layer, other))
    for factor in (1.0, 2.0):
        for engine, it in ((measured, layer), (plain, other)):
            engine.backward(factor * (it.weight * torch.tensor([[3.0, 0.0], [0.0, 4.0]])).sum() + 0 * it.bias.sum())
        torch.testing.assert_close(measured.step(measured=True), torch.tensor(5.0 * factor))
        assert plain.step() is None
    assert torch.equal(layer.weight, other.weight)
    measured.backward(layer.weight.sum() * float("inf"))
    assert not measured.step(measured=True).isfinite()


def test_bf16_products_leave_weights_and_optimiser_in_fp32():
    layer = nn.Linear(8, 8)
    engine = LocalEngine([layer], Adam(), "bf16")
    with engine.autocast():
        output = layer(torch.randn(4, 8))
    assert output.dtype == torch.bfloat16
    engine.backward(output.float().square().mean())
    engine.step()
    assert layer.weight.dtype == torch.float32
    assert engine.optimiser.state[layer.weight]["exp_avg_sq"].dtype == torch.float32


def test_power_iteration_runs_once_a_step():
    layer = SNLinear(6, 5, bias=False)
    engine = LocalEngine([layer], Adam(rate=0.1), "fp32")
    by_hand = copy.deepcopy(layer)
    engine.backward(layer(torch.randn(3, 6)).square().sum())
    engine.step()
    with torch.no_grad():
        by_hand.weight.copy_(layer.weight)
    assert not torch.equal(by_hand.u, layer.u)
    by_hand.iterate()
    assert torch.equal(by_hand.u, layer.u)


def test_weights_are_clipped_after_every_step_in_place():
    """Every parameter, biases too (algorithm 1 of Arjovsky et al. 2017), before the power iteration looks at it."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 3), SNLinear(3, 2))
    plain, before = copy.deepcopy(network), [p.data_ptr() for p in network.parameters()]
    engine, unbounded = (
        LocalEngine([network], Adam(rate=0.1, clip_weights=0.15), "fp32"),
        LocalEngine([plain], Adam(rate=0.1), "fp32"),
    )
    x = torch.randn(5, 3)
    for one, it in ((engine, network), (unbounded, plain)):
        one.backward(it(x).sum())
        one.step()
    assert max(p.abs().max() for p in plain.parameters()) > 0.15
    for clipped, free in zip(network.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(clipped, free.clamp(-0.15, 0.15), rtol=0, atol=0)
    assert [p.data_ptr() for p in network.parameters()] == before
    u = nn.functional.normalize(network[1].weight @ network[1].v, dim=0)
    torch.testing.assert_close(network[1].u, u)


def test_the_state_continues_bit_for_bit():
    torch.manual_seed(0)
    layer = nn.Linear(4, 4)
    engine = LocalEngine([layer], Adam(rate=0.1, betas=(0.5, 0.9)), "bf16")

    def step(engine, layer, x):
        with engine.autocast():
            loss = layer(x).square().mean()
        engine.backward(loss)
        engine.step()

    inputs = torch.randn(6, 5, 4)
    for x in inputs[:3]:
        step(engine, layer, x)
    other = copy.deepcopy(layer)
    resumed = LocalEngine([other], Adam(rate=0.1, betas=(0.5, 0.9)), "bf16")
    resumed.load_state_dict(copy.deepcopy(engine.state_dict()))
    for x in inputs[3:]:
        step(engine, layer, x)
        step(resumed, other, x)
    assert torch.equal(layer.weight, other.weight)


def test_another_optimisers_state_is_refused():
    engine = LocalEngine([nn.Linear(2, 2)], Adam(), "fp32")
    with pytest.raises(ValueError, match="apex FusedAdam"):
        engine.load_state_dict(engine.state_dict() | {"kind": "apex FusedAdam"})


@pytest.mark.parametrize(
    ("schedule", "warmup", "expected"),
    [
        ("constant", 0, [1, 1, 1, 1, 1]),
        ("linear", 0, [1, 0.8, 0.6, 0.4, 0.2]),
        ("cosine", 0, [(1 + math.cos(math.pi * i / 5)) / 2 for i in range(5)]),
        ("constant", 4, [0.25, 0.5, 0.75, 1, 1]),
        ("linear", 2, [0.5, 0.8, 0.6, 0.4, 0.2]),
    ],
)
def test_schedules(schedule, warmup, expected):
    settings = Adam(schedule=schedule, warmup=warmup)
    assert [rate_factor(settings, i, 5) for i in range(5)] == pytest.approx(expected)
    assert rate_factor(settings, 99, 5) >= 0


def test_what_a_machine_cannot_do_is_refused():
    cpu = torch.device("cpu")
    with pytest.raises(UserError, match="fp16 needs a CUDA device"):
        resolve_precision("fp16", cpu)
    assert resolve_precision("bf16", cpu) == "bf16"
    assert resolve_precision("auto", cpu) in ("bf16", "fp32")
    if not torch.cuda.is_available():
        assert resolve_device("auto") == cpu
        with pytest.raises(UserError, match="no CUDA device"):
            resolve_device("cuda")


def test_a_weight_that_no_loss_reached_is_stepped_with_a_zero_gradient():
    layer = nn.Linear(1, 1)
    with torch.no_grad():
        layer.weight.fill_(0.5), layer.bias.fill_(0.5)
    engine = LocalEngine([layer], Adam(rate=0.1, betas=(0.5, 0.9), eps=1e-8), "fp32")
    engine.backward(layer.weight.sum() + layer.bias.sum())
    engine.step()
    engine.backward(layer.weight.sum())
    engine.step()
    assert layer.bias.item() == pytest.approx(adam_by_hand(0.5, [1.0, 0.0], [0.1, 0.1], (0.5, 0.9), 1e-8, 0.0), rel=1e-5)
