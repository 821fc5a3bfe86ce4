"""What a task is, and what every task does to an image before the net sees it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

PyTree = Any
Batch = dict[str, jax.Array]


@dataclass(frozen=True)
class Task:
    """Three pure functions and the description that rebuilds them.

    Attributes:
      init: key -> variables {"params", "batch_stats"}.
      loss: (variables, batch, *, key) -> (scalar, (new collections, metrics)), the mean over the global batch.
      predict: (variables, batch, *, flip_test) -> dict of arrays with the batch in front.
      config: JSON-able; `jaxpose.tasks.from_config(config)` gives the task back.
    """

    init: Callable[[jax.Array], PyTree]
    loss: Callable[..., tuple[jax.Array, tuple[PyTree, dict[str, jax.Array]]]]
    predict: Callable[..., dict[str, jax.Array]]
    config: dict[str, Any]


@dataclass(frozen=True)
class Preprocess:
    """Channel statistics of RGB images in 0..255: the net sees (image - mean) / std.

    `IMAGENET` is torchvision's and mmpose's. `RLE_OFFICIAL` is what the authors' 2D code does (QUIRK R14): slightly
    different means in BGR order taken from an RGB image in 0..1, and no division by a standard deviation.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __call__(self, images: jax.Array) -> jax.Array:
        """(..., H, W, 3) uint8 or float in 0..255 -> float32.

        >>> f"{IMAGENET(jnp.full((1, 1, 3), 255, jnp.uint8))[0, 0, 0]:.4f}"
        '2.2489'
        """
        return (images.astype(jnp.float32) - jnp.asarray(self.mean)) / jnp.asarray(self.std)


IMAGENET = Preprocess(mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375))
RLE_OFFICIAL = Preprocess(mean=(0.406 * 255, 0.457 * 255, 0.480 * 255), std=(255.0, 255.0, 255.0))
PREPROCESS = {"imagenet": IMAGENET, "rle_official": RLE_OFFICIAL}
