"""DeepSpeed's engine: two ranks under its launcher at every stage against one plain process; alone; and what it refuses."""

import copy
import os
import subprocess
import sys
from functools import partial

import pytest
import ranks
import torch
from torch import nn
from toys import CycleGan, PointStream, make_session

from fastgan.checked import UserError
from fastgan.config import Adam, Engine, override
from fastgan.engine import DeepSpeedEngine, LocalEngine, deepspeed, join
from fastgan.presets import preset
from fastgan.training.loop import _stage_notes, zero_stage
from fastgan.training.session import Session

ZERO = [case for case in ranks.CASES if case.startswith("zero")]
CPU = torch.device("cpu")


@pytest.fixture(scope="module", autouse=True)
def torchs_own_linear():
    """DeepSpeed's ZeRO-3 puts a function of its own in the place of torch's, for the rest of the process."""
    theirs = nn.functional.linear
    yield
    nn.functional.linear = theirs


@pytest.fixture(scope="module")
def plain():
    """Case -> what one process with the plain engine ends with in its place."""
    ends = {}

    def end(case):
        config, back = ranks.plain(case), case.endswith(", gone back")
        if (key := f"{config}{back}") not in ends:
            session = ranks.session(config)
            if back:
                ranks.go_astray(session)
            ends[key] = ranks.play(session, ranks.ROUNDS)
        return ends[key]

    return end


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What every case ended with on each of two ranks, all from one start of the launcher."""
    folder = tmp_path_factory.mktemp("ranks")
    torch.save(ranks.play(ranks.session(ranks.plain("local")), 3)["state"], folder / "begun.pt")
    launcher = ("deepspeed", "--num_gpus", "2", "--master_port", str(ranks.free_port()), ranks.__file__, str(folder), *ZERO)
    done = subprocess.run(launcher, capture_output=True, text=True, timeout=240, env=os.environ | {"DS_ACCELERATOR": "cpu"})
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def deepspeed_engine(networks, settings, precision, stage, engine=Engine(kind="deepspeed")):  # noqa: B008 - frozen
    """On this process alone."""
    options = {"engine": engine, "stage": stage, "batch_size": 16, "accumulate": 1}
    return DeepSpeedEngine(networks, settings, precision, 1.0, join(CPU, even_alone=True), **options)


def ended(folder, case):
    return [torch.load(folder / f"{case} {rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("case", ZERO)
def test_two_ranks_equal_each_other_and_one_process(folder, plain, case):
    first, second = ended(folder, case)
    ranks.assert_equal(first["state"], second["state"])
    expected = plain(case)
    ranks.assert_close(first["state"], expected["state"])
    ranks.assert_equal(ranks.in_order([first["shown"], second["shown"]]), ranks.in_order([expected["shown"]]))
    assert first["measured"] == second["measured"]
    ranks.assert_measured(first["measured"], expected["measured"])


@pytest.mark.parametrize(
    ("case", "divided"),
    [("zero 1", ()), ("zero 3", ("generator", "discriminator")), ("zero 3, with R1", ("generator",))],
)
def test_stage_3_divides_the_weights_of_whom_it_steps(folder, plain, case, divided):
    for found in ended(folder, case):
        for name, whole in plain(case)["own"].items():
            assert found["own"][name] == (pytest.approx(whole / 2, abs=6) if name in divided else whole)  # padded to be equal


@pytest.mark.parametrize("case", ["zero 2, accumulating", "zero 3, with R1"])
def test_one_process_goes_on_where_two_ranks_ended(folder, plain, case):
    resumed = ranks.session(ranks.plain(case))
    resumed.load_state_dict(ended(folder, case)[0]["state"])
    undisturbed = ranks.session(ranks.plain(case))
    found, expected = ranks.play(resumed, ranks.ROUNDS + 2), ranks.play(undisturbed, ranks.ROUNDS + 2)
    ranks.assert_equal(found["shown"], expected["shown"])
    ranks.assert_close(found["state"], expected["state"])


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_alone_in_bf16_it_is_the_plain_engine(tmp_path, stage):
    case = "zero 3"
    config = override(ranks.settings(case, tmp_path), ["training.precision=bf16", f"engine.zero_stage={stage}"])
    local = override(ranks.plain(case), ["training.precision=bf16"])
    found = ranks.play(ranks.session(config, join(CPU, even_alone=True)), 2)["state"]
    expected = ranks.play(ranks.session(local), 2)["state"]
    assert all(tensor.dtype == torch.float32 for tensor in found["game"].values())
    for name, tensor in expected["game"].items():
        assert (found["game"][name] - tensor).norm() <= 1e-3 * tensor.norm(), name


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_fp16_scales_its_loss_and_skips_what_overflows(stage):
    torch.manual_seed(0)
    one = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
    other, settings = copy.deepcopy(one), Adam(rate=0.1, clip_norm=0.5)
    engines = LocalEngine([one], settings, "fp16"), deepspeed_engine([other], settings, "fp16", stage)
    inputs = torch.randn(4, 6, 4)
    inputs[1, 0], norms = 1e6, []
    for x in inputs:
        for engine in engines:
            with engine.autocast():
                loss = engine.networks[0](x).float().square().mean()
            engine.backward(loss)
            norms.append(engine.step(measured=True))
    assert [bool(norm.isfinite()) for norm in norms] == [True, True, False, False, True, True, True, True]
    finite = torch.stack(norms).view(4, 2)[[0, 2, 3]]
    torch.testing.assert_close(finite[:, 1], finite[:, 0], rtol=1e-3, atol=0)
    with engines[1].whole():
        for expected, found in zip(one.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    expected, found = (engine.state_dict() for engine in engines)
    assert expected["scaler"] == found["scaler"]
    assert expected["scaler"]["scale"] == 2.0**15
    assert {float(state["step"]) for state in found["optimiser"]["state"].values()} == {3}
    resumed = deepspeed_engine([copy.deepcopy(one)], settings, "fp16", stage)
    resumed.load_state_dict(expected)
    ranks.assert_equal(resumed.state_dict(), expected)


@pytest.mark.parametrize("stage", [1, 3])
def test_a_player_of_two_networks(stage):
    def make(game, player):
        return deepspeed_engine(game.networks_of(player), Adam(rate=1e-2), "fp32", stage)

    def played(**options):
        torch.manual_seed(0)
        game, stream = CycleGan(), partial(PointStream, 16, ("a", "b"))
        session = make_session(game, lambda size: stream()) if not options else Session(game, **options, batch_size=16)
        for _ in range(5):
            session.play_round()
        return session.state_dict()

    expected, found = played(), played(make_engine=make, make_stream=lambda stage: PointStream(16, ("a", "b")))
    ranks.assert_close(found["game"], expected["game"])
    ranks.assert_close(found["average"], expected["average"])


def test_the_state_of_other_networks_is_refused():
    engine = deepspeed_engine([nn.Linear(2, 2)], Adam(), "fp32", 1)
    stepped = LocalEngine([nn.Linear(3, 2)], Adam(), "fp32")
    stepped.backward(sum(p.sum() for p in stepped.parameters))
    stepped.step()
    with pytest.raises(ValueError, match="of other networks"):
        engine.load_state_dict(stepped.state_dict())
    with pytest.raises(ValueError, match="apex FusedAdam"):
        engine.load_state_dict(stepped.state_dict() | {"kind": "apex FusedAdam"})


def test_a_second_order_term_keeps_its_player_at_stage_2():
    asked = ["engine.kind=deepspeed", "engine.zero_stage=3"]
    config = override(preset("digits-r1"), asked)
    assert (zero_stage(config, "discriminator"), zero_stage(config, "generator")) == (2, 3)
    assert _stage_notes(config) == [
        "the discriminator has a term of second order or of its weights, or an objective of features, "
        "which ZeRO-3 can't step: it is trained at stage 2"
    ]
    features = override(preset("digits-sngan"), [*asked, "objective=mmd"])
    assert (zero_stage(features, "discriminator"), zero_stage(features, "generator")) == (2, 3)
    assert not _stage_notes(override(preset("digits-sngan"), asked))
    assert not _stage_notes(override(preset("digits-r1"), [asked[0], "engine.zero_stage=2"]))


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("{", "is not JSON"),
        ("[1]", "is not a DeepSpeed configuration"),
        ('{"train_batch_size": 8}', "sets train_batch_size, which is set by training.batch_size"),
        ('{"zero_optimization": {"stage": 1}}', "sets zero_optimization.stage, which is set by engine.zero_stage"),
        ('{"fp16": {"enabled": true}}', "set by training.precision"),
    ],
)
def test_what_a_users_json_may_not_say(tmp_path, content, sentence):
    path = tmp_path / "mine.json"
    path.write_text(content)
    with pytest.raises(UserError, match=sentence):
        deepspeed.check(Engine(kind="deepspeed", deepspeed_json=str(path)), CPU)


def test_a_users_json_lies_over_ours_section_by_section(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text('{"zero_optimization": {"stage": "auto", "reduce_bucket_size": 1000}, "steps_per_print": 7}')
    ours = {"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu"}}, "steps_per_print": 1}
    merged = deepspeed._merged(ours, deepspeed.users(str(path)))
    assert merged == {
        "zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu"}, "reduce_bucket_size": 1000},
        "steps_per_print": 7,
    }


def test_what_deepspeed_itself_refuses_is_one_line(tmp_path):
    (tmp_path / "mine.json").write_text('{"zero_optimization": {"reduce_bucket_size": -1}}')
    engine = Engine(kind="deepspeed", zero_stage=1, deepspeed_json=str(tmp_path / "mine.json"))
    with pytest.raises(UserError, match=r"DeepSpeed refuses .*mine\.json.*reduce_bucket_size"):
        deepspeed_engine([nn.Linear(2, 2)], Adam(), "fp32", 1, engine)


def test_without_deepspeed_it_is_missed_in_one_line_and_nothing_else_misses_it(tmp_path):
    program = "import sys; sys.modules['deepspeed'] = None; from fastgan.cli import main; main()"
    run = [sys.executable, "-c", program, "train", "grid25", "--run-dir", str(tmp_path / "run"), "--steps", "1"]
    done = subprocess.run([*run, "--set", "engine.kind=deepspeed"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr == "fastgan: engine.kind deepspeed needs DeepSpeed: pip install 'fastgan[cluster]'\n"
    assert not (tmp_path / "run").exists()
