"""Which likelihood? Regression losses side by side on the embedded synthetic people (RLE tables 1, 4, 6, 17).

  python -m experiments.ablation_rle                       the table, on JAX's default device
  python -m experiments.ablation_rle --rows l1 rle --seeds 0 1 --steps 500

Rows that differ in Q alone (table 7): `rle_paper` and `rle_paper_gaussian`, `rle_mmpose` and `rle_gaussian`. `rle_gaussian` beside
`rle` also changes the variant and the start of the flow, since the released code has no Gaussian Q.

`experiments/common/ablation.py` describes how runs are stored and shared between processes.

Columns: AP with the row's own confidences; AP with all confidences 1 (the effect of localisation alone; L1 and L2 have no
trained sigma); PCK at 0.05 of the crop's height; EPE in input pixels; Pearson correlation of confidence and OKS; NLL of
the held-out labels in nats per joint, per image pixel squared, next to that of the oracle, which knows the clean joint and the
noise that was added to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from experiments.common import ablation
from experiments.common.kinds import Predictions, PredictStep, PyTree
from experiments.common.rules import AnyValue, LocalPath, MayChange
from jaxpose import density, geometry, inference, tasks
from jaxpose.data import synthetic
from jaxpose.metrics import oks, pearson
from jaxpose.nets import PoseRegressor, RegressionHead, ResNet
from jaxpose.tasks import Likelihood


@dataclass(frozen=True)
class Row:
    """One row of the table."""

    likelihood: Likelihood
    head: str = "normalized"
    sigma_bias: float = -1.0
    clip_norm: float | None = 10.0


RLE = Likelihood()
PAPER = Likelihood(variant="paper")
ROWS: dict[str, Row] = {
    "l1": Row(Likelihood(loss="l1")),
    "l2": Row(Likelihood(loss="l2")),
    "gaussian": Row(Likelihood(loss="gaussian")),
    "laplace": Row(Likelihood(loss="laplace")),
    "basic": Row(Likelihood(loss="basic")),
    "dle": Row(Likelihood(loss="dle", variant="paper")),
    "rle": Row(RLE),
    "rle_mmpose": Row(Likelihood(variant="mmpose", flow_init="xavier")),
    "rle_paper": Row(PAPER),
    "rle_paper_log_s": Row(Likelihood(variant="paper", log_s=True)),
    "rle_gaussian": Row(Likelihood(base="gaussian", variant="mmpose", flow_init="xavier")),
    "rle_paper_gaussian": Row(Likelihood(base="gaussian", variant="paper")),
    # Rows that show what keeps RLE from diverging: the head, the initial sigma, the clipping.
    "rle_linear": Row(RLE, head="linear", sigma_bias=0.0, clip_norm=None),
    "rle_linear_bias": Row(RLE, head="linear", clip_norm=None),
    "rle_linear_clip": Row(RLE, head="linear", sigma_bias=0.0),
    "rle_normalized_only": Row(RLE, sigma_bias=0.0, clip_norm=None),
    # Table 6: L_fc x N_n of the flow; the default is 3 x 64.
    "rle_3x128": Row(replace(RLE, flow_hidden=(128, 128))),
    "rle_3x256": Row(replace(RLE, flow_hidden=(256, 256))),
    "rle_5x32": Row(replace(RLE, flow_hidden=(32, 32, 32, 32))),
    "rle_5x64": Row(replace(RLE, flow_hidden=(64, 64, 64, 64))),
}
DEFAULT_ROWS = tuple(ROWS)[:11]


@dataclass(frozen=True)
class Config(ablation.AblationConfig):
    """Regression losses side by side."""

    rows: Annotated[tuple[str, ...], AnyValue, MayChange] = DEFAULT_ROWS
    """Rows of the table; ROWS in this file lists all."""
    out: Annotated[Path, LocalPath, MayChange] = Path("runs/ablation_rle")


def train_row(name: str, config: Config, data: dict[str, Any], seed: int) -> dict[str, Any]:
    """Trains one row with one seed and returns the learning curve and the final numbers."""
    row = ROWS[name]
    net = PoseRegressor(
        ResNet(depth=config.depth, width=config.width),
        RegressionHead(data["skeleton"].num_joints, kind=row.head, sigma_bias=row.sigma_bias),
    )
    task = tasks.regression(net, skeleton=data["skeleton"], size_wh=config.size_wh, likelihood=row.likelihood)
    return ablation.train_one(
        task, config, data, seed=seed, name=name, clip_norm=row.clip_norm,
        measure=lambda step, task, variables: measure(step, task, variables, config, data),
    )  # fmt: skip


def measure(
    step: PredictStep, task: tasks.Task, variables: PyTree, config: Config, data: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns the numbers of one row on the held-out people."""
    val = data["val"]
    predictions = ablation.predict_in_memory(step, variables, val["image"], config.batch_size)
    numbers = ablation.localisation(predictions, config, data)
    if not np.isfinite(numbers["EPE"]):
        return numbers
    where = val["visibility"] > 0
    xy, truth = (inference.to_image(points, val["affine"]) for points in (predictions["xy"], val["joints"]))
    similarity = oks(xy, truth, area=val["area"], sigmas=data["skeleton"].sigmas, where=where)
    numbers |= {
        "sigma": float(predictions["sigma"].mean(-1)[where].mean()),
        "oracle_NLL": oracle_nll(val, truth, where),
    }
    if np.ptp(predictions["confidence"]) > 0:
        numbers["pearson"] = float(pearson(predictions["confidence"].mean(-1), similarity))
    try:
        model = task.density(variables, required=True)
        if model is not None:
            numbers |= density_numbers(model, predictions, val, where, config)
    except ValueError as error:  # a density that quadrature cannot integrate is a result, not the end of the table
        numbers["density_error"] = str(error)
    return numbers


def density_numbers(
    model: density.Model, predictions: Predictions, val: Mapping[str, np.ndarray], where: np.ndarray, config: Config
) -> dict[str, float]:
    """Returns the NLL of the held-out labels per image pixel squared, and the calibration error."""
    target = geometry.normalize(val["joints"], config.size_wh)
    log_p = np.asarray(density.log_prob_at(target, predictions["mu"], predictions["sigma"], model))
    # From input units to image pixels: du = |det A| / (W H) dx.
    jacobian = np.log(np.abs(np.linalg.det(val["affine"][:, :, :2])) / np.prod(config.size_wh))[:, None]
    coverage = density.coverage(predictions["mu"], predictions["sigma"], target, model, where=where)
    return {"NLL": float(-(log_p + jacobian)[where].mean()), "calibration_error": density.calibration_error(coverage)}


def oracle_nll(val: Mapping[str, np.ndarray], truth: np.ndarray, where: np.ndarray) -> float:
    """Returns the NLL of the labels under the noise that generated them."""
    log_p = synthetic.noise_log_prob(
        truth - val["clean"], visibility=val["visibility"], scale=np.sqrt(val["area"])[:, None],
        joint=np.arange(truth.shape[1]),
    )  # fmt: skip
    return float(-log_p[where].mean())


COLUMNS = ("AP", "AP_constant", "PCK", "EPE", "pearson", "NLL", "oracle_NLL", "calibration_error", "sigma")


def settings(config: Config, name: str) -> dict[str, Any]:
    """Returns the settings that a run of a row depends on, except its seed."""
    return ablation.settings(config, ROWS[name])


def done(path: Path, config: Config) -> dict[tuple[str, int], dict[str, Any]]:
    """Returns the runs with these settings in `path`, by (row, seed)."""
    return ablation.done(path, config, ROWS)


def main(argv: list[str] | None = None) -> list[dict[str, Any]]:
    config = ablation.parse(Config, __doc__, argv)
    runs = ablation.run_all(config, ROWS, train_row)
    return ablation.report(runs, config, COLUMNS)


if __name__ == "__main__":
    main()
