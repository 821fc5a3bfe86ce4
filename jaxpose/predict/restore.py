"""Reads the checkpoint of a run whose task is of one family."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import jax

from jaxpose import checkpoint, inference, tasks

T = TypeVar("T", bound=tasks.Task)


def restored(
    directory: str | Path, kind: type[T], *, step: Any = "best", flip_test: bool | None = None
) -> tuple[T, Any, dict[str, Any], bool]:
    """Returns the task, the variables, the config, and whether to average with the mirrored input.

    Args:
        directory: The run's folder.
        kind: The class of the task, such as `tasks.Lifting`.
        step: The checkpoint to read; see `checkpoint.restore_model`.
        flip_test: Average with the mirrored input; None: as the run was evaluated.

    Raises:
        FileNotFoundError: There is no checkpoint.
        ValueError: It is damaged, or its task is of another family.
    """
    variables, config = checkpoint.restore_model(directory, step=step)
    task = tasks.from_config(config["task"])
    if not isinstance(task, kind):
        raise ValueError(f"{directory} holds a task of the family {task.family!r}, expected {kind.family!r}")
    checkpoint.check_shapes(variables, jax.eval_shape(task.init, jax.random.key(0)), directory)
    return task, variables, config, inference.from_checkpoint(config).flip_test if flip_test is None else flip_test
