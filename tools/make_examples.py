"""Write `examples/tickets.jsonl` and `examples/answers.jsonl` from held-out policies and tickets.

python tools/make_examples.py --output examples
"""

import argparse
import json
from pathlib import Path

from tiny_model.generator import SIZES, Generator, Policy, Ticket

ROOT = Path(__file__).resolve().parent.parent
KINDS = ("triage", "extract", "route", "fewshot")
"""The most frequent first."""
COMPANIES = 3
TICKETS_OF_POLICY = (48, 40, 36, 32, 28, 26, 24, 22, 20, 18, 14, 12)
"""One number per policy; every company has one policy of each kind."""
MODEL_NAME = "shoal-tiny"
MAX_TOKENS = 64


def draw_examples(seed: int) -> list[tuple[str, Policy, Ticket]]:
    """Draw (custom_id, policy, ticket), in a shuffled order.

    All prompts share the first paragraph, those of a company also its preamble, those of a policy
    the whole system message.
    """
    generator = Generator(seed, held_out=True)
    preambles = [
        generator.preamble(generator.company(), SIZES[-1], wording=0) for _ in range(COMPANIES)
    ]
    kinds = [kind for kind in KINDS for _ in range(COMPANIES)]
    drawn = []
    for i, (kind, count) in enumerate(zip(kinds, TICKETS_OF_POLICY, strict=True)):
        policy = generator.policy(kind, SIZES[-1], preambles[i % COMPANIES])
        drawn += [
            (f"{kind}-{i + 1:02d}-{j + 1:03d}", policy, generator.ticket(policy))
            for j in range(count)
        ]
    generator.rng.shuffle(drawn)
    return drawn


def _request(custom_id: str, policy: Policy, ticket: Ticket) -> dict[str, object]:
    messages = [
        {"role": "system", "content": policy.system},
        {"role": "user", "content": ticket.text},
    ]
    body = {
        "model": MODEL_NAME,
        "messages": messages,
        "max_tokens": MAX_TOKENS,
        "temperature": 0,
    }
    return {"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": body}


def main() -> None:
    """Write both files."""
    parser = argparse.ArgumentParser(description="Write the example requests and their answers.")
    parser.add_argument("--output", type=Path, default=ROOT / "examples")
    parser.add_argument("--seed", type=int, default=2026)
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    drawn = draw_examples(arguments.seed)
    with (
        (arguments.output / "tickets.jsonl").open("w", encoding="utf-8") as requests,
        (arguments.output / "answers.jsonl").open("w", encoding="utf-8") as answers,
    ):
        for custom_id, policy, ticket in drawn:
            request = _request(custom_id, policy, ticket)
            requests.write(json.dumps(request, ensure_ascii=False) + "\n")
            answer = {"custom_id": custom_id, "answer": ticket.answer}
            answers.write(json.dumps(answer, ensure_ascii=False) + "\n")
    print(f"{len(drawn)} requests under {len(TICKETS_OF_POLICY)} policies in {arguments.output}")


if __name__ == "__main__":
    main()
