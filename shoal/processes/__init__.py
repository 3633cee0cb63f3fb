"""Processes that work for this one: started, spoken to, watched and ended."""

from shoal.processes.parent import EXIT_FAILED, Parent
from shoal.processes.workers import PATIENCE_SECONDS, Exited, WorkerProcess, WorkerProcesses

__all__ = [
    "EXIT_FAILED",
    "PATIENCE_SECONDS",
    "Exited",
    "Parent",
    "WorkerProcess",
    "WorkerProcesses",
    "how_it_ended",
]
