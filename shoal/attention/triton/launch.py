"""What is the same in every call for a layer of some shape: tiles, grid, compile-time constants."""

from __future__ import annotations

from dataclasses import dataclass

from shoal.attention.contract import KVShape
from shoal.attention.triton.launch_plan import SHORT, Field, Geometry
from shoal.attention.triton.tiles import Tiles, halves
from shoal.work import Window

_MERGE_NUMBERS = 1024
"""Values a program of the merge launch holds."""


@dataclass(frozen=True)
class Launch:
    """How attention is launched for a layer.

    Attributes:
        geometry: of its tasks; geometry.programs is the grid of the attention launch.
        attend, merge: the launches' constants.
        merge_tiles: programs of the merge launch per row.
    """

    geometry: Geometry
    attend: dict[str, int]
    merge: dict[str, int]
    merge_tiles: int


def make_launch(
    shape: KVShape, heads: int, tiles: Tiles, programs: int, window: Window | None = None
) -> Launch:
    """The launch for `heads` query heads over a layer.

    Args:
        programs: of the persistent grid.
        window: of the layer's attention.
    """
    group = heads // shape.kv_heads
    key_low, key_high = halves(shape.key_dim)
    value_low, value_high = halves(shape.value_dim)
    attend = {
        "KV_HEADS": shape.kv_heads,
        "GROUP": group,
        "BLOCK": shape.block_size,
        "KEY_DIM": shape.key_dim,
        "KEY_LOW": key_low,
        "KEY_HIGH": key_high,
        "VALUE_ROW": shape.key_dim if shape.latent else shape.value_dim,
        "VALUE_DIM": shape.value_dim,
        "VALUE_LOW": value_low,
        "VALUE_HIGH": value_high,
        "FIELDS": len(Field),
        "SHORT": SHORT,
        "ROWS": tiles.rows,
        "KEYS": tiles.keys,
        "STAGES": tiles.stages,
        "SIDEWAYS": tiles.sideways,
        "num_warps": tiles.warps,
    }
    if tiles.registers is not None:
        attend["maxnreg"] = tiles.registers
    columns = power_of_two(shape.value_dim)
    tile = min(power_of_two(heads), max(1, _MERGE_NUMBERS // columns))
    merge = {"HEADS": heads, "VALUE_DIM": shape.value_dim, "COLUMNS": columns, "TILE": tile}
    geometry = Geometry(shape.kv_heads, group, tiles.rows, tiles.keys, programs, window)
    return Launch(geometry, attend, merge, -(-heads // tile))


def power_of_two(number: int) -> int:
    """The least power of two that is at least `number`."""
    return 1 << max(number - 1, 0).bit_length()
