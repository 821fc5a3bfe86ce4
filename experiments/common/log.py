"""The log of a run: events, TensorBoard, and the numbers that are printed during the run."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from jaxpose import files


class Log:
    """Writes the events of a run, on process 0: one JSON line per event, and TensorBoard."""

    def __init__(self, out: Path):
        self.path = out / "log.jsonl"
        self.active = jax.process_index() == 0
        self.board = None
        if self.active:
            from tensorboardX import SummaryWriter

            out.mkdir(parents=True, exist_ok=True)
            self.board = SummaryWriter(str(out / "tensorboard"))

    def write(self, event: str, step: int, **values: Any) -> None:
        if not self.active:
            return
        with open(self.path, "a") as file:
            file.write(json.dumps({"event": event, "step": step, "time": round(time.time(), 3), **values}) + "\n")
        for key, value in values.items():
            if isinstance(value, (int, float)):
                self.board.add_scalar(f"{event}/{key}", value, step)

    def events(self) -> list[dict[str, Any]]:
        """Returns all events so far, by step; see `jaxpose.files.read_events`."""
        return files.read_events(self.path)

    def close(self) -> None:
        if self.board is not None:
            self.board.close()


def evaluations(run_log: Log, *, until: int) -> dict[int, dict[str, float]]:
    """Reads the scores of the evaluations from the log, by step.

    Args:
        run_log: the log of the run.
        until: the last step to include. A run that was killed may have evaluated later steps than its newest checkpoint contains; they
            are trained and evaluated again.

    Returns:
        The scores in the order of the steps, {} before the first evaluation.
    """
    events = [e for e in run_log.events() if e["event"] == "eval" and e["step"] <= until]
    return {e["step"]: {k: v for k, v in e.items() if k not in ("event", "step", "time")} for e in events}


def summary_line(scores: Mapping[str, float], names: Sequence[str]) -> str:
    """Formats the scores with these names, as far as they exist.

    >>> summary_line({"AP": 0.5, "AR": 0.25}, ("AR", "EPE", "AP"))
    'AR 0.250  AP 0.500'
    """
    return "  ".join(f"{name} {scores[name]:.3f}" for name in names if name in scores)
