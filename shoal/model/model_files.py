"""What a model's folder holds: its files, what they say, and a digest of each that counts."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers.utils.hub import cached_file

from shoal.errors import ModelLoadError

_READ_SUFFIXES = {
    *(".json", ".jinja", ".txt", ".model", ".tiktoken", ".codes", ".tokenizer", ".py"),
    *(".safetensors", ".bin"),
}
"""Of the files that transformers reads, or code of the folder's own may read."""
_TEMPLATE_FOLDER = "additional_chat_templates"
_ADAPTER = "adapter_config.json"
_WHOLE_DIGEST_LIMIT = 64 * 2**20
"""Files up to this many bytes are hashed whole; of larger ones size, head and tail."""
_LONGEST_REASON = 200


def check_source(source: str) -> None:
    """Refuse what cannot be a model before transformers looks at it.

    Args:
        source: a folder or Hub id.

    Raises:
        ModelLoadError: it is a file, a broken link, a path to nothing, a folder that cannot be
            read or has no usable config.json, or holds an adapter.
    """
    path = Path(source)
    if not os.path.lexists(path):
        if path.is_absolute() or source.startswith((".", "~")) or source.count("/") > 1:
            raise ModelLoadError(f"there is no folder {source!r}: give a model's folder or Hub id.")
        return
    if path.is_file():
        raise ModelLoadError(
            f"{source!r} is a file: give the folder that holds config.json and the weights."
        )
    if not path.is_dir():
        raise ModelLoadError(f"{source!r} is a link that leads nowhere: give a model's folder.")
    if not os.access(path, os.R_OK | os.X_OK):
        raise ModelLoadError(f"the folder {source!r} cannot be read: permission denied.")
    for inside in path.iterdir():
        if inside.suffix in _READ_SUFFIXES and not inside.exists():
            raise ModelLoadError(f"{inside.name} in {source!r} is a link that leads nowhere.")
    refuse_adapter(source)
    if read_object(source, "config.json") is None:
        found = "GGUF files, which are not read" if any(path.glob("*.gguf")) else "no config.json"
        raise ModelLoadError(
            f"the folder {source!r} holds {found}: give one as transformers' save_pretrained "
            "writes it, with config.json, tokenizer and *.safetensors."
        )


def refuse_adapter(source: str) -> None:
    """Raise `ModelLoadError` if a LoRA adapter lies in the folder or under the Hub id.

    transformers would apply it where the package peft is installed, and pass it over elsewhere.
    """
    if find_file(source, _ADAPTER) is None:
        return
    raise ModelLoadError(
        f"{source!r} holds an adapter ({_ADAPTER}): give its model as --model, and the adapter "
        "with --lora NAME=FOLDER (in Python lora_request); to run a model beside it without it, "
        f"move {_ADAPTER} away."
    )


def find_file(source: str, name: str) -> Path | None:
    """A file of a folder or Hub id; None if it has none of this name.

    Raises:
        ModelLoadError: the Hub cannot be asked, or the file is a link that leads nowhere.
    """
    folder = Path(source)
    if folder.is_dir():
        path = folder / name
        if path.is_file():
            return path
        if os.path.lexists(path):
            raise ModelLoadError(f"{name} in {source!r} is no file, or a link that leads nowhere.")
        return None
    try:
        found = cached_file(source, name, _raise_exceptions_for_missing_entries=False)
    except (OSError, ValueError) as error:
        raise ModelLoadError(f"cannot read {name} of {source!r}: {reason(error)}") from error
    return None if found is None else Path(str(found))


def read_object(source: str, name: str) -> dict[str, Any] | None:
    """What a JSON file of a folder or Hub id holds; None if there is no such file.

    Raises:
        ModelLoadError: it cannot be read, or is no JSON object.
    """
    path = find_file(source, name)
    if path is None:
        return None
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelLoadError(
            f"{name} in {source!r} cannot be read: {reason(error)}. Copy the file again."
        ) from error
    if not isinstance(value, dict):
        raise ModelLoadError(f"{name} in {source!r} is no JSON object. Copy the file again.")
    return value


def lacks_tokenizer(source: str) -> bool:
    """Whether a folder has no file that a tokenizer could be made from."""
    folder = Path(source)
    return folder.is_dir() and not any(
        path.name.startswith(("tokenizer", "vocab")) or path.suffix in (".model", ".tiktoken")
        for path in folder.iterdir()
    )


def fingerprint(source: str) -> dict[str, str]:
    """Digests of a folder's files; of a Hub id the revision in use, which stands for its files.

    Raises:
        ModelLoadError: a file cannot be read.
    """
    folder = Path(source)
    if not folder.is_dir():
        return {"revision": Path(str(find_file(source, "config.json"))).parent.name}
    paths = [*folder.iterdir(), *(folder / _TEMPLATE_FOLDER).glob("*")]
    counted = sorted(path for path in paths if path.suffix in _READ_SUFFIXES and path.is_file())
    try:
        return {path.relative_to(folder).as_posix(): _digest(path) for path in counted}
    except OSError as error:
        raise ModelLoadError(f"cannot read {error.filename!r}: {error.strerror}.") from error


def reason(error: BaseException) -> str:
    """What an exception says, in one short line."""
    if isinstance(error, StrictDataclassError) and error.__cause__ is not None:
        return reason(ValueError(str(error.__cause__)))
    said = " ".join(str(error).split())
    if not said or not isinstance(error, (OSError, ValueError, ImportError)):
        said = f"{type(error).__name__}: {said}" if said else type(error).__name__
    said = said if len(said) <= _LONGEST_REASON else f"{said[: _LONGEST_REASON - 1]}…"
    return said.rstrip(". ")


def _digest(path: Path) -> str:
    size = path.stat().st_size
    digest = hashlib.blake2b(str(size).encode(), digest_size=16)
    with path.open("rb") as file:
        if size <= _WHOLE_DIGEST_LIMIT:
            digest.update(file.read())
        else:
            digest.update(file.read(_WHOLE_DIGEST_LIMIT // 2))
            file.seek(-_WHOLE_DIGEST_LIMIT // 2, 2)
            digest.update(file.read())
    return digest.hexdigest()
