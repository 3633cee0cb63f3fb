"""From a table and a template to the lines of an ordinary batch file, one per row, in its order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from shoal.errors import JobError
from shoal.tables.field_order import FieldTable, Int16Array, choose_orders
from shoal.tables.table import TableFile, TextColumn
from shoal.tables.template import Parts, Placeholder, Template
from shoal.types import CHAT_URL, RESPONSES_URL, Int32Array

_ROWS_AT_A_TIME = 4096


@dataclass(frozen=True)
class FieldOrder:
    """What ordering the fields brings. Lengths are characters of the fields of all rows.

    Attributes:
        names: the fields in the template's order.
        reordered: the template allows another order per row.
        common: the orders in use, the most frequent first: (rows, fields in their order).
        total: characters of all fields.
        saved_before, saved: characters that rows begin alike with, in the template's order for
            all rows and in the order chosen.
    """

    names: tuple[str, ...]
    reordered: bool
    common: tuple[tuple[int, tuple[str, ...]], ...]
    total: int
    saved_before: int
    saved: int

    def __str__(self) -> str:
        before, now = (f"{s / max(self.total, 1):.1%}" for s in (self.saved_before, self.saved))
        if not self.reordered:
            return f"{now} of the fields' text is shared; none may be reordered"
        rows, first = self.common[0] if self.common else (0, self.names)
        orders = len(self.common)
        how = "one order for all rows" if orders == 1 else f"{orders:,} orders, {rows:,} rows have"
        return (
            f"{now} of the fields' text is shared, against {before} in the template's order; "
            f"{how}: {', '.join(first)}"
        )


class TableRequests:
    """The requests of a relational job.

    The same table and template give the same lines, byte for byte.

    Attributes:
        rows: how many requests there are.
        order: what became of the fields; None when the prompt holds none.

    Raises:
        JobError: table or template cannot be used.
        OptionError: the table's file name says neither Parquet nor CSV.
    """

    def __init__(self, table_path: Path, template: Template) -> None:
        table = TableFile(table_path)
        template.check_columns(table.columns, table_path)
        names = template.field_names(table.columns)
        wanted = [*names, *template.named(), *([template.id] if template.id else [])]
        if not wanted:
            raise JobError(f"{template.path}: no text names a column: all prompts would be equal.")
        self.rows, self._columns = table.read(list(dict.fromkeys(wanted)), template.null)
        self._template = template
        self._fields = [_Field.of(name, template, self._columns[name]) for name in names]
        self._orders, self.order = self._arrange()

    def lines(self) -> Iterator[bytes]:
        """The lines of the batch file, without newlines."""
        for start in range(0, self.rows, _ROWS_AT_A_TIME):
            rows = slice(start, start + _ROWS_AT_A_TIME)
            pieces = self._pieces(rows)
            for i, texts in enumerate(self._texts(rows, pieces)):
                yield orjson.dumps(self._request(start + i, texts))

    def _arrange(self) -> tuple[Int16Array, FieldOrder | None]:
        rules = self._template.fields
        if rules is None:
            return np.zeros((self.rows, 0), dtype=np.int16), None
        table = FieldTable(
            codes=np.stack([field.codes for field in self._fields]),
            lengths=[field.lengths for field in self._fields],
            common=[field.common for field in self._fields],
            group=self._group(),
        )
        choice = choose_orders(table, reorder=rules.reorder)
        names = tuple(field.name for field in self._fields)
        distinct, counts = np.unique(choice.orders, axis=0, return_counts=True)
        most = np.argsort(-counts, kind="stable")
        return choice.orders, FieldOrder(
            names=names,
            reordered=rules.reorder,
            common=tuple((int(counts[m]), tuple(names[f] for f in distinct[m])) for m in most),
            total=table.total_length(),
            saved_before=choice.saved_fixed,
            saved=choice.saved,
        )

    def _group(self) -> Int32Array:
        """Rows whose prompts are equal up to the fields have equal numbers, int32 [N]."""
        parts = (*(self._template.system or ()), *self._template.before)
        group = np.zeros(self.rows, dtype=np.int64)
        for name in dict.fromkeys(part.name for part in parts if isinstance(part, Placeholder)):
            column = self._columns[name]
            key = group * len(column.values) + column.codes
            group = np.unique(key, return_inverse=True)[1]
        return group.astype(np.int32)

    def _pieces(self, rows: slice) -> list[str]:
        """The text of all fields of each of these rows, in the row's order."""
        if not self._fields:
            return [""] * len(range(*rows.indices(self.rows)))
        codes = zip(*(field.codes[rows].tolist() for field in self._fields), strict=True)
        texts = [field.pieces for field in self._fields]
        return [
            "".join([texts[f][code[f]] for f in order])
            for order, code in zip(self._orders[rows].tolist(), codes, strict=True)
        ]

    def _texts(self, rows: slice, pieces: Sequence[str]) -> Iterator[_RowTexts]:
        """The texts of each of these rows."""
        template = self._template
        before = self._filled(template.before, rows, len(pieces))
        after = self._filled(template.after, rows, len(pieces))
        ids = None if template.id is None else (Placeholder(template.id),)
        beside = [
            [None] * len(pieces) if parts is None else self._filled(parts, rows, len(pieces))
            for parts in (template.system, template.answer, ids)
        ]
        prompts = map("".join, zip(before, pieces, after, strict=True))
        for prompt, system, answer, custom_id in zip(prompts, *beside, strict=True):
            yield _RowTexts(prompt, system, answer, custom_id)

    def _filled(self, parts: Parts, rows: slice, size: int) -> list[str]:
        """A text with its placeholders filled, for each of these rows."""
        filled: list[list[str]] = []
        for part in parts:
            if isinstance(part, Placeholder):
                column = self._columns[part.name]
                filled.append([column.values[code] for code in column.codes[rows].tolist()])
            else:
                filled.append([part] * size)
        return ["".join(texts) for texts in zip(*filled, strict=True)] if filled else [""] * size

    def _request(self, row: int, texts: _RowTexts) -> dict[str, Any]:
        template = self._template
        body: dict[str, Any] = {"model": template.model}
        if template.url == CHAT_URL:
            body |= texts.as_chat()
        elif template.url == RESPONSES_URL:
            body["input"] = texts.prompt
            if texts.system is not None:
                body["instructions"] = texts.system
        else:
            body["prompt"] = texts.prompt
        return {
            "custom_id": f"row-{row + 1}" if texts.custom_id is None else texts.custom_id,
            "method": "POST",
            "url": template.url,
            "body": body | dict(template.body),
        }


@dataclass(frozen=True, slots=True)
class _RowTexts:
    """What a row makes of a template's texts; None: the template has no such text."""

    prompt: str
    system: str | None
    answer: str | None
    custom_id: str | None

    def as_chat(self) -> dict[str, Any]:
        """Messages; where the answer has begun, the model goes on with it."""
        messages = [{"role": "user", "content": self.prompt}]
        if self.system is not None:
            messages.insert(0, {"role": "system", "content": self.system})
        if self.answer is None:
            return {"messages": messages}
        messages.append({"role": "assistant", "content": self.answer})
        return {
            "messages": messages,
            "add_generation_prompt": False,
            "continue_final_message": True,
        }


@dataclass(frozen=True)
class _Field:
    """A reorderable column: its distinct pieces, sorted, and which of them each row has."""

    name: str
    pieces: list[str]
    codes: Int32Array
    lengths: Int32Array
    common: Int32Array

    @classmethod
    def of(cls, name: str, template: Template, column: TextColumn) -> _Field:
        assert template.fields is not None
        parts = [
            name if part == Placeholder("name") else part for part in template.fields.format
        ]  # what is left to fill is the value
        texts = [
            "".join([part if isinstance(part, str) else value for part in parts])
            for value in column.values
        ]
        pieces = sorted(texts)
        code = {text: i for i, text in enumerate(pieces)}
        code_of = np.array([code[text] for text in texts], dtype=np.int32)
        alike = [_alike(before, after) for before, after in pairwise(pieces)]
        return cls(
            name=name,
            pieces=pieces,
            codes=code_of[column.codes],
            lengths=np.array([len(text) for text in pieces], dtype=np.int32),
            common=np.array([0, *alike], dtype=np.int32)[: len(pieces)],
        )


def _alike(before: str, after: str) -> int:
    """How many characters two texts begin alike with."""
    pairs = enumerate(zip(before, after, strict=False))
    return next((i for i, (b, a) in pairs if b != a), min(len(before), len(after)))
