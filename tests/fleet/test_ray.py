"""A real Ray on this machine, several nodes: the answers of one engine, and who is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from shoal.devices import DeviceGroup
from shoal.devices.versions import versions_here
from shoal.engine.engine import Engine
from shoal.errors import ModelLoadError, OptionError
from shoal.fleet.engines import make_engine
from shoal.fleet.ray_actors import RayActors
from shoal.model.description import ModelDescription
from tests.devices.test_processes import mixed, ordered, same
from tests.fleet.conftest import OPTIONS
from tests.helpers.ray_clusters import add_node

pytest.importorskip("ray")


def test_ray(
    cluster: Any,
    engine: Engine,
    description: ModelDescription,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two engines on two nodes answer as one; a node whose packages do not fit is left out."""
    other = tmp_path / "safetensors-0.0.1.dist-info"
    other.mkdir()
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: safetensors\nVersion: 0.0.1\n")
    unfit = add_node(cluster, env_vars={"PYTHONPATH": str(tmp_path)})
    options = replace(OPTIONS, ray=cluster.address)
    group = make_engine(description, options)
    try:
        assert isinstance(group, DeviceGroup)
        assert isinstance(group.carrier, RayActors)
        assert group.carrier.resources == {"CPU": 1, "GPU": 0}
        assert len(group.ready) == 2
        assert caplog.text.count("is left out: nothing can be imported there as it is here") == 1
        for family in (0, 70):
            table = mixed(90, seed=family, family=family)
            run = group.run(table)
            same(ordered(run), ordered(engine.run(table)))
            assert all(seconds > 0 for seconds in run.stats.device_seconds)
            assert len(run.stats.device_seconds) == 2
    finally:
        group.close()
    cluster.remove_node(unfit)  # or a single actor may be placed there
    other_numpy = {**versions_here(), "numpy": "0.1"}
    monkeypatch.setattr("shoal.devices.group.versions_here", lambda: other_numpy)
    with pytest.raises(OptionError, match=r"it runs numpy \S+ instead of 0.1"):
        make_engine(description, replace(options, ray_actors=1))
    monkeypatch.undo()
    foreign = replace(description, fingerprint={**description.fingerprint, "config.json": "0"})
    with pytest.raises(ModelLoadError, match=r"not those .* config.json differ"):
        make_engine(foreign, replace(options, ray_actors=1))
