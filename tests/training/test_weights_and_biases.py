import sys

import pytest
from toys import TINY

import fastgan
from fastgan.checked import UserError
from fastgan.config import override
from fastgan.training import weights_and_biases


@pytest.mark.parametrize("asked", ["true", "my-project"])
def test_where_the_package_is_missing_one_line_says_so_before_anything_is_written(tmp_path, monkeypatch, asked):
    monkeypatch.setitem(sys.modules, "wandb", None)
    config = override(fastgan.preset("digits-sngan-qua"), [*TINY, f"training.wandb={asked}"])
    with pytest.raises(UserError, match=r"training\.wandb needs the package wandb: pip install wandb"):
        fastgan.train(config, tmp_path / "run", steps=1, quiet=True)
    assert not (tmp_path / "run").exists()


def test_it_is_not_imported_unless_asked_for(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    weights_and_biases.check(fastgan.preset("digits-sngan-qua"))
