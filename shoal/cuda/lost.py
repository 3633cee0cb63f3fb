"""Tells a device that is gone from an iteration that failed."""

from __future__ import annotations

from collections.abc import Callable

import torch

from shoal.errors import DeviceLostError


def raise_if_lost(
    error: Exception,
    device: torch.device,
    synchronize: Callable[[torch.device], None] = torch.cuda.synchronize,
) -> None:
    """Ask a CUDA device whether it still works after an error.

    Some errors (an illegal address, a failed assertion, a device that fell off the bus) end the
    process's CUDA context: every later call fails with them. Retrying would only fail all requests
    one after another.

    Raises:
        DeviceLostError: it does not, or the error is one.
    """
    if isinstance(error, DeviceLostError):
        raise error
    if device.type != "cuda":
        return
    try:
        synchronize(device)
    except Exception as lost:
        raise DeviceLostError(
            f"{device} is lost to this process: {str(lost).splitlines()[0]}. What has finished is "
            "saved; run the same command again to go on."
        ) from error
