"""The prefix forest as an SVG for the browser, to hover over and to zoom into."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from shoal.planner import Plan
from shoal.report.excerpts import Excerpts
from shoal.report.icicle import Boxes, Float64Array, make_icicle
from shoal.types import Int64Array

COLORS = 6
"""Classes of saving: `s0`, the least, to `s5`."""
_COLUMNS = 1200
_SEGMENTS = 2500
_WIDTH, _HEIGHT = 1200, 480
_EXCERPT_TOKENS, _EXCERPT_CHARACTERS = 40, 120

Rect: TypeAlias = tuple[str, str, str, str, str]
"""Class, x, y, width and height of a `rect`."""


@dataclass(frozen=True)
class ForestPicture:
    """The picture and what its script needs to know.

    Attributes:
        rects: one per stretch of own prompt parts (class `t`), per shown segment (class `s0` ...
            `s5`), and per merged stretch of narrower ones (the same, and `m`).
        segments: for each segment's `rect`, in order: sequences, tokens, tokens before it, tokens
            saved, text.
        merged_saved: for each merged stretch's `rect`, in order: tokens saved.
        bounds: least and most tokens saved by a rectangle, where the colours begin and end.
        depth: tokens at the picture's bottom.
    """

    rects: list[Rect]
    segments: list[tuple[int, int, int, int, str]]
    merged_saved: list[int]
    bounds: tuple[int, int]
    depth: int

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of what the rectangles fill."""
        return _WIDTH, _HEIGHT

    @property
    def svg(self) -> str:
        """The picture as an element."""
        rects = "".join(
            f'<rect class="{name}" x="{x}" y="{y}" width="{width}" height="{height}"/>'
            for name, x, y, width, height in self.rects
        )
        return (
            f'<svg id="forest" viewBox="0 0 {_WIDTH} {_HEIGHT}" preserveAspectRatio="none" '
            'role="img" tabindex="0" aria-labelledby="forest-title" aria-describedby="forest-help">'
            f'<title id="forest-title">The prefix forest</title>{rects}</svg>'
        )


def draw_forest(
    plan: Plan, prompt_lengths: Int64Array, excerpts: Excerpts, *, most_segments: int = _SEGMENTS
) -> ForestPicture:
    """Lay the forest out: width is sequences, depth is tokens, colour is tokens saved.

    Args:
        prompt_lengths: tokens of each request's prompt, [N].
        most_segments: that get a rectangle of their own.
    """
    icicle = make_icicle(plan, prompt_lengths, columns=_COLUMNS, max_segments=most_segments)
    boxes = (icicle.segments, icicle.merged, icicle.tails)
    depth = max(float(box.bottom.max(initial=1)) for box in boxes)
    scale = _WIDTH / max(plan.num_sequences, 1), _HEIGHT / depth
    saved = np.concatenate([icicle.segment_saved, icicle.merged_saved])
    least, most = (float(saved.min(initial=np.inf)), float(saved.max(initial=1.0)))
    least = min(least, most)
    rects = [
        *_rects(icicle.tails, scale, ["t"] * len(icicle.tails.left)),
        *_rects(icicle.segments, scale, _classes(icicle.segment_saved, least, most, "")),
        *_rects(icicle.merged, scale, _classes(icicle.merged_saved, least, most, " m")),
    ]
    return ForestPicture(
        rects=rects,
        segments=[_details(plan, int(s), excerpts) for s in icicle.segment_ids],
        merged_saved=[round(value) for value in icicle.merged_saved.tolist()],
        bounds=(round(least), round(most)),
        depth=round(depth),
    )


def _details(plan: Plan, segment: int, excerpts: Excerpts) -> tuple[int, int, int, int, str]:
    users, length = int(plan.segment_users[segment]), int(plan.segment_length[segment])
    start = int(plan.segment_start[segment])
    request = int(plan.segment_request[segment])
    text = excerpts.beginning(request, start, length, _EXCERPT_TOKENS)
    if len(text) > _EXCERPT_CHARACTERS:
        text = text[: _EXCERPT_CHARACTERS - 1] + "…"
    return users, length, start, length * (users - 1), text


def _classes(saved: Float64Array, least: float, most: float, more: str) -> list[str]:
    """A colour class per rectangle, even on a logarithmic scale."""
    span = max(np.log(most / least), 1e-9) if most > 0 and least > 0 else 1.0
    level = np.log(np.maximum(saved, 1e-9) / max(least, 1e-9)) / span
    number = np.clip((level * COLORS).astype(np.int64), 0, COLORS - 1)
    return [f"s{n}{more}" for n in number.tolist()]


def _rects(boxes: Boxes, scale: tuple[float, float], classes: list[str]) -> Iterator[Rect]:
    edges = [boxes.left, boxes.top, boxes.right - boxes.left, boxes.bottom - boxes.top]
    scaled = [edge * scale[i % 2] for i, edge in enumerate(edges)]
    for name, x, y, width, height in zip(classes, *(edge.tolist() for edge in scaled), strict=True):
        yield name, f"{x:.6g}", f"{y:.5g}", f"{width:.5g}", f"{height:.5g}"
