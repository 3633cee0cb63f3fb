"""The template of a relational job: a TOML file that says how a table's row becomes a request.

    model = "shoal-tiny"                  # goes into body.model
    system = "You sort reviews."          # optional; chat only
    prompt = "{{ fields }}\\nIs this positive? Answer yes or no."
    answer = "The answer is "             # optional; how each answer begins, chat only
    id = "review_id"                      # optional column of custom_ids; else row-1, row-2, ...
    url = "/v1/chat/completions"          # or "/v1/completions", "/v1/responses"
    null = ""                             # what a missing value reads as

    [body]                                # further parameters of the request
    max_tokens = 8

    [fields]                              # what {{ fields }} stands for
    include = ["title", "review"]         # else all columns that nothing else names
    format = "{{ name }}: {{ value }}\\n"  # one piece per field
    reorder = true                        # each row may name them in its own order

`{{ column }}` in `system`, `prompt` and `answer` is the row's value, `{{ "{{" }}` is two braces.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shoal.errors import JobError
from shoal.types import CHAT_URL, COMPLETIONS_URL, RESPONSES_URL

FIELDS = "fields"
"""The placeholder that stands for all fields."""
DEFAULT_FORMAT = "{{ name }}: {{ value }}\n"

_PLACEHOLDER = re.compile(r"\{\{(.*?)\}\}", re.DOTALL)
_BRACES = ('"{{"', "'{{'")
_KEYS: dict[str, type] = {
    "model": str,
    "system": str,
    "prompt": str,
    "answer": str,
    "id": str,
    "url": str,
    "null": str,
    "body": dict,
    "fields": dict,
}
_URLS = (CHAT_URL, COMPLETIONS_URL, RESPONSES_URL)
_FIELD_KEYS: dict[str, type] = {"include": list, "format": str, "reorder": bool}
_KINDS = {str: "a string", dict: "a table", list: "an array", bool: "true or false"}


@dataclass(frozen=True, slots=True)
class Placeholder:
    """`{{ name }}` in a text."""

    name: str


Parts = tuple[str | Placeholder, ...]
"""A text with placeholders, in order."""


@dataclass(frozen=True)
class FieldRules:
    """What `{{ fields }}` stands for.

    Attributes:
        include: columns, in order; None: all that nothing else names.
        format: one piece, with placeholders `name` and `value`.
        reorder: each row may name its fields in an order of its own.
    """

    include: tuple[str, ...] | None = None
    format: Parts = (Placeholder("name"), ": ", Placeholder("value"), "\n")
    reorder: bool = False


@dataclass(frozen=True)
class Template:
    """A template, checked as far as it can be without its table.

    Attributes:
        before, after: the prompt around `{{ fields }}`; without that placeholder all is `before`
            and `fields` is None.
        answer: what an answer begins with; the model goes on from there.
        body: further parameters, checked with each request.
    """

    path: Path
    model: str
    before: Parts
    after: Parts = ()
    system: Parts | None = None
    answer: Parts | None = None
    id: str | None = None
    url: str = CHAT_URL
    null: str = ""
    body: Mapping[str, Any] = field(default_factory=dict)
    fields: FieldRules | None = None

    def field_names(self, columns: Sequence[str]) -> list[str]:
        """The columns that `{{ fields }}` stands for, in order, given those of the table."""
        if self.fields is None:
            return []
        if self.fields.include is not None:
            return list(self.fields.include)
        taken = {self.id, *self.named()}
        return [name for name in columns if name not in taken]

    def named(self) -> list[str]:
        """The columns that texts name, each once."""
        texts = (*(self.system or ()), *self.before, *self.after, *(self.answer or ()))
        return list(dict.fromkeys(p.name for p in texts if isinstance(p, Placeholder)))

    def check_columns(self, columns: Sequence[str], table: Path) -> None:
        """Refuse a table without the columns that the template names.

        Raises:
            JobError: names the column and those there are.
        """
        uses = [("prompt, system or answer", name) for name in self.named()]
        uses += [("id", self.id)] if self.id is not None else []
        uses += [("fields.include", name) for name in self.field_names(columns)]
        for key, name in uses:
            if name not in columns:
                known = ", ".join(repr(column) for column in columns) or "none"
                raise JobError(
                    f"{self.path}: {key} names the column {name!r}, which {table} does not have; "
                    f"its columns are {known}."
                )
        if self.fields is not None and not self.field_names(columns):
            raise JobError(
                f"{self.path}: no column of {table} is left for {{{{ fields }}}}: the template "
                "names them all elsewhere. List some in fields.include."
            )


def read_template(path: Path) -> Template:
    """Read and check a template.

    Raises:
        JobError: it cannot be read, or says something wrong; the message has file and line.
    """
    try:
        text = path.read_bytes().decode()
        values = tomllib.loads(text)
    except OSError as error:
        raise JobError(f"cannot read the template {path}: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise JobError(f"{path}, line {line}: the template is not UTF-8.") from error
    except tomllib.TOMLDecodeError as error:
        raise JobError(f"{path}: the template is not TOML: {error}.") from error
    return _Checker(path, text).template(values)


class _Checker:
    """Checks the values of one template file."""

    def __init__(self, path: Path, text: str) -> None:
        self._path = path
        self._text = text

    def template(self, values: dict[str, Any]) -> Template:
        self._known(values, _KEYS, "")
        for key in ("model", "prompt"):
            if key not in values:
                raise JobError(f"{self._path}: the key {key!r} is missing.")
        url = values.get("url", CHAT_URL)
        if url not in _URLS:
            names = ", ".join(map(repr, _URLS))
            raise self._error("url", f"must be one of {names}, not {url!r}")
        if url == COMPLETIONS_URL and "system" in values:
            raise self._error("system", f"is for {CHAT_URL}; write it into the prompt")
        if url != CHAT_URL and "answer" in values:
            raise self._error("answer", f"is for {CHAT_URL}, where a model can go on with it")
        body = values.get("body", {})
        for key in _INSTEAD:
            if key in body:
                raise self._error(key, f"must not stand in [body]: {_INSTEAD[key]}")
        before, after, rules = self._prompt(values)
        if values.get("answer") == "":
            raise self._error("answer", "is empty; leave it out")
        system, answer = self._beside(values, "system"), self._beside(values, "answer")
        return Template(
            path=self._path,
            model=values["model"],
            before=before,
            after=after,
            system=system,
            answer=answer,
            id=values.get("id"),
            url=url,
            null=values.get("null", ""),
            body=body,
            fields=rules,
        )

    def _beside(self, values: dict[str, Any], key: str) -> Parts | None:
        """A text beside the prompt."""
        if key not in values:
            return None
        parts = self._parts(key, values[key])
        if Placeholder(FIELDS) in parts:
            raise self._error(key, "cannot hold {{ fields }}; it belongs into the prompt")
        return parts

    def _prompt(self, values: dict[str, Any]) -> tuple[Parts, Parts, FieldRules | None]:
        parts = self._parts("prompt", values["prompt"])
        at = [i for i, part in enumerate(parts) if part == Placeholder(FIELDS)]
        if not at:
            if "fields" in values:
                raise self._error("fields", "is of no use: the prompt does not hold {{ fields }}")
            return parts, (), None
        if len(at) > 1:
            raise self._error("prompt", "holds {{ fields }} more than once")
        rules = self._rules(values.get("fields", {}))
        return parts[: at[0]], parts[at[0] + 1 :], rules

    def _rules(self, values: dict[str, Any]) -> FieldRules:
        self._known(values, _FIELD_KEYS, "fields.")
        include = values.get("include")
        if include is not None:
            if not include or not all(isinstance(name, str) for name in include):
                raise self._error("include", "must be an array of column names, not empty")
            if twice := next((name for name in include if include.count(name) > 1), None):
                raise self._error("include", f"names {twice!r} more than once")
        form = self._parts("format", values.get("format", DEFAULT_FORMAT))
        names = [part.name for part in form if isinstance(part, Placeholder)]
        if other := next((name for name in names if name not in ("name", "value")), None):
            raise self._error("format", f"may hold {{{{ name }}}} and {{{{ value }}}}, not {other}")
        if "value" not in names:
            raise self._error("format", "must hold {{ value }}")
        reorder = values.get("reorder", False)
        if reorder and "name" not in names:
            raise self._error(
                "format", "must hold {{ name }} when reorder = true: which field is which?"
            )
        return FieldRules(None if include is None else tuple(include), form, reorder)

    def _parts(self, key: str, text: str) -> Parts:
        parts: list[str | Placeholder] = []
        end = 0
        for match in _PLACEHOLDER.finditer(text):
            parts.append(text[end : match.start()])
            name = match[1].strip()
            if name in _BRACES:
                parts.append("{{")
            elif not name:
                raise self._error(key, "holds an empty placeholder {{ }}")
            else:
                parts.append(Placeholder(name))
            end = match.end()
        parts.append(text[end:])
        if "{{" in text[end:]:
            raise self._error(key, 'holds {{ without }}; write {{ "{{" }} for two braces')
        return tuple(part for part in parts if part != "")

    def _known(self, values: dict[str, Any], kinds: Mapping[str, type], prefix: str) -> None:
        for key, value in values.items():
            if key not in kinds:
                names = ", ".join(prefix + name for name in kinds)
                raise self._error(key, f"is no key of a template; the keys are {names}")
            if type(value) is not kinds[key]:
                raise self._error(key, f"must be {_KINDS[kinds[key]]}")

    def _error(self, key: str, why: str) -> JobError:
        pattern = re.compile(rf"^\s*(\[\s*)?[\"']?{re.escape(key)}[\"']?\s*[=\].]", re.MULTILINE)
        match = pattern.search(self._text)
        line = f", line {self._text.count(chr(10), 0, match.end()) + 1}" if match else ""
        return JobError(f"{self._path}{line}: {key} {why}.")


_INSTEAD = {
    "model": "it is a key of its own",
    "messages": "the template's system, prompt and answer become the messages",
    "prompt": "it is a key of its own",
    "input": "the template's prompt becomes the input",
    "instructions": "the template's system becomes the instructions",
}
