"""Write `examples/reviews.csv`: product reviews joined with the products they are about.

python tools/make_table_example.py
"""

from __future__ import annotations

import csv
import random
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
PRODUCTS, REVIEWS = 12, 96

_MATERIALS = ("Oak", "Pine", "Steel", "Linen", "Cork", "Wool")
_THINGS = ("desk", "lamp", "backpack", "blanket", "kettle", "shelf")
_SHOPS = ("Weswen Living", "Tulheim Home")
_PRAISE = ("It arrived early", "I use it every day", "It looks better than in the picture")
_BLAME = ("It broke in a week", "It came with a dent", "The colour is not what I ordered")
_CLOSING = ("for {} of us", "after {} days", "and I own {} of them")


def product(rng: random.Random, number: int) -> dict[str, str]:
    """One product's columns."""
    thing = _THINGS[number % len(_THINGS)]
    name = f"{rng.choice(_MATERIALS)} {thing} {number + 10}"
    return {
        "product": name,
        "description": f"The {name} is made to last. It is {rng.randint(20, 90)} cm wide, weighs "
        f"{rng.randint(1, 9)} kg and comes with a guarantee of {rng.randint(2, 9)} years.",
        "shop": rng.choice(_SHOPS),
    }


def main() -> None:
    """Write the file anew, the same one every time."""
    rng = random.Random(4)
    products = [product(rng, number) for number in range(PRODUCTS)]
    with (EXAMPLES / "reviews.csv").open("w", newline="", encoding="utf-8") as file:
        columns = ["review_id", "review", "stars", *products[0]]
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        for number in range(REVIEWS):
            stars = rng.randint(1, 5)
            opening = rng.choice(_PRAISE if stars > 2 else _BLAME)
            closing = rng.choice(_CLOSING).format(rng.randint(2, 60))
            writer.writerow(
                {
                    "review_id": f"review-{number + 1:03}",
                    "review": f"{opening}, {closing}.",
                    "stars": stars,
                    **rng.choice(products),
                }
            )


if __name__ == "__main__":
    main()
