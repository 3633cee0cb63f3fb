"""The packages that only the server needs."""

from __future__ import annotations

from importlib.util import find_spec

from shoal.errors import OptionError

_PACKAGES = {
    "fastapi": "fastapi",
    "python_multipart": "python-multipart",
    "sqlalchemy": "sqlalchemy",
    "uvicorn": "uvicorn",
}


def require_packages() -> None:
    """Refuse to go on without one of them.

    Raises:
        OptionError: names what is missing, and the extra that installs it.
    """
    missing = [name for module, name in _PACKAGES.items() if find_spec(module) is None]
    if missing:
        raise OptionError(
            f"shoal serve needs {', '.join(missing)}: pip install 'shoal[server]' installs it."
        )
