from __future__ import annotations

import fcntl
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shoal.disk import ContentDigest
from shoal.errors import InternalError, JobError, OutputLockedError, OutputWriteError
from shoal.jobs import journal as journal_module
from shoal.jobs.frames import Frame, FrameKind, decode_frame, job_key
from shoal.jobs.header import JobHeader
from shoal.jobs.journal import FinishedJob, Journal
from shoal.types import RequestCounts
from tests.helpers.job_files import ForkedProcess

HEADER = JobHeader("ab", 10, {"config.json": "1"}, {"dtype": "float32"}, job_seed=4)
FINISHED = (RequestCounts(500, 499, 1), ContentDigest("ab", 7), None)
DONE, FAILED, REJECTED = FrameKind.done, FrameKind.failed, FrameKind.rejected


@contextmanager
def opened(path: Path) -> Iterator[Journal]:
    journal = Journal(path)
    try:
        yield journal
    finally:
        journal.close()


def record(line: int) -> bytes:
    return b'{"line": %d}' % line


def fill(path: Path, kinds: dict[int, FrameKind]) -> None:
    with opened(path) as journal:
        journal.begin(HEADER)
        for line, kind in kinds.items():
            journal.append(kind, line, record(line))
        journal.flush()


def results(path: Path, lines: int) -> set[int]:
    with opened(path) as journal:
        return {line for line in range(lines) if journal.has_record(line)}


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "j"
    fill(path, {2: DONE, 0: FAILED, 1: REJECTED, 7: DONE})
    with opened(path) as journal:
        assert journal.header == HEADER
        assert journal.finished is None
        assert [journal.has_record(line) for line in range(9)] == [
            True, False, True, False, False, False, False, True, False,
        ]  # fmt: skip
        assert journal.counts == RequestCounts(3, 2, 1)
        journal.append(REJECTED, 1, record(1))
        journal.flush()
        frames = list(journal.records(range(3)))
    assert frames == [Frame(k, i, record(i)) for i, k in enumerate([FAILED, REJECTED, DONE])]


def test_no_job_yet_then_restart(tmp_path: Path) -> None:
    path = tmp_path / "j"
    with opened(path) as journal:
        assert journal.header is None
        journal.begin(HEADER)
        journal.append(DONE, 0, b"{}")
        journal.flush()
        journal.begin(HEADER)
        assert not journal.has_record(0)
        assert journal.counts.total == 0
    assert results(path, 1) == set()


def test_finished_marker_is_small_and_remembered(tmp_path: Path) -> None:
    path = tmp_path / "j"
    fill(path, dict.fromkeys(range(500), DONE))
    with opened(path) as journal:
        journal.finish(*FINISHED)
    assert path.stat().st_size < 1000
    with opened(path) as journal:
        assert journal.finished == FinishedJob(*FINISHED)
        assert journal.header == HEADER


def test_one_record_per_line(tmp_path: Path) -> None:
    with opened(tmp_path / "j") as journal:
        journal.begin(HEADER)
        journal.append(DONE, 3, b"{}")
        with pytest.raises(InternalError, match="line 4 has two"):
            journal.append(FAILED, 3, b"{}")
        journal.flush()
        with pytest.raises(InternalError, match="line 1 has no record"):
            list(journal.records(range(1)))


def test_cut_anywhere_it_keeps_every_whole_record(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    path = tmp_path / "j"
    fill(path, dict.fromkeys(range(6), DONE))
    whole = path.read_bytes()
    ends = [i + 1 for i, byte in enumerate(whole) if byte == ord("\n")]
    record_property("tries", len(whole) - ends[0])
    for cut in range(ends[0], len(whole)):
        path.write_bytes(whole[:cut])
        kept = sum(end <= cut for end in ends) - 1
        with opened(path) as journal:
            assert journal.counts.total == kept
            end = max(e for e in ends if e <= cut)
            assert journal.dropped_bytes == cut - end
            assert path.stat().st_size == end
            for line in range(kept, 6):
                journal.append(DONE, line, record(line))
            journal.flush()
        assert path.read_bytes() == whole


@given(st.data())
def test_damage_costs_only_the_lines_it_touches(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("damage") / "j"
    fill(path, dict.fromkeys(range(6), DONE))
    whole = bytearray(path.read_bytes())
    ends = [i + 1 for i, byte in enumerate(whole) if byte == ord("\n")]
    at = data.draw(st.integers(ends[0], len(whole) - 1))
    whole[at] ^= data.draw(st.integers(1, 255))
    path.write_bytes(whole)
    hit = sum(end <= at for end in ends) - 1
    lost = {hit, hit + 1} if at + 1 in ends else {hit}
    kept = results(path, 6)
    assert kept >= set(range(6)) - lost
    assert hit not in kept


def frames_of(header: JobHeader, name: str) -> dict[str, bytes]:
    """All lines a job's journal may ever hold, told apart by their payloads."""
    key = job_key(header.to_json())
    kinds = [DONE, FAILED, DONE, REJECTED]
    records = {
        f"{name}{line}": Frame(kind, line, b'{"of": "%s%d"}' % (name.encode(), line)).encode(key)
        for line, kind in enumerate(kinds)
    }
    return records | {
        f"{name} header": Frame(FrameKind.header, 0, header.to_json()).encode(),
        f"{name} finished": Frame(FrameKind.finished, 0, FinishedJob(*FINISHED).to_json()).encode(
            key
        ),
    }


LINES = frames_of(HEADER, "a") | frames_of(replace(HEADER, job_seed=5), "b")


@given(st.lists(st.sampled_from(sorted(LINES)), max_size=14))
@example(["a header", "b0"])
@example(["a0", "a finished"])
@example(["a finished", "a0"])
@example(["a0", "a0"])
def test_whole_lines_in_any_order_never_make_a_wrong_record(
    tmp_path_factory: pytest.TempPathFactory, names: list[str]
) -> None:
    path = tmp_path_factory.mktemp("spliced") / "j"
    path.write_bytes(LINES["a header"] + b"".join(LINES[name] for name in names))
    finished = names[:1] == ["a finished"]
    accepted: list[str] = []
    for name in [] if finished else names:
        if name in ("a0", "a1", "a2") and name not in accepted:
            accepted.append(name)
    with opened(path) as journal:
        assert journal.header == HEADER
        assert (journal.finished is not None) == finished
        kept = [line for line in range(5) if journal.has_record(line)]
        assert kept == sorted(int(name[1]) for name in accepted)
        for line in set(range(5)) - set(kept):
            journal.append(DONE, line, b"{}")
        journal.flush()
        for frame in journal.records(range(5)):
            own = b'{"of": "a%d"}' % frame.line
            assert frame.payload == (own if frame.line in kept else b"{}")
        harmless = 0 if finished else names.count("a3") * len(LINES["a3"])
        taken = sum(len(LINES[name]) for name in (names[:1] if finished else accepted))
        read = sum(len(LINES[name]) for name in names)
        assert journal.dropped_bytes == read - taken - harmless


def test_a_header_with_other_fields_is_of_another_version(tmp_path: Path) -> None:
    path = tmp_path / "j"
    path.write_bytes(Frame(FrameKind.header, 0, b'{"input": "ab"}').encode())
    with pytest.raises(JobError, match="not a journal of this version"):
        Journal(path)


@given(st.sampled_from([DONE, FAILED]), st.integers(0, 2**62), st.binary(), st.integers(0, 99))
def test_frames(kind: FrameKind, line: int, payload: bytes, key: int) -> None:
    frame = Frame(kind, line, payload.replace(b"\n", b""))
    encoded = frame.encode(key)
    assert decode_frame(encoded, key) == frame
    assert decode_frame(encoded, key + 1) is None
    assert decode_frame(encoded[:-1], key) is None
    assert decode_frame(encoded[1:], key) is None


def test_another_file_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "j"
    path.write_bytes(b"my notes\n")
    with pytest.raises(JobError, match="Move it away"):
        Journal(path)
    assert path.read_bytes() == b"my notes\n"


def test_records_are_written_in_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(journal_module.time, "monotonic", lambda: now[0])
    path = tmp_path / "j"
    with opened(path) as journal:
        journal.begin(HEADER)
        empty = path.stat().st_size
        journal.append(DONE, 0, b"{}")
        assert path.stat().st_size == empty
        now[0] += journal_module.GROUP_SECONDS
        journal.flush_if_due()
        assert path.stat().st_size > empty
        size = path.stat().st_size
        journal.append(DONE, 1, b"x" * (journal_module.GROUP_BYTES - 100))
        assert path.stat().st_size == size
        journal.append(DONE, 2, b"x" * 100)
        assert path.stat().st_size > size + journal_module.GROUP_BYTES


def test_locked_for_other_processes_through_every_change(tmp_path: Path) -> None:
    path = tmp_path / "j"
    command = [sys.executable, "-c", f"import fcntl; f = open({str(path)!r}); fcntl.flock(f, 6)"]

    def others_are_locked_out() -> bool:
        return b"BlockingIOError" in subprocess.run(command, capture_output=True).stderr

    with opened(path) as journal:
        assert others_are_locked_out()
        with pytest.raises(OutputLockedError, match="another run"):
            Journal(path)
        journal.begin(HEADER)
        assert others_are_locked_out()
        journal.finish(*FINISHED)
        assert others_are_locked_out()
    assert not others_are_locked_out()


def test_a_file_replaced_between_opening_and_locking_is_opened_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "j"
    fill(path, {})
    real, calls = fcntl.flock, []

    def replace_first(fd: int, how: int) -> None:
        if not calls:
            os.replace(path, tmp_path / "old")
            (tmp_path / "old").rename(tmp_path / "older")
            path.touch()
        calls.append(fd)
        real(fd, how)

    monkeypatch.setattr(fcntl, "flock", replace_first)
    with opened(path) as journal:
        assert journal.header is None  # the new file, not the old one
    assert len(calls) == 2


def test_a_full_disk_leaves_a_valid_journal(tmp_path: Path) -> None:
    path = tmp_path / "j"

    def fill_the_disk() -> int:
        limit = 20_000
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        journal = Journal(path)
        journal.begin(HEADER)
        for line in range(10_000):
            try:
                journal.append(DONE, line, record(line))
                journal.flush()
            except OutputWriteError as error:
                says = str(error)
                return 7 if "File too large" in says and str(path) in says else 8
        return 0

    assert ForkedProcess(fill_the_disk).wait() == 7
    with opened(path) as journal:
        assert journal.dropped_bytes == 0
        kept = journal.counts.total
        assert 100 < kept < 1000
        journal.append(DONE, kept, record(kept))
        journal.flush()
        assert [frame.line for frame in journal.records(range(kept + 1))] == list(range(kept + 1))


def test_a_full_disk_while_replacing_keeps_the_old_state(tmp_path: Path) -> None:
    path = tmp_path / "j"
    fill(path, {0: DONE})

    def restart() -> int:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))
        try:
            Journal(path).begin(HEADER)
        except OutputWriteError:
            return 7
        return 0

    assert ForkedProcess(restart).wait() == 7
    assert results(path, 1) == {0}
    assert os.listdir(tmp_path) == ["j"]


def test_a_missing_folder_is_a_write_error(tmp_path: Path) -> None:
    with pytest.raises(OutputWriteError, match="No such file"):
        Journal(tmp_path / "absent" / "j")
