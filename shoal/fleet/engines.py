"""Which engine a job has, by its options."""

from __future__ import annotations

from shoal.config import EngineOptions
from shoal.devices import DeviceGroup, LocalProcesses, SharedEngine
from shoal.engine.engine import Engine
from shoal.fleet.ray_actors import RayActors
from shoal.fleet.ray_cluster import RayCluster
from shoal.model.description import ModelDescription


def make_engine(description: ModelDescription, options: EngineOptions) -> SharedEngine:
    """The engine for these options: in this process, in several of this machine, or on Ray.

    Raises:
        ModelError, OptionError: see `Engine`, and `RayCluster` for a cluster that cannot be used.
        DeviceLostError: see `DeviceGroup`.
    """
    kind = description.device.type
    if options.ray is not None:
        cluster = RayCluster(options.ray)
        return DeviceGroup(description, options, RayActors(cluster, kind, options))
    if options.devices == 1:
        return Engine(description, options)
    carrier = LocalProcesses(kind, options.devices, options.tensor_parallel)
    return DeviceGroup(description, options, carrier)
