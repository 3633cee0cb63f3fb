"""Pieces on a real Ray: families whole, planned whole, and a driver that is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shoal.errors import OptionError

pytest.importorskip("ray", reason="Ray is not installed: pip install 'shoal[ray]'")

import shoal.ray as shoal_ray
from shoal.ray.data_digest import block_digest

FAMILIES, MEMBERS = 12, 8
CUT = shoal_ray.PieceConfig(rows_per_piece=24, concurrency=2)
CONFIG = shoal_ray.ProcessorConfig(column="messages", chat=True, rows_per_plan=None)
DRIVER = """
import sys
import ray, ray.data
import shoal.ray
ray.init(
    address="local", num_cpus=4, include_dashboard=False, object_store_memory=200_000_000,
    log_to_driver=False,
)
pieces, checkpoint, output = sys.argv[1:]
config = shoal.ray.ProcessorConfig(
    engine_kwargs={"dtype": "float32", "device": "cpu", "kv_memory": "8MiB"}, column="messages",
    chat=True, sampling_params={"temperature": 0.0, "max_tokens": 8}, rows_per_plan=None,
)
dataset = shoal.ray.processor(config)(shoal.ray.read_pieces(pieces, checkpoint))
dataset.write_parquet(output)
"""


def rows() -> list[dict[str, Any]]:
    """Members of families, far from each other."""
    return [
        {"n": m * FAMILIES + f, "family": f, "messages": [{"role": "user", "content": text}]}
        for m in range(MEMBERS)
        for f in range(FAMILIES)
        for text in [f"{chr(97 + f)} story about the same thing, over and over: {m}"]
    ]


@pytest.fixture(scope="module")
def pieces(ray_data: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = str(tmp_path_factory.mktemp("ray") / "pieces")
    shoal_ray.partition(ray_data.from_items(rows(), override_num_blocks=6), path, CONFIG, CUT)
    return path


def test_a_block_is_a_piece_of_whole_families(ray_data: Any, pieces: str) -> None:
    def seen(table: Any) -> dict[str, list[Any]]:
        return {"families": [sorted(set(table["family"].tolist()))], "rows": [len(table["n"])]}

    found = shoal_ray.read_pieces(pieces).map_batches(seen, batch_size=None).take_all()
    assert len(found) == 4
    assert Counter(f for row in found for f in row["families"]) == Counter(range(FAMILIES))
    assert sum(row["rows"] for row in found) == FAMILIES * MEMBERS
    assert max(row["rows"] for row in found) <= 1.35 * 24


def test_rows_are_those_given_and_have_ids(ray_data: Any, pieces: str) -> None:
    found = shoal_ray.read_pieces(pieces).take_all()
    assert sorted(row["n"] for row in found) == list(range(FAMILIES * MEMBERS))
    assert len({row["row_id"] for row in found}) == FAMILIES * MEMBERS
    by_number = {row["n"]: row["messages"] for row in found}
    assert all(by_number[row["n"]] == row["messages"] for row in rows())


def test_a_partition_is_done_once_and_anew_if_cut_off(ray_data: Any, tmp_path: Path) -> None:
    path, dataset = tmp_path / "pieces", ray_data.from_items(rows()[:30])
    done = shoal_ray.partition(dataset, str(path), CONFIG, CUT)
    before = sorted(path.rglob("*.parquet"))
    assert shoal_ray.partition(dataset, str(path), CONFIG, CUT) == done
    assert sorted(path.rglob("*.parquet")) == before
    with pytest.raises(OptionError, match="cut otherwise"):
        shoal_ray.partition(dataset, str(path), CONFIG, shoal_ray.PieceConfig(rows_per_piece=9))
    (path / "pieces.json").unlink()
    with pytest.raises(OptionError, match="again if it was cut off"):
        shoal_ray.read_pieces(str(path))
    assert shoal_ray.partition(dataset, str(path), CONFIG, CUT).num_rows == 30
    (path / "pieces.json").unlink()
    (path / "notes").write_text("mine")
    with pytest.raises(OptionError, match="no piece"):
        shoal_ray.partition(dataset, str(path), CONFIG, CUT)
    assert (path / "notes").exists()


def test_pieces_of_other_rows_are_not_used(ray_data: Any, tmp_path: Path) -> None:
    path, given = str(tmp_path / "pieces"), rows()[:12]
    done = shoal_ray.partition(ray_data.from_items(given), path, CONFIG, CUT)
    again = ray_data.from_items(given[::-1], override_num_blocks=3)
    assert shoal_ray.partition(again, path, CONFIG, CUT) == done
    other = [*given[:-1], {**given[-1], "family": 99}]
    for changed in (other, given[:-1], [*given, given[0]]):
        with pytest.raises(OptionError, match=r"different: data\)"):
            shoal_ray.partition(ray_data.from_items(changed), path, CONFIG, CUT)
    templated = replace(CONFIG, engine_kwargs={"chat_template": "{{ messages }}"})
    with pytest.raises(OptionError, match=r"different: engine_kwargs\)"):
        shoal_ray.partition(ray_data.from_items(given), path, templated, CUT)
    roomier = replace(CONFIG, engine_kwargs={"kv_memory": "1GiB"})  # says nothing about prompts
    assert shoal_ray.partition(ray_data.from_items(given), path, roomier, CUT) == done


def test_a_digest_is_of_rows_however_they_come() -> None:
    of = [{"a": 1, "b": [b"x", None]}, {"a": 2, "b": []}, {"a": 2, "b": []}]
    table = pa.Table.from_pylist(of)
    whole = block_digest(table)["digest"]
    assert whole == block_digest(table.take([2, 0, 1]))["digest"]
    for other in (table.slice(0, 2), table.take([0, 0, 1]), table.rename_columns(["a", "c"])):
        assert block_digest(other)["digest"] != whole


def test_names_that_are_taken_are_refused(ray_data: Any, tmp_path: Path) -> None:
    taken = ray_data.from_items([{"messages": [], "piece": 1}])
    with pytest.raises(OptionError, match="rename"):
        shoal_ray.partition(taken, str(tmp_path / "a"), CONFIG, CUT)
    without = ray_data.from_items([{"messages": []}])
    cut = shoal_ray.PieceConfig(id_column="key")
    with pytest.raises(OptionError, match="'key'"):
        shoal_ray.partition(without, str(tmp_path / "b"), CONFIG, cut)


@pytest.mark.slow
def test_a_killed_driver_loses_no_row_and_doubles_none(pieces: str, tmp_path: Path) -> None:
    script = tmp_path / "driver.py"
    script.write_text(DRIVER)
    output, checkpoint = tmp_path / "out", tmp_path / "checkpoint"
    command = [sys.executable, str(script), pieces, str(checkpoint), str(output)]
    with subprocess.Popen(command, start_new_session=True) as first:
        deadline = time.monotonic() + 240
        while not list(output.glob("*.parquet")) and time.monotonic() < deadline:
            assert first.poll() is None
            time.sleep(0.02)
        os.kill(first.pid, signal.SIGKILL)
    begun = written(output)
    assert 0 < len(begun) < FAMILIES * MEMBERS
    for _ in range(2):  # the second time nothing is left
        subprocess.run(command, check=True, timeout=400)
        found = written(output)
        assert sorted(found) == list(range(FAMILIES * MEMBERS))
    assert json.dumps(begun) != json.dumps(found)


def written(output: Path) -> list[int]:
    """The numbers of all rows in the files."""
    return [n for path in output.glob("*.parquet") for n in pq.read_table(path)["n"].to_pylist()]
