"""The I-FGSM step, reference and Triton kernel, against its definition sample by sample in Python's float64.

The kernel runs through Triton's interpreter on CPU tensors; with TRITON_INTERPRET=0 the same tests run it on the GPU.
"""

import itertools
import math
import zlib

import pytest
import torch
import triton
from torch._subclasses.fake_tensor import FakeTensorMode

from fastgan.kernels import ifgsm
from fastgan.kernels.ifgsm import ifgsm_step, ifgsm_step_reference

DEVICE = "cpu" if triton.knobs.runtime.interpret else "cuda"
WRITTEN = ("z", "velocity", "active", "best_z", "best_score")
EVERYTHING = {"direction": "l2", "radius": 0.4, "radius_norm": "l2", "momentum": 0.9, "stop": True, "best": True}


def kernel(z, grad, origin, *, step_size, direction="sign", radius=None, radius_norm="linf", momentum=0.0, **given):
    numbers = (step_size, direction, radius, radius_norm, momentum, given.get("stop_score"))
    ifgsm._launch(*operands(z=z, grad=grad, origin=origin, **given), *numbers)


def operands(**given):
    """The operator's tensors: a list of leaves each, but for what every sample has one of."""
    names = ("z", "grad", "origin", "velocity", "score", "active", "best_z", "best_score")
    single = ("score", "active", "best_score")
    return [given.get(name) if name in single else ifgsm._leaves(given.get(name)) for name in names]


steps = pytest.mark.parametrize("step", [ifgsm_step, ifgsm_step_reference, kernel], ids=["public", "reference", "kernel"])


def arguments(
    shape, dtype=torch.float64, *, direction="sign", radius=None, radius_norm="linf", momentum=0.0, stop=False, best=False
):
    """Random arguments in which every branch of the definition has samples."""
    random = torch.Generator().manual_seed(zlib.crc32(repr((shape, direction, radius_norm, stop, best)).encode()))
    batch = shape[0]

    def draw(*size, scale=1.0):
        return (torch.randn(*size, generator=random, dtype=torch.float64) * scale).to(dtype).to(DEVICE)

    given = {"z": draw(*shape), "grad": draw(*shape), "step_size": 0.3, "direction": direction, "radius_norm": radius_norm}
    given["grad"][::4] = 0  # rows without a gradient, and single coordinates
    given["grad"][:, ::5] = 0
    given["origin"] = (given["z"].double() + draw(*shape, scale=0.2).double()).to(dtype)
    if radius is not None:
        given["radius"] = radius
    if momentum:
        given |= {"momentum": momentum, "velocity": draw(*shape, scale=0.1)}
    if stop or best:
        given["score"] = draw(batch).double().float()
        given["score"][2:3] = math.nan
    if stop:
        given |= {"stop_score": 0.2, "active": torch.rand(batch, generator=random).to(DEVICE) < 0.7}
    if best:
        given |= {"best_z": draw(*shape), "best_score": draw(batch).float()}
        given["best_score"][3:4] = given["score"][3:4]  # a draw: the older one stays
    return given


def defined(given):
    """What the written arguments should be afterwards: the module's five lines, one sample and one coordinate at a time."""
    after = {name: given[name].tolist() for name in WRITTEN if name in given}
    z, grad, origin = given["z"].tolist(), given["grad"].tolist(), given["origin"].tolist()
    score = given["score"].tolist() if "score" in given else None
    for i in range(len(z)):
        if "best_z" in given and score[i] > after["best_score"][i]:
            after["best_score"][i], after["best_z"][i] = score[i], z[i]
        if "stop_score" in given and score[i] >= given["stop_score"]:
            after["active"][i] = False
        if "active" in given and not after["active"][i]:
            continue
        g = grad[i]
        if given.get("momentum"):
            norm = math.fsum(abs(c) for c in g)
            g = [given["momentum"] * v + (c / norm if norm else 0.0) for v, c in zip(after["velocity"][i], g, strict=True)]
            after["velocity"][i] = g
        if given["direction"] == "sign":
            move = [0.0 if c == 0 else math.copysign(1.0, c) for c in g]
        else:
            norm = math.sqrt(math.fsum(c * c for c in g))
            move = [c / norm if norm else 0.0 for c in g]
        new = [c - given["step_size"] * m for c, m in zip(z[i], move, strict=True)]
        if "radius" in given and given["radius_norm"] == "linf":
            new = [min(max(c, o - given["radius"]), o + given["radius"]) for c, o in zip(new, origin[i], strict=True)]
        elif "radius" in given:
            delta = [c - o for c, o in zip(new, origin[i], strict=True)]
            norm = math.sqrt(math.fsum(d * d for d in delta))
            scale = min(1.0, given["radius"] / norm) if norm else 1.0
            new = [o + d * scale for o, d in zip(origin[i], delta, strict=True)]
        after["z"][i] = new
    return after


def assert_defined(step, given, rtol, atol):
    expected = defined(given)
    untouched = {name: value.clone() for name, value in given.items() if torch.is_tensor(value) and name not in expected}
    before = {name: given[name].clone() for name in expected}
    step(**given)
    for name, values in expected.items():
        got, want = given[name].cpu(), torch.tensor(values, dtype=torch.float64).reshape(given[name].shape)
        torch.testing.assert_close(got.double(), want, rtol=rtol, atol=atol, msg=lambda text, name=name: f"{name}: {text}")
    for name, value in untouched.items():
        assert torch.equal(value.nan_to_num(7.0), given[name].nan_to_num(7.0)), f"{name} was written"
    if "active" in given:  # frozen means to the bit
        frozen = ~given["active"]
        for name in {"z", "velocity"} & set(given):
            assert torch.equal(given[name][frozen], before[name][frozen])


@steps
@pytest.mark.parametrize("direction", ifgsm.DIRECTIONS)
@pytest.mark.parametrize("ball", [{}, {"radius": 0.35}, {"radius": 0.6, "radius_norm": "l2"}], ids=["free", "linf", "l2"])
def test_every_combination_of_options(step, direction, ball):
    for momentum, stop, best in itertools.product((0.0, 0.9), (False, True), (False, True)):
        given = arguments((9, 7), direction=direction, momentum=momentum, stop=stop, best=best, **ball)
        assert_defined(step, given, rtol=1e-12, atol=1e-13)


@steps
@pytest.mark.parametrize(
    "shape", [(0, 7), (1, 1), (700, 1), (3, 100), (2, 513), (3, ifgsm.MAX_BLOCK + 1), (2, 2 * ifgsm.MAX_BLOCK + 5)]
)
@pytest.mark.parametrize("options", [{}, EVERYTHING], ids=["plain", "everything"])
def test_shapes(step, shape, options):
    assert_defined(step, arguments(shape, **options), rtol=1e-12, atol=1e-13)


# float32: a few roundings. Half precision is rounded once on storing, to half a unit in the last place, except that the
# interpreter truncates bfloat16: a whole unit, 2**-7 of the value.
@steps
@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float32, 2e-6), (torch.float16, 2**-11), (torch.bfloat16, 2**-7)], ids=str)
@pytest.mark.parametrize("direction", ifgsm.DIRECTIONS)
@pytest.mark.parametrize("radius_norm", ifgsm.NORMS)
def test_precisions(step, dtype, rtol, direction, radius_norm):
    options = EVERYTHING | {"direction": direction, "radius_norm": radius_norm}
    assert_defined(step, arguments((9, 100), dtype, **options), rtol=rtol * 1.01, atol=1e-6)
    assert_defined(step, arguments((9, 100), dtype, direction=direction), rtol=rtol * 1.01, atol=1e-6)


@steps
def test_gradient_and_origin_in_any_layout(step):
    given = arguments((5, 6), **EVERYTHING)
    for name in ("grad", "origin"):
        given[name] = given[name].t().contiguous().t()
        assert not given[name].is_contiguous()
    assert_defined(step, given, rtol=1e-12, atol=1e-13)
    given = arguments((5, 6))
    given["grad"] = given["grad"][:, :1].expand(5, 6)
    assert_defined(step, given, rtol=1e-12, atol=1e-13)


@steps
def test_active_without_a_threshold_is_a_mask(step):
    given = arguments((9, 7)) | {"active": torch.arange(9, device=DEVICE) % 2 == 0}
    mask = given["active"].clone()
    assert_defined(step, given, rtol=1e-12, atol=1e-13)
    assert torch.equal(given["active"], mask)


@steps
def test_gradients_whose_squares_vanish_in_float32_still_have_a_direction(step):
    z = torch.zeros(1, 2, device=DEVICE)
    step(z, torch.tensor([[3e-25, 4e-25]], device=DEVICE), None, step_size=1.0, direction="l2")
    torch.testing.assert_close(z.cpu(), torch.tensor([[-0.6, -0.8]]))


@steps
def test_a_broken_gradient_is_seen_and_a_zero_one_is_not_broken(step):
    given = {
        "z": torch.ones(2, 3, device=DEVICE),
        "grad": torch.zeros(2, 3, device=DEVICE),
        "origin": torch.ones(2, 3, device=DEVICE),
    }
    given["grad"][0, 1] = math.nan
    step(
        **given,
        step_size=0.5,
        direction="l2",
        radius=1.0,
        radius_norm="l2",
        momentum=0.5,
        velocity=torch.zeros(2, 3, device=DEVICE),
    )
    assert given["z"][0].isnan().all()
    assert (given["z"][1] == 1).all()


@steps
def test_nan_never_becomes_the_best(step):
    nan = torch.tensor([math.nan], device=DEVICE)
    given = {"z": torch.ones(1, 2, device=DEVICE), "grad": torch.ones(1, 2, device=DEVICE), "origin": None, "score": nan}
    best = {"best_z": torch.zeros(1, 2, device=DEVICE), "best_score": torch.tensor([-math.inf], device=DEVICE)}
    step(**given, **best, step_size=0.5)
    assert best["best_score"].item() == -math.inf
    assert (best["best_z"] == 0).all()
    assert (given["z"] == 0.5).all()


LEAFY = ("z", "grad", "origin", "velocity", "best_z")


def as_leaves(given, columns):
    """The same arguments, each row cut into leaves of so many columns."""
    cut = {name: [part.contiguous() for part in given[name].split(columns, 1)] for name in LEAFY if name in given}
    return {name: value.clone() if torch.is_tensor(value) else value for name, value in given.items()} | cut


def assert_leaves_move_as_one(step, given, columns, rtol, atol):
    leaves = as_leaves(given, columns)
    ifgsm_step_reference(**given)
    step(**leaves)
    for name in WRITTEN:
        if name in given:
            got = torch.cat(list(leaves[name]), 1) if name in LEAFY else leaves[name]
            torch.testing.assert_close(got, given[name], rtol=rtol, atol=atol, msg=lambda text, name=name: f"{name}: {text}")


@steps
@pytest.mark.parametrize("direction", ifgsm.DIRECTIONS)
@pytest.mark.parametrize("ball", [{}, {"radius": 0.35}, {"radius": 0.6, "radius_norm": "l2"}], ids=["free", "linf", "l2"])
def test_leaves_move_as_one_vector_with_every_option(step, direction, ball):
    for momentum, stop, best in itertools.product((0.0, 0.9), (False, True), (False, True)):
        given = arguments((9, 30), direction=direction, momentum=momentum, stop=stop, best=best, **ball)
        assert_leaves_move_as_one(step, given, (17, 1, 12), rtol=1e-12, atol=1e-13)


@steps
@pytest.mark.parametrize(
    ("batch", "columns"),
    [
        (6, (7,)),
        (256, (20,) * 6),
        (3, (512, 16, 64, 256)),
        (1, (3, 5)),
        (2, (5, 0, 2)),
        (0, (3, 4)),
        (2, (4, ifgsm.MAX_BLOCK + 3, 1)),
        (3, (2,) * ifgsm.MAX_LEAVES),
        (3, (1, 3) * (ifgsm.MAX_LEAVES // 2)),
    ],
    ids=str,
)
@pytest.mark.parametrize("options", [{}, EVERYTHING], ids=["plain", "everything"])
def test_leaves_of_any_number_and_size(step, batch, columns, options):
    assert_leaves_move_as_one(step, arguments((batch, sum(columns)), **options), columns, rtol=1e-12, atol=1e-13)


@steps
@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float32, 2e-6), (torch.float16, 2**-10), (torch.bfloat16, 2**-7)], ids=str)
def test_precisions_of_leaves(step, dtype, rtol):
    for options in ({}, EVERYTHING, {"momentum": 0.9, "radius": 0.3}):
        assert_leaves_move_as_one(step, arguments((9, 60), dtype, **options), (20, 17, 23), rtol=rtol * 1.01, atol=1e-6)


@steps
def test_leaves_with_gradients_in_any_layout(step):
    given = arguments((5, 6), **EVERYTHING)
    leaves = as_leaves(given, (2, 4))
    for name in ("grad", "origin"):
        leaves[name] = tuple(given[name].split((2, 4), 1))  # columns of a larger tensor
        assert not leaves[name][0].is_contiguous()
    ifgsm_step_reference(**given)
    step(**leaves)
    torch.testing.assert_close(torch.cat(leaves["z"], 1), given["z"], rtol=1e-12, atol=1e-13)


def test_iterations_find_the_minimum_inside_the_ball():
    z = torch.tensor([[2.0, -2.0]])
    origin, target = z.clone(), torch.tensor([[0.5, -1.9]])
    for _ in range(100):
        ifgsm_step(z, z - target, origin, step_size=0.02, radius=1.0)
    torch.testing.assert_close(z, torch.tensor([[1.0, -1.9]]), rtol=0, atol=0.021)


def test_a_leaf_that_requires_grad_may_be_stepped():
    z = torch.ones(2, 3, requires_grad=True)
    ifgsm_step(z, torch.ones(2, 3), None, step_size=0.5)
    assert z.is_leaf
    assert (z == 0.5).all()


def test_operator():
    for options in ({}, EVERYTHING):
        given = arguments((5, 7), torch.float32, **options)
        numbers = (0.3, given["direction"], given.get("radius"), given["radius_norm"], given.get("momentum", 0.0))
        for cut in (given, as_leaves(given, (3, 4))):
            torch.library.opcheck(torch.ops.fastgan.ifgsm_step.default, (*operands(**cut), *numbers, given.get("stop_score")))


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_fake_tensors_pass(device):
    with FakeTensorMode():
        z = torch.empty(4, 8, device=device)
        ifgsm_step(z, torch.empty(4, 8, device=device), None, step_size=0.1, direction="l2")
    assert z.shape == (4, 8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"direction": "up"}, "direction must be one of sign, l2"),
        ({"radius_norm": "l1"}, "radius_norm must be one of linf, l2"),
        ({"step_size": -0.1}, "step_size must be at least 0"),
        ({"step_size": math.nan}, "step_size must be at least 0"),
        ({"radius": -1.0}, "radius must be at least 0"),
        ({"momentum": -0.5}, "momentum must be at least 0"),
        ({"radius": 1.0, "origin": None}, "needs origin"),
        ({"momentum": 0.9, "velocity": None}, "momentum needs velocity"),
        ({"stop_score": 1.0, "active": None}, "stop_score needs score and active"),
        ({"stop_score": 1.0, "score": None, "best_z": None, "best_score": None}, "stop_score needs score and active"),
        ({"best_z": None}, "best_z, best_score and score go together"),
        ({"best_score": None}, "best_z, best_score and score go together"),
        ({"score": None}, "best_z, best_score and score go together"),
        ({"z": torch.zeros(8)}, r"\(B, D\)"),
        ({"z": torch.zeros(4, 8, dtype=torch.int64)}, "floating-point"),
        ({"z": torch.zeros(8, 4).t()}, "z is written in place and must be contiguous"),
        ({"velocity": torch.zeros(8, 4).t()}, "velocity is written in place"),
        ({"best_z": torch.zeros(8, 4).t()}, "best_z is written in place"),
        ({"grad": torch.zeros(4, 7)}, "grad must match z"),
        ({"grad": torch.zeros(4, 8, dtype=torch.float64)}, "grad must match z"),
        ({"origin": torch.zeros(1, 8)}, "origin must match z"),
        ({"score": torch.zeros(4, 1)}, "score must be"),
        ({"active": torch.ones(4)}, "active must be"),
        ({"best_score": torch.zeros(4, dtype=torch.float64)}, "best_score must be"),
        ({"z": []}, "1 to 16 leaves, not 0"),
        ({"z": [torch.zeros(4, 8)] * 17}, "1 to 16 leaves, not 17"),
        ({"z": [torch.zeros(4, 8), torch.zeros(4, 2)]}, "grad must have a tensor for each of z's 2 leaves, not 1"),
        ({"z": [torch.zeros(4, 8), torch.zeros(3, 8)]}, "agree in batch"),
        ({"z": [torch.zeros(4, 8), torch.zeros(4, 8, dtype=torch.float64)]}, "agree in batch, dtype"),
        ({"velocity": [torch.zeros(4, 8)] * 2}, "velocity must have a tensor for each of z's 1 leaves, not 2"),
    ],
)
def test_wrong_arguments_are_named(change, message):
    given = {name: torch.zeros(4, 8) for name in ("z", "grad", "origin", "velocity", "best_z")}
    given |= {
        "score": torch.zeros(4),
        "best_score": torch.zeros(4),
        "active": torch.ones(4, dtype=torch.bool),
        "step_size": 0.1,
    }
    ifgsm_step(**given)  # right as they are
    with pytest.raises(ValueError, match=message):
        ifgsm_step(**(given | change))


@pytest.mark.skipif(DEVICE == "cpu", reason="needs the compiled kernel: TRITON_INTERPRET=0 on a machine with CUDA")
def test_a_cuda_graph_replays_the_step():
    given, twice = arguments((64, 128), torch.float32, **EVERYTHING), arguments((64, 128), torch.float32, **EVERYTHING)
    for _ in range(2):
        ifgsm_step_reference(**twice)
    stale = {name: value.clone() if torch.is_tensor(value) else value for name, value in given.items()}
    ifgsm_step(**stale)  # compiles
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        ifgsm_step(**given)
    for _ in range(2):
        graph.replay()
    for name in WRITTEN:
        torch.testing.assert_close(given[name], twice[name], rtol=1e-5, atol=1e-6)
