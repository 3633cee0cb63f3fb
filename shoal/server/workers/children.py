"""Where the server's processes begin: what takes them long to import, the server never imports."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from shoal.processes import Parent
from shoal.server.server_options import Served


def engine(parent: Parent, served: Served) -> int:
    """See `shoal.server.workers.engine_process`."""
    _name("shoal-engine")
    from shoal.server.workers import engine_process

    return engine_process.main(parent, served)


def clerk(parent: Parent, served: Served) -> int:
    """See `shoal.server.workers.clerk_process`."""
    _name("shoal-clerk")
    from shoal.server.workers import clerk_process

    return clerk_process.main(parent, served)


def _name(name: str) -> None:
    """What `top` and `ps -o comm` call this process, where the system has such a thing."""
    with suppress(OSError):
        Path("/proc/self/comm").write_text(name)
