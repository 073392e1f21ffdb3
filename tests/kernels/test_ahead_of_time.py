"""What the machine code of the kernels says, on every architecture, with no GPU."""

import dataclasses
import json
import os
import subprocess
import sys

import pytest
from fastgan.kernels import ahead_of_time
from fastgan.kernels.ahead_of_time import compile_cases, compile_catalog, compile_kernel
from fastgan.kernels.catalog import CATALOG

ARCHITECTURES = ("sm_80", "sm_90", "sm_100")
CASES = {case.name: case for case in CATALOG}


@pytest.fixture(scope="module")
def reports():
    """The whole catalogue, compiled in a process of its own, for this one interprets kernels."""
    rows = compile_catalog(ARCHITECTURES)
    assert [(row.architecture, row.name) for row in rows] == [(arch, case.name) for arch in ARCHITECTURES for case in CATALOG]
    return {(row.name, row.architecture): row for row in rows}


def test_names_are_unique():
    assert len(CASES) == len(CATALOG)


def test_no_kernel_spills(reports):
    for row in reports.values():
        assert (row.spills, row.stack, row.local) == (0, 0, 0), row
        assert 0 < row.registers <= 128, row  # then 16 warps find room in a multiprocessor's 65536


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_aligned_rows_are_read_and_written_16_bytes_at_a_time(reports, arch):
    for name in CASES:
        if name.startswith("ifgsm"):
            assert reports[name, arch].widest_load == 16, name
            assert reports[name, arch].widest_store == 16, name
    for name in ("philox words 128", "philox uniform 3072", "philox normal 128"):
        assert reports[name, arch].widest_store == 16, name


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_each_tensor_is_read_once(reports, arch):
    """A thread has 16 bytes of each (B, D) tensor. The (B,) ones it reads twice: for the row's columns and to write them."""
    loads = {"sign": 2, "sign+linf": 3, "sign+best": 2 + 2 * 2, "sign+stop": 2 + 2 * 2, "everything": 4 + 3 * 2}
    for name in CASES:
        operation, options, *_, columns = name.split()
        if operation == "ifgsm" and int(columns) <= 512:
            assert reports[name, arch].loads == loads[options], name


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_warps_that_share_a_row_wait_before_its_state_is_written(reports, arch):
    assert reports["ifgsm sign fp32 128", arch].barriers == 0
    assert reports["ifgsm sign fp32 128", arch].shared == 0
    assert reports["ifgsm sign+best fp32 128", arch].barriers >= 1
    assert reports["ifgsm sign+stop fp32 128", arch].barriers >= 1


def test_the_checks_above_can_fail():
    plain, everything = CASES["ifgsm sign fp32 128"], CASES["ifgsm everything fp32 9216"]
    unaligned = dataclasses.replace(plain, aligned=())
    crowded = dataclasses.replace(everything, warps=1)  # 128 columns of every tensor in a thread's registers
    unaligned_report, crowded_report = compile_cases([unaligned, crowded], ["sm_90"])
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
        compile_kernel(CATALOG[0], arch)


def test_command():
    command = [sys.executable, "-m", "fastgan.kernels.ahead_of_time"]
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    run = subprocess.run([*command, "sm_90"], env=environment, capture_output=True, text=True)
    assert [row["name"] for row in json.loads(run.stdout)] == list(CASES)
    refused = subprocess.run([*command, "sm_1"], env=environment, capture_output=True, text=True)
    assert refused.returncode == 1
    assert "unknown architecture 'sm_1'" in refused.stderr
    assert "Traceback" not in refused.stderr
