"""Tables of what becomes of names, written into pages between marks.

A page holds `<!-- table: NAME -->`, the table and `<!-- end -->`.
"""

import argparse
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from shoal.fates import Fate, NoEffect, Refused

DOCS = Path(__file__).resolve().parent.parent / "docs"
Show = Callable[[Any], str]
"""How a page writes a value."""


def by_reason(
    heads: tuple[str, str],
    fates: Mapping[str, Fate],
    show: Show = str,
    untold: Sequence[object] = (None,),
) -> list[str]:
    """The lines of a table of names without effect or refused, those of one reason in one row.

    Args:
        untold: values that the page accepts everywhere, and does not repeat.
    """
    names: dict[str, list[str]] = {}
    for name, fate in fates.items():
        reason = fate.why if isinstance(fate, NoEffect) else getattr(fate, "instead", "")
        names.setdefault(reason, []).append(f"`{name}`{_allowed(fate, show, untold)}")
    rows = [f"| {', '.join(each)} | {cell(reason)} |" for reason, each in names.items()]
    return [f"| {heads[0]} | {heads[1]} |", "|---|---|", *rows]


def of_kind(fates: Mapping[str, Fate], kind: type) -> dict[str, Any]:
    """Those names that are honoured, without effect, or refused."""
    return {name: fate for name, fate in fates.items() if isinstance(fate, kind)}


def asking_for_nothing(fate: Fate, untold: Sequence[object] = (None,)) -> list[Any]:
    """The values of a refused name that are accepted."""
    harmless = fate.harmless if isinstance(fate, Refused) else ()
    return [value for value in harmless if value not in untold]


def _allowed(fate: Fate, show: Show, untold: Sequence[object]) -> str:
    values = asking_for_nothing(fate, untold)
    if not values:
        return ""
    ends = values if len(values) < 5 else [values[0], "...", values[-1]]
    return f" (but {', '.join(f'`{show(value)}`' for value in ends)})"


def cell(text: str) -> str:
    """Text that does not end its table cell."""
    return " ".join(text.split()).replace("|", "\\|")


def write(name: str, tables: Mapping[str, str]) -> int:
    """Write a page's tables, or check them with `--check`; returns the exit code."""
    parser = argparse.ArgumentParser(description=f"Write the tables of docs/{name}.")
    parser.add_argument("--check", action="store_true", help="only compare; 1 when they differ")
    page = DOCS / name
    before = page.read_text(encoding="utf-8")
    after = written(before, tables)
    if not parser.parse_args().check:
        page.write_text(after, encoding="utf-8")
        return 0
    if before == after:
        return 0
    print(f"{page} is not up to date: run python {sys.argv[0]}", file=sys.stderr)
    return 1


def written(page: str, tables: Mapping[str, str]) -> str:
    """The page with its tables made anew."""
    for name, text in tables.items():
        mark = rf"(<!-- table: {name} -->\n).*?(\n<!-- end -->)"
        page, count = re.subn(mark, lambda m, t=text: m[1] + t + m[2], page, flags=re.S)
        if count != 1:
            raise SystemExit(f"the page has no place for table {name}")
    return page
