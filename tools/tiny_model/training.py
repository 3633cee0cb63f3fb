"""Training of the bundled model: configuration, optimisers, schedule, held-out accuracy."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import DynamicCache, LlamaForCausalLM, PreTrainedTokenizerFast

from tiny_model.batches import IGNORED, Batch, BatchMaker
from tiny_model.generator import SIZES, Generator
from tiny_model.model import new_model

COPY_TOKENS = 2048


@dataclass(frozen=True)
class Options:
    """What a training run depends on."""

    steps: int = 1800
    seed: int = 7
    copy_steps: int = 160
    policies: int = 4
    tickets: int = 8
    muon_rate: float = 0.004
    adam_rate: float = 0.004
    report_every: int = 100


def answer_logits(model: LlamaForCausalLM, batch: Batch) -> tuple[Tensor, Tensor]:
    """Run policies once, then all tickets on top of them.

    Returns logits [A, vocabulary] and labels [A] of the A answer tokens, in row order.
    """
    cache = DynamicCache(config=model.config)
    model.model(
        input_ids=batch.policy_ids,
        attention_mask=batch.policy_mask,
        past_key_values=cache,
        use_cache=True,
    )
    tickets = batch.ticket_ids.shape[0] // batch.policy_ids.shape[0]
    cache.batch_repeat_interleave(tickets)
    policy_mask = batch.policy_mask.repeat_interleave(tickets, dim=0)
    hidden = model.model(
        input_ids=batch.ticket_ids,
        attention_mask=torch.cat([policy_mask, batch.ticket_mask], dim=1),
        position_ids=batch.ticket_positions,
        past_key_values=cache,
        use_cache=True,
    ).last_hidden_state
    wanted = batch.labels != IGNORED
    return model.lm_head(hidden[wanted]), batch.labels[wanted]


@torch.no_grad()
def exact_matches(model: LlamaForCausalLM, batch: Batch) -> list[bool]:
    """Tell for each ticket whether greedy decoding gives its whole answer, in float32.

    The most probable token is right at every answer position exactly when greedy decoding is.
    """
    logits, labels = answer_logits(model, batch)
    right = (logits.argmax(dim=-1) == labels).tolist()
    matches, start = [], 0
    for length in (batch.labels != IGNORED).sum(dim=1).tolist():
        matches.append(all(right[start : start + length]))
        start += length
    return matches


def copying_loss(model: LlamaForCausalLM, generator: torch.Generator) -> Tensor:
    """Loss of repeating random tokens: the skill to copy comes soonest from this plain task."""
    length = 16 + 8 * int(torch.randint(0, 5, (), generator=generator))
    shape = (COPY_TOKENS // length, length)
    once = torch.randint(3, model.config.vocab_size, shape, generator=generator)
    twice = torch.cat([once, once], dim=1)
    hidden = model.model(input_ids=twice, use_cache=False).last_hidden_state
    logits = model.lm_head(hidden[:, length:-1])
    return nn.functional.cross_entropy(logits.flatten(0, 1).float(), once[:, 1:].flatten())


def answers_loss(model: LlamaForCausalLM, batch: Batch) -> Tensor:
    """Loss of the answer tokens of a batch."""
    logits, labels = answer_logits(model, batch)
    return nn.functional.cross_entropy(logits.float(), labels)


def _schedule(options: Options) -> Callable[[int], float]:
    """Warm up over 50 steps, stay, then go down to 1 % in a half cosine."""
    flat_until = 0.22 * options.steps

    def factor(step: int) -> float:
        if step < 50:
            return (step + 1) / 50
        done = max(0.0, (step - flat_until) / max(1.0, options.steps - flat_until))
        return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))

    return factor


def _optimizers(model: nn.Module, options: Options) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the layers, AdamW for the embedding and the norms."""
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    return [
        torch.optim.Muon(
            matrices, lr=options.muon_rate, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"
        ),
        torch.optim.AdamW(others, lr=options.adam_rate, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def _size_at(step: int, options: Options) -> int:
    """Small policies first, then middle ones too, then mostly large ones."""
    done = (step - options.copy_steps) / (options.steps - options.copy_steps)
    if done < 0.15:
        return 0
    if done < 0.3:
        return step % 2
    return 2 if step % 4 else 1


def train(
    tokenizer: PreTrainedTokenizerFast, options: Options, log: Callable[[str], None]
) -> LlamaForCausalLM:
    """Train a new model and log loss and held-out exact match as it goes."""
    model = new_model(tokenizer, options.seed)
    copies = torch.Generator().manual_seed(options.seed)
    maker = BatchMaker(tokenizer, Generator(options.seed, held_out=False))
    optimizers = _optimizers(model, options)
    schedules = [torch.optim.lr_scheduler.LambdaLR(o, _schedule(options)) for o in optimizers]
    held_out = BatchMaker(tokenizer, Generator(options.seed + 1, held_out=True))
    checks = [held_out.draw(16, 4, size) for size in SIZES]
    started, losses = time.process_time(), []
    for step in range(options.steps):
        with torch.autocast("cpu", torch.bfloat16):
            if step < options.copy_steps:
                loss = copying_loss(model, copies)
            else:
                size = SIZES[_size_at(step, options)]
                batch = maker.draw(options.policies, options.tickets, size, longest_gap=1200)
                loss = answers_loss(model, batch)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            schedule.step()
            optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        if (step + 1) % options.report_every == 0 or step + 1 == options.steps:
            recent = losses[-options.report_every :]
            right = [exact_matches(model, check) for check in checks]
            exact = " / ".join(f"{100 * sum(r) / len(r):.0f}" for r in right)
            log(
                f"step {step + 1}/{options.steps}  loss {sum(recent) / len(recent):.4f}  "
                f"held-out exact, small / middle / large policies: {exact} %  "
                f"{(time.process_time() - started) / 120:.1f} minutes of two cores"
            )
    return model
