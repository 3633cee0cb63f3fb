"""No module cycles; no two modules, and no two public classes, of the same name."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import networkx as nx
import pytest

import shoal

PACKAGE = Path(shoal.__file__).parent


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def sources() -> dict[str, str]:
    return {module_name(path): path.read_text() for path in PACKAGE.rglob("*.py")}


def imported_names(tree: ast.AST) -> set[str]:
    """Whatever is imported, wherever it stands: in a function, or for types only."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return names


def cycles(modules: Mapping[str, str]) -> list[list[str]]:
    graph: nx.DiGraph[str] = nx.DiGraph()
    for module, source in modules.items():
        for name in imported_names(ast.parse(source)):
            while name and name not in modules:
                name = name.rpartition(".")[0]
            if name and name != module:
                graph.add_edge(module, name)
    return [sorted(part) for part in nx.strongly_connected_components(graph) if len(part) > 1]


def test_no_module_cycles() -> None:
    assert cycles(sources()) == []


@pytest.mark.parametrize(
    "source",
    [
        "import a",
        "from a import f",
        "def f():\n    from a.x import g",
        "if TYPE_CHECKING:\n    from a import x",
    ],
)
def test_a_cycle_is_seen(source: str) -> None:
    modules = {"a": "from b import g", "a.x": "from b import g", "b": source}
    assert [set(cycle) - {"a", "a.x"} for cycle in cycles(modules)] == [{"b"}]


def test_file_names_are_unique() -> None:
    places = defaultdict(list)
    for module in sources():
        places[module.rpartition(".")[2]].append(module)
    packages = {module_name(path) for path in PACKAGE.rglob("__init__.py")}
    twice = {name: found for name, found in places.items() if len(set(found) - packages) > 1}
    assert twice == {}


def test_public_class_names_are_unique() -> None:
    places = defaultdict(list)
    for module, source in sources().items():
        for node in ast.parse(source).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(module)
    assert {name: found for name, found in places.items() if len(found) > 1} == {}
