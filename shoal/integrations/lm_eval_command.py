"""`shoal eval`: lm-evaluation-harness's own command, with the model `shoal` among its models."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.util import find_spec

from shoal.errors import OptionError

MODEL = "shoal"
TARGET = "shoal.integrations.lm_eval:ShoalLM"
"""The same as the entry point in `pyproject.toml`."""
_NAMED = ("--model", "-M", "--config", "-C")


def run_lm_eval(arguments: Sequence[str]) -> None:
    """Run lm-evaluation-harness's command in this process.

    Args:
        arguments: its own. A run that names neither a model nor a file of settings runs `shoal`.

    Raises:
        OptionError: it is not installed.
    """
    require_lm_eval()
    from lm_eval.__main__ import cli_evaluate

    register()
    sys.argv = ["lm-eval", *with_model(arguments)]
    cli_evaluate()


def with_model(arguments: Sequence[str]) -> list[str]:
    """The arguments, with `--model shoal` where a run would take the harness's default."""
    given = list(arguments)
    runs = not given or given[0] == "run" or given[0].startswith("-")
    named = any(a.split("=")[0] in _NAMED or a[:2] in ("-M", "-C") for a in given)
    helps = not given or bool({"-h", "--help"} & set(given))
    return given if named or helps or not runs else [*given, "--model", MODEL]


def register() -> None:
    """Make `shoal` known to the harness. Its releases up to 0.4.13 find no plug-ins."""
    import lm_eval.models  # noqa: F401  (registers the harness's own)
    from lm_eval.api.registry import model_registry

    if MODEL not in model_registry:
        model_registry.register(MODEL, target=TARGET)


def require_lm_eval() -> None:
    """Check that lm-evaluation-harness is there.

    Raises:
        OptionError: it is not installed.
    """
    if find_spec("lm_eval") is None:
        raise OptionError(
            "evaluations need lm-evaluation-harness, which is not installed: "
            "pip install 'shoal[eval]'"
        )
