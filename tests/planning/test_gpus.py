from itertools import pairwise

import pytest

from fastgan.checked import UserError
from fastgan.planning.gpus import GPUS, find, precision_on


def test_rates_rise_with_shorter_formats_and_from_one_generation_to_the_next():
    for gpu in GPUS.values():
        assert sorted(gpu.rates.values()) == list(gpu.rates.values())
        assert gpu.network < gpu.link < gpu.bandwidth
    order = [GPUS[name] for name in ("v100", "a100", "h100", "h200", "b200")]
    for older, newer in pairwise(order):
        assert older.bandwidth < newer.bandwidth
        assert older.rates["fp32"] <= newer.rates["fp32"]


def test_convolutions_of_fp32_use_tf32_where_there_is_any():
    assert find("A100").rate("fp32", convolution=True) == 156e12
    assert find("a100").rate("fp32", convolution=False) == 19.5e12
    assert find("v100").rate("fp32", convolution=True) == 15.7e12


def test_unknown_names_and_formats_are_one_line():
    with pytest.raises(UserError, match="did you mean 'h100'"):
        find("h1000")
    assert (precision_on(GPUS["h100"], "auto"), precision_on(GPUS["v100"], "auto")) == ("bf16", "fp32")
    with pytest.raises(UserError, match="bf16, which the V100 SXM2 16 GB does not multiply in"):
        precision_on(GPUS["v100"], "bf16")
