"""What Linux says of the processor."""

from __future__ import annotations

from pathlib import Path


def processor_field(name: str) -> str:
    """A field of the first processor in /proc/cpuinfo, such as "model name" or "vendor_id"; empty
    where there is none."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    fields = (line.split(":", 1) for line in lines if ":" in line)
    return next((value.strip() for field, value in fields if field.strip() == name), "")
