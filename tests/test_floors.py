"""Rooms import only rooms on floors below; planner and scheduler never import torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import shoal

PACKAGE = Path(shoal.__file__).parent
FLOORS = {
    "errors": 0,
    "arrow": 0,
    "fates": 0,
    "types": 0,
    "slots": 0,
    "config": 0,
    "work": 0,
    "state_work": 0,
    "costs": 0,
    "progress": 0,
    "disk": 0,
    "signals": 0,
    "kernels": 1,
    "processes": 1,
    "planner": 1,
    "prompts": 1,
    "diagnose": 2,
    "scheduler": 2,
    "attention": 2,
    "recurrence": 2,
    "simulate": 3,
    "planning": 4,
    "model": 3,
    "answers": 3,
    "cuda": 4,
    "pooling": 4,
    "tensor_parallel": 4,
    "sampling": 5,
    "executor": 6,
    "machine": 7,
    "engine": 8,
    "devices": 9,
    "endpoints": 9,
    "fleet": 10,
    "tables": 9,
    "requests": 9,
    "results": 10,
    "report": 11,
    "llm": 11,
    "jobs": 11,
    "integrations": 12,
    "ray": 12,
    "server": 12,
    "commands": 13,
    "cli": 14,
    "__main__": 15,
}
SERVER_FLOORS = {
    "packages": 0,
    "server_options": 0,
    "logs": 1,
    "messages": 1,
    "store": 2,
    "workers": 2,
    "live": 3,
    "http": 4,
    "dispatch": 4,
    "serve": 5,
}
"""The server is a house of its own: its rooms, and the modules beside them."""
WITHIN_FLOOR_0 = {
    ("types", "errors"),
    ("arrow", "errors"),
    ("disk", "errors"),
    ("config", "errors"),
    ("work", "types"),
    ("state_work", "types"),
    ("costs", "work"),
    ("slots", "types"),
    ("signals", "errors"),
}
"""Floor 0 is small rooms; these are the arrows between them."""


def room_of(path: Path, house: Path = PACKAGE) -> str:
    return path.relative_to(house).parts[0].removesuffix(".py")


def imports(source: str, house: str = "shoal") -> set[str]:
    """What a module imports directly below a package, wherever in it the import stands."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module] + [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        inner = [name.removeprefix(f"{house}.") for name in names if name.startswith(f"{house}.")]
        found |= {name.split(".")[0] for name in inner}
    return found


def violations(room: str, source: str) -> list[str]:
    return [
        f"{room} (floor {FLOORS[room]}) imports {other} (floor {FLOORS[other]})"
        for other in sorted(imports(source) & FLOORS.keys())
        if other != room and FLOORS[other] >= FLOORS[room] and (room, other) not in WITHIN_FLOOR_0
    ]


def modules() -> list[Path]:
    return [path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py"]


def test_every_room_has_a_floor() -> None:
    assert {room_of(path) for path in modules()} == set(FLOORS)


@pytest.mark.parametrize("room", FLOORS)
def test_arrows_point_downwards(room: str) -> None:
    own = [path for path in modules() if room_of(path) == room]
    found = {path.name: violations(room, path.read_text()) for path in own}
    assert {name: wrong for name, wrong in found.items() if wrong} == {}


@pytest.mark.parametrize(
    ("room", "source", "count"),
    [
        ("planner", "from shoal.scheduler import Scheduler", 1),
        ("planner", "def f():\n    import shoal.engine.engine", 1),
        ("scheduler", "from shoal import attention", 1),
        ("jobs", "from shoal.report.page import write_report", 1),
        ("engine", "from shoal.planner import Plan\nfrom shoal.model.kv import KVTensors", 0),
    ],
)
def test_an_arrow_upwards_is_seen(room: str, source: str, count: int) -> None:
    assert len(violations(room, source)) == count


@pytest.mark.parametrize("room", SERVER_FLOORS)
def test_arrows_of_the_server_point_downwards(room: str) -> None:
    house = PACKAGE / "server"
    paths = [path for path in house.rglob("*.py") if path != house / "__init__.py"]
    assert {room_of(path, house) for path in paths} == set(SERVER_FLOORS)
    wrong = {
        (path.name, other)
        for path in paths
        if room_of(path, house) == room
        for other in imports(path.read_text(), "shoal.server") - {room}
        if SERVER_FLOORS[other] >= SERVER_FLOORS[room]
    }
    assert wrong == set()


@pytest.mark.parametrize("room", ["planner", "scheduler", "simulate", "planning"])
def test_planner_and_scheduler_load_without_torch(room: str) -> None:
    code = f"import sys, shoal.{room}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
