"""One job divided among several engines, and the engines of this machine's devices."""

from shoal.devices.group import DeviceGroup
from shoal.devices.local_processes import LocalProcesses
from shoal.devices.protocols import EngineProtocol, RunProtocol, SharedEngine, SharedRun

__all__ = [
    "DeviceGroup",
    "EngineProtocol",
    "LocalProcesses",
    "RunProtocol",
    "SharedEngine",
    "SharedRun",
]
