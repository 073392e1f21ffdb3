import json
import sys

import pytest
import torch
from toys import fresh_run

import fastgan
from fastgan.checked import UserError
from fastgan.config import from_dict
from fastgan.training import export as exporting
from fastgan.training.export import export, load_generator

CONDITIONAL = ("network.family=r3gan", "network.width=8", "network.group=4", "network.classes=10", "network.embedding=4")
ENSEMBLE = ("network.ensemble=2",)
BIGGAN = ("network.family=biggan", "network.classes=10", "network.embedding=4", "network.attention=[16]", "latent.dim=20")
SIDE = "data.resolution=32"
CODES = ("network.content=6", "network.style=4", "network.blocks=1")


def make(folder, *assignments, preset="digits-sngan-qua"):
    """A run whose batch norms have statistics, as if it had been trained."""
    run = fresh_run(folder, preset, *assignments)
    random = torch.Generator().manual_seed(0)
    for part in run.ema_generator.modules():
        if isinstance(part, torch.nn.modules.batchnorm._BatchNorm):
            part.running_mean.normal_(generator=random)
            part.running_var.uniform_(0.5, 2, generator=random)
    return run


@pytest.mark.parametrize(
    "settings", [(), CONDITIONAL, ENSEMBLE, (SIDE, *BIGGAN)], ids=["sn-cnn", "r3gan", "ensemble", "biggan"]
)
def test_weights_come_back_as_they_were(tmp_path, settings):
    run = make(tmp_path, *settings)
    written = export(run, tmp_path / "g.safetensors")
    assert written.difference == 0
    again = load_generator(tmp_path / "g.safetensors")
    assert not again.training
    for name, tensor in run.ema_generator.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name


def test_a_file_says_what_it_is(tmp_path):
    from safetensors import safe_open

    run = make(tmp_path)
    export(run, tmp_path / "g.safetensors")
    with safe_open(tmp_path / "g.safetensors", "pt") as file:
        metadata = file.metadata()
    assert from_dict(json.loads(metadata["config"])) == run.config
    assert metadata["class"] == "fastgan.networks.sn_cnn.Generator"
    assert (metadata["round"], metadata["images"]) == ("0", "0")


@pytest.mark.parametrize(
    "settings",
    [(), CONDITIONAL, ENSEMBLE, pytest.param((SIDE, *BIGGAN), marks=pytest.mark.slow)],
    ids=["sn-cnn", "r3gan", "ensemble", "biggan"],
)
def test_onnxruntime_computes_what_torch_computes(tmp_path, settings):
    import onnx
    import onnxruntime

    run = make(tmp_path, *settings)
    written = export(run, tmp_path / "g.onnx")
    assert 0 < written.difference < 1e-5
    model = onnx.load(tmp_path / "g.onnx")
    onnx.checker.check_model(model)
    assert {node.domain for node in model.graph.node} == {""}  # ONNX's own operators
    assert not model.functions
    assert {p.key: p.value for p in model.metadata_props}["format"] == exporting.FORMAT
    session = onnxruntime.InferenceSession(tmp_path / "g.onnx")
    classes = run.config.network.classes
    assert [entry.name for entry in session.get_inputs()] == (["z", "labels"] if classes else ["z"])
    given = {"z": torch.randn(11, run.config.latent.dim, generator=torch.Generator().manual_seed(1))}
    given |= {"labels": torch.arange(11) % 10} if classes else {}
    (found,) = session.run(["images"], {name: tensor.numpy() for name, tensor in given.items()})
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(found), run.ema_generator(*given.values()), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "colours"), [("gaia-digits", 1), pytest.param("gaia-digits", 3, marks=pytest.mark.slow), ("digits-autoencoder", 1)]
)
def test_decoders_are_exported_for_any_batch(tmp_path, name, colours):
    run = make(tmp_path, *CODES, f"data.channels={colours}", preset=name)
    assert 0 <= export(run, tmp_path / "g.onnx").difference < 1e-5
    import onnxruntime

    z = torch.randn(11, run.ema_generator.dim, generator=torch.Generator().manual_seed(1))
    (found,) = onnxruntime.InferenceSession(tmp_path / "g.onnx").run(["images"], {"z": z.numpy()})
    assert found.shape == (11, colours, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(found), run.ema_generator(z), rtol=0, atol=1e-5)


def test_what_onnxruntime_refuses_is_one_line(tmp_path):
    run = make(tmp_path)
    z = torch.randn(4, run.config.latent.dim)
    again = exporting.WRITERS[".onnx"](run.ema_generator.requires_grad_(False), (z,), tmp_path / "g.onnx", {})
    torch.testing.assert_close(again(z), run.ema_generator(z), rtol=0, atol=1e-5)
    with pytest.raises(UserError, match=r"onnxruntime refuses the exported generator: .*[Ii]nvalid") as refused:
        again(z[:, :3])
    assert "\n" not in str(refused.value)


def test_points_are_exported_too(tmp_path):
    run = make(tmp_path, "latent.dim=2", preset="grid25")
    export(run, tmp_path / "g.onnx")
    import onnxruntime

    z = torch.randn(3, 2)
    (found,) = onnxruntime.InferenceSession(tmp_path / "g.onnx").run(["points"], {"z": z.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), run.ema_generator(z), rtol=0, atol=1e-5)


def test_a_file_that_differs_is_not_left(tmp_path, monkeypatch):
    run = make(tmp_path)
    monkeypatch.setattr(exporting, "TOLERANCE", 0.0)
    (tmp_path / "g.onnx").write_text("what was there")
    with pytest.raises(UserError, match=r"differ from torch's by \d\.\d*e-0\d: .*g\.onnx is not written"):
        export(run, tmp_path / "g.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["g.onnx"]
    assert (tmp_path / "g.onnx").read_text() == "what was there"


def test_the_generator_of_the_run_stays_as_it_was(tmp_path):
    run = make(tmp_path)
    before = fastgan.sample(run, 3)
    export(run, tmp_path / "g.safetensors")
    assert torch.equal(fastgan.sample(run, 3), before)


def test_what_can_not_be_exported_or_loaded_is_one_line(tmp_path, monkeypatch):
    run = make(tmp_path)
    with pytest.raises(UserError, match=r"exported as \.safetensors or \.onnx"):
        export(run, tmp_path / "g.pt")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="can't be written"):
        export(run, tmp_path / "file" / "g.onnx")
    for content in (b"", b"nothing that it should be"):
        (tmp_path / "g.safetensors").write_bytes(content)
        with pytest.raises(UserError, match="can't be read"):
            load_generator(tmp_path / "g.safetensors")
    with pytest.raises(UserError, match="can't be read"):
        load_generator(tmp_path / "none.safetensors")
    from safetensors.torch import save_file

    save_file({"weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="holds no generator that fastgan exported"):
        load_generator(tmp_path / "other.safetensors")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match=r"need the package onnxruntime: pip install 'fastgan\[export\]'"):
        export(run, tmp_path / "g.onnx")
    assert not (tmp_path / "g.onnx").exists()
