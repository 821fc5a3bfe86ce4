"""Checkpoints of three items, each of which can be read without the others.

  model   the variables to evaluate (parameters, BatchNorm statistics, flow; the moving average if there is one)
  train   everything else that resuming needs: step, optimiser, and the raw variables if `model` is the average
  config  JSON: the task's description, how its net is tested, the run's settings, the scores

`restore_model` needs `model` and `config` only, no TensorFlow, and any number of devices.

A folder may be in a bucket (gs://): every function takes its URL, and for a run that is mirrored on this machine
(`jaxpose.buckets.Mirror`) also the local folder, whose checkpoints are those in the bucket.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy as preserve

from jaxpose import buckets, files, parallel
from jaxpose.train import TrainState

logger = logging.getLogger(__name__)
PyTree = Any
MODEL, TRAIN, CONFIG = "model", "train", "config"
CHECKSUMS = "checksums.json"
"""In the folder of a step: {file: [bytes, CRC-32, or the digest of the store that holds it]}, written after the save."""
COMMITTED = "commit_success.txt"  # orbax writes it last into a bucket, where it cannot rename a complete folder


class Checkpoints:
    """The checkpoints of one run: the last `keep`, and the best by `best` (larger is better).

    Saving is asynchronous and atomic: a killed save leaves no checkpoint under its final name. Use it as a context
    manager, so that the last save is finished before the process ends.

    Damaged checkpoints are renamed to STEP.damaged, with a warning; the newest intact one becomes the latest.

    Raises:
        ValueError: There are checkpoints, and all of them are damaged.
    """

    def __init__(self, directory: str | Path, *, keep: int = 2, best: str = "AP"):
        self.directory = _absolute(directory)
        parallel.on_first(lambda: _set_damaged_aside(self.directory))
        policy = preserve.AnyPreservationPolicy(
            [
                preserve.LatestN(keep),
                preserve.BestN(
                    get_metric_fn=lambda metrics: metrics.get(best, float("-inf")),
                    n=1,
                    keep_checkpoints_without_metrics=False,
                ),
            ]
        )
        options = ocp.CheckpointManagerOptions(
            preservation_policy=policy,
            # Remains of a killed save are removed at the next start.
            cleanup_tmp_directories=True,
        )
        self.manager = ocp.CheckpointManager(self.directory, options=options, item_names=(MODEL, TRAIN, CONFIG))
        self.last_good: str | None = None

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, kind, value, traceback) -> None:
        try:
            self.wait()
        except OSError:
            if kind is None:  # do not hide an error that is already being raised
                raise
        finally:
            self.manager.close()

    def latest(self) -> int | None:
        """Returns the newest complete step, or None."""
        return self.manager.latest_step()

    def save(self, state: TrainState, config: dict[str, Any], *, metrics: dict[str, float] | None = None) -> None:
        """Starts saving `state`, after waiting for the previous save.

        Raises:
            OSError: This save or the one before it could not be written (a full disk); earlier checkpoints stay.
        """
        self.wait()
        step = int(jax.device_get(state.step))
        train: dict[str, Any] = {"step": state.step, "opt_state": state.opt_state, "first_bad": state.first_bad}
        if state.ema is not None:
            train["variables"] = state.variables
        items = {MODEL: ocp.args.StandardSave(state.eval_variables), TRAIN: ocp.args.StandardSave(train)}
        self._write(step, items, config, metrics=metrics)

    def _write(
        self, step: int, items: dict[str, Any], config: dict[str, Any], *, metrics: dict[str, float] | None = None
    ) -> None:
        """Starts saving orbax's arguments by item, and the config."""
        stored = {CONFIG: ocp.args.JsonSave({**config, "step": step, "metrics": metrics or {}})}
        try:
            self.manager.save(step, args=ocp.args.Composite(**items, **stored), metrics=metrics)
        except Exception as error:
            raise self._write_error(step, error) from error
        self._pending = step

    def wait(self) -> None:
        """Waits until the current save is on disk."""
        step = getattr(self, "_pending", None)
        if step is None:
            return
        self._pending = None
        try:
            self.manager.wait_until_finished()
        except Exception as error:
            raise self._write_error(step, error) from error
        if jax.process_index() == 0:
            write_checksums(self.directory / str(step))
        self.last_good = str(self.directory / str(step))

    def poll(self) -> None:
        """Writes the checksums of a save that is already on disk. It does not wait, so call it often."""
        if getattr(self, "_pending", None) is not None and not self.manager.is_saving_in_progress():
            self.wait()

    def _write_error(self, step: int, error: Exception) -> OSError:
        free, advice = "", "See to the bucket"
        if not buckets.is_url(self.directory):
            free, advice = f" ({shutil.disk_usage(self.directory).free / 2**20:.0f} MiB free)", "Free some space"
        return OSError(
            f"could not write checkpoint {step} to {self.directory}{free}: {str(error):.300}. "
            f"{advice} and start the same command again: it resumes from {self.last_good or 'the last one'}."
        )

    def config(self) -> dict[str, Any]:
        """Returns the config that the newest checkpoint stored: "task", "inference", "run", "step", "metrics"."""
        return _read_config(self.directory / str(self.latest()))

    def restore(self, like: TrainState, config: dict[str, Any]) -> TrainState:
        """Restores the newest checkpoint in the shapes and shardings of `like` (a freshly initialised state).

        Raises:
            ValueError: The checkpoint belongs to another model than `config["task"]` describes, was trained with another
                optimiser, or is damaged.
        """
        steps = sorted(self.manager.all_steps(), reverse=True)
        if not steps:
            raise FileNotFoundError(f"{self.directory} holds no checkpoint")
        check_same_task(self.config()["task"], config["task"], self.directory)
        failed: list[tuple[int, ValueError]] = []
        for step in steps:
            try:
                state = self._restore(step, like)
            except ValueError as error:
                failed.append((step, error))
                if (self.directory / str(step) / CHECKSUMS).exists():  # its files are intact: the settings differ
                    break
                continue
            # A save that was killed before its checksums were written has none: an unreadable checkpoint counts as
            # damaged only if the one before it could be read.
            if failed and jax.process_index() == 0:
                for damaged, error in failed:
                    _set_aside(self.directory, damaged, str(error.__cause__ or error).splitlines()[0])
            if jax.process_index() == 0 and not (self.directory / str(step) / CHECKSUMS).exists():
                write_checksums(self.directory / str(step))
            parallel.barrier("restored")
            if failed:
                self.manager.reload()
            self.last_good = str(self.directory / str(step))
            return state
        raise failed[0][1]

    def _restore(self, step: int, like: TrainState) -> TrainState:
        target = {"step": like.step, "opt_state": like.opt_state, "first_bad": like.first_bad}
        if like.ema is not None:
            target["variables"] = like.variables
        abstract = lambda tree: jax.tree.map(ocp.utils.to_shape_dtype_struct, tree)  # noqa: E731
        args = {
            MODEL: ocp.args.StandardRestore(abstract(like.eval_variables)),
            TRAIN: ocp.args.StandardRestore(abstract(target)),
        }
        try:
            items = self.manager.restore(step, args=ocp.args.Composite(**args))
        except (ValueError, KeyError, OSError) as error:
            raise ValueError(
                f"checkpoint {step} in {self.directory} does not fit: it was trained with another optimiser (clipping, "
                "accumulation) or with or without a moving average, or it is damaged. Give the same settings, or another "
                f"--out. ({str(error).splitlines()[0]:.200})"
            ) from error
        model, train = items[MODEL], items[TRAIN]
        return TrainState(
            step=train["step"],
            variables=model if like.ema is None else train["variables"],
            opt_state=train["opt_state"],
            ema=None if like.ema is None else model,
            first_bad=train["first_bad"],
        )


def _read_config(folder: Path) -> dict[str, Any]:
    """Returns the config of the checkpoint in the folder of a step, read as a file so that no device is touched."""
    try:
        config = files.read_json(folder / CONFIG / "metadata", "config of a checkpoint")
        if not isinstance(config, dict) or not {"task", "metrics"} <= config.keys():
            raise ValueError(f"its {CONFIG} holds {', '.join(config) if isinstance(config, dict) else repr(config)}")
    except (ValueError, OSError) as error:
        raise _incomplete(folder, error) from error
    return config


def _incomplete(path: Path, error: Exception) -> ValueError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return ValueError(
        f"{path} is not a complete checkpoint of this package ({reason:.200}): copy it again, or name another"
    )


def check_same_task(stored: dict[str, Any], expected: dict[str, Any], directory: Path) -> None:
    """Raises a ValueError that names the differences between two task configs."""
    differences = _differences(stored, expected)
    if differences:
        raise ValueError(
            f"the checkpoint in {directory} belongs to another model: "
            + "; ".join(f"{key} is {a!r} there, {b!r} here" for key, a, b in differences[:8])
            + ". Give the same settings, or another --out."
        )


def check_shapes(variables: PyTree, expected: PyTree, directory: str | Path) -> None:
    """Raises a ValueError that names arrays that differ from `expected` (arrays or shapes); its flow may be absent."""
    shapes = lambda tree: {jax.tree_util.keystr(k): v.shape for k, v in jax.tree_util.tree_leaves_with_path(tree)}  # noqa: E731
    expected_shapes, stored_shapes = shapes(expected), shapes(variables)
    if "flow" not in variables["params"]:
        expected_shapes = {k: v for k, v in expected_shapes.items() if not k.startswith("['params']['flow")}
    wrong = [
        k
        for k in sorted(expected_shapes.keys() | stored_shapes.keys())
        if expected_shapes.get(k) != stored_shapes.get(k)
    ]
    if wrong:
        differences = "; ".join(
            f"{k} is {stored_shapes.get(k, 'absent')}, expected {expected_shapes.get(k, 'none')}" for k in wrong[:4]
        )
        raise ValueError(f"the weights in {directory} do not fit the net that its config describes: {differences}")


def _differences(a: Any, b: Any, path: str = "") -> list[tuple[str, Any, Any]]:
    if isinstance(a, dict) and isinstance(b, dict):
        keys = sorted(a.keys() | b.keys())
        return [d for key in keys for d in _differences(a.get(key), b.get(key), f"{path}.{key}".lstrip("."))]
    plain = lambda x: [plain(y) for y in x] if isinstance(x, (list, tuple)) else x  # noqa: E731  JSON has no tuples
    return [] if plain(a) == plain(b) else [(path, a, b)]


def restore_model(
    directory: str | Path, *, step: int | Literal["best", "latest"] = "best", best: str | None = None, flow: bool = True
) -> tuple[PyTree, dict[str, Any]]:
    """Returns the variables (NumPy arrays) and config of a checkpoint, on any topology and without TensorFlow.

    Args:
        directory: The run's checkpoint folder, or the run's folder that holds `checkpoints`.
        step: The checkpoint to restore; "best" by the metric `best` (None: the one that the run named, or AP), or the
            newest if no checkpoint has that metric.
        best: The metric of "best".
        flow: Include the flow's parameters; deployment needs no flow.

    Returns:
        variables: {"params", "batch_stats"}; pass them to `tasks.from_config(config["task"]).predict`.
        config: The entries stored by the run: "task", "inference", "run", "step", "metrics".

    Raises:
        FileNotFoundError: There is no checkpoint.
        ValueError: A checkpoint is damaged, or belongs to another program.
    """
    folder, config = _select(directory, step=step, best=best)
    if fault := damage(folder, items=(MODEL, CONFIG)):
        raise _incomplete(folder, ValueError(fault))
    with ocp.PyTreeCheckpointer() as reader:
        path = folder / MODEL
        try:
            tree = reader.metadata(path).item_metadata.tree
            as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
            variables = reader.restore(path, args=ocp.args.PyTreeRestore(restore_args=as_numpy))
        except (AttributeError, KeyError, ValueError, OSError) as error:
            raise _incomplete(path, error) from error
    if not flow:
        for name in ("flow", "flow_2d"):
            variables["params"].pop(name, None)
    return variables, config


def read_config(
    directory: str | Path, *, step: int | Literal["best", "latest"] = "best", best: str | None = None
) -> dict[str, Any]:
    """Reads the config of a checkpoint alone, before any device is touched.

    Args:
        directory: The run's checkpoint folder, or the run's folder that holds `checkpoints`.
        step: The checkpoint to read, as in `restore_model`.
        best: The metric of "best", as in `restore_model`.

    Returns:
        The entries stored by the run: "task", "inference", "run", "step", "metrics".

    Raises:
        FileNotFoundError: There is no checkpoint.
        ValueError: The checkpoint is damaged, or belongs to another program.
    """
    folder, config = _select(directory, step=step, best=best)
    if fault := damage(folder, items=(CONFIG,)):
        raise _incomplete(folder, ValueError(fault))
    return config


def _select(
    directory: str | Path, *, step: int | Literal["best", "latest"], best: str | None
) -> tuple[Path, dict[str, Any]]:
    """Returns the folder and the config of the checkpoint that `step` and `best` select, see `restore_model`."""
    directory = find(directory)
    configs: dict[int, dict[str, Any]] = {}
    unreadable: dict[int, ValueError] = {}
    for number in _steps(directory):
        try:
            configs[number] = _read_config(directory / str(number))
        except ValueError as error:  # it is being deleted, or is damaged; others may be intact
            unreadable[number] = error
    if unreadable and (step in unreadable or not configs):
        raise unreadable.get(step, next(iter(unreadable.values())))
    best = best or next((c["best"] for c in configs.values() if "best" in c), "AP")
    if step in ("best", "latest"):
        scored = [s for s in configs if best in configs[s]["metrics"]] if step == "best" else []
        step = max(scored, key=lambda s: configs[s]["metrics"][best]) if scored else max(configs)
    if step not in configs:
        raise FileNotFoundError(f"{directory} has no checkpoint {step}; it has {sorted(configs)}")
    return directory / str(step), configs[step]


def write_checksums(folder: Path) -> None:
    """Writes the size and checksum of every file of a finished checkpoint, for `damage`."""
    if not folder.is_dir():  # this checkpoint was not among those that are kept
        return
    if buckets.is_url(folder):
        facts = {name: values for name, values in buckets.digests(folder).items() if CHECKSUMS not in name}
    else:
        facts = {str(file.relative_to(folder)): files.size_and_crc32(file) for file in _files(folder)}
    files.write_json(folder / CHECKSUMS, facts)


def damage(folder: Path, *, items: tuple[str, ...] | None = None) -> str | None:
    """Describes damage to a checkpoint's files, or None if they are intact or have no checksums.

    Args:
        folder: The folder of a step.
        items: The items to check; None checks all.
    """
    try:
        noted = files.read_json(folder / CHECKSUMS, "list of checksums")
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        return f"{CHECKSUMS} cannot be read: {error}"
    listed = buckets.digests(folder) if buckets.is_url(folder) else None
    for name, expected in noted.items():
        if items is not None and Path(name).parts[0] not in items:
            continue
        if name not in listed if listed is not None else not (folder / name).is_file():
            return f"{name} is missing"
        if not _matches(folder / name, expected, None if listed is None else listed[name]):
            return f"{name} is not what was written"
    return None


def _matches(file: Path, expected: list, listed: list | None) -> bool:
    """Tells whether a file is as noted. A checkpoint may have been copied from a disk to a bucket or back: the digests are then of
    different kinds, and where they cannot be compared the sizes are."""
    if listed is not None:
        return listed[0] == expected[0] and (isinstance(expected[1], int) or listed[1] == expected[1])
    if isinstance(expected[1], int):
        return files.size_and_crc32(file) == expected
    if file.stat().st_size != expected[0]:
        return False
    if len(expected[1]) != 32:
        return True
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "md5").hexdigest() == expected[1]


def _absolute(directory: str | Path) -> Path:
    """Returns the folder as an absolute path, or as a path object of its bucket."""
    path = buckets.origin(directory)
    return path if buckets.is_url(path) else path.absolute()


def _steps(directory: Path) -> list[int]:
    """Returns the steps of the checkpoints in a folder, in order; in a bucket those that are complete."""
    if not directory.is_dir():
        return []
    steps = sorted(int(path.name) for path in directory.iterdir() if path.name.isdigit())
    if not buckets.is_url(directory):
        return steps
    return [step for step in steps if (directory / str(step) / COMMITTED).exists()]


def _files(folder: Path) -> list[Path]:
    ours = (buckets.FETCHED, ".lock")  # beside the files of a checkpoint that was copied from a bucket
    return sorted(f for f in folder.rglob("*") if f.is_file() and CHECKSUMS not in f.name and f.name not in ours)


def _set_damaged_aside(directory: Path) -> None:
    steps = _steps(directory)[::-1]
    damaged = {step: fault for step in steps if (fault := damage(directory / str(step)))}
    if damaged and len(damaged) == len(steps):
        faults = "; ".join(f"{step}: {fault}" for step, fault in damaged.items())
        raise ValueError(
            f"every checkpoint in {directory} is damaged ({faults}): copy one there again, or give another --out"
        )
    for step, fault in damaged.items():
        _set_aside(directory, step, fault)


def _set_aside(directory: Path, step: int, fault: str) -> None:
    aside = directory / f"{step}.damaged"
    if buckets.is_url(directory):
        if aside.is_dir():
            aside.rmtree()
        (directory / str(step) / COMMITTED).unlink(missing_ok=True)  # the rest follows object by object
        buckets.move(directory / str(step), aside)
    else:
        shutil.rmtree(aside, ignore_errors=True)
        (directory / str(step)).rename(aside)
    logger.warning("checkpoint %d in %s is damaged (%s): it is set aside as %s", step, directory, fault, aside.name)


def write_model(directory: str | Path, variables: PyTree, config: dict[str, Any]) -> None:
    """Writes a checkpoint of step 0 that can be evaluated but not resumed: `model` and `config` only, atomically.

    Args:
        directory: The run's folder; the checkpoint goes into its `checkpoints`.
        variables: {"params", "batch_stats"} of a task.
        config: "task", and any other entries to store; "step" and "metrics" are added.

    Raises:
        FileExistsError: There is already a checkpoint.
        OSError: The checkpoint could not be written.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_model(folder, {"params": {"w": np.ones(2)}, "batch_stats": {}}, {"task": {"family": "mine"}})
    ...     variables, config = restore_model(folder)
    >>> variables["params"]["w"].tolist(), config["step"]
    ([1.0, 1.0], 0)
    """
    if exists(directory):
        raise FileExistsError(f"{directory} holds a checkpoint already: name another folder, or remove it")
    with Checkpoints(buckets.origin(directory) / "checkpoints") as checkpoints:
        checkpoints._write(0, {MODEL: ocp.args.StandardSave(variables)}, config)


def exists(directory: str | Path) -> bool:
    """Tells whether a run's folder holds a checkpoint."""
    return bool(_steps(buckets.origin(directory) / "checkpoints"))


def resumable(directory: str | Path) -> bool:
    """Tells whether a checkpoint in a run's folder can be resumed from; those of `write_model` cannot."""
    folder = buckets.origin(directory) / "checkpoints"
    return any((folder / str(step) / TRAIN).exists() for step in _steps(folder))


def find(directory: str | Path) -> Path:
    """Returns the folder whose entries are checkpoint steps: `directory` itself or its `checkpoints`."""
    directory = _absolute(directory)
    with buckets.naming(directory):
        if not directory.exists():
            raise FileNotFoundError(f"{directory} does not exist; expected a run's folder or its checkpoints folder")
        for candidate in (directory, directory / "checkpoints"):
            if _steps(candidate):
                return candidate
    if directory.is_file():
        raise FileNotFoundError(
            f"{directory} is a file; expected the folder of a run: jaxpose import FILE --out RUN makes one of a released file"
        )
    raise FileNotFoundError(
        f"{directory} holds no checkpoint: expected folders named by their step there, or under {directory}/checkpoints"
    )
