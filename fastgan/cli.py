"""The commands. Each parses, calls one function, prints; what goes wrong through the user's doing is one line and exit 2."""

import io
import os
import sys
from collections.abc import Callable
from contextlib import redirect_stderr
from functools import partial, wraps
from itertools import dropwhile, takewhile
from pathlib import Path
from shlex import quote
from typing import Annotated, Literal

import tyro
from rich.console import Console
from rich.table import Table

from fastgan.checked import UserError

# A pipe or a file has no width: whole rows there.
_OUT = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 200)

Metavar = tyro.conf.arg
_Settings = Annotated[tyro.conf.UseAppendAction[tuple[tuple[str, ...], ...]], Metavar(metavar="NAME=VALUE ...")]


def presets() -> None:
    """Every preset: name, data set, method."""
    from fastgan.data import DISTRIBUTIONS
    from fastgan.presets import DEFAULT, PRESETS

    table = Table("preset", "data", "objective", "network", "refinement", "rounds", "method", box=None)
    for name, config in PRESETS.items():
        refinement = f"{config.latent.refine_steps} x {config.latent.step_size:g}" if config.latent.refine_steps else "-"
        size = "points" if config.data.source in DISTRIBUTIONS else f"{config.data.resolution}x{config.data.resolution}"
        data = f"{config.data.source} {size}"
        network = f"{config.network.family} {config.network.width}"
        method = config.description + (" (default)" if name == DEFAULT else "")
        table.add_row(name, data, config.objective, network, refinement, str(config.training.steps), method)
    _OUT.print(table)


def train(
    preset: Annotated[str | None, tyro.conf.Positional] = None,
    /,
    *,
    run_dir: Path | None = None,
    steps: int | None = None,
    resume: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
    set: _Settings = (),
) -> None:
    """Train a preset; with no name, AdvLatGAN-qua on real handwritten digits.

    Args:
        preset: A name that `fastgan presets` lists (default: digits-sngan-qua).
        run_dir: The run's folder; a new one below ./runs where none is named.
        steps: Rounds, the same as --set training.steps=N.
        resume: Go on from the run's newest checkpoint; with no --run-dir, the newest run of the preset below ./runs.
        set: Fields of the configuration by dotted name, such as training.batch_size=128; the run's config.yaml shows them all.
    """
    import fastgan.training
    from fastgan.training.loop import starting_config

    config = starting_config(preset, run_dir, _assignments(set), resume)
    run = fastgan.training.train(config, run_dir, steps, resume=resume)
    if run.finished and _speaks():
        _say_quality(run)
        _say_where(run)


def sample(
    run: Annotated[Path, tyro.conf.Positional],
    /,
    *,
    out: Path,
    num: int | None = None,
    seed: int = 0,
    sampler: str = "plain",
    sampler_set: _Settings = (),
    refine_steps: int = 0,
    step_size: float = 0.05,
    refine_set: _Settings = (),
    truncation: float | None = None,
    standing_statistics: int = 0,
    labels: str | None = None,
    weights: Literal["average", "raw"] = "average",
    precision: str | None = None,
    batch_size: int | None = None,
    format: Literal["files", "shards"] = "files",
    checkpoint: str = "newest",
) -> None:
    """Draw samples from a run's averaged generator. Started by torchrun, every process draws its share.

    Args:
        run: The run's folder.
        out: A name ending in .png for one picture, anything else for a folder of numbered images (of points: points.npy).
        num: How many (default: 64 images, 5000 points).
        seed: Of the latents.
        sampler: How latents are chosen: plain, truncation, drs, mh, ddls, dot or hubness (docs/samplers.md).
        sampler_set: Settings of the sampler, such as percentile=95.
        refine_steps: K iterations of I-FGSM on the sampler's latents (AdvLatGAN-z).
        step_size: How far one iteration moves each coordinate of a latent.
        refine_set: Further settings of refinement, such as radius=0.5 keep_best=true.
        truncation: Draw from a normal prior, coordinates beyond this many standard deviations drawn again.
        standing_statistics: Compute the generator's batch-norm statistics anew from this many batches of 64 samples, for this
            command alone (BigGAN, for averaged or truncated samples); 0 keeps those of training.
        labels: Classes to draw in turn, such as 0,1,2, for class-conditional runs; every class where none are given.
        weights: The generator's moving average, or its weights as last stepped.
        precision: What networks compute in, fp32 or bf16 (default: the run's).
        batch_size: Samples drawn together (default: 64).
        format: Of a folder: numbered files, or shards with the classes, as `fastgan data pack` writes.
        checkpoint: Which: newest, best (of runs with evaluation.best), or the number of a round.
    """
    from fastgan.training.picture import write_samples
    from fastgan.training.sampling import Recipe

    asked = _whole_numbers(labels, "--labels") if labels is not None else None
    options = {"seed": seed, "truncation": truncation, "standing_statistics": standing_statistics, "precision": precision}
    options |= _choices(sampler, sampler_set, refine_set, batch_size) | {"raw_weights": weights == "raw"}
    recipe = Recipe(refine_steps=refine_steps, step_size=step_size, labels=asked, **options)
    loaded, ranks = _load_shared(run, checkpoint)
    cost = write_samples(loaded, out, num, recipe, ranks, quiet=False, shards=format == "shards")
    if ranks.first:
        _OUT.print(f"{cost.num} samples of round {loaded.round} -> {out}", markup=False)
        _say_cost(cost)


def evaluate(
    run: Annotated[Path | None, tyro.conf.Positional, Metavar(metavar="RUN")] = None,
    /,
    *,
    metrics: str | None = None,
    num: int | None = None,
    seed: int = 0,
    features: str | None = None,
    feature_weights: Annotated[Path | None, Metavar(metavar="FILE")] = None,
    split: Literal["train", "held-out", "all"] = "train",
    real: Annotated[Path | None, Metavar(metavar="DIR|STATISTICS")] = None,
    generated: Annotated[Path | None, Metavar(metavar="DIR")] = None,
    resolution: int | None = None,
    weights: Literal["average", "raw"] = "average",
    sampler: str = "plain",
    sampler_set: _Settings = (),
    refine_steps: int = 0,
    step_size: float = 0.05,
    refine_set: _Settings = (),
    truncation: str | None = None,
    standing_statistics: int = 0,
    precision: str | None = None,
    batch_size: int | None = None,
    checkpoint: str = "newest",
    json: Annotated[Path | None, Metavar(metavar="FILE")] = None,
) -> None:
    """Judge a run's samples, or two folders of images. Started by torchrun, every process does its share.

    Args:
        run: The run's folder; none where --real and --generated name what is judged.
        metrics: Names divided by commas; what fits the data where none are given. Known: fid, kid, is, prc, prdc,
            density-coverage, ndb, kde, diversity, intra-fid, cas, modes-stacked-digits, good-samples; with their features,
            such as kid-digits (docs/evaluation.md).
        num: How many samples are judged (default: 5000; 26000 for modes-stacked-digits).
        seed: Of the samples.
        features: What metrics look at: inception, digits, pixels, or another extractor of torch-fidelity's (default: inception;
            for digits, where its weights are not at hand, digits).
        feature_weights: The extractor's weights file (default: what FASTGAN_FEATURE_WEIGHTS names). Nothing is downloaded.
        split: The real images that samples are compared with.
        real: A folder of real images, or statistics kept by an earlier evaluation, in the place of the run's data.
        generated: A folder of images to be judged without a run.
        resolution: The side that images of two folders are resized to, where they differ in size.
        weights: The generator's moving average, or its weights as last stepped.
        sampler: How latents are chosen: plain, truncation, drs, mh, ddls, dot or hubness (docs/samplers.md).
        sampler_set: Settings of the sampler, such as percentile=95.
        refine_steps: K iterations of I-FGSM on the sampler's latents (AdvLatGAN-z).
        step_size: How far one iteration moves each coordinate of a latent.
        refine_set: Further settings of refinement, such as radius=0.5 keep_best=true.
        truncation: Draw from a normal prior, coordinates beyond this many standard deviations drawn again; several, divided by
            commas, give a curve.
        standing_statistics: Compute the generator's batch-norm statistics anew from this many batches of 64 samples, for this
            command alone (BigGAN, for averaged or truncated samples); 0 keeps those of training.
        precision: What networks compute in, fp32 or bf16 (default: the run's).
        batch_size: Samples drawn together (default: 64).
        checkpoint: Which: newest, best (of runs with evaluation.best), or the number of a round.
        json: Write the result here as one JSON object.
    """
    from fastgan.training import assess
    from fastgan.training.files import write_json

    if (run is None) == (generated is None) or (run is None and real is None):
        raise UserError("evaluate takes a run's folder, or --real DIR and --generated DIR")
    names = [name.strip() for name in metrics.split(",")] if metrics is not None else None
    judged = {"features": features, "feature_weights": feature_weights, "quiet": False}
    if generated is not None:
        from fastgan.engine import join, resolve_device

        of_runs = {
            "--num": num is not None,
            "--seed": bool(seed),
            "--split": split != "train",
            "--weights": weights != "average",
            "--sampler": sampler != "plain" or bool(sampler_set),
            "--refine-steps": bool(refine_steps or refine_set),
            "--truncation": truncation is not None,
            "--standing-statistics": bool(standing_statistics),
            "--precision": precision is not None,
            "--checkpoint": checkpoint != "newest",
        }
        if given := [name for name, is_given in of_runs.items() if is_given]:
            raise UserError(f"{given[0]} is for runs: of two folders all images are judged as they are")
        device = resolve_device("auto")
        ranks = join(device)
        _make_room(json, ranks)
        result = assess.evaluate_images(real, generated, names, resolution=resolution, device=device, ranks=ranks, **judged)
        results = [result]
    else:
        if resolution is not None:
            raise UserError("--resolution is for two folders: a run's images have the run's resolution")
        cuts = _numbers(truncation, "--truncation") if truncation is not None else [None]
        options = {"seed": seed, "standing_statistics": standing_statistics, "precision": precision}
        options |= _choices(sampler, sampler_set, refine_set, batch_size) | {"raw_weights": weights == "raw"}
        loaded, ranks = _load_shared(run, checkpoint)
        _make_room(json, ranks)
        arguments = loaded, cuts, names, num, refine_steps, step_size
        result = assess.truncation_curve(*arguments, split=split, real=real, ranks=ranks, **judged, **options)
        results = result["curve"]
        result = results[0] if len(results) == 1 else result
    if not ranks.first:
        return
    for each in results:
        if len(results) > 1:
            _OUT.print(f"truncation {each['truncation']:g}", markup=False)
        _say_metrics(each)
    if json is not None:
        write_json(json, result)


def traverse(
    run: Annotated[Path, tyro.conf.Positional],
    /,
    *,
    out: Annotated[Path, Metavar(metavar="FILE.png")],
    sweep: str = "latents",
    kind: str = "linear",
    rows: int = 8,
    steps: int | None = None,
    seed: int = 0,
    refine_steps: int = 0,
    step_size: float = 0.05,
    refine_set: _Settings = (),
    truncation: float | None = None,
    labels: str | None = None,
    precision: str | None = None,
    batch_size: int = 64,
    checkpoint: str = "newest",
) -> None:
    """Walk through the latents of a run's averaged generator, a walk a row (docs/traverse.md).

    Args:
        run: The run's folder.
        out: The picture.
        sweep: What changes along a row: latents (from one sample to another), truncation (of one latent) or classes (of one
            latent; class-conditional runs).
        kind: How a row of latents goes: linear, or spherical, as lengths of latents in many dimensions hardly differ.
        rows: Walks.
        steps: Images of each, both ends included (default: 8; of classes the first 16).
        seed: Of the latents: row i begins with sample 2i of `fastgan sample`, and ends with sample 2i + 1.
        refine_steps: K iterations of I-FGSM on every latent shown (AdvLatGAN-z).
        step_size: How far one iteration moves each coordinate of a latent.
        refine_set: Further settings of refinement, such as radius=0.5 keep_best=true.
        truncation: Draw the ends from a normal prior, coordinates beyond this many standard deviations drawn again.
        labels: Classes of the rows in turn, such as 0,1,2, or those that a sweep of classes shows.
        precision: What networks compute in, fp32 or bf16 (default: the run's).
        batch_size: Images drawn together.
        checkpoint: Which: newest, best (of runs with evaluation.best), or the number of a round.
    """
    from fastgan.training import load_run
    from fastgan.training.traversal import write_traversal

    options = {"refine_steps": refine_steps, "step_size": step_size, "refine": _assignments(refine_set, "--refine-set")}
    options |= {"seed": seed, "truncation": truncation, "precision": precision, "batch_size": batch_size}
    options["labels"] = _whole_numbers(labels, "--labels") if labels is not None else None
    loaded = load_run(run, checkpoint=checkpoint)
    rows, columns = write_traversal(loaded, out, rows, steps, sweep=sweep, kind=kind, quiet=False, **options)
    _OUT.print(f"{rows} walks of {columns} images of round {loaded.round} -> {out}", markup=False)


def export(
    run: Annotated[Path, tyro.conf.Positional],
    /,
    *,
    out: Annotated[Path, Metavar(metavar="FILE")],
    checkpoint: str = "newest",
) -> None:
    """Write a run's averaged generator for other programs, and compare the file's images with torch's.

    Args:
        run: The run's folder.
        out: A name ending in .safetensors (weights, and what rebuilds the network) or .onnx (a graph of plain operators, for
            batches of any size).
        checkpoint: Which: newest, best (of runs with evaluation.best), or the number of a round.
    """
    from fastgan.training import load_run
    from fastgan.training.export import export as write

    loaded = load_run(run, "cpu", checkpoint)
    written = write(loaded, out)
    what = f"generator of round {loaded.round}, {written.parameters / 1e6:.2f} M parameters"
    _OUT.print(f"{what} -> {out}; largest difference to torch {written.difference:.1e}", markup=False)


def import_run(
    project: Annotated[str, tyro.conf.Positional],
    file: Annotated[Path, tyro.conf.Positional],
    /,
    *,
    out: Path,
    set: _Settings = (),
) -> None:
    """Make a run of another project's weights.

    Args:
        project: Whose: biggan-pytorch.
        file: One file of the checkpoint (G.pth, with D.pth and G_ema.pth beside it), or the folder.
        out: The run's folder.
        set: Fields of the configuration that weights don't tell, such as data.path=FOLDER and training.batch_size=256, for
            training to go on with.
    """
    from fastgan.training import converters

    run = converters.import_run(project, file, out, _assignments(set))
    network = run.config.network
    what = f"{network.family} {network.width}, {run.config.data.resolution} px, {network.classes} classes"
    _OUT.print(f"{what}: {file} -> {run.path}", markup=False)


def plan(
    preset: Annotated[str, tyro.conf.Positional],
    /,
    *,
    gpus: int,
    gpu: str = "h100",
    zero_stage: int | None = None,
    efficiency: float = 0.5,
    interconnect: float | None = None,
    decode_rate: float | None = None,
    price: float | None = None,
    json: Annotated[Path | None, Metavar(metavar="FILE")] = None,
    plot: Annotated[Path | None, Metavar(metavar="FILE.png")] = None,
    set: Annotated[tyro.conf.UseAppendAction[tuple[tuple[str, ...], ...]], Metavar(metavar="NAME=VALUE ...")] = (),
) -> None:
    """What a run would take on GPUs: memory, work, traffic, time. Nothing is trained and no GPU needed; none has confirmed it.

    Args:
        preset: A name that `fastgan presets` lists.
        gpus: How many.
        gpu: Which: v100, a100, h100, h200 or b200.
        zero_stage: What DeepSpeed divides, 0 to 3 (default: the configuration's).
        efficiency: Share of the GPU's rate that convolutions and matrix products reach, by themselves.
        interconnect: GB/s from one machine of eight GPUs to the others, in one direction (default: the data sheet's).
        decode_rate: Images/s that are decoded for each GPU (default: 10000 from files; no bound on points and sets in memory).
        price: Of that GPU for an hour; other kinds are listed without cost.
        json: Write the result here as one JSON object.
        plot: Draw weak and strong scaling here.
        set: Fields of the configuration by dotted name, such as training.batch_size=512.
    """
    from fastgan.config import override
    from fastgan.planning import check_picture, draw, lines
    from fastgan.planning import plan as planned
    from fastgan.presets import preset as named
    from fastgan.training.files import make_room_for, write_json

    if plot is not None:
        check_picture(plot)
    for path in (json, plot):
        if path is not None:
            make_room_for(path)
    options = {"zero_stage": zero_stage, "efficiency": efficiency, "interconnect": interconnect}
    options |= {"decode_rate": decode_rate, "price": price}
    found = planned(override(named(preset), _assignments(set)), gpus, gpu, **options)
    for line in lines(found):
        _OUT.print(line)
    if json is not None:
        write_json(json, found.as_dict())
    if plot is not None:
        draw(found, plot)


def report(runs: Annotated[tuple[Path, ...], tyro.conf.Positional, Metavar(metavar="RUN [RUN ...]")], /, *, out: Path) -> None:
    """One self-contained HTML page about a run, or about several side by side.

    Args:
        runs: The runs' folders.
        out: The page's file, ending in .html.
    """
    from fastgan.report import write_report

    write_report(runs, out, quiet=False)
    _OUT.print(f"{len(runs)} run{'s' * (len(runs) > 1)} -> {out}", markup=False)


def doctor(*, compile_kernels: Annotated[str | None, Metavar(metavar="sm_80,sm_90,sm_100")] = None) -> None:
    """What is installed, what will be used, what is missing and how to get it.

    Args:
        compile_kernels: Compile every kernel for these GPU architectures (none need be there) and list registers, spills,
            shared memory and load width.
    """
    from fastgan.doctor import findings, kernel_table

    for line in findings():
        _OUT.print(line)
    if compile_kernels is not None:
        _OUT.print(kernel_table([name.strip() for name in compile_kernels.split(",")]))


def data() -> None:
    """Pack images into shards, and verify them: fastgan data pack | verify."""


def data_pack(
    source: Annotated[Path, tyro.conf.Positional, Metavar(metavar="SRC")],
    dest: Annotated[Path, tyro.conf.Positional, Metavar(metavar="DST")],
    /,
    *,
    resolution: int | None = None,
    whole: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
    shard_size: int = 10_000,
    workers: int | None = None,
    quality: int | None = None,
    lossless: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
    damaged: Literal["skip", "skip-archives", "refuse"] = "skip",
) -> None:
    """Pack a folder or an archive of images into shards; the same line goes on where it was stopped.

    Args:
        source: A folder of images or class folders, or an archive (.tar, .tar.gz, .zip ...). Archives in it count as folders.
        dest: The folder for the shards.
        resolution: Store the largest square in the middle at this side, by Lanczos' filter.
        whole: Store images as they are (what is done where no resolution is given).
        shard_size: Images of a shard.
        workers: Processes (default: one a core).
        quality: Of JPEGs at a resolution (default: 95).
        lossless: PNGs in the place of JPEGs.
        damaged: Leave out images that do not decode, but refuse archives that are broken or cut short; or take what can be read
            of those, too; or refuse either. DST/report.json lists what was left out.
    """
    from fastgan.data.pack import pack
    from fastgan.data.shards import REPORT

    if whole and resolution is not None:
        raise UserError("--whole keeps images as they are: leave out --resolution, or --whole")
    options = {"resolution": resolution, "shard_size": shard_size, "workers": workers}
    packed = pack(source, dest, **options, quality=quality, lossless=lossless, damaged=damaged)
    _OUT.print(f"{'packed before, nothing to do: ' * packed.already}{packed.manifest.summary} -> {dest}", markup=False)
    for note in packed.manifest.notes:
        _OUT.print(note, markup=False)
    if packed.manifest.damaged:
        left_out = "damaged one is" if packed.manifest.damaged == 1 else "damaged ones are"
        _OUT.print(f"{packed.manifest.damaged} {left_out} left out: {dest / REPORT} lists them", markup=False)


def data_verify(
    dest: Annotated[Path, tyro.conf.Positional, Metavar(metavar="DST")],
    /,
    *,
    decode: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
    workers: int | None = None,
) -> None:
    """Compare a packed set with the checksums in its manifest, indexes and counts too.

    Args:
        dest: The folder that `fastgan data pack` wrote.
        decode: Decode every image as well.
        workers: Threads that read, processes that decode (default: one a core).
    """
    from fastgan.data.verify import verify

    manifest = verify(dest, decode=decode, workers=workers)
    _OUT.print(f"{manifest.summary}: as packed{', and all decode' * decode}", markup=False)


def main() -> None:
    """The entry point of the `fastgan` command."""
    commands = {"presets": presets, "train": train, "sample": sample, "evaluate": evaluate, "import": import_run, "data": data}
    commands |= {"traverse": traverse, "export": export}
    try:
        if sys.argv[1:2] == ["data"]:
            call = _parse({"pack": data_pack, "verify": data_verify}, "fastgan data", sys.argv[2:])
        else:
            call = _parse(commands | {"plan": plan, "doctor": doctor, "report": report}, "fastgan", sys.argv[1:])
        call()
    except KeyboardInterrupt:
        _fail("interrupted", 130)
    except UserError as error:
        _fail(error, 2)
    except BrokenPipeError:  # who reads, `head` say, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python would complain again as it ends
        sys.exit(1)
    except OSError as error:
        _fail(f"{error.filename or 'the system'}: {error.strerror or error}", 2)
    except RuntimeError as error:
        from fastgan.training.keeping import Diverged

        if not isinstance(error, Diverged):
            raise
        _fail(error, 1)


def _parse(commands: dict[str, Callable[..., None]], program: str, words: list[str]) -> Callable[[], None]:
    """The command that was typed, ready to be called.

    Raises:
        UserError: the words make none.
    """
    return in_one_line(
        f"{program} {words[0]}" if words[:1] and words[0] in commands else program,
        lambda: tyro.extras.subcommand_cli_from_dict(
            {name: held(command) for name, command in commands.items()},
            # The deepspeed launcher adds an option that the environment has, too.
            args=[word for word in words if not word.startswith("--local_rank=")],
            prog=program,
            description="Training of generative adversarial networks with latent refinement.",
        ),
    )


def held(command: Callable[..., None]) -> Callable[..., Callable[[], None]]:
    """`command` in the form that tyro can parse and that is called later: parsed, it gives a function without arguments."""
    return wraps(command)(lambda *args, **kwargs: partial(command, *args, **kwargs))


def in_one_line(program: str, parse: Callable[[], Callable[[], None]]) -> Callable[[], None]:
    """What tyro makes of the command line, without the box that it draws around a mistake.

    Raises:
        UserError: the words are not understood.
    """
    said = io.StringIO()
    try:
        with redirect_stderr(said):
            return parse()
    except SystemExit as stop:
        if stop.code:
            # Its first paragraph, between an edge or a rule under its title and the next, says what is wrong.
            lines = [line.strip("│| ") for line in said.getvalue().splitlines()]
            below = dropwhile(_is_drawn, dropwhile(lambda line: not _is_drawn(line), lines))
            wrong = " ".join(takewhile(lambda line: not _is_drawn(line), below))
            raise UserError(f"{wrong or 'the command is not understood'} ({program} --help)") from None
        raise


def _is_drawn(line: str) -> bool:
    """Whether a line is part of a box, drawn in ASCII where the terminal has no other characters."""
    return not line or line.startswith(("╭", "╰", "+")) or line.endswith(("─────", "-----"))


def _assignments(groups: tuple[tuple[str, ...], ...], option: str = "--set") -> list[str]:
    if any(not group for group in groups):
        raise UserError(f"{option} takes name=value")
    return [assignment for group in groups for assignment in group]


def _choices(sampler: str, sampler_set: _Settings, refine_set: _Settings, batch_size: int | None) -> dict[str, object]:
    """What `sample` and `evaluate` take for a `Recipe`."""
    from fastgan.latent import samplers

    chosen = samplers.choose(sampler, _assignments(sampler_set, "--sampler-set"))
    size = {} if batch_size is None else {"batch_size": batch_size}
    return {"sampler": chosen, "refine": _assignments(refine_set, "--refine-set"), **size}


def _load_shared(run: Path, checkpoint: str):
    """The run, and the processes that a launcher may have started to share its samples."""
    from fastgan.engine import join, resolve_device
    from fastgan.training import load_run

    ranks = join(resolve_device("auto"))  # chooses this process's device
    with ranks.agreed():
        return load_run(run, checkpoint=checkpoint), ranks


def _make_room(path: Path | None, ranks) -> None:
    """Refuse a result that can't be written before the work."""
    from fastgan.training.files import make_room_for

    if path is not None and ranks.first:
        make_room_for(path)


def _numbers(text: str, option: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f"{option} takes numbers divided by commas, not {text!r}") from None


def _whole_numbers(text: str, option: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f"{option} takes whole numbers divided by commas, not {text!r}") from None


def _fail(reason: object, code: int) -> None:
    if _speaks(reason):
        print(f"fastgan: {reason}", file=sys.stderr)
    sys.exit(code)


def _speaks(reason: object = None) -> bool:
    """Whether this is the process, of those that share a run, that the user hears: the first, or the only one that knows."""
    if "RANK" not in os.environ and "OMPI_COMM_WORLD_RANK" not in os.environ:
        return True  # and torch need not be loaded
    from fastgan.engine import LoneError, rank_here

    return isinstance(reason, LoneError) or rank_here() == 0


def _say_where(run) -> None:
    from fastgan.training.checkpoint import best

    kept = best(run.folder.checkpoints)
    for what, path in {
        "run": run.path,
        "samples": max(run.folder.samples.glob("*.png")),
        "checkpoint": run.folder.newest_checkpoint(),
        **({"best": kept} if kept else {}),
        "metrics": run.folder.metrics,
        "curves": f"tensorboard --logdir {quote(str(run.folder.tensorboard))}",
    }.items():
        _OUT.print(f"{what:<12}{path}", markup=False)


def _say_quality(run) -> None:
    from fastgan.training.assess import compare_with_untrained, suitable_metrics

    if not suitable_metrics(run):
        return
    result = compare_with_untrained(run)
    for name, found in result["metrics"].items():
        title, before = found.get("title", name), result["untrained"][name]
        _OUT.print(f"{title}: {_shown(found, 2)} trained, {_shown(before, 2)} untrained", markup=False)
        if "floor" in found:
            judge = f"the judge's held-out accuracy is {found['accuracy']:.1%}"
            _OUT.print(f"  real held-out images stand at {found['floor']:.2f}; {judge}", markup=False)


def _say_metrics(result: dict) -> None:
    from fastgan.training.sampling import Cost

    for name, found in result["metrics"].items():
        plain = f" {result['samples']}, {_shown(result['plain'][name])} plain" if "plain" in result else ""
        _OUT.print(f"{found.get('title', name)}: {_shown(found)}{plain}", markup=False)
    if "cost" in result:
        _say_cost(Cost(**result["cost"]))
    took = ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in result["seconds"].items())
    _OUT.print(f"seconds: {took}; peak memory {result['peak_memory'] / 1e9:.1f} GB", markup=False)


def _say_cost(cost) -> None:
    if cost.generator > 1 or cost.discriminator:  # plain samples have a pass of G each
        _OUT.print(str(cost), markup=False)


def _shown(found: dict, digits: int = 3) -> str:
    return found.get("shown") or f"{found['value']:.{digits}f}"
