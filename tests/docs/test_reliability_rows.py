"""Each row of the reliability table still chooses tests: a test that moves takes its row along."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tools.reliability import ROWS

ROOT = Path(__file__).parents[2]


def names_of(path: Path) -> list[str]:
    files = sorted(path.rglob("test_*.py")) if path.is_dir() else [path]
    return [
        name for file in files for name in re.findall(r"^def (test_\w+)", file.read_text(), re.M)
    ]


@pytest.mark.parametrize("run", sorted({run for runs in ROWS.values() for run in runs}))
def test_every_word_chooses_a_test(run: str) -> None:
    paths, *options = re.split(r" -[km] ", run)
    words = options[0].split(" or ") if " -k " in run else [""]
    for path in paths.split():
        file, _, wanted = path.partition("::")
        names = names_of(ROOT / file)
        assert names, path
        assert not wanted or wanted in names, path
    every = [name for path in paths.split() for name in names_of(ROOT / path.partition("::")[0])]
    for word in words:
        assert any(word in name for name in every), f"{word} in {run}"
