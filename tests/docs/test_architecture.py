"""The rooms that docs/architecture.md lists are the rooms there are, on their floors."""

from __future__ import annotations

import re
from pathlib import Path

from tests.test_floors import FLOORS

PAGE = Path(__file__).parents[2] / "docs" / "architecture.md"


def test_rooms_and_floors() -> None:
    rows = re.findall(r"^\| (\d+) \| ([^|]+) \|", PAGE.read_text(), re.M)
    listed = {room: int(floor) for floor, names in rows for room in re.findall(r"`(\w+)`", names)}
    assert listed == {room: floor for room, floor in FLOORS.items() if room != "__main__"}
