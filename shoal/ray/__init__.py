"""Shoal in Ray Data pipelines: `processor(config)(dataset)`, and pieces for large data sets."""

from shoal.ray.dataset_processor import DatasetProcessor, processor
from shoal.ray.partition import partition
from shoal.ray.piece_folder import WrittenPieces
from shoal.ray.piece_source import read_pieces
from shoal.ray.processor_config import PieceConfig, ProcessorConfig

__all__ = [
    "DatasetProcessor",
    "PieceConfig",
    "ProcessorConfig",
    "WrittenPieces",
    "partition",
    "processor",
    "read_pieces",
]
