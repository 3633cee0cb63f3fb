"""docs/architecture.md lists the rooms on their floors, and what it names is where it says."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.test_floors import FLOORS, SERVER_FLOORS

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "architecture.md"
PLACES = [
    place
    for page in (PAGE, PAGE.with_name("contributing.md"))
    for place in re.findall(r"`([\w.]+)` in `(shoal/[\w/]+\.py)`", page.read_text())
]
"""A class, a function or a method, and the file it is in."""


@pytest.mark.parametrize(("house", "floors"), [("", FLOORS), ("server.", SERVER_FLOORS)])
def test_rooms_and_floors(house: str, floors: dict[str, int]) -> None:
    rows = re.findall(r"^\| (\d+) \| ([^|]+) \|", PAGE.read_text(), re.M)
    room = re.compile(rf"`{re.escape(house)}(\w+)`")
    listed = {name: int(floor) for floor, names in rows for name in room.findall(names)}
    assert listed == {name: floor for name, floor in floors.items() if name != "__main__"}


@pytest.mark.parametrize(("name", "file"), PLACES, ids=[name for name, _ in PLACES])
def test_what_is_named_is_there(name: str, file: str) -> None:
    body = ast.parse((ROOT / file).read_text()).body
    for part in name.split("."):
        kinds = ast.ClassDef | ast.FunctionDef
        found = [node for node in body if isinstance(node, kinds) and node.name == part]
        assert found, f"{file} has no {name}"
        body = found[0].body
