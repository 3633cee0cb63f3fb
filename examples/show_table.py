"""Show the first rows of `orders.parquet`, and compare all with the right answers.

    python examples/show_table.py orders.parquet examples/answers.jsonl

A row counts when all its fields are exactly right; a request without a row counts as wrong.
"""

import argparse
import json
import sys
from pathlib import Path

from pyarrow import parquet

PREFIX = "extract-06-"
"""Of the tickets in orders.csv."""
FIELDS = ("city", "order", "name", "product")
SHOWN = 3


def main() -> int:
    """Print rows and accuracy; 1 when it is below the minimum."""
    parser = argparse.ArgumentParser(description="Show and score the example orders.")
    parser.add_argument("results", type=Path, help="Parquet results")
    parser.add_argument("answers", type=Path, help="lines of custom_id and answer")
    parser.add_argument("--minimum", type=float, default=0.9, help="share needed for exit code 0")
    arguments = parser.parse_args()

    table = parquet.read_table(arguments.results, columns=["custom_id", *FIELDS])
    print(" | ".join(table.column_names))
    for row in table.slice(0, SHOWN).to_pylist():
        print(" | ".join(str(value) for value in row.values()))
    given = {row.pop("custom_id"): row for row in table.to_pylist()}
    lines = arguments.answers.read_text(encoding="utf-8").splitlines()
    answers = {line["custom_id"]: json.loads(line["answer"]) for line in map(json.loads, lines)}
    expected = {name: answer for name, answer in answers.items() if name.startswith(PREFIX)}
    right = sum(given.get(name) == answer for name, answer in expected.items())
    print(f"fields right in {right} of {len(expected)} tickets")
    return 0 if right >= arguments.minimum * len(expected) > 0 else 1


if __name__ == "__main__":
    sys.exit(main())
