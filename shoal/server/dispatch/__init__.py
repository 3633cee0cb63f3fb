"""Threads of the server that have batches worked on, one for each process.

`runner` owns the engine's process and `gathering` chooses what it runs together; `clerk` owns the
other one. Both settle in the store what they are told.
"""

from shoal.server.dispatch.clerk import Clerk
from shoal.server.dispatch.gathering import Gathering
from shoal.server.dispatch.runner import Runner

__all__ = [
    "Clerk",
    "Gathering",
    "Runner",
]
