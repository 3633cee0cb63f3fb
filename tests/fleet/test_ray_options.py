"""What is asked of Ray, what is refused before anything starts, and what travels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from shoal import LLM
from shoal.config import EngineOptions
from shoal.devices.messages import Assign
from shoal.devices.versions import differences, versions_here
from shoal.errors import OptionError
from shoal.fleet.piece_columns import assigned_piece, piece_columns
from shoal.fleet.ray_actors import resources_of
from shoal.fleet.ray_cluster import RayNode
from shoal.jobs import plan_job
from tests.devices.test_processes import mixed


def nodes(*sizes: tuple[int, int]) -> list[RayNode]:
    return [RayNode(str(n), f"host{n}", *size) for n, size in enumerate(sizes)]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"ray_actors": 2}, "ray_actors belongs to ray"),
        ({"ray_cpus": 2}, "ray_cpus belongs to ray"),
        ({"ray": "ray://head:10001"}, "an address of Ray Client"),
        ({"ray": ""}, "ray must be an address"),
        ({"ray": "auto", "devices": 2}, "On Ray give ray_actors 2"),
        ({"ray": "auto", "ray_actors": 0}, "ray_actors must be a whole number of at least 1"),
        ({"ray": "auto", "ray_cpus": 1.5}, "ray_cpus must be a whole number of at least 1"),
    ],
)
def test_what_does_not_go_together(options: dict[str, Any], said: str) -> None:
    with pytest.raises(OptionError, match=said):
        EngineOptions(**options)


def test_no_cluster_at_the_address() -> None:
    with pytest.raises(OptionError, match=r"ray '127.0.0.1:9': no cluster can be reached there"):
        LLM(ray="127.0.0.1:9")


def test_a_plan_starts_nothing(tmp_path: Any) -> None:
    with pytest.raises(OptionError, match="Give devices N"):
        plan_job(tmp_path / "in.jsonl", None, EngineOptions(ray="auto"))


def test_what_each_engine_takes() -> None:
    ray = EngineOptions(ray="auto")
    assert resources_of("cpu", ray, nodes((0, 0), (8, 0), (4, 0))) == {"CPU": 4, "GPU": 0}
    assert resources_of("cuda", ray, nodes((8, 2))) == {"CPU": 1, "GPU": 1}
    split = EngineOptions(ray="auto", tensor_parallel=4, ray_cpus=6)
    assert resources_of("cuda", split, nodes((8, 2), (8, 4))) == {"CPU": 6, "GPU": 4}
    # With machines yet to come nothing is known.
    assert resources_of("cuda", split, nodes((8, 0))) == {"CPU": 6, "GPU": 4}
    with pytest.raises(OptionError, match="largest machine of the cluster has 2 GPUs"):
        resources_of("cuda", split, nodes((8, 2), (8, 2)))
    with pytest.raises(OptionError, match=r"ray_cpus 6: the largest .* has 4"):
        resources_of("cpu", EngineOptions(ray="auto", ray_cpus=6), nodes((4, 0)))


def test_how_many_a_machine_has_room_for() -> None:
    big, small, none = nodes((16, 8), (3, 8), (8, 0))
    assert [node.room_for(1, 2) for node in (big, small, none)] == [4, 3, 0]
    assert [node.room_for(4, 0) for node in (big, small, none)] == [4, 0, 2]


def test_a_piece_travels_whole() -> None:
    table = mixed(40, seed=2)
    requests = np.array([1, 2, 7, 30])
    sent = Assign(table.select(requests), requests)
    found = assigned_piece(piece_columns(sent))
    assert found.requests.tolist() == requests.tolist()
    assert list(found.table.params) == list(sent.table.params)
    assert found.table.job_seed == 99
    for name, column in vars(sent.table).items():
        if isinstance(column, np.ndarray):
            there = getattr(found.table, name)
            assert there.dtype == column.dtype, name
            assert there.tolist() == column.tolist(), name
            assert there.flags.writeable, name


def test_versions_are_compared() -> None:
    here = versions_here()
    assert {"python", "shoal", "torch", "transformers", "numpy"} <= here.keys()
    assert differences(here, versions_here()) == []
    assert differences({"a": "1", "b": "2"}, {"a": "1", "b": "3"}) == ["b 3 instead of 2"]
    assert differences({"a": "1"}, {}) == ["a none instead of 1"]
