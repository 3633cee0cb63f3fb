"""Lets `shoal` be imported where pydantic is not installed, as in many images for GPU machines.

`import_shoal` imports the one module that needs it with a minimal stand-in, which is gone again
afterwards. `RequestParams` then takes values without checking them: enough for benchmarks, which
make no wrong ones, and for nothing else.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

NAME = "pydantic"


def import_shoal() -> bool:
    """Import `shoal.types`; whether a stand-in for pydantic was needed."""
    if importlib.util.find_spec(NAME) is not None:
        importlib.import_module("shoal.types")
        return False
    sys.modules[NAME] = _stand_in()
    try:
        importlib.import_module("shoal.types")
    finally:
        # Other packages look for pydantic and would take this for the real one.
        del sys.modules[NAME]
    return True


class Values:
    """In place of `BaseModel`: fields are class attributes, given ones are set on the object."""

    def __init__(self, **values: Any) -> None:
        for name, value in values.items():
            if not hasattr(type(self), name):
                raise TypeError(f"{type(self).__name__} has no field {name!r}")
            self.__dict__[name] = value

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other.__dict__ == self.__dict__

    def __hash__(self) -> int:
        return hash(tuple(sorted(self.__dict__.items())))


def _stand_in() -> ModuleType:
    def mark(*given: Any, **named: Any) -> None:
        """Annotations are never looked at."""

    def as_it_is(**how: Any) -> Callable[[Any], Any]:
        return lambda function: function

    module = ModuleType(NAME)
    parts: dict[str, Any] = {
        "BaseModel": Values,
        "BeforeValidator": mark,
        "ConfigDict": dict,
        "Field": mark,
        "ValidationError": ValueError,
        "model_validator": as_it_is,
    }
    for name, part in parts.items():
        setattr(module, name, part)
    return module
