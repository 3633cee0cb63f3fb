"""Layers with a state of a fixed size: their memory, and their functions in packed batches."""

from shoal.recurrence.functions import PACKED_FUNCTIONS, PackedFunction
from shoal.recurrence.prepared import PreparedStates
from shoal.recurrence.state_memory import LayerStates, StateMemory, StateShape

__all__ = [
    "PACKED_FUNCTIONS",
    "LayerStates",
    "PackedFunction",
    "PreparedStates",
    "StateMemory",
    "StateShape",
]
