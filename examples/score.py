"""Compare the results of `examples/tickets.jsonl` with the right answers.

    python examples/score.py RESULTS.jsonl examples/answers.jsonl

An answer counts when it is exactly right; a request without a successful result counts as wrong.
"""

import argparse
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read a file with one JSON object per line."""
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines if line.strip()]


def answer_of(result: dict[str, Any]) -> str | None:
    """Give the text of the first choice; None for a failed request."""
    response = result.get("response")
    if result.get("error") or not response or response["status_code"] != 200:
        return None
    content: str | None = response["body"]["choices"][0]["message"]["content"]
    return content


def percent(right: int, total: int) -> str:
    """Format a share as the report shows it."""
    share = 100 * right / total if total else 0.0
    return f"{share:.1f} % ({right} of {total} exact)"


def main() -> int:
    """Print the accuracy, overall and per kind; 1 when it is below the minimum."""
    parser = argparse.ArgumentParser(description="Score the results of the example tickets.")
    parser.add_argument("results", type=Path, help="OpenAI batch output lines")
    parser.add_argument("answers", type=Path, help="lines of custom_id and answer")
    parser.add_argument("--minimum", type=float, default=0.95, help="share needed for exit code 0")
    arguments = parser.parse_args()

    given = {result["custom_id"]: answer_of(result) for result in read_lines(arguments.results)}
    total: Counter[str] = Counter()
    right: Counter[str] = Counter()
    for line in read_lines(arguments.answers):
        kind = line["custom_id"].split("-")[0]
        total[kind] += 1
        right[kind] += given.get(line["custom_id"]) == line["answer"]
    print(f"accuracy {percent(right.total(), total.total())}")
    for kind in sorted(total):
        print(f"  {kind:8} {percent(right[kind], total[kind])}")
    return 0 if right.total() >= arguments.minimum * total.total() > 0 else 1


if __name__ == "__main__":
    sys.exit(main())
