"""What the machine code of the kernels says, on every architecture, with no GPU."""

import dataclasses
import json
import os
import subprocess
import sys

import pytest

from fastgan.kernels import ahead_of_time
from fastgan.kernels.ahead_of_time import compile_catalog, compile_kernel, compile_launches
from fastgan.kernels.catalog import launches

ARCHITECTURES = ("sm_80", "sm_90", "sm_100")
LAUNCHES = {launch.name: launch for launch in launches()}

NARROW = {
    "reduction.total_kernel": "writes one number",
    "augment.sum_kernel": "writes one number a program",
    "consistency.loss_kernel": "writes one number a program",
    "interpolate.moments_kernel": "writes three numbers a program",
    "interpolate.deviation_kernel": "writes one number",
    "mode_seeking.distances_kernel": "writes one number a program",
    "gradient_penalty.dot_kernel": "writes one number a row and program",
    "gradient_penalty.sums_kernel": "writes one or two numbers a sample",
    "gradient_penalty.penalty_kernel": "writes one number, and one a sample",
    "scores.finish_kernel": "writes the loss and the mean scores",
    "channels.moments_kernel": "writes two numbers a channel",
    "norm_act_kernels.statistics_kernel": "writes two numbers a channel",
    "norm_act_kernels.sums_kernel": "writes two numbers a channel",
    "norm_act_kernels.totals_kernel": "writes a few numbers a channel",
    "sample_norm_kernels.sums_kernel": "writes two numbers a channel",
}
"""Kernels whose stores, or whose loads and stores, are not 16 bytes wide, and why."""
NARROW_LOADS = {
    "interpolate.perturb_kernel": "channels last, where the numbers of a block of words lie apart",
    "interpolate.perturb_normal_kernel": "the same",
    "mode_seeking.ratio_kernel": "reads two runs of partial sums, of any length, once",
    "augment.augment_kernel": "a shifted row isn't aligned, a flipped one runs backwards: neighbours read side by side",
    "augment.augment_backward_kernel": "the same",
    "scores.finish_kernel": "reads a sum of each program, however many there are",
    "sample_norm_kernels.join_kernel": "reads and writes a few numbers of each channel of a sample, 32 channels side by side",
    "sample_norm_kernels.totals_kernel": "the same",
    "philox.words_kernel": "reads nothing but the indices of the rows",
    "philox.normal_kernel": "reads nothing but the indices of the rows; an odd number of pairs is not aligned",
}


@pytest.fixture(scope="module")
def reports():
    """The whole catalogue, compiled in a process of its own, for this one interprets kernels."""
    rows = compile_catalog(ARCHITECTURES)
    assert [(row.architecture, row.name) for row in rows] == [(arch, name) for arch in ARCHITECTURES for name in LAUNCHES]
    return {(row.name, row.architecture): row for row in rows}


def test_no_kernel_spills(reports):
    for row in reports.values():
        assert (row.spills, row.stack, row.local) == (0, 0, 0), row
        assert 0 < row.registers <= 128, row  # then 16 warps find room in a multiprocessor's 65536


def test_memory_is_read_and_written_16_bytes_at_a_time(reports):
    for row in reports.values():
        if row.kernel not in NARROW_LOADS:
            assert row.widest_load == 16, row
        if row.kernel not in NARROW and row.kernel not in NARROW_LOADS:
            assert row.widest_store == 16, row
    for name in ("philox_words 128", "philox_uniform 3072", "philox_normal 128"):
        for arch in ARCHITECTURES:
            assert next(row for (full, a), row in reports.items() if full.startswith(name) and a == arch).widest_store == 16
    for row in reports.values():
        if row.kernel.startswith("interpolate.perturb") and "channels-last" not in row.name:
            assert (row.widest_load, row.widest_store) == (16, 16), row


def test_augmented_images_are_written_16_bytes_at_a_time_and_read_so_where_nothing_moves(reports):
    rows = [row for row in reports.values() if row.kernel.startswith("augment.augment_")]
    assert {row.widest_store for row in rows} == {16}
    assert {row.widest_load for row in rows if "colours" in row.name} == {16}


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_the_latent_step_reads_each_tensor_once(reports, arch):
    """A thread has 16 bytes of each (B, D) tensor. The (B,) ones it reads twice: for the row's columns and to write them."""
    loads = {"sign": 2, "sign, linf ball": 3, "sign, best": 2 + 2 * 2, "sign, stop": 2 + 2 * 2, "everything": 4 + 3 * 2}
    for title, count in loads.items():
        assert reports[f"ifgsm {title} fp32 #0 ifgsm_kernel", arch].loads == count, title


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_warps_that_share_a_row_wait_before_its_state_is_written(reports, arch):
    def of(title):
        return reports[f"ifgsm {title} fp32 #0 ifgsm_kernel", arch]

    assert of("sign").barriers == 0
    assert of("sign").shared == 0
    assert of("sign, best").barriers >= 1
    assert of("sign, stop").barriers >= 1


def test_the_checks_above_can_fail():
    plain, everything = LAUNCHES["ifgsm sign fp32 #0 ifgsm_kernel"], LAUNCHES["ifgsm everything, W+ fp32 #0 ifgsm_kernel"]
    unaligned = dataclasses.replace(plain, aligned=())
    crowded = dataclasses.replace(everything, warps=1)  # 128 columns of every tensor in a thread's registers
    unaligned_report, crowded_report = compile_launches([unaligned, crowded], ["sm_90"])
    assert unaligned_report.widest_load == 4
    assert crowded_report.spills > 0
    assert crowded_report.stack > 0


def test_width_of_accesses():
    ptx = """
    @%p1 ld.global.v4.b32 { %r1, %r2, %r3, %r4 }, [ %rd1 + 0 ];
    ld.global.L1::evict_last.v2.b64 { %rd1, %rd2 }, [ %rd1 + 0 ];
    @!%p2 ld.global.b8 { %rs1 }, [ %rd3 + 0 ];
    ld.shared.v4.b32 { %r1, %r2, %r3, %r4 }, [ %r5 ];
    st.global.v2.b32 [ %rd6 + 0 ], { %r108, %r109 };
    """
    assert ahead_of_time._widths("ld", ptx) == [16, 16, 1]
    assert ahead_of_time._widths("st", ptx) == [8]


@pytest.mark.parametrize("arch", ["90", "sm90", "sm_42", "hopper", ""])
def test_unknown_architectures_are_refused(arch):
    with pytest.raises(ValueError, match=r"unknown architecture .* choose from sm_80, "):
        compile_kernel(next(iter(LAUNCHES.values())), arch)


def test_command():
    command = [sys.executable, "-m", "fastgan.kernels.ahead_of_time"]
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    run = subprocess.run([*command, "sm_90"], env=environment, capture_output=True, text=True)
    assert [row["name"] for row in json.loads(run.stdout)] == list(LAUNCHES)
    refused = subprocess.run([*command, "sm_1"], env=environment, capture_output=True, text=True)
    assert refused.returncode == 1
    assert "unknown architecture 'sm_1'" in refused.stderr
    assert "Traceback" not in refused.stderr
