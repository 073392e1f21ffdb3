"""Training a run: from a configuration to a folder with checkpoints, metrics and samples."""

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from shlex import quote

import torch
from torch import Tensor

from fastgan import config as configuration
from fastgan import games
from fastgan.checked import UserError, nearest
from fastgan.config import Config
from fastgan.data import DISTRIBUTIONS, SOURCES, Distribution, PointStream, Source, Stream
from fastgan.data import open_source as open_images
from fastgan.data import review as review_images
from fastgan.draw import Draw
from fastgan.engine import (
    ALONE,
    LocalEngine,
    Ranks,
    cpu_threads,
    join,
    keep_freed_memory,
    rate_factor,
    resolve_device,
    resolve_precision,
)
from fastgan.engine import deepspeed as sharded
from fastgan.games import Game
from fastgan.judgement import holds_batch_statistics
from fastgan.latent import Prior
from fastgan.networks import build as build_networks
from fastgan.networks.across_ranks import share_statistics
from fastgan.objectives import OBJECTIVES
from fastgan.presets import DEFAULT, preset
from fastgan.training import checkpoint, telemetry, watching, weights_and_biases
from fastgan.training.coding import drawings
from fastgan.training.folder import Folder, latest_folder, next_folder
from fastgan.training.guard import CollapseGuard, spread
from fastgan.training.interrupt import Interrupt
from fastgan.training.keeping import Keeper, check_same
from fastgan.training.picture import picture, usual_number
from fastgan.training.run import Run, load_run
from fastgan.training.sampling import MOST_COLUMNS, cycled, grid, write_image
from fastgan.training.session import Engine, Session
from fastgan.training.telemetry import Silence, Telemetry
from fastgan.training.watching import Watch

RUNS = Path("runs")
GRID_ROWS = 8
"""Rows of the fixed grid with one class a column; columns of what autoencoders make of real images."""
REAL = 256
"""Real images that the samples' spread is compared with."""


def starting_config(name: str | None, run_dir: Path | None, assignments: Iterable[str], resume: bool) -> Config:
    """What a command asks for: a preset with fields set, or the configuration of the run that is to go on, with fields set.

    Raises:
        UserError: no such preset, field or run, or the run was begun with another preset.
    """
    if not resume:
        return configuration.override(preset(name or DEFAULT), assignments)
    folder = Folder(run_dir or latest_folder(RUNS, name or DEFAULT))
    if not folder.holds_run():
        raise UserError(f"there is no run in {folder.path} to resume")
    stored = configuration.from_yaml(folder.config)
    if name is not None and name != stored.name:
        raise UserError(f"the run in {folder.path} was begun with the preset {stored.name}, not {name}")
    return configuration.override(stored, assignments)


def train(
    config: Config,
    run_dir: str | Path | None = None,
    steps: int | None = None,
    *,
    resume: bool = False,
    quiet: bool = False,
) -> Run:
    """Train `config`, or go on with the run that was begun with it.

    Args:
        config: a preset, changed or not.
        run_dir: the run's folder; where None a new numbered one below ./runs, or the newest there to resume.
        steps: rounds, in the place of `config.training.steps`.
        resume: go on from the newest checkpoint of the run. On a CPU it equals the undisturbed run bit for bit, on the same
            machine with the same number of threads.
        quiet: print nothing.

    On the CPU this process keeps the memory that it frees from now on (`engine.keep_freed_memory`).

    Started by `deepspeed`, torchrun or mpirun, every process calls this; they share each batch, and the run's folder, which
    they must all see. The first one writes and prints. A mistake that one finds stops them all.

    Returns:
        The run, `run.finished`, or as far as it came if Ctrl-C or SIGTERM ended it.

    Raises:
        UserError: the configuration can't work here, or the folder holds something else; nothing was overwritten.
        Diverged: a loss or weight is NaN or infinite, or sigma_0 has exploded, and the run may not go back any more
            (`config.collapse`); the message names the last good checkpoint.
    """
    if steps is not None:
        config = configuration.override(config, [f"training.steps={steps}"])
    device = resolve_device(config.training.device)
    ranks = join(device, even_alone=config.engine.kind == "deepspeed")
    with ranks.agreed():
        if run_dir is None:
            run_dir = (latest_folder if resume else next_folder)(RUNS, config.name)
        folder = Folder(run_dir)
        config = _settled(config)
        check_shares(config, ranks.count)
        watching.check(config.evaluation)
        weights_and_biases.check(config)
        if config.engine.kind == "deepspeed":
            sharded.check(config.engine, device)
        if resume:
            _check_resumable(folder, config)
        source = open_source(config, quiet or not ranks.first)
        notes = [*review(config, source), *_stage_notes(config)]
    folder, config = ranks.told((folder, config))
    if device.type == "cpu":
        keep_freed_memory()
    session = build_session(config, source, ranks)
    with ExitStack() as held:
        with ranks.agreed():
            folder.create()
            if ranks.first:
                held.enter_context(folder.locked())
            if resume:
                _check_resumable(folder, config)  # once more: another process may have finished it before the lock was ours
            elif folder.holds_run():
                raise UserError(_occupied(folder))
        with cpu_threads(config.training.threads):
            _train(config, folder, source, session, notes, resume, quiet)
        ranks.told(None)  # nobody reads the run before it is written
    return load_run(folder.path)


def _train(
    config: Config,
    folder: Folder,
    source: Source | Distribution,
    session: Session,
    notes: Iterable[str],
    resume: bool,
    quiet: bool,
) -> None:
    training, ranks = config.training, session.ranks
    with ranks.agreed():
        real = _some_real(config, source) if ranks.first else None
        guard = CollapseGuard(spread(real) if ranks.first else 0.0, config.collapse.sigma_growth)
    watch = Watch(config, folder)
    keeper = Keeper(config, folder, session, guard, watch)
    if resume:
        notes = [*notes, *keeper.load()]
    with ranks.agreed():
        if ranks.first:
            telemetry.truncate(folder.metrics, session.round or -1, session.rollbacks.count)
            checkpoint.clear_partial(folder.checkpoints)
            checkpoint.drop_after(folder.checkpoints, session.round)
            folder.write_config(config)
        board = weights_and_biases.Board(config, folder) if ranks.first and training.wandb else None

    show = Telemetry(folder, session.round, training.steps, quiet, board) if ranks.first else Silence()
    with Interrupt() as interrupt, show as log:
        log.say(_opening(config, session, folder))
        for note in notes:
            log.warn(note)
        if session.round == 0 and config.evaluation.every:
            watch.look(session, log, keeper.state)
        log.begin_clock(session.images, session.waited)
        done = stopped = False
        while not (done or stopped):
            before = session.images
            with ranks.alone():
                session.play_round()
            log.advance(session.round)
            done, stopped = session.round >= training.steps, ranks.any(interrupt.requested)
            judges = watch.is_due(before, session.images)
            logs = done or session.round % training.log_every == 0
            saves = done or stopped or session.round % training.checkpoint_every == 0
            if judges or logs or saves:
                measured, wrong = _examined(session, guard)
                if wrong is not None:
                    log.warn(keeper.go_back(log, wrong))
                    done = stopped = False
                    continue
            if judges:
                watch.look(session, log, keeper.state)
                if watch.exhausted:
                    done = logs = saves = True
            if logs:
                metrics = session.read_tally()
                log.record(session.round, session.images, metrics | measured, session.waited)
                log.warn(guard.look_at_metrics(metrics))
            if done or (training.sample_every and session.round % training.sample_every == 0):
                with ranks.agreed():
                    if ranks.first:
                        samples, shown = _fixed_samples(config, session, real)
                        log.warn(guard.look_at_samples(samples))
                        log.show("samples", shown, session.round)
                        write_image(shown, folder.samples / f"{session.round:08d}.png")
            if saves:
                log.sync()
                if session.round % training.checkpoint_every == 0:
                    session.rollbacks = session.rollbacks.saving(session.round)
                keeper.save()
        if watch.exhausted:
            log.say(f"stopped after round {session.round}: {watch.reason}")
        if stopped and not done:
            command = f"fastgan train --run-dir {quote(str(folder.path))} --resume"
            log.say(f"stopped after round {session.round}; to go on: {command}")
    session.stream.close()


def build_session(config: Config, source: Source | Distribution, ranks: Ranks = ALONE) -> Session:
    """The game of `config` with its engines and this rank's stream, at round 0."""
    training = config.training
    device = resolve_device(training.device)
    settings = {"generator": config.generator, "discriminator": config.discriminator}
    try:
        game = games.build(config).to(device).train()
    except (RuntimeError, MemoryError) as error:
        raise UserError(f"the networks of this configuration can't be built: {str(error).splitlines()[0]}") from None
    if ranks.count > 1:
        game.over_ranks, game.gather, game.pool = ranks.mean, ranks.gather, ranks.pool
    if ranks.count > 1 and config.network.batch_norm_ranks != 1:
        _share_batch_norm(config, game, ranks)
    return Session(
        game,
        engine_maker(config, ranks),
        lambda stage: open_stream(config, source, device, ranks=ranks),
        rate=lambda player, number: rate_factor(settings[player], number, training.steps),
        burnt_in=config.burnt_in,
        seed=config.seed,
        batch_size=training.batch_size,
        accumulate=training.accumulate,
        half_life=training.ema_half_life,
        rampup=training.ema_rampup,
        half_life_end=training.ema_half_life_end,
        spectra_every=training.spectra_every,
        ranks=ranks,
    )


def _share_batch_norm(config: Config, game: Game, ranks: Ranks) -> None:
    group = ranks.neighbours(check_batch_norm(config, game, ranks.count))
    for player in game.players:
        for network in game.networks_of(player):
            share_statistics(network, group)


def check_batch_norm(config: Config, game: Game, ranks: int) -> int:
    """How many of so many ranks share batch statistics: 1, none with another.

    Raises:
        UserError: the groups don't come out even, or a second-order term would have to differentiate through them.
    """
    size = config.network.batch_norm_ranks or ranks
    if ranks % size:
        raise UserError(f"network.batch_norm_ranks is {size}, which does not divide {ranks} ranks")
    for player in game.players if size > 1 else ():
        if player == "generator" and config.network.ensemble > 1 and any(map(holds_batch_statistics, game.networks_of(player))):
            raise UserError(
                f"network.ensemble's generators may draw nothing on one of {size} ranks, which the others' batch statistics "
                "would wait for: network.batch_norm_ranks=1 keeps each rank's its own"
            )
        twice = any(term.second_order for term in config.terms.values() if term.player == player)
        twice |= player == "discriminator" and config.network.gradient_norm != "none"
        if twice and any(map(holds_batch_statistics, game.networks_of(player))):
            raise UserError(
                f"a term of the {player} differentiates twice, which batch statistics over {size} ranks can't follow: "
                "network.batch_norm_ranks=1 keeps each rank's its own"
            )
    return size


def engine_maker(config: Config, ranks: Ranks = ALONE) -> Callable[[Game, str], Engine]:
    """(game, player) -> the engine that `config` asks for, for a session over `ranks`."""
    settings = {"generator": config.generator, "discriminator": config.discriminator}
    precision = resolve_precision(config.training.precision, resolve_device(config.training.device))

    def make(game: Game, player: str) -> Engine:
        if game.stages and config.engine.kind == "deepspeed":
            raise UserError(
                "DeepSpeed's engines can't be made anew in the middle of a run: games that grow need engine.kind=local"
            )
        player_has = game.networks_of(player), settings[player], precision, game.main_share(player)
        if config.engine.kind == "local":
            return LocalEngine(*player_has, ranks)
        return sharded.DeepSpeedEngine(
            *player_has,
            ranks,
            engine=config.engine,
            stage=zero_stage(config, player),
            batch_size=config.training.batch_size,
            accumulate=config.training.accumulate,
        )

    return make


def zero_stage(config: Config, player: str) -> int:
    """The player's ZeRO stage. DeepSpeed's hooks of stage 3 fail where a gradient is differentiated again, or D's features are,
    and leave no weight whole outside its layer's forward."""
    terms = [term for term in config.terms.values() if term.player == player]
    whole = any(term.second_order or term.reads_weights for term in terms)
    whole |= player == "discriminator" and "features" in OBJECTIVES[config.objective].needs
    return min(config.engine.zero_stage, 2) if whole else config.engine.zero_stage


def _stage_notes(config: Config) -> list[str]:
    lowered = [player for player in config.players if zero_stage(config, player) != config.engine.zero_stage]
    return [
        f"the {player} has a term of second order or of its weights, or an objective of features, which ZeRO-3 can't step: "
        "it is trained at stage 2"
        for player in lowered
    ]


def check_shares(config: Config, ranks: int) -> None:
    """Refuse a batch that so many ranks can't share.

    Raises:
        UserError: it does not divide, or a term couples its samples.
    """
    training = config.training
    if training.batch_size % (training.accumulate * ranks):
        raise UserError(
            f"training.batch_size {training.batch_size} does not divide into {training.accumulate} x {ranks} equal "
            "micro-batches (training.accumulate x ranks)"
        )
    if ranks > 1 and config.network.ensemble > 1 and config.engine.kind == "deepspeed":
        raise UserError(
            "network.ensemble's generators may draw nothing on a rank, where DeepSpeed would wait: engine.kind=local"
        )
    if ranks > 1 and (coupled := config.coupled_over_ranks):
        raise UserError(f"{coupled[0]} couples the samples of a batch, so {ranks} ranks can't share it")


def open_source(config: Config, quiet: bool = True) -> Source | Distribution:
    """The real data that `config` trains on: images, or a distribution of points.

    Raises:
        UserError: there is no such source, it can't be read, or the network or another field of `data` is not made for it.
    """
    data, points = config.data, config.data.source in DISTRIBUTIONS
    if data.source not in (known := SOURCES | DISTRIBUTIONS):
        raise UserError(f"data.source: there is no {data.source!r}: {nearest(data.source, known)}")
    if points != (config.network.family == "mlp"):
        kind = "points" if points else "images"
        raise UserError(f"data.source {data.source} gives {kind}, which network.family {config.network.family} can't draw")
    if not points:
        return open_images(data.source, data.path, on_bad_image=data.on_bad_image, quiet=quiet)
    for name in ("path", "flip", "noise"):
        if getattr(data, name):
            raise UserError(f"data.source {data.source} draws points: it takes no data.{name}")
    return DISTRIBUTIONS[data.source]


def open_stream(
    config: Config,
    source: Source | Distribution,
    device: torch.device,
    batch_size: int | None = None,
    ranks: Ranks = ALONE,
) -> Stream | PointStream:
    """The stream of batches that `config` trains on; this rank's share of micro-batches, unless a batch size is given."""
    batch_size = batch_size or config.training.batch_size // (config.training.accumulate * ranks.count)
    options = {"batch_size": batch_size, "seed": config.seed, "device": device.type}
    options |= {"shard": ranks.rank, "shards": ranks.count}
    if isinstance(source, Distribution):
        return PointStream(source, **options)
    names = ("resolution", "channels", "order", "crop", "min_area", "filter", "flip", "noise", "threads")
    options |= {name: getattr(config.data, name) for name in names}
    return Stream(source, **options, cache=round(config.data.cache * 2**30))


def _settled(config: Config) -> Config:
    """What depends on where a run begins is settled there: going on elsewhere, it keeps its number format and data."""
    precision = resolve_precision(config.training.precision, resolve_device(config.training.device))
    path, json = config.data.path, config.engine.deepspeed_json
    return replace(
        config,
        training=replace(config.training, precision=precision),
        data=replace(config.data, path=path and str(Path(path).expanduser().resolve())),
        engine=replace(config.engine, deepspeed_json=json and str(Path(json).expanduser().resolve())),
    )


def _check_resumable(folder: Folder, config: Config) -> None:
    if not folder.holds_run():
        raise UserError(f"there is no run in {folder.path} to resume")
    if not folder.config.exists():
        raise UserError(f"{folder.path} holds files of a run but no config.yaml: it can't be resumed")
    check_same(configuration.from_yaml(folder.config), config, f"the run in {folder.path}")
    newest = folder.newest_checkpoint()
    if newest is not None and int(newest.stem) >= config.training.steps:
        raise UserError(
            f"the run in {folder.path} is finished (round {int(newest.stem)} of {config.training.steps}): "
            "a larger --steps trains it longer"
        )


def _occupied(folder: Folder) -> str:
    newest = folder.newest_checkpoint()
    reached = int(newest.stem) if newest else 0
    if not folder.config.exists():
        return f"{folder.path} holds files of a run but no config.yaml: choose another --run-dir"
    steps = configuration.from_yaml(folder.config).training.steps
    if reached >= steps:
        return f"{folder.path} holds a finished run: choose another --run-dir, or train it longer with --resume --steps N"
    return f"{folder.path} holds a run at round {reached} of {steps}: go on with --resume, or choose another --run-dir"


def _examined(session: Session, guard: CollapseGuard) -> tuple[dict[str, float], str | None]:
    """What was measured, and what is wrong, the same on every rank."""
    if not session.is_finite():
        return {}, "a loss or weight was NaN or infinite"
    measured = session.measure()
    return measured, guard.look_at_spectra(measured)


def review(config: Config, source: Source | Distribution) -> Iterable[str]:
    """Refuse, before anything is written, networks that can't be built or were made for other classes than the data's; what
    the user should know about the data comes back.

    Raises:
        UserError: see above, or a batch or class is too small.
    """
    classes = config.network.classes
    if classes and isinstance(source, Distribution):
        raise UserError(f"network.classes is {classes}, but points have no classes to tell the networks")
    if classes and classes != len(source.classes):
        where = config.data.path or config.data.source
        raise UserError(f"network.classes is {classes}, but the images in {where} have {len(source.classes)} classes")
    with torch.device("meta"):  # shapes without memory
        build_networks(config)
    return (
        () if isinstance(source, Distribution) else review_images(source, config.training.batch_size, conditional=classes > 0)
    )


def _fixed_samples(config: Config, session: Session, real: Tensor) -> tuple[Tensor, Tensor]:
    """Samples of the averaged generator from the same latents every time, with classes in columns of one class each; of
    autoencoders mixtures of the same real images. And the picture of them."""
    generator, columns = session.average.networks["generator"], _columns(config)
    device = next(generator.parameters()).device
    if config.game != "adversarial":
        discriminator = session.game.played().get("discriminator")
        drawn = drawings(generator, discriminator, real[:GRID_ROWS].to(device))
        return drawn["G(mixture)"], grid(torch.cat(list(drawn.values())), len(real[:GRID_ROWS]))
    number = GRID_ROWS * columns if columns else usual_number(config.data.source)
    rows = torch.arange(number, device=device)
    z = Prior.of(config.latent)(Draw(config.seed, "grid", 0, rows))
    with torch.no_grad():
        samples = generator(z, cycled(range(columns), rows)) if columns else generator(z)
    return samples, picture(samples, config.data.source, columns)


def _columns(config: Config) -> int | None:
    """One for each class, or for the first ones where there are many; None without classes."""
    return min(config.network.classes, MOST_COLUMNS) or None


def _some_real(config: Config, source: Source | Distribution) -> Tensor:
    stream = open_stream(config, source, torch.device("cpu"), batch_size=REAL)
    images = next(stream)["images"]
    stream.close()
    return images


def _opening(config: Config, session: Session, folder: Folder) -> str:
    sizes = ", ".join(
        # DeepSpeed's weights of stage 3 are empty between uses, and know their size by another name.
        f"{name} {sum(getattr(p, 'ds_numel', p.numel()) for p in network.parameters()) / 1e6:.2f} M parameters"
        for name, network in session.game.played().items()
    )
    device = next(session.game.parameters()).device
    begun = f"goes on from round {session.round}" if session.round else "begins"
    shared = f", shared by {session.ranks.count} ranks" if session.ranks.count > 1 else ""
    return f"{config.name} {begun} in {folder.path}: {sizes}, {config.training.precision} on {device}{shared}"
