"""Several devices: an engine for each in a process of its own, and one job divided among them."""

from shoal.devices.group import DeviceGroup, make_engine
from shoal.devices.protocols import EngineProtocol, RunProtocol

__all__ = ["DeviceGroup", "EngineProtocol", "RunProtocol", "make_engine"]
