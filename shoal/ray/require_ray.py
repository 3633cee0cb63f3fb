"""Ray Data, which is optional."""

from __future__ import annotations

from typing import Any

from shoal.errors import OptionError


def require_ray_data() -> Any:
    """The module ray.data.

    Raises:
        OptionError: it is not installed, or lacks what it needs.
    """
    try:
        import ray.data
    except ImportError as error:
        raise OptionError(
            f"shoal.ray needs Ray Data ({error}): pip install 'shoal[ray]'."
        ) from None
    return ray.data
