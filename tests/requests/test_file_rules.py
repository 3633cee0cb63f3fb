"""What fails a file as a whole, and what is left to its run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from shoal.requests.file_rules import MOST_ERRORS, FileCheck, check_file
from shoal.types import ENDPOINTS
from tests.helpers.job_files import CHAT_URL, chat, completion, describe, make_model, write_lines


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model"))


def check(
    model: Path, folder: Path, lines: list[Any], url: str = CHAT_URL, **more: Any
) -> FileCheck:
    path = write_lines(folder / "in.jsonl", lines)
    given = {"names": (), "most_lines": 1000} | more
    return check_file(path, url, describe(str(model)), **given)


def test_a_good_file(model: Path, tmp_path: Path) -> None:
    found = check(model, tmp_path, [chat("a"), b"", chat("b")])
    assert found == FileCheck(requests=2, model="toy")


def test_mistakes_of_one_request_are_left_to_the_run(model: Path, tmp_path: Path) -> None:
    lines = [chat("a", temperature=9), chat("b", nonsense=1), chat("c", stop=3)]
    assert check(model, tmp_path, lines) == FileCheck(requests=3, model="toy")


def test_one_model_for_all_lines(model: Path, tmp_path: Path) -> None:
    lines = [chat("a"), chat("b", model="alias"), chat("c", model="else"), chat("d")]
    found = check(model, tmp_path, lines, names=("alias",))
    assert [(e.code, e.line, e.param) for e in found.errors] == [
        ("mismatched_model", 2, "body.model"),
        ("model_not_found", 3, "body.model"),
    ]
    assert check(model, tmp_path, lines[2:3] * 1, names=("*",)).errors == []


def test_urls_are_the_jobs_rooms(model: Path, tmp_path: Path) -> None:
    assert CHAT_URL in ENDPOINTS
    azure = chat("a") | {"url": "/chat/completions"}
    assert check(model, tmp_path, [azure]).errors == []
    (error,) = check(model, tmp_path, [completion("a")]).errors
    assert (error.code, error.line) == ("invalid_url", 1)


def test_so_many_errors_are_listed(model: Path, tmp_path: Path) -> None:
    found = check(model, tmp_path, [b"{}"] * 500)
    assert len(found.errors) == MOST_ERRORS


def test_too_many_lines(model: Path, tmp_path: Path) -> None:
    lines = [chat(f"c{i}") for i in range(4)]
    (error,) = check(model, tmp_path, lines, most_lines=3).errors
    assert (error.code, error.line) == ("too_many_lines", None)
    assert check(model, tmp_path, lines, most_lines=4).errors == []
