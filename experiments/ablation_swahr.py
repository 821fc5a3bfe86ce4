"""Do scale-adaptive targets and the weight-adaptive loss help? Tables 3 to 6 of Luo 2021, on the embedded people.

  python -m experiments.ablation_swahr                             the table and the curves, on JAX's default device
  python -m experiments.ablation_swahr --rows none both --seeds 0 --steps 300

Rows, all with the same net (HigherHRNet's head on the first half of a small ResNet) and the same schedule:

  none             as HigherHRNet: the same sigma for everybody, the plain squared error
  sahr             scale-adaptive targets, lambda 1
  wahr             the weight-adaptive loss, gamma 0.01
  both             SWAHR
  shr              sigma by the size of the person's box (the simple way, table 4), in whole pixels as released: 1 to 3, and 1.5
                   on average, because no smaller one can be drawn
  sahr_lambda_L    lambda 0.1, 0.5 (table 5)
  wahr_gamma_G     gamma 1, 0.1, 0.001 (table 6)
  sahr_std         ours: the exact power, with alpha the change of the standard deviation (QUIRK S1)
  none_half        `none`, with the heatmaps at 1/2 alone (as measured in tables 7 and 8)

`experiments/common/ablation.py` describes how runs are stored and shared between processes. Images are augmented once and kept
in memory.

Columns: AP; AP of persons with an area of 32^2 to 96^2 pixels of the picture (M) and above (L); AR; and for rows with scale maps
Pearson's r between the learned factor of the standard deviation at a person's joints and the person's size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from experiments import coco_swahr
from experiments.common import ablation, families, whole_images
from experiments.common.kinds import PredictStep, PyTree
from experiments.common.rules import AllPositive, AnyValue, AtLeast, Fixed, LocalPath, MayChange, Positive, Size
from jaxpose import metrics, parallel, tasks
from jaxpose.data import whole_images as images
from jaxpose.data.source import Source
from jaxpose.evaluation import average_precision
from jaxpose.tasks import PeopleLoss


@dataclass(frozen=True)
class Row:
    """One row of the table."""

    loss: PeopleLoss
    maps: str = "both"


NONE = PeopleLoss()
SAHR = PeopleLoss(targets="scale_adaptive")
WAHR = PeopleLoss(weighting="adaptive")
ROWS = {
    "none": Row(NONE),
    "sahr": Row(SAHR),
    "wahr": Row(WAHR),
    "both": Row(replace(SAHR, weighting="adaptive")),
    "shr": Row(PeopleLoss(targets="box")),
    **{f"sahr_lambda_{x}": Row(replace(SAHR, penalty=x)) for x in (0.1, 0.5)},
    **{f"wahr_gamma_{x}": Row(replace(WAHR, gamma=x)) for x in (1.0, 0.1, 0.001)},
    "sahr_std": Row(replace(SAHR, order="exact", exponent="std")),
    "none_half": Row(NONE, maps="half"),
}


@dataclass(frozen=True)
class Config(ablation.AblationConfig):
    """Settings of the ablation."""

    rows: Annotated[tuple[str, ...], AnyValue, MayChange] = tuple(ROWS)
    """Rows of the table; ROWS in this file lists all."""
    steps: Annotated[int, Positive, Fixed] = 800
    """Updates per run."""
    batch_size: Annotated[int, Positive, Fixed] = 8
    learning_rate: Annotated[float, Positive, Fixed] = 4e-3
    images: Annotated[int, AtLeast(2, "one to train on, one to hold out"), Fixed] = 1200
    """Synthetic images per seed, a fifth of them held out."""
    copies: Annotated[int, Positive, Fixed] = 6
    """Augmented versions of every training image."""
    size_wh: Annotated[tuple[int, int], Size, Fixed] = (128, 128)
    depth: Annotated[int, AnyValue, Fixed] = 18
    width: Annotated[int, Positive, Fixed] = 32
    resnet_stages: Annotated[int, AnyValue, Fixed] = 2
    """Stages of the ResNet; for small pictures a stride of 32 would leave too few pixels."""
    deconvs: Annotated[tuple[int, ...], AllPositive, Fixed] = (32,)
    """Channels of the deconvolutions that bring its features to stride 4."""
    dilations: Annotated[tuple[int, ...], AllPositive, Fixed] = (1, 1)
    """Dilations of the basic blocks at 1/2."""
    sigma: Annotated[float, Positive, Fixed] = 1.0
    """Standard deviation of the Gaussians in map pixels; the published 2 is for maps of 256."""
    embedding: Annotated[float, AtLeast(0), Fixed] = 0.01
    """Factor of pull and push; the published 0.001 is for 300 epochs."""
    evaluations: Annotated[int, Positive, Fixed] = 4
    out: Annotated[Path, LocalPath, MayChange] = Path("runs/ablation_swahr")


def load(config: Config, seed: int) -> dict[str, Any]:
    """Returns the synthetic people of one seed as arrays: augmented training images, held-out ones by shape, and annotations."""
    sources = {split: source.at_level("image") for split, source in ablation.people(config, seed).items()}
    people = sources["train"].persons
    return {
        "skeleton": sources["train"].skeleton,
        "ground_truth": sources["val"].ground_truth_json,
        "train": augmented(sources["train"], config, seed),
        "val": sources["val"],
        "extent": float(people["box"][:, 2:].max(1).mean()) * min(config.size_wh) / 256,  # pictures are 256 high
    }


def augmented(source: Source, config: Config, seed: int) -> dict[str, np.ndarray]:
    """Returns `copies` versions of every image as arrays, each augmented differently."""

    def make(i: int) -> dict[str, Any]:
        epoch, index = divmod(i, len(source))
        return images.sample(source, index, size_wh=config.size_wh, augment=config.augment, seed=seed, epoch=epoch)

    return ablation.in_memory(make, config.copies * len(source), config)


def train_row(name: str, config: Config, data: dict[str, Any], seed: int) -> dict[str, Any]:
    """Trains one row with one seed and returns the learning curve and the final numbers."""
    row = ROWS[name]
    loss = replace(row.loss, sigma=config.sigma, embedding=config.embedding)
    if loss.targets == "box":  # a person of mean size gets the fixed sigma, before rounding
        loss = replace(loss, base=data["extent"])
    settings = replace(
        coco_swahr.PRESETS["tiny"], size_wh=config.size_wh, depth=config.depth, width=config.width,
        resnet_stages=config.resnet_stages, deconvs=config.deconvs, dilations=config.dilations, loss=loss,
        batch_size=config.batch_size, workers=config.workers,
        people=tasks.FindPeople(project=False, maps=row.maps),
    )  # fmt: skip
    task = families.bottom_up_task(settings, data["skeleton"])
    kind = whole_images.WholeImages(settings, None, data["val"], data["ground_truth"], parallel.make_mesh())

    def measure(step: PredictStep, task: tasks.Task, variables: PyTree) -> dict[str, Any]:
        predictions = kind.predict(step, task, variables)
        records = whole_images.records_of(predictions, category_id=data["val"].category_id)
        scores = average_precision(data["ground_truth"], records, sigmas=data["skeleton"].sigmas)
        return {key: scores[key] for key in ("AP", "APM", "APL", "AR")}

    def finish(task: tasks.Task, variables: PyTree) -> dict[str, Any]:
        if loss.targets != "scale_adaptive":
            return {}
        size, factor = kind.scale_against_size(task, variables)
        return {"pearson": metrics.pearson(size, factor)}

    # The training has no mirror images (jaxpose/data/augment.py says why), so the test has none either.
    return ablation.train_one(
        task, config, data, seed=seed, name=name, measure=measure, finish=finish, flip_test=settings.flips()
    )


def plot(runs: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draws AP against the step, mean and range over the seeds."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(9, 6))
    for i, name in enumerate(dict.fromkeys(run["row"] for run in runs)):
        runs_of_row = [run for run in runs if run["row"] == name]
        points = min(len(run["curve"]) for run in runs_of_row)
        values = np.array([[point["AP"] for point in run["curve"][:points]] for run in runs_of_row])
        steps = [point["step"] for point in runs_of_row[0]["curve"][:points]]
        axis.plot(steps, values.mean(0), color=f"C{i % 10}", ls="-" if i < 10 else "--", label=name)
        axis.fill_between(steps, values.min(0), values.max(0), color=f"C{i % 10}", alpha=0.15)
    axis.set(title="AP on held-out images", xlabel="step")
    axis.legend(fontsize=8)
    figure.savefig(path, dpi=110, bbox_inches="tight")
    plt.close(figure)


def main(argv: list[str] | None = None) -> list[dict[str, Any]]:
    config = ablation.parse(Config, __doc__, argv)
    runs = ablation.run_all(config, ROWS, train_row, load=load)
    return ablation.report(runs, config, ("AP", "APM", "APL", "AR", "pearson"), plot=plot)


if __name__ == "__main__":
    main()
