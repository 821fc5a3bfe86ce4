"""The shared part of the ablations: synthetic people in memory, one training run, the file of finished runs, table and curves.

Each run is appended to `runs.jsonl` when it ends; repeating the command trains only the runs that are missing there. Several
processes can therefore share the work (`taskset -c 0 ... --seeds 0`, `taskset -c 1 ... --seeds 1 2`), and a last call without
flags prints the table.

Every row is trained on the same data with the same schedule and number of steps; a seed changes the synthetic people,
the initialisation and the order of the batches. Crops are cut once and kept in memory, `copies` differently augmented
versions of every person, so that the device and not the decoder limits the speed.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
import optax
import tqdm
import tyro

from experiments.common import whole_images
from experiments.common.config import RunConfig
from experiments.common.kinds import Predictions, PredictStep, PyTree
from experiments.common.rules import (
    AnyValue,
    AtLeast,
    Fixed,
    LocalPath,
    MayChange,
    Positive,
    Rule,
    Size,
    check,
    resume_rules,
)
from experiments.common.training import Training
from jaxpose import files, inference, parallel, tasks, train
from jaxpose.data import crops as persons
from jaxpose.data import synthetic
from jaxpose.data.augment import Setting, named
from jaxpose.data.formats import coco
from jaxpose.data.source import Source
from jaxpose.data.synthetic.scene import EXPECTED_SIZES, are_sizes
from jaxpose.evaluation import average_precision, results


@dataclass(frozen=True)
class AblationConfig:
    """Settings of every ablation."""

    rows: Annotated[tuple[str, ...], AnyValue, MayChange] = ()
    """Rows of the table; ROWS in the experiment's file lists all."""
    seeds: Annotated[tuple[int, ...], AnyValue, MayChange] = (0, 1, 2)
    """One run per row and seed."""
    steps: Annotated[int, Positive, Fixed] = 3500
    """Updates per run."""
    batch_size: Annotated[int, Positive, Fixed] = 32
    learning_rate: Annotated[float, Positive, Fixed] = 3e-3
    images: Annotated[int, AtLeast(2, "one to train on, one to hold out"), Fixed] = 2000
    """Synthetic images per seed, a fifth of them held out."""
    label_noise: Annotated[float, AtLeast(0), Fixed] = 1.0
    """Factor on the errors of the training labels; those of the held-out images keep 1."""
    person_sizes: Annotated[tuple[float, float] | None, Rule(are_sizes, EXPECTED_SIZES), Fixed] = None
    """Least and largest height of a standing person as fractions of the picture's height; None: the usual sizes."""
    copies: Annotated[int, Positive, Fixed] = 8
    """Augmented crops of every training person."""
    augment: Annotated[str, AnyValue, Fixed] = "light"
    """Augmentation of the training crops, by its name in jaxpose/data/augment.py; without mirroring there is no flip test either."""
    size_wh: Annotated[tuple[int, int], Size, Fixed] = (72, 96)
    depth: Annotated[int, AnyValue, Fixed] = 18
    width: Annotated[int, Positive, Fixed] = 16
    evaluations: Annotated[int, Positive, Fixed] = 7
    """Points of the learning curve."""
    out: Annotated[Path, LocalPath, MayChange] = Path("runs/ablation")
    workers: Annotated[int | None, Positive, MayChange] = None


ConfigT = TypeVar("ConfigT", bound=AblationConfig)


def load(config: AblationConfig, seed: int) -> dict[str, Any]:
    """Returns the synthetic people of one seed as arrays: augmented training crops, plain held-out crops, and their annotations."""
    sources = people(config, seed)
    truth = files.read_json(sources["val"].ground_truth_json, "ground truth of the prepared data")
    clean = {a["id"]: np.reshape(a["keypoints_clean"], (-1, 2)) for a in truth["annotations"]}
    val = crops(sources["val"], config, seed=seed, augment="none", copies=1)
    return {
        "skeleton": sources["train"].skeleton,
        "ground_truth": truth,
        "train": crops(sources["train"], config, seed=seed, augment=config.augment, copies=config.copies),
        "val": val | {"clean": np.stack([clean[i] for i in val["annotation_id"]])},
    }


def people(config: AblationConfig, seed: int) -> dict[str, coco.CocoFolder]:
    """Returns the synthetic people of one seed, drawn on the first call: "train" and "val"."""
    held_out = max(config.images // 5, 1)
    folder = synthetic.write_dataset(
        config.out / f"people_{seed}_{config.images}{people_suffix(config)}", train=config.images - held_out, val=held_out, seed=seed,
        label_noise=config.label_noise, person_sizes=config.person_sizes, workers=config.workers,
    )  # fmt: skip
    sources = {split: coco.read(*coco.find(folder, split)) for split in ("train", "val")}
    for split, source in sources.items():
        if not len(source.persons):
            raise ValueError(
                f"{folder}: nobody in the split {split!r} is large enough for a label; draw more --images, or larger --person-sizes"
            )
    return sources


def people_suffix(config: AblationConfig) -> str:
    """Returns the end of the name of a folder of synthetic people, which tells unusual label noise and sizes."""
    noise = "" if config.label_noise == 1 else f"_noise_{config.label_noise:g}"
    return noise + ("" if config.person_sizes is None else "_sizes_{:g}_{:g}".format(*config.person_sizes))


def crops(
    source: Source, config: AblationConfig, *, seed: int, augment: str | Setting, copies: int
) -> dict[str, np.ndarray]:
    """Returns `copies` crops of every person as arrays, each augmented differently."""

    def cut(i: int) -> dict[str, Any]:
        epoch, index = divmod(i, len(source))
        return persons.sample(source, index, size_wh=config.size_wh, augment=augment, seed=seed, epoch=epoch)

    return in_memory(cut, copies * len(source), config)


def in_memory(make: Callable[[int], dict[str, Any]], count: int, config: AblationConfig) -> dict[str, np.ndarray]:
    """Returns the samples that `make` returns for 0 to count - 1, as arrays."""
    with ThreadPoolExecutor(config.workers) as pool:  # OpenCV decodes and warps without holding the lock
        samples = list(tqdm.tqdm(pool.map(make, range(count)), total=count, leave=False))
    return {key: np.stack([sample[key] for sample in samples]) for key in samples[0]}


Measure = Callable[[PredictStep, tasks.Task, PyTree], dict[str, Any]]


def train_one(
    task: tasks.Task,
    config: AblationConfig,
    data: Mapping[str, Any],
    *,
    seed: int,
    name: str,
    measure: Measure,
    clip_norm: float | None = 10.0,
    first: tuple[int, tasks.Task] | None = None,
    finish: Callable[[tasks.Task, PyTree], dict[str, Any]] | None = None,
    flip_test: bool | None = None,
    tx: optax.GradientTransformation | None = None,
    ema: float | None = None,
    variables: PyTree | None = None,
) -> dict[str, Any]:
    """Trains one row with one seed and returns the learning curve and the final numbers.

    Args:
        data: the data; its "train" holds the arrays of a batch, and possibly others.
        measure: function (predict function, task, variables) -> numbers of a point of the curve.
        finish: function (task, variables) -> numbers that are computed only at the end.
        clip_norm: the largest norm of the gradient, if no `tx` is given.
        first: (steps, task): the first `steps` updates are trained with this task over the same variables.
        flip_test: True if predictions are averaged with those of the mirrored image; None: if those of `config.augment` are.
        tx: the optimiser; None: Adam, whose learning rate falls to a tenth after 75 % and 92 % of the steps.
        ema: decay of a moving average of the weights, which is then measured; None: no average.
        variables: the initial variables, as host arrays; None: drawn from the seed.
    """
    if flip_test is None:
        flip_test = named(config.augment).flip > 0
    if tx is None:
        boundaries = sorted({int(config.steps * 0.75), int(config.steps * 0.92)})
        schedule = train.multi_step(config.learning_rate, boundaries=boundaries, warmup_steps=100)
        tx = train.optimizer(schedule, clip_norm=clip_norm)
    mesh = parallel.make_mesh()
    growth = {} if ema is None else {"ema": ema, "ema_growth": RunConfig.ema_growth}
    training = Training.make(task, tx, mesh=mesh, seed=seed, first=first, flip_test=flip_test, **growth)
    state = training.init_state(variables)
    arrays = {k: data["train"][k] for k in whole_images.USED if k in data["train"]}
    order = np.random.default_rng(seed)
    count, curve, started = len(arrays["image"]), [], time.perf_counter()
    persons = count // config.copies
    marks = {round(config.steps * (i + 1) / config.evaluations) for i in range(config.evaluations)}
    for step in tqdm.trange(1, config.steps + 1, desc=f"{name} seed {seed}", leave=False):
        rows = order.integers(count, size=config.batch_size)
        batch = parallel.global_batch({k: v[rows] for k, v in arrays.items()}, mesh)
        state, metrics = training.step(step)(state, batch)
        if step in marks:
            point = {"step": step, "epoch": step * config.batch_size / persons, "loss": float(metrics["loss"])}
            numbers = measure(training.predict_step, task, state.eval_variables)
            curve.append({**point, "diverged": int(state.first_bad), **numbers})
            if int(state.first_bad) >= 0:
                break
    seconds = time.perf_counter() - started
    last = finish(task, state.eval_variables) if finish is not None and int(state.first_bad) < 0 else {}
    return {"row": name, "seed": seed, "seconds": seconds, "curve": curve, **curve[-1], **last}


def predict_in_memory(step: PredictStep, variables: PyTree, images: np.ndarray, batch_size: int) -> Predictions:
    """Returns the predictions for all images."""
    batches = inference.batches(({"image": image} for image in images), size=batch_size)
    return inference.run(inference.on_mesh(step, variables, parallel.make_mesh()), batches)


def localisation(
    predictions: Mapping[str, np.ndarray], config: AblationConfig, data: Mapping[str, Any]
) -> dict[str, float]:
    """Returns AP with the row's own confidences, AP with all confidences 1, PCK at 0.05 of the crop's height, EPE in input px."""
    val, sigmas = data["val"], data["skeleton"].sigmas
    if not np.isfinite(predictions["xy"]).all():
        return {"AP": 0.0, "AP_constant": 0.0, "PCK": 0.0, "EPE": float("inf")}
    where = val["visibility"] > 0
    xy = inference.to_image(predictions["xy"], val["affine"])
    error = np.linalg.norm(predictions["xy"] - val["joints"], axis=-1)

    def ap(confidence: np.ndarray) -> float:
        records = results.from_predictions(
            xy=xy, confidence=confidence, image_id=val["image_id"], box=val["box"], box_score=val["score"],
            area=val["crop_area"], annotation_id=val["annotation_id"],
        )  # fmt: skip
        return average_precision(data["ground_truth"], records, sigmas=sigmas)["AP"]

    return {
        "AP": ap(predictions["confidence"]),
        "AP_constant": ap(np.ones_like(predictions["confidence"])),
        "PCK": float((error < 0.05 * config.size_wh[1])[where].mean()),
        "EPE": float(error[where].mean()),
    }


def table(runs: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """Returns mean and standard deviation over the seeds, one line per row; diverged runs are counted, not averaged."""
    lines = ["| row | runs | diverged | " + " | ".join(columns) + " |", "|---" * (len(columns) + 3) + "|"]
    for name in dict.fromkeys(run["row"] for run in runs):
        runs_of_row = [run for run in runs if run["row"] == name]
        diverged = sum(run["diverged"] >= 0 for run in runs_of_row)
        cells = []
        for column in columns:
            values = [run[column] for run in runs_of_row if run.get(column) is not None and run["diverged"] < 0]
            cells.append(f"{np.mean(values):.3f} +- {np.std(values):.3f}" if values else "-")
        lines.append(f"| {name} | {len(runs_of_row)} | {diverged} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def plot(runs: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draws AP and EPE against the step: one line per run, one colour per row."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(14, 5))
    for i, name in enumerate(dict.fromkeys(run["row"] for run in runs)):
        for run in (run for run in runs if run["row"] == name):
            steps = [point["step"] for point in run["curve"]]
            for axis, key in zip(axes, ("AP", "EPE"), strict=True):
                label = name if run["seed"] == runs[0]["seed"] else None
                axis.plot(steps, [point[key] for point in run["curve"]], color=f"C{i % 10}", label=label, lw=1,
                          ls="-" if i < 10 else "--")  # fmt: skip
    axes[0].set(title="AP", xlabel="step")
    axes[1].set(title="EPE, input px", xlabel="step", yscale="log")
    axes[0].legend(fontsize=7)
    figure.savefig(path, dpi=110, bbox_inches="tight")


def settings(config: AblationConfig, row: Any) -> dict[str, Any]:
    """Returns the settings that a run of a row depends on, except its seed."""
    fixed = {name for name, resume in resume_rules(type(config)).items() if resume is Fixed}
    shared = {name: value for name, value in asdict(config).items() if name in fixed}
    values = shared | asdict(row)
    if config.augment == "none":  # such rows were measured with the flip test once: they do not count as done
        values["flip_test"] = False
    # Runs from before there were these settings count as done: they ran with the default.
    flow = values.get("likelihood") or {}
    for holder, name, default in (
        (values, "label_noise", 1),
        (values, "person_sizes", None),
        (values, "start", False),
        (flow, "flow_ends", "code"),
    ):
        if name in holder and holder[name] == default:
            del holder[name]
    return json.loads(json.dumps(values, default=str))


def done(path: Path, config: AblationConfig, rows: Mapping[str, Any]) -> dict[tuple[str, int], dict[str, Any]]:
    """Returns the runs with these settings in `path`, by (row, seed)."""
    finished = {}
    for run in files.read_json_lines(path):
        if run["row"] in rows and run.get("settings") == settings(config, rows[run["row"]]):
            finished[run["row"], run["seed"]] = run
    return finished


def run_all(
    config: AblationConfig,
    rows: Mapping[str, Any],
    train_row: Callable[[str, ConfigT, dict, int], dict[str, Any]],
    *,
    load: Callable[[ConfigT, int], dict[str, Any]] = load,
) -> list[dict[str, Any]]:
    """Trains the runs that are missing, row by row and seed by seed, and returns all runs that the config names."""
    unknown = [name for name in config.rows if name not in rows]
    if unknown:
        raise SystemExit(f"--rows {' '.join(unknown)}: expected some of {', '.join(rows)}")
    config.out.mkdir(parents=True, exist_ok=True)
    path = config.out / "runs.jsonl"
    for seed in config.seeds:
        missing = [name for name in config.rows if (name, seed) not in done(path, config, rows)]
        data = load(config, seed) if missing else {}
        for name in missing:
            run = train_row(name, config, data, seed)
            with open(path, "a") as file:
                file.write(json.dumps({**run, "settings": settings(config, rows[name])}) + "\n")
            print(name, seed, {k: round(v, 3) for k, v in run.items() if isinstance(v, float)}, flush=True)
    finished = done(path, config, rows)
    return [finished[name, seed] for name in config.rows for seed in config.seeds]


def parse(kind: type[ConfigT], description: str, argv: list[str] | None) -> ConfigT:
    """Parses the command line into a config."""
    config = tyro.cli(kind, args=argv, description=description)
    check(config)
    return config


def report(
    runs: list[dict[str, Any]], config: AblationConfig, columns: Sequence[str], *,
    plot: Callable[[Sequence[Mapping[str, Any]], Path], None] = plot,
) -> list[dict[str, Any]]:  # fmt: skip
    """Prints the table, draws the curves if matplotlib is installed, and returns the runs."""
    print(table(runs, columns))
    try:
        plot(runs, config.out / "curves.png")
    except ImportError:
        print("no curves.png: pip install 'jaxpose[plot]'")
    return runs
