"""pyarrow, which is optional: it reads Arrow data, tables and zstd."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from shoal.errors import OptionError


def require_pyarrow(what: str, instead: str = "") -> Any:
    """The pyarrow module.

    Args:
        what: that needs it, the beginning of the error: "tables need".
        instead: what to do without it.

    Raises:
        OptionError: it is not installed.
    """
    try:
        import pyarrow
    except ModuleNotFoundError:
        other = f", or {instead}" if instead else ""
        raise OptionError(f"{what} pyarrow: pip install 'shoal[arrow]'{other}.") from None
    return pyarrow


def has_pyarrow() -> bool:
    """Whether pyarrow is installed."""
    return find_spec("pyarrow") is not None


def is_arrow(column: Any) -> bool:
    """Whether it offers Arrow's C interface, as columns of pyarrow, pandas and polars do."""
    return hasattr(column, "__arrow_c_array__") or hasattr(column, "__arrow_c_stream__")


def arrow_chunks(column: Any) -> Any:
    """What offers Arrow's C interface as a pyarrow ChunkedArray.

    Raises:
        OptionError: pyarrow is not installed.
    """
    arrow = require_pyarrow("Arrow data needs")
    if hasattr(column, "__arrow_c_stream__"):
        return arrow.chunked_array(column)
    return arrow.chunked_array([arrow.array(column)])
