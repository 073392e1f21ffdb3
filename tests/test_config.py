import dataclasses

import pytest

from fastgan.checked import UserError
from fastgan.config import Config, flatten, from_dict, from_yaml, override, to_dict, to_yaml
from fastgan.presets import DEFAULT, PRESETS, preset
from fastgan.terms import R1


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_survives_writing_and_reading(name, tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(to_yaml(preset(name)))
    assert from_yaml(path) == preset(name)


def test_the_tree_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().latent.dim = 3


def test_override_sets_every_kind_of_value():
    config = override(
        preset(DEFAULT),
        [
            "seed=7",
            "generator.rate=1e-3",
            "generator.betas=[0.5, 0.999]",
            "latent.radius=0.1",
            "latent.keep_best=true",
            "objective=wasserstein",
            "terms.r1.gamma=0.5",
            "training.ema_rampup=null",
        ],
    )
    assert (config.seed, config.generator.rate, config.generator.betas) == (7, 1e-3, (0.5, 0.999))
    assert (config.latent.radius, config.latent.keep_best, config.objective) == (0.1, True, "wasserstein")
    assert config.terms == {"r1": R1(gamma=0.5)}
    assert config.training.ema_rampup is None
    assert preset(DEFAULT).seed == 0


def test_null_takes_a_term_away():
    assert override(preset("digits-r1"), ["terms.r1=null"]).terms == {}


@pytest.mark.parametrize(
    ("assignment", "line"),
    [
        ("training.stes=3", "unknown field 'training.stes': did you mean 'steps'?"),
        ("latnt.dim=3", "unknown field 'latnt': did you mean 'latent'?"),
        ("latent.dim.foo=3", "'dim' has no fields of its own"),
        ("training.steps=-5", "training.steps should be greater than or equal to 1, not -5"),
        ("training.steps=many", "training.steps"),
        ("training.steps", "--set takes name=value"),
        ("training.steps=[", "can't be read"),
        ("latent.radius=.nan", "latent.radius should be a finite number"),
        ("latent.radius=-1", "latent.radius"),
        ("data.resolution=33", "data.resolution should be a multiple of 8, not 33"),
        ("objective=hing", "unknown objective 'hing': did you mean 'hinge'?"),
        ("terms.r5.gamma=1", "unknown term 'r5'"),
        ("terms.r1.gama=1", "unknown field 'gama': did you mean 'gamma'?"),
        ("terms.r1.gamma=-1", "gamma should be greater than or equal to 0"),
        ("terms.r1=5", "takes settings"),
        ("training.accumulate=5", "does not divide"),
        ("training.precision=fp8", "training.precision should be"),
        ("generator.betas=[0.5]", "generator.betas"),
        ("generator.betas=[0.5, 1]", "generator.betas.1 should be less than 1"),
        ("generator.warmup=100000", "generator.warmup must end before"),
        ("network.family=resnet", "network.family should be"),
        ("seed=-1", "seed"),
        ("name=../elsewhere", "name"),
    ],
)
def test_a_bad_value_is_one_line_that_names_the_field(assignment, line):
    with pytest.raises(UserError) as refused:
        override(preset(DEFAULT), [assignment])
    assert line in str(refused.value)
    assert "\n" not in str(refused.value)


def test_combinations_that_cannot_work():
    with pytest.raises(UserError, match="fp16 needs a CUDA device"):
        override(preset(DEFAULT), ["training.precision=fp16", "training.device=cpu"])


def test_an_unknown_preset_suggests_the_closest():
    with pytest.raises(UserError, match="did you mean 'digits-sngan'"):
        preset("digit-sngan")


@pytest.mark.parametrize("text", ["- a\n", "{", "seed: [1", "data: 3\n"])
def test_a_spoiled_file_is_refused(tmp_path, text):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=r"config\.yaml"):
        from_yaml(path)


def test_flatten_names_every_leaf():
    leaves = flatten(preset("digits-r1"))
    assert leaves["terms.r1.gamma"] == 1.0
    assert leaves["training.batch_size"] == 64
    assert from_dict(to_dict(preset("digits-r1"))) == preset("digits-r1")


def test_every_field_is_a_documented_or_obvious_name():
    """Scripts rely on these names (docs/configuration)."""
    names = {
        "seed", "data.source", "data.path", "data.resolution", "training.steps", "training.batch_size",
        "training.checkpoint_every", "training.precision", "training.n_dis", "training.accumulate", "latent.dim",
        "latent.refine_steps", "latent.step_size", "objective", "network.width",
    }  # fmt: skip
    assert names <= set(flatten(Config()))


@pytest.mark.parametrize(
    ("assignments", "line"),
    [
        (["engine.zero_stage=1"], "engine.zero_stage needs engine.kind=deepspeed"),
        (["engine.deepspeed_json=x.json"], "engine.deepspeed_json needs engine.kind=deepspeed"),
        (["engine.kind=deepspeed", "engine.zero_stage=4"], "engine.zero_stage should be less than or equal to 3"),
        (["engine.kind=deepspeed", "engine.offload=cpu"], "engine.offload needs engine.zero_stage 1, 2 or 3"),
    ],
)
def test_engines_that_cannot_be(assignments, line):
    with pytest.raises(UserError, match=line):
        override(preset(DEFAULT), assignments)


def test_an_older_configuration_has_the_plain_engine():
    tree = to_dict(preset(DEFAULT))
    del tree["engine"]
    assert from_dict(tree).engine.kind == "local"
