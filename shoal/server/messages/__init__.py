"""What the server and its processes say to each other, and leave on the disk for each other.

`engine_messages` and `clerk_messages` are the words. `telemetry` is what a run tells twice a
second, with `finished_requests` in it. `pictures` are files that the engine's process writes and
the server takes away.
"""

from shoal.server.messages.batch_errors import batch_error, not_runnable, unsupported_endpoint
from shoal.server.messages.clerk_messages import (
    CannotEnd,
    CheckFile,
    FileChecked,
    FromClerk,
    GiveUp,
    ToClerk,
)
from shoal.server.messages.engine_messages import (
    FOREST_FILE,
    BatchProgress,
    BatchRefused,
    BatchTask,
    Done,
    EngineReady,
    FromEngine,
    LoadFailed,
    NotNow,
    Progress,
    RunBatches,
    RunEnded,
    Stop,
    Stopped,
)
from shoal.server.messages.finished_requests import (
    CHOICE_BUCKETS,
    REASONS,
    TOKEN_BUCKETS,
    FinishedRequests,
    Tally,
)
from shoal.server.messages.pictures import drop_pictures, put_picture
from shoal.server.messages.telemetry import ITERATION_BUCKETS, Telemetry, TracePoint

__all__ = [
    "CHOICE_BUCKETS",
    "FOREST_FILE",
    "ITERATION_BUCKETS",
    "REASONS",
    "TOKEN_BUCKETS",
    "BatchProgress",
    "BatchRefused",
    "BatchTask",
    "CannotEnd",
    "CheckFile",
    "Done",
    "EngineReady",
    "FileChecked",
    "FinishedRequests",
    "FromClerk",
    "FromEngine",
    "GiveUp",
    "LoadFailed",
    "NotNow",
    "Progress",
    "RunBatches",
    "RunEnded",
    "Stop",
    "Stopped",
    "Tally",
    "Telemetry",
    "ToClerk",
    "TracePoint",
    "batch_error",
    "drop_pictures",
    "not_runnable",
    "put_picture",
    "unsupported_endpoint",
]
