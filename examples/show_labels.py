"""Show the least sure labels of `topics.parquet`, and compare all with the right answers.

    python examples/show_labels.py topics.parquet examples/answers.jsonl

A ticket without a label counts as wrong.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from pyarrow import parquet

PREFIX = "route-07-"
"""Of the tickets in topics.csv."""
SHARE = "probability_"
SHOWN = 3


def ranked(row: dict[str, Any]) -> tuple[float, dict[str, Any], list[str]]:
    """The probability of a row's label, the row, and the columns of its two likeliest labels."""
    shares = [name for name in row if name.startswith(SHARE)]
    best = sorted(shares, key=row.__getitem__, reverse=True)[:2]
    return row[best[0]], row, best


def main() -> int:
    """Print labels with their probabilities, and how many are right; 1 below the minimum."""
    parser = argparse.ArgumentParser(description="Show and score the labels of example tickets.")
    parser.add_argument("results", type=Path, help="Parquet results")
    parser.add_argument("answers", type=Path, help="lines of custom_id and answer")
    parser.add_argument("--minimum", type=float, default=0.9, help="share needed for exit code 0")
    arguments = parser.parse_args()

    rows = parquet.read_table(arguments.results).to_pylist()
    print("custom_id | label | probability | next best")
    for _, row, (best, second) in sorted(map(ranked, rows), key=lambda each: each[0])[:SHOWN]:
        other = f"{second.removeprefix(SHARE)} {row[second]:.4f}"
        print(f"{row['custom_id']} | {row['label']} | {row[best]:.4f} | {other}")
    given = {row["custom_id"]: row["label"] for row in rows}
    lines = map(json.loads, arguments.answers.read_text(encoding="utf-8").splitlines())
    answers = {line["custom_id"]: json.loads(line["answer"]).get("tag") for line in lines}
    expected = {name: tag for name, tag in answers.items() if name.startswith(PREFIX)}
    right = sum(given.get(name) == tag for name, tag in expected.items())
    print(f"topics right in {right} of {len(expected)} tickets")
    return 0 if right >= arguments.minimum * len(expected) > 0 else 1


if __name__ == "__main__":
    sys.exit(main())
