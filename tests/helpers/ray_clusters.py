"""A real Ray cluster of several nodes on this machine, and what a test does to it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

STORE_BYTES = 80_000_000
"""Of each node's object store; Ray takes no less."""


@contextmanager
def ray_cluster(*cpus: int) -> Iterator[Any]:
    """A head without CPUs, on which nothing is computed, and a node for each number of CPUs."""
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 0, "object_store_memory": STORE_BYTES, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        for count in cpus:
            add_node(cluster, count)
        yield cluster
    finally:
        import ray

        ray.shutdown()
        cluster.shutdown()


def add_node(cluster: Any, cpus: int = 1, **more: Any) -> Any:
    """A machine joins."""
    return cluster.add_node(num_cpus=cpus, object_store_memory=STORE_BYTES, **more)


@contextmanager
def connected(cluster: Any) -> Iterator[Any]:
    """The module ray, connected to the cluster."""
    import ray

    ray.init(address=cluster.address, logging_level=logging.ERROR)
    try:
        yield ray
    finally:
        ray.shutdown()
