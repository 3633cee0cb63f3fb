"""Several devices: an engine for each in a process of its own, and one job divided among them."""

from shoal.devices.group import DeviceGroup, make_engine
from shoal.devices.protocols import AnyEngine, AnyRun

__all__ = ["AnyEngine", "AnyRun", "DeviceGroup", "make_engine"]
