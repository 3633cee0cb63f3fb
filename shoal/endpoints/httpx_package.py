"""The package that only sending to servers needs."""

from __future__ import annotations

from importlib.util import find_spec

from shoal.errors import OptionError


def require_httpx() -> None:
    """Refuse to go on without it.

    Raises:
        OptionError: names what is missing, and the extra that installs it.
    """
    if find_spec("httpx2") is None:
        raise OptionError("--endpoint needs httpx2: pip install 'shoal[endpoints]' installs it.")
