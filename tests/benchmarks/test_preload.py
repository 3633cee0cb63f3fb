"""vLLM gets the libraries its documentation asks for, and nobody else does."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.peers import preload
from benchmarks.peers.client import Worker

ANSWERS = """#!/bin/sh
read -r request
printf '{"versions": {"LD_PRELOAD": "%s"}}\\n' "$LD_PRELOAD"
"""


def make_environment(folder: Path, *, openmp: bool) -> Path:
    """One whose interpreter answers what it was to load first; returns what is there of OpenMP."""
    environment = folder / "peers" / "vllm"
    for name in ("bin", "lib"):
        (environment / name).mkdir(parents=True)
    python = environment / "bin" / "python"
    python.write_text(ANSWERS)
    python.chmod(0o755)
    library = environment / "lib" / "libiomp5.so"
    if openmp:
        library.touch()
    return library


@pytest.mark.parametrize("openmp", [True, False])
@pytest.mark.parametrize("allocator", ["libtcmalloc_minimal.so.4", None])
def test_what_there_is_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, allocator: str | None, openmp: bool
) -> None:
    monkeypatch.setattr(preload, "find_library", {"tcmalloc_minimal": allocator}.get)
    monkeypatch.delenv("SHOAL_BENCH_VLLM", raising=False)
    monkeypatch.delenv("LD_PRELOAD", raising=False)
    library = make_environment(tmp_path, openmp=openmp)
    expected = [*([allocator] if allocator else []), *([str(library)] if openmp else [])]
    with Worker("vllm", tmp_path, 1) as worker:
        assert worker.preload == expected
        assert worker.load(tmp_path, 1, 8)["LD_PRELOAD"] == ":".join(expected)


def test_ours_gets_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preload, "find_library", lambda name: "libtcmalloc_minimal.so.4")
    with Worker("shoal", tmp_path, 1) as worker:
        assert worker.preload == []
