from __future__ import annotations

import sys
from enum import StrEnum
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer

TOOL = Path(__file__).parents[2] / "tools" / "make_cli_docs.py"


class Fish(StrEnum):
    cod = "cod"
    eel = "eel"


def cook(
    fish: Annotated[Path, typer.Argument(metavar="FISH.txt", help="What to cook.")],
    pot: Annotated[Path, typer.Option("-p", "--pot", metavar="A|B", help="Which | pot.")],
    kind: Annotated[Fish, typer.Option(help="Its kind.")] = Fish.eel,
    minutes: Annotated[int | None, typer.Option(help="How long.")] = None,
    salt: Annotated[bool, typer.Option("--salt", help="With salt.")] = False,
    lid: Annotated[bool, typer.Option(help="With\n a lid.")] = True,
) -> None:
    """Cook a fish.

    Slowly.
    """


def serve() -> None:
    """Serve it."""


@pytest.fixture(scope="module")
def tool() -> Any:
    spec = spec_from_file_location("make_cli_docs", TOOL)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_everything_is_documented(tool: Any) -> None:
    app = typer.Typer(name="kitchen", help="All about fish.")
    app.command()(cook)
    app.command()(serve)
    text = tool.document(app, {1: "Burnt.", 0: "Tasty | good."})
    for expected in (
        "# Command line",
        "All about fish.",
        "## kitchen cook\n\nCook a fish.\n\nSlowly.\n",
        "\n    kitchen cook FISH.txt -p A|B [OPTIONS]\n",
        "| `FISH.txt` | What to cook. |",
        r"| `-p`, `--pot` | `A\|B` | required | Which \| pot. |",
        r"| `--kind` | `cod\|eel` | `eel` | Its kind. |",
        "| `--minutes` | `N` |  | How long. |",
        "| `--salt` |  |  | With salt. |",
        "| `--lid`, `--no-lid` |  | `--lid` | With a lid. |",
        "## kitchen serve\n\nServe it.\n",
        "|---|---|\n| 0 | Tasty \\| good. |\n| 1 | Burnt. |\n",
    ):
        assert expected in text
    assert text.count("| Option |") == 1, "a command without options has no table of them"


def test_check_finds_any_difference(
    tool: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "docs" / "cli.md"

    def run(*arguments: str, columns: str = "80") -> int:
        monkeypatch.setenv("COLUMNS", columns)
        monkeypatch.setattr(sys, "argv", ["tool", "--output", str(file), *arguments])
        code: int = tool.main()
        return code

    assert run("--check") == 1
    assert run(columns="40") == 0
    assert run("--check", columns="200") == 0
    assert "## shoal run" in file.read_text()
    file.write_text(file.read_text() + "\n")
    assert run("--check") == 1
