"""Which likelihood? Regression losses side by side on the embedded synthetic people (RLE tables 1, 4, 6, 17).

  python -m experiments.ablation_rle                       the table, on whatever device JAX finds
  python -m experiments.ablation_rle --rows l1 rle --seeds 0 1 --steps 500

Runs go into `runs.jsonl` as they end; the same command again trains only what is missing there. So processes may share
the work (`taskset -c 0 ... --seeds 0`, `taskset -c 1 ... --seeds 1 2`), and a last call without
flags prints the table.

Every row is trained on the same data with the same net, schedule and number of steps; a seed changes the synthetic
people, the initialisation and the order of the batches. Crops are cut once and kept in memory, `copies` differently
augmented ones of every person, so that the device and not the decoder sets the pace.

Columns: AP with the row's own confidences; AP with all confidences 1 (what localisation alone gives; L1 and L2 have no
trained sigma); PCK at 0.05 of the crop's height; EPE in input pixels; Pearson correlation of confidence and OKS; NLL of
the held-out labels in nats a joint, per image pixel squared, beside the oracle's, which knows the clean joint and the
noise that was added to it.
"""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tqdm
import tyro

from jaxpose import density, geometry, parallel, tasks, train
from jaxpose.data import coco, pipeline, synthetic
from jaxpose.evaluation import average_precision, results
from jaxpose.metrics import oks, pearson
from jaxpose.nets import PoseRegressor, RegressionHead, ResNet
from jaxpose.tasks import Likelihood


@dataclass(frozen=True)
class Row:
    """One line of the table."""

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
    # What keeps RLE from diverging: the head, the start of sigma, the clipping.
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
class Config:
    """Regression losses side by side."""

    rows: tuple[str, ...] = DEFAULT_ROWS
    """Lines of the table; see ROWS in this file for all."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """One run per row and seed."""
    steps: int = 3500
    """Updates per run."""
    batch_size: int = 32
    learning_rate: float = 3e-3
    images: int = 2000
    """Synthetic images per seed, a fifth of them held out."""
    copies: int = 8
    """Augmented crops of every training person."""
    augment: str = "light"
    size_wh: tuple[int, int] = (72, 96)
    depth: int = 18
    width: int = 16
    evaluations: int = 7
    """Points of the learning curve."""
    out: Path = Path("runs/ablation_rle")
    workers: int | None = None


def load(config: Config, seed: int) -> dict[str, Any]:
    """Synthetic people of one seed as arrays: augmented training crops, plain held-out crops, and what is known of them."""
    held_out = max(config.images // 5, 1)
    folder = synthetic.write_dataset(
        config.out / f"people_{seed}_{config.images}", train=config.images - held_out, val=held_out, seed=seed,
        workers=config.workers,
    )  # fmt: skip
    sources = {split: coco.read(*coco.find(folder, split)) for split in ("train", "val")}
    truth = json.loads(sources["val"].ground_truth_json.read_text())
    clean = {a["id"]: np.reshape(a["keypoints_clean"], (-1, 2)) for a in truth["annotations"]}
    val = crops(sources["val"], config, seed=seed, augment="none", copies=1)
    return {
        "skeleton": sources["train"].skeleton,
        "ground_truth": truth,
        "train": crops(sources["train"], config, seed=seed, augment=config.augment, copies=config.copies),
        "val": val | {"clean": np.stack([clean[i] for i in val["annotation_id"]])},
    }


def crops(source, config: Config, *, seed: int, augment: str, copies: int) -> dict[str, np.ndarray]:
    """Every person `copies` times, each time augmented anew, as arrays."""

    def cut(i: int) -> dict[str, Any]:
        epoch, index = divmod(i, len(source))
        return pipeline.sample(source, index, size_wh=config.size_wh, augment=augment, seed=seed, epoch=epoch)

    with ThreadPoolExecutor(config.workers) as pool:  # OpenCV decodes and warps without holding the lock
        samples = list(tqdm.tqdm(pool.map(cut, range(copies * len(source))), total=copies * len(source), leave=False))
    return {key: np.stack([sample[key] for sample in samples]) for key in samples[0]}


def train_one(row: Row, config: Config, data: dict[str, Any], seed: int, name: str) -> dict[str, Any]:
    """Train one row with one seed; the learning curve and the final numbers."""
    net = PoseRegressor(
        ResNet(depth=config.depth, width=config.width),
        RegressionHead(data["skeleton"].num_joints, kind=row.head, sigma_bias=row.sigma_bias),
    )
    task = tasks.regression(net, skeleton=data["skeleton"], size_wh=config.size_wh, likelihood=row.likelihood)
    schedule = train.multi_step(
        config.learning_rate, boundaries=sorted({int(config.steps * 0.75), int(config.steps * 0.92)}), warmup_steps=100
    )
    tx = train.optimizer(schedule, clip_norm=row.clip_norm)
    mesh = parallel.make_mesh()
    state = train.init_state(task, tx, jax.random.key(seed), mesh=mesh)
    step_fn = train.make_train_step(task, tx, mesh=mesh, seed=seed)
    predict_fn = train.make_predict_step(task, mesh=mesh)
    arrays = {k: data["train"][k] for k in ("image", "joints", "visibility")}
    order = np.random.default_rng(seed)
    count, curve, started = len(arrays["image"]), [], time.perf_counter()
    marks = {round(config.steps * (i + 1) / config.evaluations) for i in range(config.evaluations)}
    for step in tqdm.trange(1, config.steps + 1, desc=f"{name} seed {seed}", leave=False):
        rows = order.integers(count, size=config.batch_size)
        state, metrics = step_fn(state, parallel.global_batch({k: v[rows] for k, v in arrays.items()}, mesh))
        if step in marks:
            numbers = measure(predict_fn, task, state.variables, config, data, mesh)
            curve.append({"step": step, "loss": float(metrics["loss"]), "diverged": int(state.first_bad), **numbers})
            if int(state.first_bad) >= 0:
                break
    return {"row": name, "seed": seed, "seconds": time.perf_counter() - started, "curve": curve, **curve[-1]}


def measure(predict_fn, task: tasks.Task, variables, config: Config, data, mesh) -> dict[str, Any]:
    """The numbers of one row on the held-out people."""
    val = data["val"]
    predictions = predict_in_memory(predict_fn, variables, val["image"], config.batch_size, mesh)
    where = val["visibility"] > 0
    back = geometry.invert_affine(val["affine"])
    xy = geometry.apply_affine(back, predictions["xy"])
    if not np.isfinite(predictions["xy"]).all():
        return {"AP": 0.0, "AP_constant": 0.0, "PCK": 0.0, "EPE": float("inf")}
    error = np.linalg.norm(predictions["xy"] - val["joints"], axis=-1)

    def ap(confidence):
        records = results.from_predictions(
            xy=xy, confidence=confidence, image_id=val["image_id"], box=val["box"], box_score=val["score"],
            area=val["crop_area"], annotation_id=val["annotation_id"],
        )  # fmt: skip
        return average_precision(data["ground_truth"], records, sigmas=data["skeleton"].sigmas)["AP"]

    sigmas = data["skeleton"].sigmas
    truth = geometry.apply_affine(back, val["joints"])
    similarity = oks(xy, truth, area=val["area"], sigmas=sigmas, where=where)
    numbers = {
        "AP": ap(predictions["confidence"]),
        "AP_constant": ap(np.ones_like(predictions["confidence"])),
        "PCK": float((error < 0.05 * config.size_wh[1])[where].mean()),
        "EPE": float(error[where].mean()),
        "sigma": float(predictions["sigma"].mean(-1)[where].mean()),
        "oracle_NLL": oracle_nll(val, truth, where),
    }
    if np.ptp(predictions["confidence"]) > 0:
        numbers["pearson"] = float(pearson(predictions["confidence"].mean(-1), similarity))
    try:
        model = tasks.predictive_density(task.config, variables)
        if model is not None:
            numbers |= density_numbers(model, predictions, val, where, config)
    except ValueError as error:  # a density that quadrature cannot hold is a finding, not the end of the table
        numbers["density_error"] = str(error)
    return numbers


def density_numbers(model: density.Model, predictions, val, where, config: Config) -> dict[str, float]:
    """NLL of the held-out labels per image pixel squared, and the calibration error."""
    target = geometry.normalize(val["joints"], config.size_wh)
    log_p = np.asarray(density.log_prob_at(target, predictions["mu"], predictions["sigma"], model))
    # From input units to image pixels: du = |det A| / (W H) dx.
    jacobian = np.log(np.abs(np.linalg.det(val["affine"][:, :, :2])) / np.prod(config.size_wh))[:, None]
    found = density.coverage(predictions["mu"], predictions["sigma"], target, model, where=where)
    return {"NLL": float(-(log_p + jacobian)[where].mean()), "calibration_error": density.calibration_error(found)}


def oracle_nll(val, truth: np.ndarray, where: np.ndarray) -> float:
    """NLL of the labels under the noise that made them."""
    log_p = synthetic.noise_log_prob(
        truth - val["clean"], visibility=val["visibility"], scale=np.sqrt(val["area"])[:, None],
        joint=np.arange(truth.shape[1]),
    )  # fmt: skip
    return float(-log_p[where].mean())


def predict_in_memory(predict_fn, variables, images: np.ndarray, batch_size: int, mesh) -> dict[str, np.ndarray]:
    """Predictions for all images, the last batch padded."""
    chunks = []
    for i in range(0, len(images), batch_size):
        chunk = images[i : i + batch_size]
        padded = np.concatenate([chunk, np.zeros((batch_size - len(chunk), *chunk.shape[1:]), chunk.dtype)])
        outputs = jax.device_get(predict_fn(variables, parallel.global_batch({"image": padded}, mesh)))
        chunks.append({k: v[: len(chunk)] for k, v in outputs.items()})
    return {k: np.concatenate([c[k] for c in chunks]) for k in chunks[0]}


COLUMNS = ("AP", "AP_constant", "PCK", "EPE", "pearson", "NLL", "oracle_NLL", "calibration_error", "sigma")


def table(runs: list[dict[str, Any]]) -> str:
    """Mean and standard deviation over the seeds, one line a row; diverged runs are counted, not averaged away."""
    lines = ["| row | runs | diverged | " + " | ".join(COLUMNS) + " |", "|---" * (len(COLUMNS) + 3) + "|"]
    for name in dict.fromkeys(run["row"] for run in runs):
        mine = [run for run in runs if run["row"] == name]
        diverged = sum(run["diverged"] >= 0 for run in mine)
        cells = []
        for column in COLUMNS:
            values = [run[column] for run in mine if column in run and run["diverged"] < 0]
            cells.append(f"{np.mean(values):.3f} +- {np.std(values):.3f}" if values else "-")
        lines.append(f"| {name} | {len(mine)} | {diverged} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def plot(runs: list[dict[str, Any]], path: Path) -> None:
    """AP against the step: one line a run, one colour a row."""
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


def settings(config: Config, name: str) -> dict[str, Any]:
    """What a run of a row depends on besides its seed."""
    chosen = {k: v for k, v in asdict(config).items() if k not in ("rows", "seeds", "out", "workers")}
    return json.loads(json.dumps(chosen | asdict(ROWS[name])))


def done(path: Path, config: Config) -> dict[tuple[str, int], dict[str, Any]]:
    """The runs of these settings that `path` holds, by (row, seed)."""
    found = {}
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            run = json.loads(line)
        except json.JSONDecodeError:  # the line that a killed run was writing
            continue
        if run["row"] in ROWS and run.get("settings") == settings(config, run["row"]):
            found[run["row"], run["seed"]] = run
    return found


def main(argv: list[str] | None = None) -> list[dict[str, Any]]:
    config = tyro.cli(Config, args=argv, description=__doc__)
    unknown = [name for name in config.rows if name not in ROWS]
    if unknown:
        raise SystemExit(f"--rows {' '.join(unknown)}: expected some of {', '.join(ROWS)}")
    config.out.mkdir(parents=True, exist_ok=True)
    path = config.out / "runs.jsonl"
    for seed in config.seeds:
        missing = [name for name in config.rows if (name, seed) not in done(path, config)]
        data = load(config, seed) if missing else {}
        for name in missing:
            run = train_one(ROWS[name], config, data, seed, name)
            with open(path, "a") as file:
                file.write(json.dumps({**run, "settings": settings(config, name)}) + "\n")
            print(name, seed, {k: round(v, 3) for k, v in run.items() if isinstance(v, float)}, flush=True)
    finished = done(path, config)
    runs = [finished[name, seed] for name in config.rows for seed in config.seeds]
    print(table(runs))
    try:
        plot(runs, config.out / "curves.png")
    except ImportError:
        print("no curves.png: pip install 'jaxpose[plot]'")
    return runs


if __name__ == "__main__":
    main()
