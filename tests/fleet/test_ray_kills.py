"""Actors, engines, nodes and drivers that die; machines that come, go and are slow."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from shoal.devices import DeviceGroup
from shoal.devices.messages import Ready, Released, WorkerDied
from shoal.engine.engine import Engine
from shoal.fleet.engines import make_engine
from shoal.fleet.ray_actors import RayActors
from shoal.model.description import ModelDescription
from shoal.types import RequestTable
from tests.devices.test_processes import Listening, mixed, ordered, same
from tests.fleet.conftest import OPTIONS
from tests.helpers.ray_clusters import add_node, ray_cluster

pytest.importorskip("ray")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def actors(group: DeviceGroup) -> RayActors:
    assert isinstance(group.carrier, RayActors)
    return group.carrier


def pids(group: DeviceGroup, number: int) -> tuple[int, int]:
    """Of an actor and of its engine."""
    import ray

    handle = actors(group).actors[number].handle
    found: tuple[int, int] = ray.get(handle.pids.remote())
    return found


@contextmanager
def a_group(description: ModelDescription, cluster: Any, **more: Any) -> Iterator[DeviceGroup]:
    group = make_engine(description, replace(OPTIONS, ray=cluster.address, **more))
    assert isinstance(group, DeviceGroup)
    try:
        yield group
    finally:
        group.close()


def disturbed(
    group: DeviceGroup,
    table: RequestTable,
    disturb: Callable[[], None],
) -> list[Any]:
    """The completions of a run, disturbed once after its first ones."""
    done: list[Any] = []
    waiting = True
    for completions in group.run(table):
        done += completions
        if done and waiting:
            waiting = False
            disturb()
    assert len({c.request_index for c in done}) == len(done) == len(table)
    return sorted(done, key=lambda c: c.request_index)


def test_actor_engine_and_node_die(
    cluster: Any,
    engine: Engine,
    description: ModelDescription,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Each in a run of its own; then a node joins, takes over, and leaves."""
    table = mixed(400, seed=3, family=10)
    expected = ordered(engine.run(table))
    with a_group(description, cluster) as group:
        listening = Listening(group, monkeypatch)
        actor, _ = pids(group, 1)
        same(disturbed(group, table, lambda: os.kill(actor, signal.SIGKILL)), expected)
        assert [died.with_machine for died in listening.of(WorkerDied)] == [False]
        _, own = pids(group, 0)
        same(disturbed(group, table, lambda: os.kill(own, signal.SIGKILL)), expected)
        assert "was killed by SIGKILL" in listening.of(WorkerDied)[1].reason
        while len(group.ready) < 2:
            list(group.events(1.0))

        machine = next(iter(sorted(cluster.worker_nodes, key=lambda node: node.unique_id)))
        same(disturbed(group, table, lambda: cluster.remove_node(machine, False)), expected)
        assert listening.of(WorkerDied)[-1].with_machine
        assert "is gone with its machine" in caplog.text

        # It comes while a run is under way, and is given work of those that have some.
        listening.heard.clear()
        joined: list[Any] = []
        long = mixed(2000, seed=5, family=10)
        same(
            disturbed(group, long, lambda: joined.append(add_node(cluster))),
            ordered(engine.run(long)),
        )
        assert listening.of(Ready)
        assert any(len(released.requests) for released in listening.of(Released))
        # It leaves as an autoscaler would have it, which takes care to end what runs there.
        same(
            disturbed(group, long, lambda: cluster.remove_node(joined[0], True)),
            ordered(engine.run(long)),
        )
        assert listening.of(WorkerDied)[-1].with_machine


POISON = """
import importlib.util, os, signal, sys

class Poison:
    def find_spec(self, name, path=None, target=None):
        if name != "shoal.engine.engine":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        load = spec.loader.exec_module

        def exec_module(module):
            load(module)
            iterate = module.Run.__iter__

            def poisoned(run):
                for completions in iterate(run):
                    yield completions
                    if (run._table.tokens == TOKEN).any():
                        os.kill(os.getpid(), signal.SIGKILL)

            module.Run.__iter__ = poisoned

        spec.loader.exec_module = exec_module
        return spec

sys.meta_path.insert(0, Poison())
"""


def test_a_poisoned_row_fails_alone(
    engine: Engine, description: ModelDescription, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It kills every engine that is given it: its error, and everybody else's answers."""
    table = mixed(60, seed=11, family=10)
    expected = ordered(engine.run(table))
    token = 1  # of nobody else's prompt
    table.tokens[table.offsets[33]] = token
    (tmp_path / "sitecustomize.py").write_text(POISON.replace("TOKEN", str(token)))
    with ray_cluster() as cluster:
        for _ in range(2):
            add_node(cluster, env_vars={"PYTHONPATH": str(tmp_path)})
        with a_group(description, cluster) as group:
            done = ordered(group.run(table))
    assert [c.request_index for c in done if c.error is not None] == [33]
    assert done[33].error is not None
    assert done[33].error.code == "engine_died"
    same(done[:33] + done[34:], expected[:33] + expected[34:])
    assert 4 <= caplog.text.count("was killed by SIGKILL") <= 10


def test_a_slow_node_is_relieved(
    cluster: Any,
    engine: Engine,
    description: ModelDescription,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    table = mixed(400, seed=6, family=10)
    with a_group(description, cluster) as group:
        _, slow = pids(group, 1)
        over = threading.Event()

        def hold() -> None:
            while not over.wait(0.02):
                os.kill(slow, signal.SIGSTOP)
                time.sleep(0.3)
                os.kill(slow, signal.SIGCONT)

        holder = threading.Thread(target=hold)
        listening = Listening(group, monkeypatch)
        holder.start()
        try:
            same(ordered(group.run(table)), ordered(engine.run(table)))
        finally:
            over.set()
            holder.join()
        relieved = [n for n, m in listening.heard if isinstance(m, Released) and len(m.requests)]
        assert 1 in relieved


def test_a_model_split_inside_one_node(engine: Engine, description: ModelDescription) -> None:
    """Each engine is a bundle of two CPUs, one for each of its processes."""
    options = replace(OPTIONS, tensor_parallel=2)
    split = ModelDescription.load(description.id, options)
    table = mixed(60, seed=8)
    with ray_cluster(2, 2) as cluster, a_group(split, cluster, tensor_parallel=2) as group:
        assert actors(group).resources == {"CPU": 2, "GPU": 0}
        assert len(group.ready) == 2
        assert all(actor.group is not None for actor in actors(group).actors.values())
        same(ordered(group.run(table)), ordered(engine.run(table)))
