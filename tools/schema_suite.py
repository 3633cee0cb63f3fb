"""JSON Schema's own test suite against the grammars that schemas become: which answers may come.

    python tools/schema_suite.py [FOLDER]     FOLDER: the suite; without it, it is fetched

The suite (https://github.com/json-schema-org/JSON-Schema-Test-Suite) has schemas, and for each of
them instances that are valid or not. A schema is compiled or refused. Of one that is compiled every
instance is written in the bundled model's tokens, and the grammar takes it or not. It must take no
instance that is not valid. It may refuse a valid one: properties come in the schema's order only.

Without a folder, the suite is taken from the source distribution of `jsonschema`, which holds it.
"""

from __future__ import annotations

import collections
import json
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from shoal.answers.grammar import GrammarCompiler
from shoal.answers.structure import of_structured_outputs
from shoal.errors import InvalidRequestError
from shoal.model.description import bundled_model_path

KNOWN = (
    "draft7/ref: $ref prevents a sibling $id from changing the base uri: "
    "$ref resolves to /definitions/base_foo, data does not validate"
)
"""Schemas are read as of draft 2020-12, where what stands beside a `$ref` counts."""
DRAFTS = ("draft7", "draft2019-09", "draft2020-12")


@dataclass
class Found:
    """What became of one draft's cases.

    Attributes:
        compiled, refused: schemas.
        valid, taken: valid instances of the compiled ones, and those the grammars take.
        invalid: the others.
        wrong: which of these the grammars take all the same.
        reasons: why schemas were refused.
    """

    compiled: int = 0
    refused: int = 0
    valid: int = 0
    taken: int = 0
    invalid: int = 0
    wrong: list[str] = field(default_factory=list)
    reasons: collections.Counter[str] = field(default_factory=collections.Counter)


def main() -> int:
    """Print a table; 1 if a grammar takes an instance that is not valid, but for the one known."""
    with tempfile.TemporaryDirectory() as scratch:
        suite = Path(sys.argv[1]) if len(sys.argv) > 1 else fetch(Path(scratch))
        found = {draft: judge(cases(suite / "tests" / draft)) for draft in DRAFTS}
    print("| draft | schemas | refused | invalid instances | taken | valid instances | taken |")
    print("|---|---|---|---|---|---|---|")
    for draft, one in found.items():
        total = one.compiled + one.refused
        print(f"| {draft} | {total} | {one.refused} | {one.invalid} | {len(one.wrong)} | ", end="")
        print(f"{one.valid} | {one.taken} |")
    wrong = [name for one in found.values() for name in one.wrong]
    print(*wrong, sep="\n")
    reasons = sum((one.reasons for one in found.values()), collections.Counter[str]())
    print(*(f"{count:4d} {reason}" for reason, count in reasons.most_common(20)), sep="\n")
    return int(wrong != [KNOWN])


def fetch(folder: Path) -> Path:
    """The suite, from the package index."""
    pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps"]
    subprocess.run([*pip, "--no-binary", ":all:", "-d", folder, "jsonschema"], check=True)
    [archive] = folder.glob("jsonschema-*.tar.gz")
    with tarfile.open(archive) as packed:
        packed.extractall(folder, filter="data")
    return next(folder.glob("jsonschema-*/json"))


def cases(folder: Path) -> Iterator[tuple[str, Any, list[dict[str, Any]]]]:
    """Name, schema and instances of each case in a folder, without what is optional."""
    for file in sorted(folder.glob("*.json")):
        for case in json.loads(file.read_text()):
            yield f"{folder.name}/{file.stem}: {case['description']}", case["schema"], case["tests"]


def judge(given: Iterator[tuple[str, Any, list[dict[str, Any]]]]) -> Found:
    """Compile all schemas and try all instances."""
    tokenizer = AutoTokenizer.from_pretrained(bundled_model_path())
    compiler = GrammarCompiler(tokenizer, len(tokenizer), (tokenizer.eos_token_id,))
    found = Found()
    for name, schema, tests in given:
        try:
            grammar = of_structured_outputs({"json": schema}, "").grammar
            compiler.check(grammar, "schema")
        except InvalidRequestError as error:
            found.refused += 1
            found.reasons[error.message[:100]] += 1
            continue
        found.compiled += 1
        for test in tests:
            takes = accepts(compiler, tokenizer, grammar, test["data"])
            if test["valid"]:
                found.valid += 1
                found.taken += takes
            else:
                found.invalid += 1
                if takes:
                    found.wrong.append(f"{name}: {test['description']}")
    return found


def accepts(
    compiler: GrammarCompiler, tokenizer: PreTrainedTokenizerBase, grammar: str, instance: Any
) -> bool:
    """Whether the grammar takes an instance, written as JSON."""
    text = json.dumps(instance, ensure_ascii=False, separators=(",", ":"))
    tokens = tokenizer.encode(text, add_special_tokens=False)
    matcher = compiler.matcher(grammar)
    return matcher.consume_tokens(tokens) and bool(matcher.is_accepting())


if __name__ == "__main__":
    sys.exit(main())
