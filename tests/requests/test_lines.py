from __future__ import annotations

import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.errors import JobError
from shoal.requests.lines import LineReader, digest_input, open_input


def read(content: bytes, limit: int = 100) -> list[tuple[int, int, bytes | None]]:
    reader = LineReader(io.BytesIO(content), max_line_bytes=limit)
    return [(line.number, line.offset, line.data) for line in reader]


@given(st.binary(max_size=60).map(lambda b: b.replace(b"z", b"\n")), st.integers(1, 12))
def test_agrees_with_splitting_the_whole(content: bytes, limit: int) -> None:
    content = b"-" + content  # no byte order mark
    parts = content.split(b"\n")
    if parts[-1] == b"":
        parts.pop()
    offset = 0
    expected = []
    for number, part in enumerate(parts, start=1):
        expected.append((number, offset, part if len(part) <= limit else None))
        offset += len(part) + 1
    assert read(content, limit) == expected


def test_last_line_without_newline_and_blank_lines_count() -> None:
    assert read(b"a\n\n b") == [(1, 0, b"a"), (2, 2, b""), (3, 3, b" b")]
    assert read(b"") == []
    assert read(b"\n") == [(1, 0, b"")]


def test_byte_order_mark_is_skipped_on_the_first_line_only() -> None:
    mark = b"\xef\xbb\xbf"
    assert read(mark + b"a\n" + mark + b"b") == [(1, 3, b"a"), (2, 5, mark + b"b")]


def test_huge_line_is_skipped_in_bounded_memory() -> None:
    class Watched(io.BytesIO):
        largest = 0

        def readline(self, size: int | None = -1, /) -> bytes:
            data = super().readline(size)
            self.largest = max(self.largest, len(data))
            return data

    file = Watched(b"x" * (5 * 2**20) + b"\nnext\n")
    lines = [line.data for line in LineReader(file, max_line_bytes=1000)]
    assert lines == [None, b"next"]
    assert file.largest <= 2**20


def test_digest_is_of_every_byte(tmp_path: Path) -> None:
    path = tmp_path / "in"
    content = b"\xef\xbb\xbfa\n" + b"x" * 50 + b"\nlast"
    path.write_bytes(content)
    with open_input(path) as file:
        reader = LineReader(file, max_line_bytes=10)
        list(reader)
    assert reader.digest == digest_input(path)
    assert reader.digest.size_bytes == len(content)
    path.write_bytes(content.replace(b"last", b"lasT"))
    assert reader.digest != digest_input(path)


def test_input_must_be_a_readable_regular_file(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="No such file"):
        open_input(tmp_path / "absent")
    with pytest.raises(JobError, match="not a regular file"):
        open_input(Path("/dev/null"))
