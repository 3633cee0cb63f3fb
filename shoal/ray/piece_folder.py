"""A folder of pieces: `piece=N/` with Parquet, and `pieces.json` when all of them are there."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from typing import Any

import orjson

from shoal.errors import OptionError

MANIFEST = "pieces.json"


@dataclass(frozen=True)
class WrittenPieces:
    """What `partition` wrote.

    Attributes:
        rows: of each piece; none for a piece that is empty.
        id_column: whose values tell rows apart.
        asked: what decides which row lies where, with a digest of the rows (`data`); another
            partition into the folder is refused.
    """

    rows: dict[str, int]
    id_column: str
    asked: dict[str, Any]

    @property
    def name(self) -> str:
        """16 hexadecimal digits that partitions of the same rows, cut alike, have in common."""
        text = orjson.dumps(self.asked, option=orjson.OPT_SORT_KEYS)
        return hashlib.blake2b(text, digest_size=8).hexdigest()

    @property
    def num_rows(self) -> int:
        """Of all pieces."""
        return sum(self.rows.values())


class PieceFolder:
    """A folder on any file system that Arrow knows.

    Args:
        path: absolute, or a URI; every node reads and writes it.
    """

    def __init__(self, path: str) -> None:
        from pyarrow import fs

        try:
            self._fs, self.path = fs.FileSystem.from_uri(path)
        except ValueError as error:
            raise OptionError(
                f"{path!r} is no folder for pieces ({error}): give an absolute path or a URI."
            ) from None

    def load(self) -> WrittenPieces | None:
        """What is there; None: nothing, or a partition that was cut off."""
        from pyarrow import fs

        name = f"{self.path}/{MANIFEST}"
        if self._fs.get_file_info(name).type is fs.FileType.NotFound:
            return None
        with self._fs.open_input_file(name) as file:
            return WrittenPieces(**orjson.loads(file.read()))

    def clear(self) -> None:
        """Remove what a partition that was cut off has left.

        Raises:
            OptionError: something else is there.
        """
        from pyarrow import fs

        found = self._fs.get_file_info(fs.FileSelector(self.path, allow_not_found=True))
        if other := [info.path for info in found if not info.base_name.startswith("piece=")]:
            raise OptionError(f"{other[0]} is no piece: give an empty folder for pieces.")
        for info in found:
            self._fs.delete_dir(info.path)

    def finish(self, id_column: str, asked: dict[str, Any]) -> WrittenPieces:
        """Count the pieces' rows, and say that all are there."""
        from pyarrow import fs
        from pyarrow import parquet as pq

        rows: dict[str, int] = {}
        selector = fs.FileSelector(self.path, recursive=True, allow_not_found=True)
        for info in self._fs.get_file_info(selector):
            if info.type is fs.FileType.File and info.path.endswith(".parquet"):
                piece = info.path.rsplit("/", 2)[-2].removeprefix("piece=")
                with self._fs.open_input_file(info.path) as file:
                    rows[piece] = rows.get(piece, 0) + pq.read_metadata(file).num_rows
        ordered = {piece: rows[piece] for piece in sorted(rows, key=int)}
        pieces = WrittenPieces(ordered, id_column, asked)
        self._fs.create_dir(self.path)
        # The name appears with its content: a reader never finds half of it.
        with self._fs.open_output_stream(f"{self.path}/.{MANIFEST}") as file:
            file.write(orjson.dumps(asdict(pieces)))
        self._fs.move(f"{self.path}/.{MANIFEST}", f"{self.path}/{MANIFEST}")
        return pieces

    def read(self, piece: str) -> Any:
        """A piece's rows, one pyarrow table in one chunk."""
        from pyarrow import parquet as pq

        folder = f"{self.path}/piece={piece}"
        return pq.read_table(folder, filesystem=self._fs, partitioning=None).combine_chunks()

    def size(self, piece: str) -> int:
        """Bytes of a piece's files."""
        from pyarrow import fs

        found = self._fs.get_file_info(fs.FileSelector(f"{self.path}/piece={piece}"))
        return sum(info.size or 0 for info in found)
