"""Curves as inline SVG: coloured by the page's style sheet, so that they follow light and dark; screen readers read ends."""

import math
from collections.abc import Mapping, Sequence

from fastgan.report.markup import Markup, figure, joined, tag

COLOURS = 8
"""Lines that differ in colour; those beyond are dashed in the same colours."""
_WIDTH, _HEIGHT = 360, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 10, 10, 40
_MOST_POINTS = 200
_LOG_FROM = 50.0

Line = Sequence[tuple[float, float]]
"""(x, y) in the order of x."""


def chart(title: str, lines: Mapping[str, Line], across: str, may_be_log: bool = False) -> Markup:
    """A figure of one chart with its legend.

    Args:
        title: what runs upwards.
        lines: by name, each in the colour of its place among them, whether the others have points or not. Points
            that are not finite are left out; of more than 200, equal shares are averaged.
        across: what runs to the right.
        may_be_log: positive values over more than a factor of 50 stand on a logarithmic axis, and the title says so.
    """
    kept = {name: _thinned([(x, y) for x, y in line if math.isfinite(x) and math.isfinite(y)]) for name, line in lines.items()}
    kept = {name: line for name, line in kept.items() if line}
    if not kept:
        return figure(tag("p", "No finite number was recorded.", class_="missing"), title)
    xs, ys = ([point[axis] for line in kept.values() for point in line] for axis in (0, 1))
    log = may_be_log and min(ys) > 0 and max(ys) > _LOG_FROM * min(ys)
    x_ticks = _ticks(min(xs), max(xs), 4)
    y_ticks = _decades(min(ys), max(ys)) if log else _ticks(min(ys), max(ys), 5)
    x_span = _span(min(xs), max(xs))
    y_span = _span(min(*ys, y_ticks[0]), max(*ys, y_ticks[-1]), log)

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            _LEFT + _share(x, *x_span) * (_WIDTH - _LEFT - _RIGHT),
            _HEIGHT - _BOTTOM - _share(y, *y_span, log) * (_HEIGHT - _TOP - _BOTTOM),
        )

    drawn = []
    for y, name in zip(y_ticks, _names(y_ticks), strict=True):
        at = place(x_span[0], y)[1]
        drawn.append(tag("line", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=f"{at:.1f}", y2=f"{at:.1f}", class_="rule"))
        drawn.append(tag("text", name, x=_LEFT - 6, y=f"{at + 4:.1f}", text_anchor="end"))
    for x, name in zip(x_ticks, _names(x_ticks), strict=True):
        at = place(x, y_span[0])[0]
        anchor = "end" if at > _WIDTH - 30 else "middle"
        at = min(at, _WIDTH - 2) if anchor == "end" else at
        drawn.append(tag("text", name, x=f"{at:.1f}", y=_HEIGHT - _BOTTOM + 16, text_anchor=anchor))
    drawn.append(tag("text", across, x=(_LEFT + _WIDTH - _RIGHT) / 2, y=_HEIGHT - 6, text_anchor="middle"))
    places = {name: number for number, name in enumerate(lines)}
    for name, line in kept.items():
        number = places[name]
        points = [place(*point) for point in line]
        if len(points) == 1:
            drawn.append(tag("circle", cx=f"{points[0][0]:.1f}", cy=f"{points[0][1]:.1f}", r=3, class_=f"dot {_style(number)}"))
            continue
        path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
        drawn.append(tag("path", d=path, class_=f"line {_style(number)}"))
    title += " (logarithmic)" if log else ""
    said = "; ".join(f"{name} from {_short(line[0][1])} to {_short(line[-1][1])}" for name, line in kept.items())
    label = f"{title} over {across}: {said}."
    picture = tag("svg", *drawn, viewBox=f"0 0 {_WIDTH} {_HEIGHT}", role="img", aria_label=label, class_="chart")
    names = [tag("li", _key(places[name]), name) for name in kept]
    legend = tag("ul", *names, class_="legend") if len(lines) > 1 else None
    return figure(joined([tag("p", title, class_="title"), picture, legend]), kind="charted")


def _key(number: int) -> Markup:
    line = tag("path", d="M0 6L22 6", class_=f"line {_style(number)}")
    return tag("svg", line, viewBox="0 0 22 12", class_="key", aria_hidden="true")


def _style(number: int) -> str:
    return f"c{number % COLOURS}" + (" dashed" if number >= COLOURS else "")


def _thinned(line: list[tuple[float, float]]) -> list[tuple[float, float]]:
    share = -(-len(line) // _MOST_POINTS)
    parts = [line[first : first + share] for first in range(0, len(line), max(share, 1))]
    return [(sum(x for x, _ in part) / len(part), sum(y for _, y in part) / len(part)) for part in parts]


def _ticks(low: float, high: float, most: int) -> list[float]:
    """Round numbers from `low` to `high`, at least one."""
    if high <= low:
        return [low]
    step = (high - low) / most
    power = 10.0 ** math.floor(math.log10(step))
    step = next(round_step * power for round_step in (1, 2, 2.5, 5, 10) if round_step * power >= step * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)] or [low]


def _decades(low: float, high: float) -> list[float]:
    return [10.0**power for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)]


def _span(low: float, high: float, log: bool = False) -> tuple[float, float]:
    if low == high:  # a flat line runs through the middle
        return (low / 2, high * 2) if log else (low - (abs(low) or 1) / 2, high + (abs(high) or 1) / 2)
    return low, high


def _share(value: float, low: float, high: float, log: bool = False) -> float:
    if log:
        value, low, high = map(math.log10, (value, low, high))
    return (value - low) / (high - low)


def _names(ticks: list[float]) -> list[str]:
    """Of ticks, with as many digits as tell them apart."""
    for digits in range(3, 8):
        names = [_short(tick, digits) for tick in ticks]
        if len(set(names)) == len(names):
            break
    return names


def _short(value: float, digits: int = 3) -> str:
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.{digits}g}{unit}"
    return f"{value:.{digits}g}" if abs(value) > 1e-12 else "0"
