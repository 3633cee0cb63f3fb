"""A file of token ids as a job's input: no text, no parameters of its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from shoal.errors import InvalidRequestError, JobError, OptionError
from shoal.model.description import ModelDescription
from shoal.prompts.length_rules import LengthRules
from shoal.prompts.token_files import is_token_file, open_tokens
from shoal.types import RequestParams, RequestTable


def check_input_options(
    path: Path,
    *,
    max_tokens: int | None,
    served_names: Sequence[str],
    results: Path | None,
    schema: Path | None,
    choices: Sequence[str] | Path | None = None,
) -> None:
    """Refuse options that do not go with this kind of input file.

    Raises:
        OptionError: names the option.
    """
    if not is_token_file(path):
        if max_tokens is not None:
            raise OptionError(
                f"--max-tokens is for files of token ids; in {path.name} each request states its "
                "max_tokens itself."
            )
        return
    if max_tokens is None:
        raise OptionError(
            f"--max-tokens is needed: {path.name} holds token ids, which say nothing of the output."
        )
    if served_names:
        raise OptionError(f"--served-model-name is for batch files; {path.name} names no model.")
    if results is not None:
        raise OptionError(f"--results is for batch files; the rows of {path.name} have no names.")
    if schema is not None:
        raise OptionError(f"--schema is for batch files; the rows of {path.name} are not run.")
    if choices is not None:
        raise OptionError(
            f"--labels and --choices are for batch files; the rows of {path.name} are not run."
        )


def read_tokens(
    path: Path, description: ModelDescription, *, capacity_tokens: int, max_tokens: int
) -> RequestTable:
    """The requests of a file of token ids, each to generate up to `max_tokens`.

    Raises:
        JobError: the file cannot be read, or one of its prompts is not for this model.
        OptionError: `max_tokens` is negative.
    """
    try:
        params = RequestParams(max_tokens=max_tokens)
    except InvalidRequestError as error:
        raise OptionError(str(error)) from None
    columns = open_tokens(path)
    rules = LengthRules(description.max_model_len, capacity_tokens)
    try:
        columns.check_vocabulary(description.vocab_size)
        return columns.table([params], rules, job_seed=0)
    except InvalidRequestError as error:
        raise JobError(f"{path}: {error}") from error
