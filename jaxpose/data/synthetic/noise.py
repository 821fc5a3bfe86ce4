"""The label noise of the synthetic people: a known distribution, with which a learned density can be compared.

A label is the true projection plus an error `e = (e_x, e_y)` in pixels. With `c = sigma_joint * scale`, where
`sigma_joint` is the joint's COCO constant and `scale = sqrt(area)` of the person (so `c` is one standard deviation of
COCO's annotators), the standardised error `z = e / c` has the density

    visible:   p(z) = Laplace(z_x; b) Laplace(z_y; b)                                      b = 0.2
    occluded:  p(z) = sum_m  w_m  Laplace(z_x; b_m)  AsymmetricLaplace(z_y; u_m, d_m)      m = 1, 2

    Laplace(z; b)               = exp(-|z| / b) / (2 b)
    AsymmetricLaplace(z; u, d)  = exp(-|z| / (u if z < 0 else d)) / (u + d)

with the numbers in `OCCLUDED`, and `p(e) = p(z) / c^2`. The mode is the true position in both. An occluded joint's label
is wider, has a heavier tail (the second component), and is skewed downwards in the image (y grows downwards), for
`d > u`. Its coordinates are uncorrelated within a component but not independent: they share it. Labels are never
clipped to the image, which would change the distribution; whether a joint is labelled is decided by its true place.
"""

from __future__ import annotations

import numpy as np

from jaxpose.skeleton import COCO17

VISIBLE_SCALE = 0.2
# One row per mixture component: weight, scale in x, scale upwards, scale downwards.
OCCLUDED = np.array(
    [
        [0.8, 0.40, 0.22, 0.65],
        [0.2, 1.00, 0.45, 1.60],
    ]
)


def _laplace(z: np.ndarray, up: np.ndarray | float, down: np.ndarray | float) -> np.ndarray:
    """Returns log of exp(-|z| / (up if z < 0 else down)) / (up + down), symmetric if both scales agree."""
    return -np.abs(z) / np.where(z < 0, up, down) - np.log(up + down)


def _unit(visibility, scale, joint, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Checks the arguments; returns visibility, and pixels per unit of standardised error, both of this shape."""
    visibility, scale, joint = np.asarray(visibility), np.asarray(scale, np.float64), np.asarray(joint)
    for name, array in (("visibility", visibility), ("scale", scale), ("joint", joint)):
        fits = array.ndim <= len(shape) and all(
            n in (1, m) for n, m in zip(array.shape[::-1], shape[::-1], strict=False)
        )
        if not fits:
            raise ValueError(f"{name} of shape {array.shape} does not broadcast to the joints' shape {shape}")
    if not np.isin(visibility, (0, 1, 2)).all():
        raise ValueError(f"visibility must be 0, 1 or 2 (COCO), got {np.unique(visibility)}")
    if not (scale > 0).all():
        raise ValueError(
            f"scale must be positive (sqrt of the person's area in pixels), got a minimum of {scale.min()}"
        )
    if joint.size and not (0 <= joint.min() and joint.max() < COCO17.num_joints):
        raise ValueError(f"joint must be an index of COCO17 (0 to {COCO17.num_joints - 1}), got {np.unique(joint)}")
    unit = np.asarray(COCO17.sigmas)[joint] * scale
    return np.broadcast_to(visibility, shape), np.broadcast_to(unit, shape)


def noise_log_prob(error, *, visibility, scale, joint) -> np.ndarray:
    """Exact log density of a label's error, in pixels, which the best possible model would reach.

    Args:
        error: Label minus true position, pixels, (..., 2).
        visibility: 1 occluded or 2 visible, broadcastable to (...,); 0 means there is no label, and the result is 0.
        scale: Square root of the person's `area`, pixels, broadcastable to (...,).
        joint: Index of the joint in `COCO17`, broadcastable to (...,).

    Returns:
        Log density in nats per joint (x and y together, per square pixel), (...,) float64.

    Raises:
        ValueError: The last dimension is not 2, shapes do not broadcast, a visibility or joint is unknown, or a scale
            is not positive.

    >>> float(noise_log_prob([0.0, 0.0], visibility=2, scale=100.0, joint=0).round(4))
    -0.0784
    """
    error = np.asarray(error, np.float64)
    if error.shape[-1:] != (2,):
        raise ValueError(f"error must end in 2 coordinates (x, y), got shape {error.shape}")
    visibility, unit = _unit(visibility, scale, joint, error.shape[:-1])
    # Without a label the error may hold anything, so it is replaced before it is used.
    z = np.where((visibility > 0)[..., None], error, 0.0) / unit[..., None]
    x, y = z[..., 0], z[..., 1]

    visible = _laplace(x, VISIBLE_SCALE, VISIBLE_SCALE) + _laplace(y, VISIBLE_SCALE, VISIBLE_SCALE)
    parts = [np.log(w) + _laplace(x, b, b) + _laplace(y, up, down) for w, b, up, down in OCCLUDED]
    occluded = np.logaddexp.reduce(parts)

    standardised = np.where(visibility == 2, visible, occluded)
    return np.where(visibility > 0, standardised - 2.0 * np.log(unit), 0.0)


def sample_noise(rng: np.random.Generator, *, visibility, scale, joint) -> np.ndarray:
    """Draws label errors from the density of `noise_log_prob`.

    Args:
        rng: A NumPy generator.
        visibility: (...,), as in `noise_log_prob`.
        scale, joint: Broadcastable to it, as in `noise_log_prob`.

    Returns:
        Errors in pixels, (..., 2) float64; zero where visibility is 0.

    >>> sample_noise(np.random.default_rng(0), visibility=[2, 0], scale=100.0, joint=[0, 5]).round(2)
    array([[-0.35, -0.39],
           [ 0.  ,  0.  ]])
    """
    shape = np.shape(visibility)
    visibility, unit = _unit(visibility, scale, joint, shape)
    # Every number is drawn for every joint, so that one joint's visibility does not change the draws of the next.
    second = (rng.random(shape) >= OCCLUDED[0, 0]).astype(int)
    side, size = rng.random(shape + (2,)), rng.standard_exponential(shape + (2,))

    seen = visibility == 2
    _, b, up, down = np.moveaxis(OCCLUDED[second], -1, 0)
    low = np.where(seen[..., None], VISIBLE_SCALE, np.stack([b, up], -1))
    high = np.where(seen[..., None], VISIBLE_SCALE, np.stack([b, down], -1))
    # An asymmetric Laplace variable falls on a side with a probability proportional to that side's scale.
    z = np.where(side * (low + high) < low, -low, high) * size
    return np.where((visibility > 0)[..., None], z * unit[..., None], 0.0)
