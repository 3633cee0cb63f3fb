"""Quantities as a person reads them."""

from __future__ import annotations

TIMES = "\N{MULTIPLICATION SIGN}"


def plural(noun: str, count: int) -> str:
    """The noun, with an s unless there is exactly one."""
    return noun if count == 1 else noun + "s"


def readable_bytes(size: float) -> str:
    """Bytes in the largest binary unit that leaves at least 1, for example "1.5 GiB"."""
    if size < 1024:
        return f"{size:.0f} B"
    for unit in ("KiB", "MiB", "GiB"):
        size /= 1024
        if size < 1023.95:
            return f"{size:.1f} {unit}"
    return f"{size / 1024:,.1f} TiB"


def readable_seconds(seconds: float) -> str:
    """A duration with three figures or so, for example "0.25 s", "12.3 s", "3 min 05 s"."""
    if seconds < 9.995:
        return f"{seconds:.2f} s"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours:,} h {minutes:02} min"
