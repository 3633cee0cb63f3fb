"""Pieces as a data set: a block is a whole piece."""

from __future__ import annotations

from typing import Any

from shoal.errors import OptionError
from shoal.ray.piece_folder import PieceFolder
from shoal.ray.require_ray import require_ray_data


def read_pieces(path: str, checkpoint: str | None = None) -> Any:
    """The rows that `partition` wrote, as a ray.data.Dataset whose blocks are pieces.

    A processor of it takes `rows_per_plan=None`, so that an actor plans a piece as a whole.

    Args:
        checkpoint: a folder that all nodes share. A pipeline that ends in `write_parquet` notes
            there which rows are written, through Ray Data's `CheckpointConfig`; run again, it does
            the others. It is kept when all is done: a further run writes nothing. Pieces of other
            rows have a folder of their own in it.

    Raises:
        OptionError: there are no pieces, a partition was cut off, or this Ray has no checkpoints.
    """
    data = require_ray_data()
    pieces = PieceFolder(path).load()
    if pieces is None:
        raise OptionError(
            f"{path} holds no finished pieces: run shoal.ray.partition, again if it was cut off."
        )
    context = data.DataContext.get_current()
    before = context.target_max_block_size, getattr(context, "checkpoint_config", None)
    try:
        context.target_max_block_size = None
        if checkpoint is not None:
            # Ids of other rows may be the same, and would count as written.
            folder = f"{checkpoint.rstrip('/')}/{pieces.name}"
            context.checkpoint_config = _checkpoint_config(pieces.id_column, folder)
        names = list(pieces.rows)
        source = _source(path, [(name, pieces.rows[name]) for name in names])
        return data.read_datasource(source, override_num_blocks=len(names))
    finally:
        context.target_max_block_size = before[0]
        if checkpoint is not None:
            context.checkpoint_config = before[1]


def _checkpoint_config(id_column: str, path: str) -> Any:
    try:
        from ray.data.checkpoint import CheckpointConfig
    except ImportError:
        raise OptionError("this Ray has no checkpoints of data sets: update it.") from None
    return CheckpointConfig(id_column, path, delete_checkpoint_on_success=False)


def _source(path: str, pieces: list[tuple[str, int]]) -> Any:
    """A Datasource with a task per piece; Ray's classes are there only where Ray is."""
    from ray.data import Datasource
    from ray.data.block import BlockMetadata
    from ray.data.datasource import ReadTask

    class PieceSource(Datasource):  # type: ignore[misc]
        """Reads a folder of pieces."""

        def estimate_inmemory_data_size(self) -> int | None:
            return None

        def get_read_tasks(
            self, parallelism: int, per_task_row_limit: int | None = None, data_context: Any = None
        ) -> list[Any]:
            folder = PieceFolder(path)
            return [
                ReadTask(
                    _Piece(path, name),
                    BlockMetadata(rows, folder.size(name), input_files=None, exec_stats=None),
                    per_task_row_limit=per_task_row_limit,
                )
                for name, rows in pieces
            ]

    return PieceSource()


class _Piece:
    """Reads a piece; it is called where Ray Data runs the task."""

    def __init__(self, path: str, name: str) -> None:
        self._path, self._name = path, name

    def __call__(self) -> list[Any]:
        return [PieceFolder(self._path).read(self._name)]
