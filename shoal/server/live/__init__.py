"""What is going on: of the engine's run, and of each key's batches, as pages and metrics show it.

`live` keeps what the engine's process told. `followed` sees what changed in the store; `broadcast`
sends both to open pages, and `metrics` writes the text of /metrics.
"""

from shoal.server.live.broadcast import Broadcast
from shoal.server.live.followed import newest_batches, one_batch
from shoal.server.live.live import EngineFigures, Live
from shoal.server.live.metrics import metrics_text

__all__ = [
    "Broadcast",
    "EngineFigures",
    "Live",
    "metrics_text",
    "newest_batches",
    "one_batch",
]
