"""What is known about the lengths of answers: the requests' limits first, then what has ended.

Requests fall into classes (`shoal.planner.likeness`): the job, the sampling parameters, the
template with the parameters. Each class has the distribution of the lengths seen in it, leaning on
that of the next wider class where it has seen little, and the job's on the prior; a class that has
seen nothing has the distribution of the wider one (`survival.hazards`).
"""

from __future__ import annotations

import numpy as np

from shoal.planner.likeness import likeness
from shoal.planner.plan import Plan
from shoal.planner.survival import AgeBins, FloatArray, SurvivalTable, at_risk, hazards
from shoal.types import BoolArray, Int32Array, Int64Array, RequestTable

_JOB_STRENGTH = 1.0
"""Imaginary answers of the prior in the job's distribution."""
_CLASS_STRENGTH = 4.0
"""Imaginary answers of the wider class in a class's distribution."""
_STALE_SHARE = 1 / 16
"""The distributions are estimated anew when so many more answers have ended, ..."""
_STALE_STEPS = 32
"""... or after so many iterations with any."""


class LengthModel:
    """Distributions of answer lengths, learnt while a job runs. Deterministic.

    The prior, for ages that nobody has got to yet, is a constant hazard: answers that ended per
    token generated, counting one imaginary answer that got as far as is expected, and ended there
    unless that is its limit. An answer that its limit cut tells that it would have been no shorter,
    nothing more. Requests are named by their index in the request table.
    """

    def __init__(self, plan: Plan, table: RequestTable) -> None:
        """`plan`: as made, before a pilot is put in front and its templates are torn apart.

        Its order may change later: classes are kept by request.
        """
        alike = likeness(plan, table)
        self._class_column: Int32Array = np.zeros(len(table), dtype=np.int32)
        self._class_column[plan.sequence_request] = alike.of
        self._parent = alike.parent
        self._limit_column = table.max_new_tokens
        self.fixed: BoolArray = fixed_lengths(table)
        """bool [N], requests that generate exactly their limit: nothing is learnt from them."""
        self._bins = AgeBins.up_to(int(table.max_new_tokens.max(initial=1)))
        self._prior = _prior(self._class_column, self._parent, table, self.fixed)
        self._count_row = np.full(len(self._parent), -1, dtype=np.int64)  # in the two arrays below
        self._ended: Int64Array = np.zeros((0, len(self._bins)), dtype=np.int64)
        self._cut: Int64Array = np.zeros((0, len(self._bins)), dtype=np.int64)
        self.num_ended = 0
        self._estimated_at = -1
        self._steps = 0
        self.estimate(np.zeros(0, np.int64), np.zeros(0, np.int64))

    def observe(self, requests: Int64Array, lengths: Int64Array) -> None:
        """Answers have ended, at their limits or before: int64 [R] each."""
        self._steps += 1
        learns = ~self.fixed[requests]
        requests, lengths = requests[learns], lengths[learns]
        if len(requests) == 0:
            return
        self.num_ended += len(requests)
        cut = lengths >= self._limit(requests)
        classes = self._class(requests)
        while len(classes):
            count_row = self._count_rows(classes)
            np.add.at(self._ended, (count_row[~cut], self._bins.of(lengths[~cut])), 1)
            outlived = self._bins.survived(lengths[cut] - 1)
            some = outlived > 0
            np.add.at(self._cut, (count_row[cut][some], outlived[some] - 1), 1)
            inner = self._parent[classes] >= 0
            classes, lengths, cut = self._parent[classes[inner]], lengths[inner], cut[inner]

    @property
    def stale(self) -> bool:
        """Whether enough has ended since the last estimate to make another."""
        new = self.num_ended - self._estimated_at
        return new > 0 and (new >= _STALE_SHARE * self.num_ended or self._steps >= _STALE_STEPS)

    def estimate(self, requests: Int64Array, generated: Int64Array) -> None:
        """Estimate the distributions of the classes of some requests; others get the wider one's.

        Args:
            requests, generated: int64 [R], answers under way and the tokens each has, and those
                that start soon, with none.
        """
        self._estimated_at, self._steps = self.num_ended, 0
        self._under_way = (requests, generated)
        self._table, self._row = self._distributions(np.unique(self._class(requests)))

    def _distributions(self, classes: Int64Array) -> tuple[SurvivalTable, Int64Array]:
        """The distributions of these classes and all wider, and the row of each class, [C]."""
        wanted = self._with_wider(classes)
        row = np.full(len(self._parent), -1, dtype=np.int64)
        row[wanted] = np.arange(len(wanted))
        ended = np.zeros((len(wanted), len(self._bins)), dtype=np.int64)
        censored = np.zeros_like(ended)
        count_row = self._count_row[wanted]
        seen = count_row >= 0
        ended[seen], censored[seen] = self._ended[count_row[seen]], self._cut[count_row[seen]]
        requests, generated = self._under_way
        outlived = np.where(self.fixed[requests], 0, self._bins.survived(generated))
        running, outlived = self._class(requests[outlived > 0]), outlived[outlived > 0]
        while len(running):
            here = row[running] >= 0
            np.add.at(censored, (row[running[here]], outlived[here] - 1), 1)
            inner = self._parent[running] >= 0
            running, outlived = self._parent[running[inner]], outlived[inner]
        table = SurvivalTable(self._bins, self._hazards(wanted, row, ended, censored))
        while (missing := row < 0).any():
            row[missing] = row[self._parent[missing]]
        return table, row

    def _hazards(
        self, classes: Int64Array, row: Int64Array, ended: Int64Array, censored: Int64Array
    ) -> FloatArray:
        """Hazards [rows, A], each class leaning on the next wider; the job's comes first."""
        parent = self._parent[classes]
        # The job's answers with the prior of each class of parameters, and of the job.
        outer = parent <= 0
        tokens = int((at_risk(ended[0], censored[0]) * self._bins.widths).sum())
        endings, lengths = self._prior[:, classes[outer], None]
        prior = (endings + ended[0].sum()) / (lengths + tokens)
        found = np.empty(ended.shape)
        found[outer] = hazards(ended[:1], censored[:1], prior, _JOB_STRENGTH)
        params, templates = parent == 0, parent > 0
        found[params] = hazards(ended[params], censored[params], found[params], _CLASS_STRENGTH)
        wider = found[row[parent[templates]]]
        found[templates] = hazards(ended[templates], censored[templates], wider, _CLASS_STRENGTH)
        return found

    def quantile(
        self, requests: Int64Array, generated: Int64Array, level: FloatArray
    ) -> Int64Array:
        """Lengths, int64 [R], that answers stay within with probability `level`, given their age.

        More than `generated`, at most the limit.
        """
        row = self._row[self._class(requests)]
        length = self._table.quantile(row, generated, level)
        limit = self._limit(requests)
        return np.where(self.fixed[requests], limit, np.minimum(length, limit))

    def expected(self, requests: Int64Array) -> FloatArray:
        """Mean lengths, float64 [R], of answers not yet begun, from all that is known of each."""
        table, row = self._distributions(np.unique(self._class(requests)))
        limit = self._limit(requests)
        mean = np.minimum(table.mean(row[self._class(requests)], 0 * limit, limit), limit)
        return np.where(self.fixed[requests], limit.astype(np.float64), mean)

    def _class(self, requests: Int64Array) -> Int64Array:
        return self._class_column[requests].astype(np.int64)

    def _limit(self, requests: Int64Array) -> Int64Array:
        return self._limit_column[requests].astype(np.int64)

    def _count_rows(self, classes: Int64Array) -> Int64Array:
        """Where the counts of these classes are; those seen for the first time get a row."""
        new = np.unique(classes[self._count_row[classes] < 0])
        if len(new):
            used = int(self._count_row.max()) + 1
            self._count_row[new] = used + np.arange(len(new))
            if used + len(new) > len(self._ended):
                more = max(used, len(new))
                self._ended = np.pad(self._ended, ((0, more), (0, 0)))
                self._cut = np.pad(self._cut, ((0, more), (0, 0)))
        return self._count_row[classes]

    def _with_wider(self, classes: Int64Array) -> Int64Array:
        """The distinct classes and all that are wider, ascending; the job is always among them."""
        found: BoolArray = np.zeros(len(self._parent), dtype=np.bool_)
        found[0] = True
        while len(classes := classes[~found[classes]]):
            found[classes] = True
            classes = self._parent[classes]
        return np.flatnonzero(found)


def fixed_lengths(table: RequestTable) -> BoolArray:
    """Requests that nothing can end before their limit, bool [N]."""
    fixed = [
        not p.generates or (p.ignore_eos and not p.stop and not p.stop_token_ids)
        for p in table.params
    ]
    return table.per_request(fixed).astype(np.bool_)


def _prior(
    of_request: Int32Array, parent: Int64Array, table: RequestTable, fixed: BoolArray
) -> FloatArray:
    """What is known of each class beforehand, float64 [2, C]: means over its requests.

    How many end at the expected length, and that length.
    """
    expected = table.expected_new_tokens
    known = np.stack([expected < table.max_new_tokens, expected]).astype(np.float64)[:, ~fixed]
    within = of_request[~fixed].astype(np.int64)
    total, count = np.zeros((2, len(parent))), np.zeros(len(parent))
    while len(within):
        for column, values in zip(total, known, strict=True):
            np.add.at(column, within, values)
        np.add.at(count, within, 1)
        inner = parent[within] >= 0
        within, known = parent[within[inner]], known[:, inner]
    total[1, count == 0] = 1.0
    prior: FloatArray = total / np.maximum(count, 1)
    return prior
