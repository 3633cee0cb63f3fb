"""Fused products, norms, rotations and activations in place of a model's own, proved at load."""

from shoal.model.fusion.fuse import Fusion, layer_ops, pack_linears, traced_modules
from shoal.model.fusion.int8 import quantize
from shoal.model.fusion.layer import FusedLayer, fused_layers, narrow, widen
from shoal.model.fusion.linear import name_linears
from shoal.model.fusion.precision import product_dtype
from shoal.model.fusion.proof import TOLERANCE, models_agree
from shoal.model.fusion.trial import Trial

__all__ = [
    "TOLERANCE",
    "FusedLayer",
    "Fusion",
    "Trial",
    "fused_layers",
    "layer_ops",
    "models_agree",
    "name_linears",
    "narrow",
    "pack_linears",
    "product_dtype",
    "quantize",
    "traced_modules",
    "widen",
]
