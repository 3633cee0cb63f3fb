"""Make the bundled model `shoal-tiny` from nothing: data, tokenizer, training, folder.

    python tools/train_tiny_model.py --output shoal/models/shoal-tiny

Needs no download and no GPU. The same seed on the same machine gives the same model.
"""

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from tiny_model.batches import BatchMaker
from tiny_model.generator import KINDS, SIZES, Generator
from tiny_model.model import MAX_POSITIONS
from tiny_model.tokenizer import END_OF_TEXT, train_tokenizer
from tiny_model.training import Options, exact_matches, train
from transformers import GenerationConfig

ROOT = Path(__file__).resolve().parent.parent


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train the bundled model shoal-tiny.")
    parser.add_argument("--output", type=Path, default=ROOT / "shoal" / "models" / "shoal-tiny")
    parser.add_argument("--steps", type=int, default=Options.steps, help="optimiser steps")
    parser.add_argument("--seed", type=int, default=Options.seed)
    return parser.parse_args()


def _tokenizer_texts(seed: int) -> Iterator[str]:
    """Give the texts from which the tokenizer learns its merges."""
    generator = Generator(seed, held_out=False)
    for i in range(1500):
        policy = generator.policy(KINDS[i % len(KINDS)], SIZES[i % len(SIZES)])
        yield policy.system
        for _ in range(6):
            ticket = generator.ticket(policy)
            yield ticket.text
            yield ticket.answer


def main() -> None:
    """Train, check on held-out data, save."""
    arguments = _arguments()
    torch.set_num_threads(2)
    torch.use_deterministic_algorithms(True)
    began_cpu, began = time.process_time(), time.monotonic()
    tokenizer = train_tokenizer(_tokenizer_texts(arguments.seed), MAX_POSITIONS)
    options = Options(steps=arguments.steps, seed=arguments.seed)
    model = train(tokenizer, options, log=lambda line: print(line, flush=True)).eval()

    held_out = BatchMaker(tokenizer, Generator(arguments.seed + 2, held_out=True))
    right = [
        match for _ in range(20) for match in exact_matches(model, held_out.draw(8, 8, SIZES[-1]))
    ]
    model.generation_config = GenerationConfig(
        do_sample=False,
        eos_token_id=[tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids(END_OF_TEXT)],
        pad_token_id=tokenizer.pad_token_id,
    )
    model.save_pretrained(arguments.output)
    tokenizer.save_pretrained(arguments.output)
    for file in arguments.output.iterdir():
        file.chmod(0o644)
    size = sum(file.stat().st_size for file in arguments.output.iterdir())
    print(
        f"held-out exact match {100 * sum(right) / len(right):.2f} % of {len(right)}; "
        f"{sum(p.numel() for p in model.parameters()):,} parameters, {size / 1e6:.1f} MB; "
        f"{(time.process_time() - began_cpu) / 120:.1f} minutes of two cores "
        f"({(time.monotonic() - began) / 60:.1f} by the clock)"
    )


if __name__ == "__main__":
    main()
