"""Who may import whom: a file imports from lower floors, or from its own folder without a circle."""

import ast
import sys
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parent.parent
FLOORS = {
    "kernels": 0,
    "annealing": 1, "checked": 1, "progress": 1, "draw": 1.1, "judgement": 1.1, "policies": 1.1, "objectives": 1.15,
    "terms": 1.2, "config": 1.3, "presets": 1.4,
    "latent": 2, "networks": 2,
    "games": 3,
    "engine": 4, "data": 4, "evaluation": 4,
    "training": 5, "planning": 5.1, "report": 5.2,
    "doctor": 6, "__init__": 6, "commands": 6.1, "cli": 6.2, "bench": 6.3, "__main__": 6.3,
}  # fmt: skip
KERNELS_MAY_IMPORT = {"torch", "triton"}


def modules() -> dict[str, Path]:
    """Dotted name -> file, of everything that ships."""
    found = {}
    for folder, prefix in (("fastgan", "fastgan"), ("kernels", "fastgan.kernels"), ("bench", "bench")):
        for path in (ROOT / folder).rglob("*.py"):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            found[".".join((prefix, *parts)).removesuffix(".__init__")] = path
    return found


def imports(name: str, path: Path, known: set[str]) -> set[str]:
    """The modules among `known` that `path` imports, wherever in the file."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package.rsplit(".", node.level - 1)[0] + "." * bool(node.module) if node.level else ""
            base += node.module or ""
            found |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    return found & known - {name}


def room(name: str) -> str:
    """The folder or file on a floor that a module belongs to."""
    parts = name.split(".")
    return "bench" if parts[0] == "bench" else parts[1] if len(parts) > 1 else "__init__"


def test_every_room_has_a_floor():
    assert {room(name) for name in modules()} <= set(FLOORS)


def test_imports_go_down():
    known = modules()
    wrong = [
        f"{name} ({room(name)}, floor {FLOORS[room(name)]}) imports {other} ({room(other)}, floor {FLOORS[room(other)]})"
        for name, path in known.items()
        for other in imports(name, path, set(known))
        if other != "fastgan"  # a package's name inside `from fastgan import x`
        and room(other) != room(name)
        and FLOORS[room(other)] >= FLOORS[room(name)]
    ]
    assert not wrong, "\n".join(wrong)


def test_no_circles():
    known = modules()
    graph = {name: imports(name, path, set(known)) for name, path in known.items()}
    for name in graph:  # `from package.part import x` runs package/__init__ first, which is no arrow of the file's own
        graph[name] = {other for other in graph[name] if not name.startswith(f"{other}.")}
    graph["fastgan"] = set()  # loads its names on first use
    assert list(TopologicalSorter(graph).static_order())


def test_kernels_import_torch_and_triton_alone():
    allowed = KERNELS_MAY_IMPORT | sys.stdlib_module_names
    for path in (ROOT / "kernels").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module]
            for name in names:
                assert name.split(".")[0] in allowed or name.startswith("fastgan.kernels"), f"{path.name} imports {name}"
