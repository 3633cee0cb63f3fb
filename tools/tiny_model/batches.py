"""Training batches: policies once, and beside each the tickets that share it."""

import random
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from tiny_model.generator import KINDS, Generator, Policy, Size, Ticket

IGNORED = -100


@dataclass(frozen=True)
class Batch:
    """P policies with K tickets each; the tickets of a policy see it and not each other."""

    policy_ids: Tensor
    """[P, S] int64, padded on the right."""
    policy_mask: Tensor
    """[P, S] int64, 1 where there is a token."""
    ticket_ids: Tensor
    """[P * K, T] int64: user turn, answer and end mark, padded on the right."""
    ticket_mask: Tensor
    """[P * K, T] int64."""
    ticket_positions: Tensor
    """[P * K, T] int64, continuing the positions of the policy."""
    labels: Tensor
    """[P * K, T] int64: the answer token that follows each position, else `IGNORED`."""


def _rendered(tokenizer: PreTrainedTokenizerFast, messages: list[dict[str, str]], ask: bool) -> str:
    """Render with the chat template, exactly as at inference."""
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=ask)
    assert isinstance(text, str)
    return text


def _padded(rows: list[list[int]], pad: int) -> Tensor:
    width = max(map(len, rows))
    return torch.tensor([row + [pad] * (width - len(row)) for row in rows])


class BatchMaker:
    """Turns the generator's policies and tickets into batches of tokens."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, generator: Generator) -> None:
        self.tokenizer = tokenizer
        self.generator = generator

    def draw(self, policies: int, tickets: int, size: Size, longest_gap: int = 0) -> Batch:
        """Draw a batch with all kinds in turn; a gap moves tickets away from their policy."""
        drawn: list[tuple[Policy, list[Ticket]]] = []
        for i in range(policies):
            policy = self.generator.policy(KINDS[i % len(KINDS)], size)
            drawn.append((policy, [self.generator.ticket(policy) for _ in range(tickets)]))
        return self.encode(drawn, longest_gap)

    def encode(self, drawn: list[tuple[Policy, list[Ticket]]], longest_gap: int = 0) -> Batch:
        """Encode policies with equally many tickets each."""
        encode = self._ids
        policy_rows, ticket_rows, label_rows, position_rows = [], [], [], []
        for policy, tickets in drawn:
            system = [{"role": "system", "content": policy.system}]
            policy_row = encode(_rendered(self.tokenizer, system, ask=False))
            policy_rows.append(policy_row)
            rng: random.Random = self.generator.rng
            gap = rng.randint(0, longest_gap) if rng.random() < 0.15 else 0
            for ticket in tickets:
                user = [{"role": "user", "content": ticket.text}]
                asked = encode(_rendered(self.tokenizer, user, ask=True))
                answer = [*encode(ticket.answer), self.tokenizer.eos_token_id]
                row = asked + answer[:-1]
                ticket_rows.append(row)
                label_rows.append([IGNORED] * (len(asked) - 1) + answer)
                start = len(policy_row) + gap
                position_rows.append(list(range(start, start + len(row))))
        pad = self.tokenizer.pad_token_id
        return Batch(
            policy_ids=_padded(policy_rows, pad),
            policy_mask=_padded([[1] * len(row) for row in policy_rows], 0),
            ticket_ids=_padded(ticket_rows, pad),
            ticket_mask=_padded([[1] * len(row) for row in ticket_rows], 0),
            ticket_positions=_padded(position_rows, 0),
            labels=_padded(label_rows, IGNORED),
        )

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids
