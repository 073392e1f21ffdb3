"""Writes the table of docs/kernels.md from the catalogue: `python docs/make_kernels.py`."""

from pathlib import Path

from fastgan.kernels.catalog import OPERATIONS
from fastgan.kernels.operation import training_pass
from fastgan.kernels.traffic import EagerTraffic

PAGE = Path(__file__).with_name("kernels.md")
BEGIN, END = "<!-- the catalogue -->\n", "<!-- its end -->\n"
BANDWIDTH = 3.35e12


def table() -> str:
    """A line an example: bytes for each element of its main tensor, forward + backward, and what follows from them."""
    lines = [
        "| operation | example | kernel, bytes an element | eager | share | at 3.35 TB/s |",
        "|---|---|---|---|---|---|",
    ]
    for operation in OPERATIONS.values():
        for example in operation.examples:
            run = training_pass(operation.eager, operation.arguments(example, "meta", 0), operation.wrt)
            with EagerTraffic() as eager:
                run()
            elements = 1
            for size in example.shape:
                elements *= size
            parts = [bytes_ / elements for bytes_ in operation.minimum(example)]
            kernel = " + ".join(f"{part:.3g}" for part in (parts if operation.wrt else parts[:1]))
            shape = "x".join(map(str, example.shape))
            share = sum(parts) * elements / eager.bytes
            cells = (operation.name, f"{example}, {shape}", kernel, f"{eager.bytes / elements:.3g}", f"{share:.0%}")
            lines.append(f"| {' | '.join(cells)} | {1e6 * sum(parts) * elements / BANDWIDTH:.3g} µs |")
    return "\n".join(lines) + "\n"


def page() -> str:
    """The page with the table as the catalogue gives it."""
    text = PAGE.read_text(encoding="utf-8")
    return text[: text.index(BEGIN) + len(BEGIN)] + table() + text[text.index(END) :]


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
