"""Which folders `--lora` names, and what lines call the adapters in them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from shoal.errors import OptionError
from shoal.model.lora.lora_config import CONFIG_FILE


def adapter_folders(given: Sequence[str], taken: Collection[str]) -> dict[str, Path]:
    """The folder of each adapter, by its name, in the order of the names.

    Args:
        given: each NAME=PATH, the folder of an adapter, or a folder of such folders.
        taken: names of the model.

    Raises:
        OptionError: a folder holds none, or a name is given twice.
    """
    paths: dict[str, Path] = {}
    for each in given:
        for name, path in _named(each):
            if name in taken:
                raise OptionError(
                    f"lora {each!r}: {name!r} is the name of the model; call the adapter otherwise "
                    f"(--lora NAME={path})."
                )
            if paths.setdefault(name, path) != path:
                raise OptionError(
                    f"lora: {str(paths[name])!r} and {str(path)!r} are both called {name!r}; give "
                    "one of them another name (--lora NAME=PATH)."
                )
    return dict(sorted(paths.items()))


def _named(given: str) -> list[tuple[str, Path]]:
    """The adapters of one option, by name."""
    name, sign, path = given.partition("=")
    if sign and not Path(given).is_dir():
        if not name or not path:
            raise OptionError(f"lora {given!r}: give NAME=PATH, or a folder.")
        return [(name, _folder(given, path))]
    folder = _folder(given, given)
    if (folder / CONFIG_FILE).is_file():
        return [(folder.resolve().name, folder)]
    found = [each for each in sorted(folder.iterdir()) if (each / CONFIG_FILE).is_file()]
    if not found:
        raise OptionError(
            f"lora {given!r}: neither the folder nor one in it holds {CONFIG_FILE}; give the "
            "folder of an adapter, or one of such folders."
        )
    return [(each.name, each) for each in found]


def _folder(given: str, path: str) -> Path:
    folder = Path(path)
    if not folder.is_dir():
        raise OptionError(
            f"lora {given!r}: there is no folder {path!r}. An adapter of the Hub is downloaded "
            "first: hf download ID --local-dir FOLDER."
        )
    return folder
