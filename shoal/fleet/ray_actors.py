"""Engines in actors of a Ray cluster: Ray says where they are, we say what becomes of them."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Set
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from shoal.arrow import require_pyarrow
from shoal.config import EngineOptions
from shoal.devices.messages import Assign, FromWorker, ToWorker, WorkerDied, WorkerFailed
from shoal.errors import OptionError
from shoal.fleet.piece_columns import piece_columns
from shoal.fleet.ray_actor import Piece, RayActor
from shoal.fleet.ray_cluster import RayCluster, RayNode

HEAR_SECONDS = 2.0
"""How long an actor waits for its engine's next word before it answers that there is none."""
LOOK_SECONDS = 1.0
"""Between two looks at which machines there are."""
WARN_SECONDS = 30.0
"""Between two warnings that no machine has room for any engine."""

_log = logging.getLogger(__name__)


@dataclass
class _Actor:
    """An actor that was asked of Ray.

    Attributes:
        handle: Ray's.
        group: the placement group it is in, or None.
        hearing: the answer of `hear` under way; None: its engine has ended.
        node: Ray's id of the machine it is on; None: it has said nothing yet.
    """

    handle: Any
    group: Any
    hearing: Any = None
    node: str | None = None


class RayActors:
    """A `Carrier` whose workers are Ray actors, each on whatever machine has room for it.

    Without a stated number there are as many as the machines have room for, and more when machines
    join. Ray restarts and repeats nothing: a worker that died is started again by who runs the job.
    """

    elastic = True

    def __init__(self, cluster: RayCluster, kind: str, options: EngineOptions) -> None:
        """
        Args:
            kind: "cpu" or "cuda".

        Raises:
            OptionError: no machine can have an engine of these options, or pyarrow is missing.
        """
        require_pyarrow("a job on Ray needs")
        self.workers: dict[int, str] = {}
        """What each is called in messages; with its machine, once that is known."""
        self.actors: dict[int, _Actor] = {}
        self._cluster, self._most = cluster, options.ray_actors
        nodes = cluster.nodes()
        self.resources = resources_of(kind, options, nodes)
        """Of each actor, under Ray's names."""
        self._in_bundle = options.tensor_parallel > 1
        self._gone: dict[int, str | None] = {}
        """The machines of workers that died, as long as they are not started again."""
        self._looked = self._warned = time.monotonic()
        for number in range(options.ray_actors or max(1, self._room(nodes))):
            self.workers[number] = f"ray:{number}"

    @property
    def running(self) -> Set[int]:
        """See `Carrier`."""
        return self.actors.keys()

    def start(self, number: int) -> None:
        """Ask Ray for a worker's actor, or end it and ask for another."""
        self._cluster.connect()
        self._end(number)
        self._gone.pop(number, None)
        self.workers[number] = f"ray:{number}"
        group = self._cluster.bundle(self.resources) if self._in_bundle else None
        cls = self._cluster.actor(RayActor, self.resources, group)
        handle = cls.remote(self.workers[number], max(1, self.resources["CPU"]))
        self.actors[number] = actor = _Actor(handle, group)
        self._listen(actor)

    def send(self, number: int, message: ToWorker) -> None:
        """Send a message; a piece's columns go into the object store, and from there once."""
        actor = self.actors.get(number)
        if actor is None:
            return
        if isinstance(message, Assign):
            columns = self._cluster.ray.put(piece_columns(message))
            told: ToWorker | Piece = Piece(columns)
        else:
            told = message
        actor.handle.tell.options(concurrency_group="tell").remote(told)

    def events(self, seconds: float) -> Iterator[tuple[int, FromWorker]]:
        """See `Carrier`."""
        if time.monotonic() - self._looked > LOOK_SECONDS:
            self._look()
        hearing = {actor.hearing: n for n, actor in self.actors.items() if actor.hearing}
        if not hearing:
            time.sleep(seconds)
            return
        wait = self._cluster.ray.wait
        ready, others = wait(list(hearing), num_returns=1, timeout=seconds)
        if ready and others:
            ready += wait(others, num_returns=len(others), timeout=0)[0]
        for answer in ready:
            number = hearing[answer]
            if number in self.actors and self.actors[number].hearing is answer:
                for message in self._heard(number, answer):
                    yield number, message

    def stop(self) -> None:
        """End all actors, and the connection if it was begun for them. Idempotent."""
        if self._cluster.ray.is_initialized():
            for number in list(self.actors):
                self._end(number)
        self.actors.clear()
        self._gone.clear()
        self._cluster.leave()

    def _listen(self, actor: _Actor) -> None:
        actor.hearing = actor.handle.hear.options(concurrency_group="hear").remote(HEAR_SECONDS)

    def _heard(self, number: int, answer: Any) -> list[FromWorker]:
        """What an actor says; its death, if it says nothing any more."""
        actor = self.actors[number]
        try:
            news = self._cluster.ray.get(answer)
        except Exception as error:  # whatever Ray raises, nothing more is heard of this actor
            self._end(number)
            self._gone[number] = actor.node
            return [self._death(actor, error)]
        if actor.node is None:
            self.workers[number] = f"ray:{number} on {news.host}"
        actor.node = news.node
        if news.failed is not None:
            actor.hearing = None
            why = f"nothing can be imported there as it is here: {news.failed[:300]}"
            return [WorkerFailed(OptionError(why))]
        if any(isinstance(message, WorkerDied) for message in news.messages):
            actor.hearing = None  # it keeps its place until it is started again
        else:
            self._listen(actor)
        return list(news.messages)

    def _death(self, actor: _Actor, error: Exception) -> WorkerDied:
        """The end of an actor in words."""
        alive = {node.id for node in self._cluster.nodes()}
        lost = actor.node is not None and actor.node not in alive
        unreachable = isinstance(error, self._cluster.ray.exceptions.ActorUnavailableError)
        if lost or unreachable:
            return WorkerDied("is gone with its machine", with_machine=True)
        said = " ".join(str(error).split())
        return WorkerDied(f"ended: {said[:300]}")

    def _end(self, number: int) -> None:
        """End an actor, if there is one, and give its place back."""
        actor = self.actors.pop(number, None)
        if actor is None:
            return
        with suppress(Exception):  # of one that is gone
            self._cluster.ray.kill(actor.handle, no_restart=True)
        if actor.group is not None:
            with suppress(Exception):
                self._cluster.remove(actor.group)

    # Machines that come and go.

    def _look(self) -> None:
        """Start workers where there is room for more; warn if there is none for any."""
        self._looked = now = time.monotonic()
        nodes = self._cluster.nodes()
        alive = {node.id for node in nodes}
        placed = [actor for actor in self.actors.values() if actor.node in alive]
        if placed:
            self._warned = now
        elif now - self._warned > WARN_SECONDS:
            self._warned = now
            _log.warning(
                "no machine of the Ray cluster has begun to load, which takes %s; waiting",
                self._wanted(),
            )
        if self._most is not None:
            return
        # One that was given up keeps its place as long as its machine is there, as far as is known.
        kept = [node for node in self._gone.values() if node is None or node in alive]
        taken = len(self.actors) + len(kept)
        for number in range(len(self.workers), len(self.workers) + self._room(nodes) - taken):
            self.start(number)

    def _room(self, nodes: list[RayNode]) -> int:
        return sum(node.room_for(self.resources["CPU"], self.resources["GPU"]) for node in nodes)

    def _wanted(self) -> str:
        return " and ".join(f"{count} {name}" for name, count in self.resources.items() if count)


def resources_of(kind: str, options: EngineOptions, nodes: list[RayNode]) -> dict[str, int]:
    """What each engine takes of its machine, under Ray's names.

    On CPUs all that the smallest machine has, unless it is stated; machines without any are not
    meant to compute.

    Raises:
        OptionError: a model would have to be split over several machines, or no machine has so many
            CPUs.
    """
    gpus = options.tensor_parallel if kind == "cuda" else 0
    most = max((node.gpus for node in nodes), default=0)
    if most < gpus <= sum(node.gpus for node in nodes):
        raise OptionError(
            f"tensor_parallel {gpus}: the largest machine of the cluster has {most} GPUs. A model "
            "is split inside one machine only, because its devices exchange every layer's results."
        )
    if kind == "cuda":
        return {"CPU": options.ray_cpus or gpus, "GPU": gpus}
    cpus = [node.cpus for node in nodes if node.cpus]
    if options.ray_cpus and cpus and max(cpus) < options.ray_cpus:
        raise OptionError(
            f"ray_cpus {options.ray_cpus}: the largest machine of the cluster has {max(cpus)}."
        )
    return {"CPU": options.ray_cpus or min(cpus, default=1), "GPU": 0}
