"""Writes docs/objectives.md, the table of objectives and what they come to on a grid: `python docs/make_objectives.py`.

Formulas, sources and remarks are those of the classes' docstrings.
"""

import dataclasses
import inspect
import json
from collections.abc import Iterable
from pathlib import Path

from bench.objectives import RESULTS, bounds
from fastgan.objectives import OBJECTIVES, Objective, options_of
from fastgan.presets import preset

PAGE = Path(__file__).with_name("objectives.md")
MEASURED = Path(__file__).parent.parent / RESULTS

HEAD = """# Objectives

What the two players minimise, as `objective` names it; `fastgan/objectives/` has a class for each. Written by
`python docs/make_objectives.py`.

```
fastgan train grid25-mmd                                                            a preset for every objective: grid25-...
fastgan train digits-sngan --set objective=relativistic-average                     any game
fastgan train digits-sngan --set objective=gan-qp objective_options.distance=rms    with settings of its own
```

a = D(x) and b = D(G(z)) are raw scores, **higher = more real**; f and g are D's features of real and generated images, N and M
their counts, m is the mean. Scores may be maps: each place counts as a score. Losses are computed in float32.

- *needs*: what is looked at beside the scores. **images** are those before any augmentation. **features** are what D's last
  linear layer is given, flattened; networks without one are refused, and D's score is not trained. **real in G** means that D
  judges the real batch in G's phase too: one more forward of D, without a gradient.
- *couples*: the loss is one of the whole batch. Ranks gather it, so that two of them equal one process;
  `training.accumulate` above 1 is refused. **pairs** means that each generated image is compared with a real one.
- *refinement* (-qua in training, -z at sampling) descends a loss of each score by itself: G's own where it is a mean over
  scores. Where it compares scores with each other, any falling function of a sample's own score points the same way, and the
  step depends on the direction alone: -b. Objectives of features train no score: refinement, and samplers that ask D, are
  refused.
- `terms.top_k`, which chooses scores, is refused with objectives that couple or pair; `training.generator_batch` above 1 with
  pairs in G's loss.

"""

FOOT = """
## On the grid of 25 Gaussians

`python -m bench.objectives`: the presets of `fastgan/presets/objectives.py`, 1,500 rounds of 128 points (MLP, width 128, both
rates 0.001 unless named), 5,000 samples of the averaged generator. The budget is small: it tells what works from what does
not, not which objective is best; with 12,000 rounds of 256 at width 256 the preset `grid25` comes to 54 to 70 %. Points spread
evenly over the grid's square would be 16 % good, at all 25 modes: those near that have found the square by then, and not yet
the modes in it. *Bound* is half of the worse seed's rate and modes: a slow test trains each preset again and holds it to that.

"""


def page() -> str:
    """The whole page."""
    named: dict[type, list[str]] = {}
    for name, objective in OBJECTIVES.items():
        named.setdefault(type(objective), []).append(name)
    entries = [(names, OBJECTIVES[names[0]]) for names in named.values()]
    lines = _table(
        ("objective", "L_D", "L_G", "needs", "couples", "refinement", "options"),
        (
            (
                ", ".join(f"`{name}`" for name in names),
                *(f"`{formula}`" for formula in formulas(objective)[:2]),
                _needs(objective),
                "yes" if objective.couples else "pairs" if objective.pairs else "",
                _refinement(objective),
                _options(objective),
            )
            for names, objective in entries
        ),
    )
    remarks = [f"- `{names[0]}`: {formulas(objective)[2]}" for names, objective in entries]
    return HEAD + lines + "\n## Sources and remarks\n\n" + "\n".join(remarks) + "\n" + FOOT + grid()


def formulas(objective: Objective) -> tuple[str, str, str]:
    """L_D, L_G, and the rest of what the docstring says, on one line each."""
    lines = [line.strip() for line in inspect.getdoc(type(objective)).splitlines()]
    at, after = (next(i for i, line in enumerate(lines) if line.startswith(f"{loss} = ")) for loss in ("L_D", "L_G"))
    first, second = (lines[i].partition(" = ")[2] for i in (at, after))
    if ",    " in first:
        first, _, where = first.partition(",    ")
        second += f",    {where}"
    said = " ".join([*lines[:at], *lines[after + 1 :]])
    return first, " ".join(second.split()), " ".join(said.split())


def grid() -> str:
    """What bench.objectives has measured."""
    rows = json.loads(MEASURED.read_text(encoding="utf-8"))
    bound = bounds(rows)
    return _table(
        ("preset", "what keeps D in bounds", "% good, seeds 0 and 1", "modes", "with a fair share", "bound"),
        (
            (
                f"`{name}`",
                _keeps(name),
                ", ".join(f"{100 * row['good']:.1f}" for row in rows if row["preset"] == name),
                ", ".join(str(row["modes"]) for row in rows if row["preset"] == name),
                ", ".join(str(row["fair"]) for row in rows if row["preset"] == name),
                f"{100 * bound[name][0]:.1f} %, {bound[name][1]}",
            )
            for name in dict.fromkeys(row["preset"] for row in rows)
        ),
    )


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = list(head)
    cells = [head, ["---"] * len(head), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "".join(f"| {' | '.join(row)} |\n" for row in cells)


def _needs(objective: Objective) -> str:
    return ", ".join([*objective.needs, *(["real in G"] if objective.real_in_generator else [])])


def _refinement(objective: Objective) -> str:
    if not objective.refines:
        return "refused"
    return "-b" if type(objective).per_score is Objective.per_score else "G's loss"


def _options(objective: Objective) -> str:
    fields = type(objective).__pydantic_fields__ if options_of(objective) else {}
    shown = []
    for name in options_of(objective):
        choices = getattr(next(f for f in dataclasses.fields(objective) if f.name == name).type, "__args__", ())
        value = getattr(objective, name)
        text = f"`{name}` " + (" / ".join(choices) if choices and isinstance(choices[0], str) else str(value).lower())
        said = fields[name].description
        shown.append(text + (f": {' '.join(said.split()).rstrip('.')}" if said else ""))
    return "; ".join(shown)


def _keeps(name: str) -> str:
    config = preset(name)
    parts = [f"{term} {_strength(config.terms[term])}" for term in config.terms]
    if config.discriminator.clip_weights is not None:
        parts.append(f"weights within {config.discriminator.clip_weights:g}")
    if config.discriminator.rate != config.generator.rate:
        parts.append(f"D's rate {config.discriminator.rate:g}")
    parts += [f"{option} {str(value).lower()}" for option, value in config.objective_options.items()]
    if config.training.n_dis > 1:
        parts.append(f"{config.training.n_dis} turns of D")
    return ", ".join(parts)


def _strength(term: object) -> str:
    kind = getattr(term, "kind", "")
    return f"{getattr(term, 'gamma', None) or getattr(term, 'weight', ''):g}{f' ({kind})' if kind == 'power' else ''}"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
