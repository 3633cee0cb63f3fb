"""What a job is: the files it reads and writes, the model, and how it runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

from shoal.config import EngineOptions
from shoal.endpoints import EndpointOptions
from shoal.errors import OptionError


@dataclass(frozen=True, kw_only=True)
class JobSpec:
    """A resumable job, as `shoal run` runs it; paths may be given as strings.

    Attributes:
        input: a file of Batch API lines, perhaps compressed with gzip or zstd; a pipe; or `-`,
            standard input. Unless it is a plain file, its lines are kept in OUTPUT.requests.jsonl
            while the job runs. None: `table` and `template` are given.
        table, template: one request per row of a table; see `shoal.tables`. The requests are
            written to OUTPUT.requests.jsonl, the same bytes in every run, and stay there.
        schema: a JSON schema of all answers whose request asks for no form of its own.
        choices: texts to score for all requests that ask for no form of their own, or a file of
            them (see `read_choices`); the most probable one is the answer.
        output: where results go: JSON lines or, if its name ends in .parquet, a table.
        errors: where failed requests go; results.jsonl has results.errors.jsonl beside it if not
            given.
        model: a folder or a Hub id; None: the bundled model.
        options: of the engine.
        endpoints: servers that run the requests instead of an engine of ours.
        served_names: further names for `body.model`; `*` accepts any.
        restart: drop the results of earlier runs. A file of theirs stays until it is replaced.
        quiet: no progress on standard error.
        also_written: files that the caller writes afterwards, by what messages call them.

    Raises:
        OptionError: neither an input nor a table with its template is given, or both; or both a
            schema and choices; or an option that does not go with servers.
    """

    output: Path
    input: Path | None = None
    table: Path | None = None
    template: Path | None = None
    schema: Path | None = None
    choices: Sequence[str] | Path | None = None
    errors: Path | None = None
    model: str | None = None
    options: EngineOptions = field(default_factory=EngineOptions)
    endpoints: EndpointOptions = field(default_factory=EndpointOptions)
    served_names: Sequence[str] = ()
    restart: bool = False
    quiet: bool = False
    also_written: Mapping[str, Path] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if "Path" in str(each.type) and isinstance(value, str):
                object.__setattr__(self, each.name, Path(value))
        check_input(self.input, self.table, self.template)
        check_forms(self.schema, self.choices)
        further = {"--schema": self.schema, "--labels or --choices": self.choices}
        self.endpoints.check_beside(self.options, further)


def check_forms(schema: Path | None, choices: Sequence[str] | Path | None) -> None:
    """Refuse two forms for the same answers.

    Raises:
        OptionError: says so.
    """
    if schema is not None and choices is not None:
        raise OptionError(
            "--schema and the choices of --labels or --choices are two forms for the same answers; "
            "give one of them."
        )


def check_input(input: Path | None, table: Path | None, template: Path | None) -> None:
    """Refuse anything but an input alone, or a table with its template.

    Raises:
        OptionError: says so.
    """
    whole = table is not None and template is not None
    if (input is not None) == whole or (table is None) != (template is None):
        raise OptionError("give either INPUT.jsonl, or --table together with --template.")
