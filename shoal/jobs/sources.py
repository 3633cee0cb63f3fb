"""What gives a job its requests: a batch file, a compressed one, a pipe, or a table.

Something else given by mistake is named for what it is, with the command that helps.
"""

from __future__ import annotations

import gzip
import stat
import sys
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import orjson

from shoal.arrow import require_pyarrow
from shoal.disk import ContentDigest, NewFile
from shoal.errors import JobChangedError, JobError
from shoal.jobs.spec import check_input
from shoal.jobs.spool import Spool
from shoal.prompts.token_files import is_token_file
from shoal.requests.lines import BYTE_ORDER_MARK, digest_input, open_input
from shoal.tables import FieldOrder, KeptRows, TableRequests, read_template

STANDARD_INPUT = "-"
"""Given as INPUT, it means what is piped in."""

_HEAD_BYTES = 2**16
_CHUNK_BYTES = 2**20
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_OTHERS = {
    b"PAR1": "a Parquet table; give it with --table, and a --template",
    b"ARROW1": "an Arrow file; shoal plan reads token ids from files named *.arrow",
    b"\x93NUMPY": "a NumPy array; shoal plan reads token ids from files named *.npy",
    b"PK\x03\x04": "a zip archive, or a spreadsheet; unpack it, or save the sheet as CSV",
    b"BZh": "compressed with bzip2; unpack it first: bunzip2 -k {path}",
    b"\xfd7zXZ\x00": "compressed with xz; unpack it first: unxz -k {path}",
    b"\xff\xfe": "UTF-16; convert it: iconv -f UTF-16 -t UTF-8 {path} > requests.jsonl",
    b"\xfe\xff": "UTF-16; convert it: iconv -f UTF-16 -t UTF-8 {path} > requests.jsonl",
    b"{\x00": "UTF-16; convert it: iconv -f UTF-16LE -t UTF-8 {path} > requests.jsonl",
    b"\x00{": "UTF-16; convert it: iconv -f UTF-16BE -t UTF-8 {path} > requests.jsonl",
}
_SEPARATORS = (b",", b"\t", b";")


def open_source(path: Path) -> Spool | None:
    """None for a batch file, which is read where it is; else what gives its lines.

    Raises:
        JobError: it cannot be read, or is something else than a batch file; says what helps.
        OptionError: pyarrow, which reads zstd, is not installed.
    """
    if str(path) == STANDARD_INPUT:
        return _spool(_Source(sys.stdin.buffer), "standard input")
    try:
        pipe = stat.S_ISFIFO(path.stat().st_mode)
    except (OSError, ValueError):
        pipe = False  # `open_input` says what is wrong
    source = _Source(path.open("rb") if pipe else open_input(path))
    if pipe or source.head.startswith((_GZIP, _ZSTD)):
        return _spool(source, str(path))
    source.file.close()
    _refuse_others(source.head, str(path))
    return None


def open_table(table: Path, template: Path) -> tuple[Spool, TableRequests]:
    """What gives one request per row of a table, and the requests themselves.

    Raises:
        OptionError: pyarrow, which reads tables, is not installed.
        JobError: table or template cannot be read or used.
    """
    rendered = TableRequests(table, read_template(template))
    lines = (line + b"\n" for line in rendered.lines())
    origin = f"rendered from {table} and {template}"
    return Spool(lines, origin, begins=b'{"custom_id":"', kept=True), rendered


@dataclass(frozen=True)
class KeptTable:
    """A table as it was when requests were made from it; its columns go into the results."""

    path: Path
    content: ContentDigest

    @classmethod
    def of(cls, path: Path) -> KeptTable:
        """The table as it is now.

        Raises:
            JobError: it cannot be read.
        """
        return cls(path, digest_input(path))

    def rows(self) -> KeptRows:
        """Its rows.

        Raises:
            JobChangedError: they are not those of then.
        """
        if digest_input(self.path) != self.content:
            raise JobChangedError(
                f"{self.path} changed while the job ran. Restore it and run the same command "
                "again; no result is lost."
            )
        return KeptRows(self.path)


@contextmanager
def readable_source(
    path: Path | None, table: Path | None = None, template: Path | None = None
) -> Iterator[tuple[Path, FieldOrder | None]]:
    """The batch file itself, or a temporary one with the lines of what is given instead, and how a
    table's fields were ordered.

    Raises:
        JobError, OptionError: as `open_source`, `open_table` and `check_input`.
    """
    check_input(path, table, template)
    spool: Spool | None = None
    order: FieldOrder | None = None
    if table is not None and template is not None:
        spool, rendered = open_table(table, template)
        order = rendered.order
    elif path is not None and not is_token_file(path):
        spool = open_source(path)
    if spool is None:
        assert path is not None
        yield path, None
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / f"{'' if table is None else f'{table.name}.'}requests.jsonl"
        with NewFile(copy, spool.begins) as file:
            spool.write_to(file)
            file.put_in_place()
        yield copy, order


class _Source:
    """An open file whose first bytes are known, and are read again."""

    closed = False  # pyarrow asks

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.head = _read(file, _HEAD_BYTES)
        self._left = self.head

    def read(self, size: int) -> bytes:
        if not self._left:
            return self.file.read(size)
        data, self._left = self._left[:size], self._left[size:]
        return data


def _spool(source: _Source, name: str) -> Spool:
    return Spool(_chunks(source, name), origin=f"read from {name}")


def _chunks(source: _Source, name: str) -> Iterator[bytes]:
    """The bytes of the batch file, decompressed."""
    content: Any = source
    if source.head.startswith(_GZIP):
        content = gzip.GzipFile(fileobj=cast(BinaryIO, source))
    elif source.head.startswith(_ZSTD):
        content = _zstd(source, name)
    with source.file:
        try:
            first = _read(content, _HEAD_BYTES)
            _refuse_others(first, name)
            yield first
            while data := content.read(_CHUNK_BYTES):
                yield data
        except (OSError, EOFError, zlib.error) as error:
            why = str(error).rstrip(".")
            raise JobError(
                f"cannot read {name}: {why}. Was it copied or downloaded whole?"
            ) from error


def _zstd(source: _Source, name: str) -> Any:
    needs = f"{name} is compressed with zstd, which needs"
    pa = require_pyarrow(needs, f"unpack it first: unzstd {name}")
    return pa.CompressedInputStream(pa.PythonFile(source, "r"), "zstd")


def _read(file: Any, size: int) -> bytes:
    """`size` bytes, or all that is left."""
    data = b""
    while len(data) < size and (more := file.read(size - len(data))):
        data += more
    return data


def _refuse_others(head: bytes, name: str) -> None:
    """Refuse what is no batch file as a whole; a wrong line among others is not its business."""
    for magic, what in _OTHERS.items():
        if head.startswith(magic):
            raise JobError(f"{name} is {what.format(path=name)}")
    whole = len(head) < _HEAD_BYTES
    lines = head.removeprefix(BYTE_ORDER_MARK).split(b"\n")
    if not whole:
        lines.pop()  # may be cut
    lines = [stripped for line in lines if (stripped := line.strip())]
    if lines and (shaped := _json_of_several_lines(lines, whole=whole)):
        command, shape = shaped
        raise JobError(
            f"{name} is {shape}, not one request per line; convert it: "
            f"jq -c '{command}' {name} > requests.jsonl"
        )
    if _looks_like_csv(lines):
        raise JobError(f"{name} is a table of text (CSV); give it with --table, and a --template")


def _json_of_several_lines(lines: list[bytes], *, whole: bool) -> tuple[str, str] | None:
    """The jq filter that helps, and what the file is."""
    first, second = lines[0], lines[1] if len(lines) > 1 else b""
    if first == b"{" and second[:1] in (b'"', b"}"):
        return ".", "pretty-printed JSON"
    if not first.startswith(b"["):
        return None
    value = _decoded(first)
    alone = whole and len(lines) == 1
    objects = isinstance(value, list) and all(isinstance(v, dict) for v in value)
    open_array = value is None and not isinstance(_decoded(second), dict)
    if first == b"[" or open_array or (alone and objects):
        return ".[]", "a JSON array"
    return None


def _decoded(line: bytes) -> object:
    try:
        return cast(object, orjson.loads(line))
    except orjson.JSONDecodeError:
        return None


def _looks_like_csv(lines: list[bytes]) -> bool:
    some = lines[:10]
    if len(some) < 2 or any(line.startswith(b"{") for line in some):
        return False
    counts = ({line.count(separator) for line in some} for separator in _SEPARATORS)
    return any(len(count) == 1 and min(count) > 0 for count in counts)
