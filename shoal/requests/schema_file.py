"""`--schema FILE`: a JSON schema for all answers of a job whose request asks for no other form."""

from __future__ import annotations

from pathlib import Path

from shoal.answers.grammar import grammar_compiler
from shoal.answers.structure import Structure, of_schema
from shoal.errors import InvalidRequestError, OptionError
from shoal.model.description import ModelDescription

_OPTION = "--schema"


def read_schema(path: Path | None, description: ModelDescription) -> Structure | None:
    """What the file asks for, known to be possible with the model; None: no file.

    Raises:
        OptionError: it cannot be read, is no JSON schema, or is not supported.
    """
    if path is None:
        return None
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise OptionError(f"cannot read the schema {path}: {why}.") from None
    try:
        structure = of_schema(text, _OPTION)
        compiler = grammar_compiler(
            description.tokenizer, description.vocab_size, description.eos_token_ids
        )
        compiler.check(structure.grammar, _OPTION)
    except InvalidRequestError as error:
        raise OptionError(f"{error.message} ({path})") from None
    return structure
