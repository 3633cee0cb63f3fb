"""Which pictures of plans show a batch's prompts: they go when its input file does."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from shoal.server.messages.engine_messages import FOREST_FILE

SHOWN_FILE = "shown-in.txt"
"""In a batch's folder: the folders whose picture shows how its prompts begin, a name per line."""


def put_picture(folders: Sequence[Path], data: bytes, *, with_texts: bool) -> None:
    """Write the picture of a run into the folder of each of its batches, in place of an earlier.

    Args:
        folders: side by side.
        with_texts: whether it shows the prompts of all of them.
    """
    if with_texts:
        names = "".join(f"{folder.name}\n" for folder in folders)
        for folder in folders:  # first of all: what is shown anywhere is known
            with (folder / SHOWN_FILE).open("a") as file:
                file.write(names)
    for folder in folders:
        unfinished = folder / f"{FOREST_FILE}.tmp"
        unfinished.write_bytes(data)
        os.replace(unfinished, folder / FOREST_FILE)


def drop_pictures(folder: Path) -> None:
    """Take away every picture that shows how a batch's prompts begin. Idempotent."""
    shown = folder / SHOWN_FILE
    if not shown.exists():
        return
    for name in dict.fromkeys(shown.read_text().split()):
        for file in (FOREST_FILE, f"{FOREST_FILE}.tmp"):
            (folder.parent / name / file).unlink(missing_ok=True)
    shown.unlink()
