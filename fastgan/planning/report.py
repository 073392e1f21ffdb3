"""How a plan is shown: tables, lines and a picture."""

from pathlib import Path

from rich.table import Table

from fastgan.checked import UserError
from fastgan.planning.estimate import MOST, UNVERIFIED, Point
from fastgan.planning.plan import Plan, assumptions
from fastgan.planning.rehearsal import PARTS

GB, TERA = 1e9, 1e12


def lines(plan: Plan) -> list[Table | str]:
    """Tables and lines to print. Every one that speaks of a GPU says that none has confirmed it."""
    here, machine, work = plan.here, plan.machine, plan.work
    sizes = ", ".join(f"{name} {count / 1e6:.2f} M parameters" for name, count in work.networks.items())
    run = [
        f"{plan.config.name} on {here.gpus} x {machine.gpu.title}, {machine.precision}, ZeRO {plan.zero_stage}, {UNVERIFIED}: "
        f"{here.images_per_second:,.0f} images/s, {_days(here)} for {plan.config.training.steps:,} rounds{_cost(here)}",
        sizes,
        f"a turn's {here.batch_size} samples are {_counted(here.gpus, 'GPU')} x "
        f"{_counted(here.accumulate, 'micro-batch', 'micro-batches')} x {here.micro_batch}",
        f"a round, {UNVERIFIED}: {1e3 * here.round_seconds:.1f} ms, of which {1e3 * here.device_seconds:.1f} computing "
        f"({1e3 * here.memory_seconds:.1f} waiting for memory), {1e3 * here.communication_seconds:.1f} in collectives "
        f"({here.gradient_bytes / GB:.3g} GB of gradients, {here.statistics_bytes / 1e6:.3g} MB of batch statistics); its "
        f"operations take {1e3 * here.host_seconds:.1f} ms to start; {here.mfu:.0%} of the GPU's rate in products",
        f"memory traffic of a round on each GPU: {work.total('bytes', here.micro_batch, here.accumulate) / GB:,.1f} GB, of "
        f"which fastgan's kernels {work.total('kernel_bytes', here.micro_batch, here.accumulate) / GB:,.1f}",
        *(f"note: {note}" for note in plan.notes),
    ]
    return [*run, "", _flops(plan), "", _memory(plan), "", _gpus(plan), "", *scaling(plan), "", *_assumed(plan)]


def scaling(plan: Plan) -> list[Table | str]:
    """The tables over numbers of GPUs, and where something else than computing takes over."""
    strong = _runs(f"{plan.config.training.batch_size} samples a turn over more and more GPUs ({UNVERIFIED})", plan.strong)
    share = plan.here.batch_size // plan.here.gpus
    weak = _runs(f"{share} samples a turn on each GPU: the batch grows ({UNVERIFIED})", plan.weak)
    over = [f"{what} at {gpus}" for what, gpus in plan.takes_over().items() if gpus is not None]
    return [strong, f"GPUs at which something else than computing takes over: {', '.join(over) or 'none of these'}", "", weak]


def check_picture(path: Path) -> None:
    """Refuse a name that `draw` has no format for.

    Raises:
        UserError: its ending is none of a picture.
    """
    from matplotlib.backend_bases import FigureCanvasBase

    if path.suffix[1:].lower() not in FigureCanvasBase.filetypes:
        raise UserError(f"--plot: {path} must end in .png, .svg or .pdf")


def draw(plan: Plan, path: Path) -> None:
    """Weak and strong scaling, images/s over GPUs, and where launches, communication or data take over."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), dpi=110, layout="constrained")
    titles = f"{plan.config.training.batch_size} samples a turn", f"{plan.here.batch_size // plan.here.gpus} a GPU and turn"
    for axes, points, title in zip(figure.subplots(1, 2), (plan.strong, plan.weak), titles, strict=True):
        if not points:
            axes.set_axis_off()
            continue
        gpus = [p.gpus for p in points]
        ideal = points[0].images_per_second / points[0].gpus
        axes.loglog(gpus, [p.images_per_second for p in points], "o-", markersize=4, color="#1f5fa8", label="planned")
        axes.loglog(gpus, [ideal * n for n in gpus], "--", color="#b8b8b8", label="in proportion")
        if (rate := plan.machine.decode_rate) is not None:
            axes.loglog(gpus, [rate * n for n in gpus], ":", color="#cc6677", label="images decoded")
        axes.minorticks_off()
        axes.set_xticks(gpus, [str(n) for n in gpus], fontsize=8)
        axes.set_xlabel("GPUs", fontsize=9)
        axes.set_ylabel("images/s", fontsize=9)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axes.tick_params(labelsize=8)
        axes.set_title(title, fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
    colours = {"launches": "#ddaa33", "communication": "#228833", "data": "#cc6677"}
    axes = figure.axes[0]
    for what, gpus in plan.takes_over().items():
        if gpus is not None:
            axes.axvline(gpus, color=colours[what], linewidth=0.9, label=f"bound by {what} from here on")
    axes.legend(fontsize=7, frameon=False)
    machine = plan.machine
    figure.suptitle(f"{plan.config.name}, {machine.gpu.title}, {machine.precision}: planned, {UNVERIFIED}", fontsize=10)
    figure.savefig(path)


def _flops(plan: Plan) -> Table:
    counts = plan.work.flops(plan.here.micro_batch, plan.here.accumulate)
    parts = [part for part in PARTS if any(part == p for _, p in counts)]
    table = Table("TFLOP a round and GPU", *parts, "together", box=None)
    for phase in dict.fromkeys(phase for phase, _ in counts):
        row = [counts.get((phase, part), 0.0) for part in parts]
        cells = [f"{count / TERA:.4g}" if count else "-" for count in (*row, sum(row))]
        table.add_row(phase or "between phases", *cells)
    return table


def _memory(plan: Plan) -> Table:
    here = plan.here
    columns = "weights", "copies", "moments", "average", "gradients", "buffers"
    peaks = plan.work.peaks(here.micro_batch, here.accumulate)
    gpu = plan.machine.gpu
    beyond = [f"{player}'s turn" for player in peaks]
    full = f"fullest of {gpu.memory / GB:.0f}"
    table = Table("ZeRO", *columns, *beyond, full, "largest micro-batch", box=None)
    table.title_justify = "left"
    table.title = (
        f"GB of the {gpu.title} at micro-batches of {here.micro_batch}; a turn's: activations, gradients and images at their "
        f"peak ({UNVERIFIED})"
    )
    for stage, held, whole, most in plan.memory:
        cells = [f"{getattr(held, column) / GB:.2f}" for column in columns]
        activations = [f"{peak / GB:.2f}" for peak in peaks.values()]
        table.add_row(str(stage), *cells, *activations, f"{whole / GB:.1f}", at_most(most))
    return table


def _gpus(plan: Plan) -> Table:
    table = Table("GPU", "images/s", "days", "ms a round", "in products", "bound by", "largest micro-batch", "cost", box=None)
    priced = "" if plan.machine.price is None else f"; the price is that of the {plan.machine.gpu.title}"
    table.title, table.title_justify = f"{_counted(plan.here.gpus, 'GPU')} of each kind{priced} ({UNVERIFIED})", "left"
    for title, run, most in plan.others:
        table.add_row(title, *_speed(run), run.bound, at_most(most), _money(run))
    return table


def _runs(title: str, runs: list[Point]) -> Table:
    columns = "GPUs", "micro-batch", "accumulate", "images/s", "days", "ms a round", "in products"
    table = Table(*columns, "of ideal", "GB", "bound by", "cost", box=None)
    table.title, table.title_justify = title, "left"
    for run in runs:
        ideal = runs[0].images_per_second / runs[0].gpus * run.gpus
        table.add_row(
            str(run.gpus),
            str(run.micro_batch),
            str(run.accumulate),
            *_speed(run),
            f"{run.images_per_second / ideal:.0%}",
            f"{run.memory / GB:.1f}" + ("" if run.fits else ": too much"),
            run.bound,
            _money(run),
        )
    return table


def at_most(micro_batch: int) -> str:
    """The largest micro-batch, as far as it was looked for."""
    return f"over {micro_batch:,}" if micro_batch >= MOST else str(micro_batch)


def _counted(number: int, one: str, many: str | None = None) -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"


def _speed(run: Point) -> list[str]:
    return [f"{run.images_per_second:,.0f}", f"{run.days:.3g}", f"{1e3 * run.round_seconds:.1f}", f"{run.mfu:.0%}"]


def _days(run: Point) -> str:
    return f"{run.days:.2f} days" if run.days >= 0.1 else f"{24 * run.days:.2f} hours"


def _cost(run: Point) -> str:
    return "" if run.cost is None else f", cost {_money(run)}"


def _money(run: Point) -> str:
    return "-" if run.cost is None else f"{run.cost:,.0f}" if run.cost >= 100 else f"{run.cost:.2f}"


def _assumed(plan: Plan) -> list[str]:
    return ["assumed, not measured:", *(f"  {line}" for line in assumptions(plan.machine))]
