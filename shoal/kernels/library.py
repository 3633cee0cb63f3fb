"""Finds and loads the kernel library, and says which instruction sets it can use here."""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Iterator
from contextlib import suppress
from enum import IntEnum
from functools import cache
from importlib import metadata
from pathlib import Path

# Loaded first: the library uses the OpenMP runtime that torch brings.
import torch  # noqa: F401

from shoal.kernels.interface import declare

ABI_VERSION = 10
"""Of csrc/shoal_kernels.h; a library built from other sources is not used."""


class Isa(IntEnum):
    """Instruction sets the kernels are built for, each a superset of those before it."""

    avx2 = 0
    avx512 = 1
    avx512_bf16 = 2
    amx_bf16 = 3


class Kernels:
    """The loaded library.

    Attributes:
        lib: its functions, declared as in csrc/shoal_kernels.h.
        isa: the instruction set that is fastest on this machine.
        highest: the highest one it has.
    """

    def __init__(self, lib: ctypes.CDLL, isa: Isa, highest: Isa) -> None:
        self.lib, self.isa, self.highest = lib, isa, highest


@cache
def load_kernels() -> Kernels | None:
    """The kernels, or None where they were not built or cannot run; see `missing_note`."""
    return _load()[0]


def missing_note() -> str | None:
    """Why there are no kernels and what to do about it; None where there are."""
    return _load()[1]


def available_isas() -> list[Isa]:
    """Every instruction set that can be asked for here, lowest first."""
    kernels = load_kernels()
    return [] if kernels is None else [isa for isa in Isa if isa <= kernels.highest]


@cache
def _load() -> tuple[Kernels | None, str | None]:
    path = next((path for path in _candidates() if path.is_file()), None)
    if path is None:
        return None, (
            "the C++ kernels are not built, so attention runs in torch and takes several times as "
            "long. They are built on installation where there is a C++ compiler and the machine is "
            f"x86-64 Linux (this one: {platform.machine()} {platform.system()}): install a "
            "compiler, then `pip install --force-reinstall --no-deps shoal`."
        )
    try:
        lib = ctypes.CDLL(str(path), mode=ctypes.RTLD_LOCAL)
        version = lib.shoal_abi_version()
    except (OSError, AttributeError) as error:
        return None, f"the C++ kernels in {path} cannot be loaded: {error}. Reinstall shoal."
    if version != ABI_VERSION:
        return None, (
            f"the C++ kernels in {path} are of version {version}, this package needs "
            f"{ABI_VERSION}; attention runs in torch. Reinstall shoal."
        )
    declare(lib)
    highest = lib.shoal_highest_isa()
    if highest < 0:
        return None, "this processor has no AVX2, so attention runs in torch."
    return Kernels(lib, Isa(lib.shoal_fastest_isa()), Isa(highest)), None


def _candidates() -> Iterator[Path]:
    """Where the library may be: beside the package's files, or where an editable install put it."""
    yield Path(__file__).parents[1] / "_kernels.so"
    with suppress(metadata.PackageNotFoundError):
        yield Path(str(metadata.distribution("shoal").locate_file("shoal/_kernels.so")))
