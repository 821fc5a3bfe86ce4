"""Does the compensation of the integral's bias accelerate training? Gu 2021, figure 6 and table 6, on the embedded people.

  python -m experiments.ablation_integral                        the table and the curves, on JAX's default device
  python -m experiments.ablation_integral --rows ipr_10 comp_10 --seeds 0 --steps 300

Rows, all with the same net (a ResNet-18 without its last stage, and two deconvolutions: maps of 16x24 from crops of 64x96) and
the same schedule; B is beta, 1, 10 or 20:

  heatmap    detection: mean squared error of the maps, decoded by argmax and a quarter shift
  ipr_B      integral regression: L1 of the soft-argmax at beta B
  comp_B     the same with the bias compensated, in training and in prediction
  relu_B     comp_B with negative values of the maps replaced by 0, the background that the compensation assumes (ours)
  joint_B    comp_B, plus the heatmap loss in the first 30 % of the steps: the joint framework, L_aug
  always_B   comp_B, plus the heatmap loss in all steps: L_de
  plain_B    ipr_B, plus the heatmap loss in the first 30 % (in table 6 at beta 10)
  held_B     ipr_B, plus the heatmap loss in all steps, to set beside always_B (ours)
  start_B    always_B, with the heatmap loss alone in the first 30 % (ours)
  heldstart_B  held_B, with the heatmap loss alone in the first 30 % (ours)

`experiments/common/ablation.py` describes how runs are stored and shared between processes.

Columns: AP with the softmax's highest probability (of `heatmap`: the highest value) as confidence; AP with all confidences
1; EPE in input pixels; the first epoch with an EPE of at most 6 pixels; and the first epoch at which a run is as good as the
final ipr_B of the same seed, in EPE ("reached"; "of" is the schedule's last epoch). Also the EPE of the same maps read with the bias
compensated where the net was trained without, and the reverse; the mean and deviation of the maps' background, and their mean peak.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np

from experiments.common import ablation
from experiments.common.kinds import PredictStep, PyTree
from experiments.common.rules import AllPositive, AnyValue, AtLeast, Fixed, LocalPath, MayChange, Positive, Size
from jaxpose import parallel, tasks, train
from jaxpose.nets import HeatmapNet, ResNet
from jaxpose.tasks import JointLoss, MapLoss, Readout

MAPS = MapLoss(sigma=1.0, weight=100.0)
NONE = MapLoss("none")
L1 = JointLoss("l1")
OPENING = 0.3  # of the steps; the paper says "initial epochs" and no number (QUIRK D4)
BETAS = (1, 10, 20)
FAR = 4.0  # map pixels, four sigma of the targets
GOAL_PX = 6.0  # an EPE where the curves are steep, half way from the mean pose to the end


@dataclass(frozen=True)
class Row:
    """One row of the table."""

    maps: MapLoss
    joints: JointLoss
    read: Readout
    opening: bool = False  # whether the map loss ends after the first steps
    start: bool = False  # whether the map loss is alone in the first steps


def integral(beta: float, compensate: bool, rectify: bool = False) -> Readout:
    return Readout("soft_argmax", beta=beta, compensate=compensate, rectify=rectify, confidence="probability")


ROWS: dict[str, Row] = {"heatmap": Row(MapLoss(sigma=1.0), JointLoss(), Readout("argmax"))}
for b in BETAS:
    ROWS |= {
        f"ipr_{b}": Row(NONE, L1, integral(b, False)),
        f"comp_{b}": Row(NONE, L1, integral(b, True)),
        f"relu_{b}": Row(NONE, L1, integral(b, True, True)),
        f"joint_{b}": Row(MAPS, L1, integral(b, True), opening=True),
        f"always_{b}": Row(MAPS, L1, integral(b, True)),
        f"plain_{b}": Row(MAPS, L1, integral(b, False), opening=True),
        f"held_{b}": Row(MAPS, L1, integral(b, False)),
        f"start_{b}": Row(MAPS, L1, integral(b, True), start=True),
        f"heldstart_{b}": Row(MAPS, L1, integral(b, False), start=True),
    }
COLUMNS = (
    "AP", "AP_constant", "EPE", "EPE, read otherwise", "background", "its deviation", "peak", "to 6 px", "reached", "never", "of"
)  # fmt: skip
DEFAULT_ROWS = ("heatmap", *(f"{kind}_{b}" for kind in ("ipr", "comp", "relu", "joint") for b in BETAS))


@dataclass(frozen=True)
class Config(ablation.AblationConfig):
    """Heatmap, integral, compensated and joint training side by side."""

    rows: Annotated[tuple[str, ...], AnyValue, MayChange] = DEFAULT_ROWS
    """Rows of the table; ROWS in this file lists all."""
    steps: Annotated[int, Positive, Fixed] = 1200
    """Updates per run."""
    learning_rate: Annotated[float, Positive, Fixed] = 6e-3
    images: Annotated[int, AtLeast(2, "one to train on, one to hold out"), Fixed] = 1200
    """Synthetic images per seed, a fifth of them held out."""
    copies: Annotated[int, Positive, Fixed] = 6
    """Augmented crops of every training person."""
    deconvs: Annotated[tuple[int, ...], AllPositive, Fixed] = (32, 32)
    """Channels of the deconvolutions."""
    size_wh: Annotated[tuple[int, int], Size, Fixed] = (64, 96)
    evaluations: Annotated[int, Positive, Fixed] = 12
    """Points of the learning curve."""
    out: Annotated[Path, LocalPath, MayChange] = Path("runs/ablation_integral")


def train_row(name: str, config: Config, data: dict[str, Any], seed: int) -> dict[str, Any]:
    """Trains one row with one seed and returns the learning curve and the final numbers."""
    row = ROWS[name]

    def task(maps: MapLoss, joints: JointLoss = row.joints) -> tasks.Task:
        backbone = ResNet(config.depth, config.width, stages=3)
        net = HeatmapNet(backbone, data["skeleton"].num_joints, deconvs=config.deconvs)
        return tasks.heatmaps(
            net, skeleton=data["skeleton"], size_wh=config.size_wh, maps=maps, joints=joints, read=row.read
        )

    def measure(step: PredictStep, task: tasks.Task, variables: PyTree) -> dict[str, float]:
        predictions = ablation.predict_in_memory(step, variables, data["val"]["image"], config.batch_size)
        return ablation.localisation(predictions, config, data)

    def finish(task: tasks.Task, variables: PyTree) -> dict[str, float]:
        return read_otherwise(task, variables, config, data) if task.integrates else {}

    first = None
    if row.opening or row.start:
        first = (round(OPENING * config.steps), task(row.maps, joints=JointLoss() if row.start else row.joints))
    return ablation.train_one(
        task(NONE if row.opening else row.maps),
        config,
        data,
        seed=seed,
        name=name,
        measure=measure,
        first=first,
        finish=finish,
    )


def read_otherwise(
    task: tasks.Heatmaps, variables: PyTree, config: Config, data: Mapping[str, Any]
) -> dict[str, float]:
    """Returns what tells the maps of a net from the way in which they are read.

    The EPE of the same maps read with the bias compensated if the net was trained without, and the reverse; and the mean and the
    standard deviation of their background, more than `FAR` map pixels from the joint, and their mean peak.
    """
    val = data["val"]

    def read(step: PredictStep) -> dict[str, np.ndarray]:
        return ablation.predict_in_memory(step, variables, val["image"], config.batch_size)

    other = replace(task, readout=replace(task.readout, compensate=not task.readout.compensate))
    predictions = read(train.make_predict_step(other, mesh=parallel.make_mesh(), flip_test=False))
    logits = jax.jit(lambda variables, batch: {"maps": task.logits(task.last_stage(variables, batch["image"]))})
    maps = read(logits)["maps"]
    stride = config.size_wh[0] / maps.shape[2]
    place = np.stack(np.meshgrid(np.arange(maps.shape[2]), np.arange(maps.shape[1])), axis=-1)
    joints = (val["joints"] + 0.5) / stride - 0.5  # the centre of the first map pixel is 0
    distance = np.linalg.norm(place[None, :, :, None] - joints[:, None, None], axis=-1)
    is_visible = val["visibility"] > 0
    background = maps[(distance > FAR) & is_visible[:, None, None]]
    return {
        "EPE, read otherwise": ablation.localisation(predictions, config, data)["EPE"],
        "background": float(background.mean()),
        "its deviation": float(background.std()),
        "peak": float(maps.max((1, 2))[is_visible].mean()),
    }


def first_epoch(run: Mapping[str, Any], goal: float) -> float | None:
    """Returns the first epoch of the curve whose EPE is at most `goal`, or None."""
    return next((point["epoch"] for point in run["curve"] if point["EPE"] <= goal), None)


def add_convergence(runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Adds "reached", the first epoch with at most the final EPE of ipr_B of the same seed and beta, and "to 6 px" to the runs."""
    final = {(run["row"], run["seed"]): run["EPE"] for run in runs if run.get("diverged", -1) < 0}
    extended = []
    for run in runs:
        kind, _, beta = run["row"].partition("_")
        goal = final.get((f"ipr_{beta}", run["seed"]))
        if goal is not None and kind != "ipr":
            epoch = first_epoch(run, goal)
            run = {**run, "reached": epoch, "never": float(epoch is None)}
        extended.append({**run, "to 6 px": first_epoch(run, GOAL_PX), "of": run["curve"][-1]["epoch"]})
    return extended


def plot(runs: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draws figure 6 of the paper: AP against the epoch, mean and range over the seeds; EPE below; one column per beta."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, len(BETAS), figsize=(15, 8), sharex=True, sharey="row")
    kinds = list(dict.fromkeys(run["row"].partition("_")[0] for run in runs))
    for column, beta in enumerate(BETAS):
        for i, kind in enumerate(kinds):
            runs_of_row = [
                run for run in runs if run["row"] in (f"{kind}_{beta}", "heatmap" if kind == "heatmap" else "")
            ]
            points = min((len(run["curve"]) for run in runs_of_row), default=0)
            for row, key in enumerate(("AP", "EPE")):
                if points:
                    values = np.array([[p[key] for p in run["curve"][:points]] for run in runs_of_row])
                    epochs = [p["epoch"] for p in runs_of_row[0]["curve"][:points]]
                    axes[row, column].plot(epochs, values.mean(0), color=f"C{i}", label=kind)
                    axes[row, column].fill_between(epochs, values.min(0), values.max(0), color=f"C{i}", alpha=0.2)
        axes[0, column].set(title=f"beta {beta}")
        axes[1, column].set(xlabel="epoch", yscale="log")
    axes[0, 0].set(ylabel="AP")
    axes[1, 0].set(ylabel="EPE, input px")
    axes[0, 0].legend()
    figure.savefig(path, dpi=110, bbox_inches="tight")
    plt.close(figure)


def main(argv: list[str] | None = None) -> list[dict[str, Any]]:
    config = ablation.parse(Config, __doc__, argv)
    runs = add_convergence(ablation.run_all(config, ROWS, train_row))
    return ablation.report(runs, config, COLUMNS, plot=plot)


if __name__ == "__main__":
    main()
