"""The files that start a cluster elsewhere: nothing runs them here, so they are read closely."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from shoal.cli import app
from shoal.config import EngineOptions

EXAMPLES = Path(__file__).parents[2] / "examples" / "ray"


def options_of(command: list[str]) -> dict[str, Any]:
    """What `shoal run` makes of a command line, by its own parser."""
    assert command[:2] == ["shoal", "run"]
    run = typer.main.get_command(app).commands["run"]  # type: ignore[attr-defined]
    params: dict[str, Any] = run.make_context("run", command[2:]).params
    return params


@pytest.fixture(scope="module")
def spec() -> dict[str, Any]:
    job = yaml.safe_load((EXAMPLES / "kuberay.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    found: dict[str, Any] = job["spec"]
    return found


def test_the_kuberay_job_is_whole(spec: dict[str, Any]) -> None:
    cluster = spec["rayClusterSpec"]
    head, workers = cluster["headGroupSpec"], cluster["workerGroupSpecs"]
    assert head["rayStartParams"]["num-cpus"] == "0", "the head computes nothing"
    for group in (head, *workers):
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        volumes = {volume["name"] for volume in pod["volumes"]}
        assert {mount["name"] for mount in container["volumeMounts"]} == volumes
        assert container["image"] == "IMAGE"
        assert set(container["resources"]["limits"]) <= {"cpu", "memory", "nvidia.com/gpu"}
    for group in workers:
        assert group["groupName"]
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]


def test_the_kuberay_job_runs_as_many_engines_as_it_can_have_gpus(spec: dict[str, Any]) -> None:
    options = options_of(shlex.split(spec["entrypoint"]))
    (group,) = spec["rayClusterSpec"]["workerGroupSpecs"]
    (container,) = group["template"]["spec"]["containers"]
    gpus = group["maxReplicas"] * int(container["resources"]["limits"]["nvidia.com/gpu"])
    assert (options["ray"], options["device"], options["ray_actors"]) == ("auto", "cuda", gpus)
    EngineOptions(ray=options["ray"], device="cuda", ray_actors=options["ray_actors"])
    mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
    paths = [options["model"], *map(str, (options["input"], options["output"]))]
    assert all(any(path.startswith(f"{mount}/") for mount in mounts) for path in paths)


@pytest.mark.parametrize("nodes", [1, 3])
def test_the_slurm_script_starts_ray_on_each_node_and_the_job_on_the_first(
    tmp_path: Path, nodes: int
) -> None:
    """With commands in SLURM's place that write down what they are told."""
    hosts = "\\n".join(f"host{number}" for number in range(nodes))
    said = tmp_path / "said"
    for name, does in (
        ("scontrol", f"printf '{hosts}\\n'"),
        ("srun", f'echo "$*" >> {said}'),
        ("sleep", "wait"),
    ):
        (tmp_path / name).write_text(f"#!/bin/bash\n{does}\n")
        (tmp_path / name).chmod(0o755)
    script = EXAMPLES / "slurm.sh"
    path = f"{tmp_path}:{os.environ['PATH']}"
    subprocess.run(
        ["bash", str(script)],
        check=True,
        timeout=60,
        env={"PATH": path, "SLURM_JOB_NODELIST": "host[0-9]"},
    )
    commands = [line.split() for line in said.read_text().splitlines()]
    started = [command for command in commands if "start" in command]
    assert (
        sum(int(c.removeprefix("--nodes=")) for line in started for c in line if "--nodes=" in c)
        == nodes
    )
    (job,) = [command for command in commands if "shoal" in command]
    assert "--nodelist=host0" in job
    options = options_of(job[job.index("shoal") :])
    assert options["ray"] == "host0:6379"
    assert any("--head" in line and "--port=6379" in line for line in started)
    assert nodes == 1 or any("--address=host0:6379" in line for line in started)
    lines = script.read_text().splitlines()
    first = next(at for at, line in enumerate(lines) if line and not line.startswith("#"))
    assert not any(line.startswith("#SBATCH") for line in lines[first:]), "sbatch stops there"
