"""What is said of each family in docs/models.md, found by loading a tiny one of it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import torch

from shoal.attention import AttentionKind
from shoal.attention.latent import LatentHeads
from shoal.config import EngineOptions
from shoal.errors import OptionError, UnsupportedModelError
from shoal.model import load
from shoal.model.description import ModelDescription
from shoal.model.hook import AttentionProbe, attention_step
from tests.helpers.composites import COMPOSITES, REFUSED_COMPOSITES, save_composite
from tests.helpers.eighty_one import EIGHTY_ONE
from tests.helpers.models import ARCHITECTURES, FAMILIES, KINDS, LATENTS, LENGTHS, save_model
from tests.helpers.recurrent_models import RECURRENT
from tests.helpers.refused_families import REFUSED_FAMILIES, save_refused

RUN = [*(ARCHITECTURES | FAMILIES | KINDS | LENGTHS | RECURRENT | LATENTS)]
REFUSED = [*REFUSED_FAMILIES, *REFUSED_COMPOSITES]
_FUSED = {"norm": "norms", "mlp": "MLPs", "attention": "attention"}


def row(table: str, family: str, folder: Path) -> str:
    """A family's row of one of the tables "run", "text" and "refused"."""
    if table == "refused":
        return _refused_row(family, folder)
    return _running_row(table, family, folder)


def families(table: str) -> list[str]:
    """Those in a table, in its order."""
    return {"run": RUN, "text": list(COMPOSITES), "refused": REFUSED}[table]


def count() -> str:
    """Of the families tried at first, how many run, and which do not."""
    run = {*RUN, *COMPOSITES}
    refused = sorted(name for name, row in EIGHTY_ONE.items() if row not in run)
    assert {EIGHTY_ONE[name] for name in refused} <= set(REFUSED)
    running = sorted(EIGHTY_ONE.keys() - set(refused))
    lines = [
        f"| of the {len(EIGHTY_ONE)} families tried at first | how many | which |",
        "|---|---:|---|",
    ]
    lines += [f"| run | {len(running)} | {', '.join(running)} |"]
    lines += [f"| refused | {len(refused)} | {', '.join(refused)} |"]
    return "\n".join(lines)


HEADS = {
    "run": "| family | class | attention | fused |\n|---|---|---|---|",
    "text": "| family | class | attention | fused |\n|---|---|---|---|",
    "refused": "| family | class | refused for | what it says |\n|---|---|---|---|",
}


def _description(folder: Path) -> ModelDescription:
    try:
        return ModelDescription.load(str(folder), EngineOptions(dtype="float32", device="cpu"))
    except OptionError:  # no limit of its own
        options = EngineOptions(dtype="float32", device="cpu", max_model_len=256)
        return ModelDescription.load(str(folder), options)


def _running_row(table: str, family: str, folder: Path) -> str:
    (save_composite if table == "text" else save_model)(folder, family)
    description = _description(folder)
    model = load.prepare_model(load._read_weights(description), description)
    probe, two = AttentionProbe(), torch.arange(2)
    with torch.inference_mode(), attention_step(probe):
        model.logits(two, two, two[1:])
    fused = load._fuse(model, description)
    done = Counter({} if fused is None else fused.fused)
    names = [words for name, words in _FUSED.items() if done[name]]
    if 0 < done["attention"] < sum(heads > 0 for heads, _, _ in model.layers):
        names[-1] += " of some layers"
    attention = ", ".join(dict.fromkeys(map(_words, probe.kinds)))
    if any(isinstance(layer, LatentHeads) for layer in model.layers):
        attention += " over latents"
    attention += f"; {states}" if (states := _states(description)) else ""
    if len({layer for layer in model.layers if layer[0]}) > 1:
        attention += "; layers of several head sizes"
    named = type(description.checkpoint_config).__name__.removesuffix("Config")
    return f"| {family} | {named} | {attention} | {', '.join(names) or 'nothing'} |"


def _states(description: ModelDescription) -> str:
    """What its recurrent layers carry over."""
    kinds = {
        (shape.conv is not None, shape.recurrent is not None)
        for shape in description.states.values()
    }
    return (
        {(True, True): "recurrent states", (True, False): "short convolutions"}[kinds.pop()]
        if kinds
        else ""
    )


def _words(kind: AttentionKind) -> str:
    what = "full"
    if kind.chunk is not None:
        what = "chunks"
    elif kind.window is not None:
        what = "window"
    extras = ["soft cap"] * (kind.softcap is not None) + ["sinks"] * (kind.sinks is not None)
    return " with ".join([what, " and ".join(extras)]) if extras else what


def _refused_row(family: str, folder: Path) -> str:
    if family in REFUSED_COMPOSITES:
        save_composite(folder, family)
    else:
        save_refused(folder, family)
    named = (REFUSED_FAMILIES | REFUSED_COMPOSITES)[family][0].removesuffix("Config")
    try:
        description = _description(folder)
        load.load_model(description)
    except UnsupportedModelError as error:
        said = " ".join(str(error).replace("|", "/").split())
        return f"| {family} | {named} | {error.feature} | {said} |"
    return f"| {family} | {named} | | it runs |"
