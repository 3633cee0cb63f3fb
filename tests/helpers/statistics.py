"""How well counts fit a distribution."""

import numpy as np
import torch


def chi_square_p(counts, probabilities):
    """The p-value of Pearson's test; an impossible outcome that occurred gives 0."""
    counts = np.asarray(counts, dtype=np.float64)
    expected = np.asarray(probabilities, dtype=np.float64) * counts.sum()
    if (counts[expected == 0] > 0).any():
        return 0.0
    # Cells of little expectation are pooled, as the test asks for.
    small = expected < 5
    observed = np.append(counts[~small], counts[small].sum())
    expected = np.append(expected[~small], expected[small].sum())
    observed, expected = observed[expected > 0], expected[expected > 0]
    statistic = ((observed - expected) ** 2 / expected).sum()
    half = torch.tensor([(len(expected) - 1) / 2, statistic / 2], dtype=torch.float64)
    return 1.0 if len(expected) == 1 else float(torch.special.gammaincc(half[0], half[1]))


def assert_fits(tokens, probabilities):
    """Fails when a thousandth of fair samples would look as bad."""
    counts = np.bincount(tokens, minlength=len(probabilities))
    assert chi_square_p(counts, probabilities) > 1e-3, (counts, probabilities)
