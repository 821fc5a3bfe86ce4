"""Why three orderings of the papers do not show on the embedded data: an experiment on arrays for each, without images.

  python -m experiments.orderings                                  all tables, minutes on one core
  python -m experiments.orderings --parts compensation scales      seconds
  python -m experiments.orderings --parts dle --noise t1.5 --steps 4000
  python -m experiments.orderings --parts scales --data runs/data/synthetic_2000_0     and the label noise of that folder
  python -m experiments.orderings --parts run --run runs/dle --data runs/data/synthetic_2000_0

dle           A small net regresses two coordinates from 16 numbers; the labels have noise of known density around a known
              function, so the error of mu itself can be measured, without AP and without confidence. DLE determines mu only up to
              a multiple of sigma, since the mean of the flow is free: the table has the error, and what is left of it when that
              one multiple is taken off.
compensation  One bump on a map with a background of given level and noise, decoded by the plain and by the compensated integral.
              The weight of a background pixel is exp(beta H) or expm1(beta H): lowered below 0, it vanishes in the first and
              becomes -1 in the second, and at 0 the second still passes the noise on.
run           The same multiple of sigma in a trained run of regression, on images, with and without the flip test.
scales        SAHR: the alpha that minimises (H_alpha - P)^2 + lambda alpha^2 at a pixel, and the part of the loss that it can take
              away. WAHR: the height of the peak that is best to predict when the label is uncertain;
              with --data, the best maps of synthetic people at more label noise.

docs/experiments.md has the results and what follows from them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro

from experiments.common.rules import AllPositive, AnyValue, LocalPath, Positive, check
from jaxpose import checkpoint, files, heatmap, inference, losses, tasks
from jaxpose.data import crops
from jaxpose.data.formats import coco
from jaxpose.data.synthetic import sample_noise as sample_label_noise
from jaxpose.flow import RealNVP
from jaxpose.skeleton import COCO17

Part = Literal["dle", "compensation", "scales", "run"]
Noise = Literal["laplace", "t1.5", "outliers", "skewed"]
Rows = dict[str, dict[str, float]]
Net = list[tuple[jax.Array, jax.Array]]

FEATURES, HIDDEN, BATCH, SCALE = 16, 64, 64, 0.02  # SCALE: of the label noise, in parts of the picture
SIZE_HW, MODE_XY, BUMP = (24, 16), (4.0, 6.0), 1.0  # the map of the embedded ablation
DRAWS = 256
# The embedded bottom-up runs: the targets' sigma in pixels of the map, the picture's longer side, input pixels per map pixel, and the
# least height of a peak that is grouped.
SIGMA, SIDE, STRIDE, THRESHOLD = 1.0, 128, 2, 0.1


@dataclass(frozen=True)
class Config:
    """The orderings of the papers on arrays of known distribution."""

    parts: Annotated[tuple[Part, ...], AnyValue] = ("compensation", "scales", "dle")
    """Tables to compute."""
    noise: Annotated[tuple[Noise, ...], AnyValue] = ("laplace", "t1.5")
    """Label noise of the part dle: Laplace; Student's t with 1.5 degrees of freedom; Laplace of which a tenth is 20 times as wide;
    an exponential tail on one side."""
    rows: Annotated[tuple[str, ...], AnyValue] = ("l1", "laplace", "dle", "rle_paper", "rle_official")
    """Losses of the part dle."""
    steps: Annotated[int, Positive] = 2000
    """Steps of the part dle, of 64 samples each."""
    seeds: Annotated[int, Positive] = 2
    """Number of seeds of the part dle."""
    flow_hidden: Annotated[tuple[int, ...], AllPositive] = (64, 64)
    """Hidden widths of the flow of the part dle."""
    flow_init: Annotated[Literal["torch", "xavier"], AnyValue] = "torch"
    """Start of the flow of the part dle; "xavier" is near the identity, so that its mean starts at 0."""
    sigma_bias: Annotated[float, AnyValue] = -1.0
    """Bias of sigma's logit in the part dle, where sigma starts."""
    centre: Annotated[bool, AnyValue] = False
    """Take the mean off the true function of the part dle."""
    data: Annotated[Path | None, LocalPath] = None
    """Folder of synthetic people, for the part scales: the size of its label noise; and for the part run."""
    run: Annotated[Path | None, LocalPath] = None
    """Folder of a run of regression, for the part run."""
    split: Annotated[Literal["train", "val"], AnyValue] = "val"
    """Split of --data that the part run predicts."""


# ---------------------------------------------------------------------------------------------------------- DLE and RLE

Loss = Callable[[jax.Array, jax.Array, jax.Array, Callable[[jax.Array], jax.Array]], jax.Array]
LOSSES: dict[str, Loss] = {
    "l1": lambda mu, sigma, target, log_g: losses.l1(mu, target).sum(-1) / SCALE,
    "laplace": lambda mu, sigma, target, log_g: losses.laplace_nll(mu, sigma, target).sum(-1),
    "gaussian": lambda mu, sigma, target, log_g: losses.gaussian_nll(mu, sigma, target).sum(-1),
    "dle": lambda *arrays: losses.rle(*arrays, base=None),
    "rle_paper": lambda *arrays: losses.rle(*arrays),
    "rle_official": lambda *arrays: losses.rle(*arrays, variant="official"),
}


def sample_noise(name: Noise, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Draws label errors of scale about 1 whose mode is 0."""
    first, second = jax.random.split(key)
    match name:
        case "laplace":
            return jax.random.laplace(first, shape)
        case "t1.5":
            return jax.random.t(first, 1.5, shape)
        case "outliers":
            is_wide = jax.random.uniform(second, (*shape[:-1], 1)) < 0.1
            return jax.random.laplace(first, shape) * jnp.where(is_wide, 20.0, 1.0)
    size = jax.random.exponential(first, shape)
    return jnp.where(jax.random.uniform(second, shape) < 0.15, -0.3 * size, 1.7 * size)


def init_net(key: jax.Array, sizes: Sequence[int]) -> Net:
    keys = jax.random.split(key, len(sizes) - 1)
    shapes = zip(keys, sizes[:-1], sizes[1:], strict=True)
    return [(jax.random.normal(k, (a, b)) * jnp.sqrt(2 / a), jnp.zeros(b)) for k, a, b in shapes]


def apply_net(net: Net, x: jax.Array) -> jax.Array:
    for weights, bias in net[:-1]:
        x = jax.nn.relu(x @ weights + bias)
    return x @ net[-1][0] + net[-1][1]


def errors_of_mu(loss: Loss, noise: Noise, seed: jax.Array, config: Config) -> jax.Array:
    """Trains one net and returns the error of mu on fresh samples, all in units of the noise's scale.

    Returns:
        (4,): the mean distance of mu from the true function; the same after the best multiple of sigma is added to every mu; the
        length of that multiple; the mean of sigma.
    """
    of_truth, of_net, of_flow, of_data = jax.random.split(jax.random.key(seed), 4)
    teacher, spread = init_net(of_truth, (FEATURES, 32, 32, 2)), jax.random.normal(of_truth, (FEATURES,)) / 4
    flow = RealNVP(hidden=config.flow_hidden, scheme=config.flow_init)
    optimizer = optax.adam(optax.cosine_decay_schedule(1e-3, config.steps))
    params = {"net": init_net(of_net, (FEATURES, HIDDEN, HIDDEN, 4)), "flow": flow.init(of_flow, jnp.zeros((1, 2)))}

    def uncentred(x: jax.Array) -> jax.Array:
        return 0.3 * jnp.tanh(apply_net(teacher, x))

    mean = uncentred(jax.random.normal(jax.random.key(7), (20000, FEATURES))).mean(0) if config.centre else 0.0

    def truth(x: jax.Array) -> jax.Array:
        return uncentred(x) - mean

    def predict(params: Any, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        out = apply_net(params["net"], x)
        return 0.1 * out[..., :2], jax.nn.sigmoid(out[..., 2:] + config.sigma_bias)

    def step(carry: tuple[Any, Any], key: jax.Array) -> tuple[tuple[Any, Any], None]:
        params, state = carry
        of_x, of_label = jax.random.split(key)
        x = jax.random.normal(of_x, (BATCH, FEATURES))
        width = SCALE * jnp.exp(0.5 * x @ spread)[:, None]
        target = truth(x) + width * sample_noise(noise, of_label, (BATCH, 2))

        def objective(params: Any) -> jax.Array:
            return loss(*predict(params, x), target, lambda e: flow.apply(params["flow"], e)).mean()

        updates, state = optimizer.update(jax.grad(objective)(params), state, params)
        return (optax.apply_updates(params, updates), state), None

    keys = jax.random.split(of_data, config.steps)
    (params, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), keys)
    x = jax.random.normal(jax.random.key(99), (2000, FEATURES))
    mu, sigma = predict(params, x)
    difference = truth(x) - mu
    multiple = (difference * sigma).sum(0) / (sigma * sigma).sum(0)
    lengths = [jnp.linalg.norm(d, axis=-1).mean() / SCALE for d in (difference, difference - multiple * sigma)]
    return jnp.stack([*lengths, jnp.linalg.norm(multiple), sigma.mean() / SCALE])


def dle_table(config: Config) -> Rows:
    """Returns the errors of each loss on each noise, the mean over the seeds."""
    rows: Rows = {}
    for noise in config.noise:
        for name in config.rows:
            trained = jax.jit(
                jax.vmap(lambda seed, name=name, noise=noise: errors_of_mu(LOSSES[name], noise, seed, config))
            )
            error, rest, multiple, sigma = np.asarray(trained(jnp.arange(config.seeds))).mean(0)
            rows[f"{noise}, {name}"] = {
                "error": error, "without the multiple": rest, "multiple of sigma": multiple, "sigma": sigma,
            }  # fmt: skip
            print_row(f"{noise}, {name}", rows[f"{noise}, {name}"])
    return rows


def run_table(run: Path, data: Path, *, split: str = "val") -> Rows:
    """Returns the errors of a trained run in input pixels: as they are, and without the best multiple of sigma.

    Args:
        run: folder of a run of regression.
        data: folder with images and annotations in COCO's layout.
        split: the split to predict.

    Raises:
        ValueError: the run is none of regression.
    """
    variables, stored = checkpoint.restore_model(run)
    task = tasks.from_config(stored["task"])
    if not isinstance(task, tasks.Regression) or task.dim != 2:
        raise ValueError(f"--run {run} holds a {task.family} task: expected one of regression")
    source = coco.read(*coco.find(data, split), split=split, skeleton=task.skeleton)
    settings, size = inference.from_checkpoint(stored), np.asarray(task.size_wh, np.float64)
    samples = [crops.sample(source, i, size_wh=task.size_wh, padding=settings.padding) for i in range(len(source))]
    rows: Rows = {}
    for flip_test in (False, True):
        step = jax.jit(lambda variables, batch, flips=flip_test: task.predict(variables, batch, flip_test=flips))
        batches = inference.batches(({"image": sample["image"]} for sample in samples), size=32)
        out = inference.run(lambda batch, step=step: step(variables, {"image": batch["image"]}), batches, gather=False)
        where = np.stack([sample["visibility"] for sample in samples])[..., None] > 0
        sigma = np.where(where, out["sigma"] * size, 0)
        difference = np.where(where, np.stack([sample["joints"] for sample in samples]) - out["xy"], 0)
        multiple = (difference * sigma).sum((0, 1)) / (sigma * sigma).sum((0, 1))
        error, rest = (
            np.linalg.norm(d, axis=-1).sum() / where.sum() for d in (difference, difference - multiple * sigma)
        )
        rows["with the flip test" if flip_test else "without the flip test"] = {
            "error, px": error, "without the multiple": rest, "multiple in x": multiple[0], "in y": multiple[1],
            "mean sigma, px": sigma.sum() / where.sum() / 2,
        }  # fmt: skip
    return rows


# --------------------------------------------------------------------------------------------------------- compensation


def compensation_table(*, beta: float = 10.0) -> Rows:
    """Returns the root mean square error in map pixels of both integrals, by level and noise of the background."""
    place = jnp.asarray(MODE_XY)
    bump = heatmap.gaussian(place[None], SIZE_HW, sigma=BUMP, method="unbiased")
    noise = jax.random.normal(jax.random.key(0), (DRAWS, *SIZE_HW, 1))
    rows: Rows = {}
    for level in (0.0, -0.3, -1.0):
        for compensate in (False, True):
            values = {}
            for tau in (0.0, 0.02, 0.05, 0.1):
                maps = bump + level * (1 - bump) + tau * noise
                xy, _ = heatmap.soft_argmax(maps, beta=beta, compensate=compensate)
                values[f"noise {tau:g}"] = float(jnp.sqrt(jnp.square(xy - place).sum(-1).mean()))
            rows[f"{'compensated' if compensate else 'plain'}, background {level:g}"] = values
    return rows


# ---------------------------------------------------------------------------------------------------------------- scales


def share_of_alpha(penalty: float) -> float:
    """Computes the largest part of a pixel's squared residual that the best alpha takes away, for a small residual.

    To first order H_alpha = H + alpha H ln H. The alpha that minimises (H_alpha - P)^2 + penalty alpha^2 leaves the part
    penalty / (penalty + (H ln H)^2) of (H - P)^2, and |H ln H| is at most 1 / e.

    >>> round(share_of_alpha(1.0), 3), round(share_of_alpha(0.1), 3)
    (0.119, 0.575)
    """
    return 1 / (1 + penalty * np.e**2)


def best_alpha(target: np.ndarray, pred: np.ndarray, *, penalty: float) -> tuple[np.ndarray, np.ndarray]:
    """Searches the alpha that minimises the published loss at each pixel.

    Returns:
        alpha, and the loss with it divided by the loss with alpha = 0.
    """
    alpha = np.linspace(-0.9, 0.9, 721)
    target, pred = (
        np.broadcast_to(np.asarray(x, np.float64)[..., None], (*np.shape(x), len(alpha))) for x in (target, pred)
    )
    shape = (*target.shape[:-1], 1, 1, len(alpha))
    arrays = [jnp.asarray(np.broadcast_to(x, target.shape).reshape(shape), jnp.float32) for x in (target, alpha)]
    adapted = np.asarray(heatmap.scale_adaptive(*arrays)).reshape(target.shape)
    penalties = np.asarray(losses.scale_penalty(arrays[1], arrays[0])).reshape(target.shape)
    loss = np.square(adapted - pred) + penalty * penalties
    at = loss.argmin(-1)
    return alpha[at], loss.min(-1) / np.square(target - pred)[..., 0]


def best_predictions(jitter: float, *, weighting: bool, distance: float = 0.0) -> tuple[float, float]:
    """Computes what is best to predict at a pixel when labels lie around the joint with a Gaussian error.

    Args:
        jitter: standard deviation of the label in x and y, in units of the target's sigma.
        weighting: with the weights of WAHR, or plain squared error.
        distance: distance of the pixel from the joint, in units of the target's sigma.

    Returns:
        The prediction of the smallest loss, and the first minimum of the loss above 0, where a descent from 0 ends.

    >>> [round(p, 2) for p in best_predictions(1.0, weighting=False)]
    [0.5, 0.5]
    """
    label = jitter * np.random.default_rng(0).normal(size=(4000, 2)) + (distance, 0.0)
    label = np.concatenate([label, 2 * np.array([distance, 0.0]) - label])  # symmetric about the joint
    values = np.exp(-0.5 * np.square(label).sum(-1))
    pred = np.linspace(0, 1, 501)
    if weighting:
        columns = np.broadcast_arrays(pred[:, None, None], values)
        loss = np.asarray(losses.weight_adaptive_mse(*(jnp.asarray(c, jnp.float32) for c in columns))).mean((1, 2))
    else:
        loss = np.square(pred[:, None] - values).mean(1)
    rises = np.flatnonzero(np.diff(loss) > 0)
    return float(pred[loss.argmin()]), float(pred[rises[0]] if len(rises) else 1.0)


def scales_tables() -> Rows:
    """Returns what alpha can take away by lambda, and the height of the best peak by the label's uncertainty."""
    rows: Rows = {}
    target = np.linspace(0.02, 0.98, 49)
    for penalty in (1.0, 0.5, 0.1, 0.01):
        alpha, left = best_alpha(target, np.clip(target - 0.2, 0, 1), penalty=penalty)
        rows[f"SAHR, lambda {penalty:g}"] = {
            "bound": share_of_alpha(penalty),
            "residual 0.2: most taken away": 1 - left.min(),
            "largest |alpha|": np.abs(alpha).max(),
            "sigma's factor": (1 + np.abs(alpha).max()) ** -0.5,
        }
    for jitter in (0.1, 0.25, 0.5, 1.0, 2.0):
        for distance in (0.0, 1.0):
            (plain, _), (least, first) = (
                best_predictions(jitter, weighting=weighting, distance=distance) for weighting in (False, True)
            )
            values = {"squared error": plain, "WAHR, least loss": least, "WAHR, first minimum": first}
            rows[f"label noise {jitter:g} sigma, {distance:g} sigma away"] = values
    return rows


def synthetic_people(folder: Path) -> list[tuple[dict[str, Any], float]]:
    """Returns the labelled people that `jaxpose synthetic` held out, each with its map pixels per pixel of the picture.

    Raises:
        FileNotFoundError, ValueError: the folder has no synthetic people.
    """
    content = files.read_json(folder / "annotations" / "person_keypoints_val.json", "annotations of synthetic people")
    longer = {image["id"]: max(image["width"], image["height"]) for image in content["images"]}
    people = [a for a in content["annotations"] if a["num_keypoints"]]
    if not people or "keypoints_clean" not in people[0]:
        raise ValueError(f"--data {folder}: expected a folder of jaxpose synthetic, whose true joints are known")
    return [(person, SIDE / longer[person["image_id"]] / STRIDE) for person in people]


def label_noise(folder: Path) -> Rows:
    """Returns the standard deviation of synthetic labels in units of the targets' sigma, by the size of the person.

    Args:
        folder: a folder of `jaxpose synthetic`.
    """
    people = synthetic_people(folder)
    size = np.array([np.sqrt(person["area"]) * scale for person, scale in people])
    rows: Rows = {}
    for name, where in (("smaller half", size <= np.median(size)), ("larger half", size > np.median(size))):
        errors = []
        for person, scale in (pair for pair, is_in in zip(people, where, strict=True) if is_in):
            labels = np.reshape(person["keypoints"], (-1, 3))
            difference = (labels[:, :2] - np.reshape(person["keypoints_clean"], (-1, 2)))[labels[:, 2] > 0]
            errors.append(difference * scale / SIGMA)
        all_errors = np.concatenate(errors)
        rows[f"labels, {name}"] = {
            "standard deviation / sigma": all_errors.std(),
            "99 % below": np.quantile(abs(all_errors), 0.99),
        }
    return rows


def best_map(
    error: np.ndarray, *, weighting: bool, gamma: float = 0.01, radius: int = 9, levels: int = 101
) -> np.ndarray:
    """Computes the map around a joint that is best to predict when its labels have these errors.

    The losses are sums over pixels, so every pixel is on its own: it gets the first minimum of its mean loss above 0, where a
    descent from 0 ends.

    Args:
        error: errors of the labels in pixels of the map, (D, 2).
        weighting: with the weights of WAHR, or plain squared error.
        gamma: exponent of the weights.
        radius: the map ends so many pixels from the joint, which lies at the centre of its middle pixel.
        levels: number of values from 0 to 1 that are tried.

    Returns:
        The map, (2 radius + 1, 2 radius + 1).

    >>> best_map(np.zeros((1, 2)), weighting=False, radius=1, levels=11).round(1).tolist()
    [[0.4, 0.6, 0.4], [0.6, 1.0, 0.6], [0.4, 0.6, 0.4]]
    """
    axis = np.arange(-radius, radius + 1)
    pixel = np.stack(np.meshgrid(axis, axis), -1)[:, :, None]
    target = np.exp(-0.5 * np.square((pixel - error) / SIGMA).sum(-1))  # (h, w, D)
    pred = np.linspace(0, 1, levels)[:, None, None]
    first, second = target.mean(-1), np.square(target).mean(-1)
    loss = np.square(pred) - 2 * pred * first + second
    if (
        weighting
    ):  # the mean of the loss over the labels is a polynomial of the prediction, with these means as coefficients
        peak = target**gamma
        of_peak = [(peak * target**k).mean(-1) for k in range(3)]
        at_peak = np.square(pred) * of_peak[0] - 2 * pred * of_peak[1] + of_peak[2]
        loss = (1 - pred) * at_peak + pred * (loss - at_peak)
    rises = np.concatenate([np.diff(loss, axis=0) > 0, np.ones((1, *loss.shape[1:]), bool)])
    return pred.ravel()[rises.argmax(0)]


def peaks_table(folder: Path, *, factors: Sequence[float] = (1, 4, 8), joints: int = 300) -> Rows:
    """Returns what grouping would get from the best maps of synthetic people, by the factor on their label noise.

    Args:
        folder: a folder of `jaxpose synthetic`.
        factors: factors on the label noise, as of `--label-noise`.
        joints: number of labelled joints, drawn at random.

    Returns:
        The part of the joints whose peak is at least `THRESHOLD`, and the mean distance of the peak from the true joint in
        standard deviations of COCO's annotators.
    """
    rng = np.random.default_rng(0)
    places = [
        (person, scale, k)
        for person, scale in synthetic_people(folder)
        for k in np.flatnonzero(np.reshape(person["keypoints"], (-1, 3))[:, 2])
    ]
    places = [places[i] for i in rng.permutation(len(places))[:joints]]
    errors = []
    for person, scale, k in places:
        seen = np.full(DRAWS, int(person["keypoints"][3 * k + 2]))
        errors.append(sample_label_noise(rng, visibility=seen, scale=np.sqrt(person["area"]), joint=k) * scale)
    units = [COCO17.sigmas[k] * np.sqrt(person["area"]) * scale for person, scale, k in places]
    rows: Rows = {}
    for factor in factors:
        for weighting in (False, True):
            maps = np.stack([best_map(factor * error, weighting=weighting) for error in errors])
            y, x = np.divmod(maps.reshape(len(maps), -1).argmax(1), maps.shape[2])
            distance = np.hypot(x - maps.shape[2] // 2, y - maps.shape[1] // 2) / units
            rows[f"label noise x {factor:g}, {'WAHR' if weighting else 'squared error'}"] = {
                "median peak": float(np.median(maps.max((1, 2)))),
                f"peaks of {THRESHOLD:g}": float((maps.max((1, 2)) >= THRESHOLD).mean()),
                "distance": float(distance.mean()),
            }
    return rows


def print_row(name: str, row: dict[str, float]) -> None:
    print(f"{name:34}" + "".join(f"  {column} {value:.4g}" for column, value in row.items()), flush=True)


def main(argv: Sequence[str] | None = None) -> dict[str, Rows]:
    config = tyro.cli(Config, args=argv, description=__doc__)
    check(config)
    if unknown := set(config.rows) - set(LOSSES):
        raise SystemExit(f"--rows {' '.join(sorted(unknown))}: expected some of {', '.join(LOSSES)}")
    if config.data is not None and not {"scales", "run"} & set(config.parts):
        raise SystemExit(
            f"--data {config.data} has no effect without --parts scales or run: leave it out, or give that too"
        )
    if config.split != "val" and "run" not in config.parts:
        raise SystemExit(f"--split {config.split} has no effect without --parts run: leave it out, or give that too")
    if ("run" in config.parts) != (config.run is not None) or (config.run is not None and config.data is None):
        raise SystemExit(
            "--parts run, --run and --data belong together: give all three, or neither the first nor the second"
        )
    tables: dict[str, Rows] = {}
    for part in config.parts:
        print(f"\n{part}")
        if part == "dle":  # prints its rows as they are trained
            tables[part] = dle_table(config)
            continue
        if part == "run":
            tables[part] = run_table(config.run, config.data, split=config.split)
        else:
            tables[part] = compensation_table() if part == "compensation" else scales_tables()
        if part == "scales" and config.data is not None:
            tables[part] |= label_noise(config.data) | peaks_table(config.data)
        for name, row in tables[part].items():
            print_row(name, row)
    print(json.dumps(tables, default=float))
    return tables


if __name__ == "__main__":
    main()
