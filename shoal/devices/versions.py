"""Whether two machines compute the same: the packages they run, and the model's files."""

from __future__ import annotations

import hashlib
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from shoal.errors import ModelLoadError
from shoal.model.description import ModelDescription
from shoal.model.model_files import fingerprint

PACKAGES = ("torch", "transformers", "tokenizers", "numpy", "llguidance", "safetensors")
"""Of which another version may give other answers, or read what it is sent in another way."""


def versions_here() -> dict[str, str]:
    """The versions of what computes here; of Shoal a digest of its Python files."""
    found = {"python": platform.python_version(), "shoal": _own()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "none"
    return found


def differences(here: dict[str, str], there: dict[str, str]) -> list[str]:
    """What another machine has in other versions, one phrase each."""
    return [
        f"{name} {there.get(name, 'none')} instead of {here.get(name, 'none')}"
        for name in sorted(here.keys() | there.keys())
        if here.get(name) != there.get(name)
    ]


def refuse_other_files(description: ModelDescription) -> None:
    """Compare the model's files here with those that a description was made of.

    Raises:
        ModelLoadError: they differ, or cannot be read here.
    """
    found, wanted = fingerprint(description.source), description.fingerprint
    names = sorted(found.keys() | wanted.keys())
    if changed := [name for name in names if found.get(name) != wanted.get(name)]:
        raise ModelLoadError(
            f"the files of {description.id!r} here are not those the job was begun with: "
            f"{', '.join(changed)} differ. Copy the same folder to every machine."
        )


def _own() -> str:
    """A digest of Shoal's Python files, which says more than its version."""
    digest = hashlib.blake2b(digest_size=4)
    folder = Path(__file__).parents[1]
    for path in sorted(folder.rglob("*.py")):
        digest.update(path.relative_to(folder).as_posix().encode() + b"\n" + path.read_bytes())
    return digest.hexdigest()
