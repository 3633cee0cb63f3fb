from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from shoal.errors import JobError, OptionError
from shoal.prompts.token_columns import TokenColumns
from shoal.prompts.token_files import is_token_file, open_tokens

PROMPTS = [[1, 2, 3], [4], [5, 6]]


def lists(columns: TokenColumns) -> list[list[int]]:
    return [p.tolist() for p in np.split(columns.tokens, columns.offsets[1:-1])]


def write_arrow(path: Path, prompts: list[object], *, name: str, stream: bool = False) -> None:
    table = pa.table({"id": range(len(prompts)), name: pa.array(prompts, pa.list_(pa.int32()))})
    make = pa.ipc.new_stream if stream else pa.ipc.new_file
    with make(str(path), table.schema) as writer:
        writer.write_table(table)


def mapped_bytes(path: Path) -> bool:
    return str(path) in Path("/proc/self/maps").read_text()


def test_by_name() -> None:
    assert is_token_file(Path("a.arrow"))
    assert is_token_file(Path("a.npy"))
    assert not is_token_file(Path("a.jsonl"))


@pytest.mark.parametrize("stream", [False, True], ids=["file", "stream"])
def test_arrow(tmp_path: Path, stream: bool) -> None:
    path = tmp_path / "tokens.arrow"
    write_arrow(path, PROMPTS, name="prompt_token_ids", stream=stream)
    columns = open_tokens(path)
    assert lists(columns) == PROMPTS
    assert not columns.tokens.flags.owndata
    if sys.platform == "linux":
        assert mapped_bytes(path), "the file is mapped as long as the columns live"


def test_numpy_rows(tmp_path: Path) -> None:
    np.save(tmp_path / "tokens.npy", np.arange(6, dtype=np.int32).reshape(2, 3))
    columns = open_tokens(tmp_path / "tokens.npy")
    assert lists(columns) == [[0, 1, 2], [3, 4, 5]]
    assert not columns.tokens.flags.owndata
    assert not columns.tokens.flags.writeable


def test_numpy_with_offsets(tmp_path: Path) -> None:
    np.save(tmp_path / "ids.npy", np.arange(1, 7, dtype=np.int32))
    with pytest.raises(JobError, match=r"offsets\.npy"):
        open_tokens(tmp_path / "ids.npy")
    np.save(tmp_path / "offsets.npy", np.array([0, 3, 4, 6]))
    assert lists(open_tokens(tmp_path / "ids.npy")) == PROMPTS
    np.save(tmp_path / "offsets.npy", np.array([0, 3, 3, 6]))
    with pytest.raises(JobError, match=r"ids\.npy: prompts\[1\] is empty"):
        open_tokens(tmp_path / "ids.npy")


@pytest.mark.parametrize(
    ("array", "what"),
    [
        (np.zeros((2, 3), dtype=np.int64), "int64"),
        (np.zeros((2, 3, 4), dtype=np.int32), "in 3"),
        (np.zeros((2, 3), dtype=np.int32, order="F"), "C order"),
        (np.zeros((2, 0), dtype=np.int32), "empty"),
        (np.array(["text"]), "int32"),
        (np.array([{}]), "Python objects"),
    ],
)
def test_other_arrays_are_refused(tmp_path: Path, array: np.ndarray, what: str) -> None:
    np.save(tmp_path / "tokens.npy", array)
    with pytest.raises(JobError, match=what):
        open_tokens(tmp_path / "tokens.npy")


def test_what_is_no_such_file(tmp_path: Path) -> None:
    for name in ("gone.npy", "gone.arrow"):
        with pytest.raises(JobError, match="gone"):
            open_tokens(tmp_path / name)
    for name in ("text.npy", "text.arrow", "empty.npy", "empty.arrow"):
        (tmp_path / name).write_text("some text, no array" if name.startswith("text") else "")
        with pytest.raises(JobError, match=name):
            open_tokens(tmp_path / name)
    np.savez(tmp_path / "archive.npz", tokens=np.zeros(3, dtype=np.int32))
    (tmp_path / "archive.npz").rename(tmp_path / "archive.npy")
    with pytest.raises(JobError, match="archive of arrays"):
        open_tokens(tmp_path / "archive.npy")


def test_wrong_columns(tmp_path: Path) -> None:
    path = tmp_path / "tokens.arrow"
    write_arrow(path, PROMPTS, name="input_ids")
    with pytest.raises(JobError, match="'prompt_token_ids'; its columns are: id, input_ids"):
        open_tokens(path)
    write_arrow(path, [[1], None], name="prompt_token_ids")
    with pytest.raises(JobError, match=r"prompts\[1\] is null"):
        open_tokens(path)


def test_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_arrow(tmp_path / "tokens.arrow", PROMPTS, name="prompt_token_ids")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(OptionError, match=r"shoal\[arrow\]"):
        open_tokens(tmp_path / "tokens.arrow")
