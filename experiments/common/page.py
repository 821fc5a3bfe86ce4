"""The definition of a page: its name, its presets, and the functions that turn its flags into a task and data."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from experiments.common import families, runner, storage
from experiments.common.config import RunConfig, given_flags, parse, refuse_idle
from experiments.common.kinds import Kind, Load, PyTree
from jaxpose import checkpoint, tasks
from jaxpose.skeleton import Skeleton

# The task that is trained and stored, and the one that comes first: (epochs, task) over the same variables, or None.
Tasks = tuple[tasks.Task, tuple[float, tasks.Task] | None]


@dataclass(frozen=True)
class Page:
    """An experiment that is started as `python -m experiments.NAME`.

    Attributes:
        name: name of the module; a run without --out goes to runs/NAME.
        presets: the defaults of the flags, by the name that --preset takes.
        description: text of --help.
        make: function (flags, skeleton of the data) -> the task, and what comes first.
        load: function that opens the data.
        adjust: function that turns the page's own flags into those that `make` reads.
        initial: function (task, flags) -> host arrays that a fresh run starts from; None: the task's own initialisation.
        settle: function (flags, data, make) -> both, completed with the choices that were left to the data; None: there are none.
        default: the preset of a run without --preset.
    """

    name: str
    presets: Mapping[str, RunConfig]
    description: str
    make: Callable[[Any, Skeleton], Tasks]
    load: Load
    adjust: Callable[[Any], RunConfig] = lambda config: config
    initial: Callable[[tasks.Task, Any], PyTree | None] = families.from_pretrained
    settle: Callable[[Any, Any, Callable[[Any, Skeleton], Tasks]], tuple[RunConfig, Kind]] | None = None
    default: str = "tiny"

    def main(self, argv: list[str] | None = None) -> dict[str, float]:
        """Trains, resumes or evaluates as the flags say, and returns the scores."""
        config = self.settings(argv)
        runner.start(config)
        with storage.on_this_host(config) as config:
            return self._run(config)

    def _run(self, config: Any) -> dict[str, float]:
        if config.eval_only is not None:
            return runner.evaluate_only(config, load=self.load)
        kind = self.load(config)
        if self.settle is not None:
            config, kind = self.settle(config, kind, self.make)
        task, first = self.make(config, kind.skeleton)
        # A resumed run has its own weights.
        variables = None if checkpoint.exists(config.out) else self.initial(task, config)
        return runner.run(task, config, kind, variables=variables, first=first)

    def settings(self, argv: list[str] | None = None) -> RunConfig:
        """Returns the settings of a run.

        Raises:
            ValueError: a flag that was given by hand has no effect.
        """
        config = self.adjust(self.parse(argv))
        refuse_idle(config, given_flags(sys.argv[1:] if argv is None else argv))
        return config

    def parse(self, argv: list[str] | None = None) -> RunConfig:
        """Parses the command line into the flags, before `adjust`."""
        return parse(self.presets, name=self.name, default=self.default, description=self.description, argv=argv)
