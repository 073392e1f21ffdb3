import contextlib
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_features_to_statistics, fid_statistics_to_metric

from fastgan.evaluation import Features, Gathering, frechet_distance
from fastgan.evaluation.features import gaussian, key_of

KILLED = """
import os, signal, sys, torch
from pathlib import Path
from fastgan.evaluation import Features
import numpy as np
torch.manual_seed(0)
def half(file, **arrays):
    file.write(b"PK half of a file"); file.flush(); os.kill(os.getpid(), signal.SIGKILL)
np.savez = half
Features(torch.randn(9, 3), 9).save(Path(sys.argv[1]), "key")
"""


def cloud(n, width, seed=0, scale=1.0):
    return scale * torch.randn(n, width, generator=torch.Generator().manual_seed(seed)) + 0.5


def gathered(features, kept, batch=7):
    found = Gathering(len(features), kept)
    for part in features.split(batch):
        found.add(part, part[:, :2], torch.arange(len(part)))
    return found.finish(of="test")


@pytest.mark.parametrize(("n", "m", "width"), [(300, 200, 16), (40, 30, 64)])
def test_the_distance_is_torch_fidelitys(n, m, width):
    """Also of fewer samples than features."""
    real, generated = cloud(n, width), cloud(m, width, 1, 1.3)
    statistics = (fid_features_to_statistics(one.double()) for one in (generated, real))
    theirs = fid_statistics_to_metric(*statistics, verbose=False)[KEY_METRIC_FID]
    assert frechet_distance(gathered(real, n).gaussian, gathered(generated, m).gaussian) == pytest.approx(theirs, rel=1e-6)


def test_a_set_larger_than_what_is_kept(monkeypatch):
    monkeypatch.setattr("fastgan.evaluation.features._CHUNK", 30)
    features = cloud(100, 5)
    whole, part = gathered(features, 100), gathered(features, 40)
    assert (part.count, len(part.features), len(part.logits), len(part.labels)) == (100, 40, 40, 40)
    assert torch.equal(part.features, features[:40])
    for one, other in zip(part.gaussian, whole.gaussian, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-14)


def test_statistics_are_of_float64():
    """Far from zero float32 would lose the covariance."""
    features = (cloud(5000, 3) * 0.01 + 1000).float()
    np.testing.assert_allclose(gaussian(features).covariance, np.cov(features.double().T), rtol=1e-9)


def test_what_is_saved_comes_back(tmp_path):
    found = gathered(cloud(50, 4), 30)
    found.save(tmp_path / "deep" / "a.npz", "key")
    back = Features.load(tmp_path / "deep" / "a.npz", "key")
    assert (back.count, back.about) == (50, {"of": "test"})
    for name in ("features", "logits", "labels"):
        assert torch.equal(getattr(back, name), getattr(found, name))
    assert all(np.array_equal(*pair) for pair in zip(back.gaussian, found.gaussian, strict=True))
    with pytest.raises(ValueError, match="another key"):
        Features.load(tmp_path / "deep" / "a.npz", "other")
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["a.npz"]


def test_damage_is_found(tmp_path):
    path = tmp_path / "a.npz"
    gathered(cloud(50, 4), 50).save(path, "key")
    content = path.read_bytes()
    places = range(40, len(content), len(content) // 7)
    for damaged in (content[:-90], b"", b"PK", *(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :] for at in places)):
        path.write_bytes(damaged)
        with contextlib.suppress(ValueError):  # all but a bit that zip does not check, such as a date
            assert torch.equal(Features.load(path, "key").features, cloud(50, 4))


def test_a_kill_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.npz"
    gathered(cloud(9, 3), 9).save(path, "key")
    done = subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert len(Features.load(Path(path), "key").features) == 9


def test_keys_differ_by_any_part():
    keys = [key_of(a=1, b="x"), key_of(a=1, b="y"), key_of(a=2, b="x"), key_of(a=1, b="x", c=None)]
    assert len(set(keys)) == 4
    assert key_of(b="x", a=1) == keys[0]


def test_nothing_is_refused():
    with pytest.raises(ValueError, match="no images"):
        Gathering(3).finish()
