"""The command `jaxpose view` and its four tools."""

from __future__ import annotations

from typing import Annotated, Any

import tyro

from jaxpose.view.data import data
from jaxpose.view.maps import maps
from jaxpose.view.report import report
from jaxpose.view.results import results

__all__ = ["view"]

Tool = (
    Annotated[Any, tyro.conf.subcommand(name="data", constructor=data)]
    | Annotated[Any, tyro.conf.subcommand(name="results", constructor=results)]
    | Annotated[Any, tyro.conf.subcommand(name="maps", constructor=maps)]
    | Annotated[Any, tyro.conf.subcommand(name="report", constructor=report)]
)


def view(tool: Annotated[Tool, tyro.conf.arg(name="")]) -> None:
    """Draw data, predictions next to the truth, or a net's maps; write an evaluation as one HTML file."""
