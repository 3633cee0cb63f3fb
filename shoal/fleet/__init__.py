"""The engines of a job, wherever they are: in this process, on this machine, on a Ray cluster."""

from shoal.fleet.engines import make_engine

__all__ = ["make_engine"]
