"""What a task is, and what every task does to an image before the net sees it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

import jax
import jax.numpy as jnp
from flax import linen as nn

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
    bgr: bool = False

    def __call__(self, images: jax.Array) -> jax.Array:
        """(..., H, W, 3) uint8 or float in 0..255 -> float32.

        >>> f"{IMAGENET(jnp.full((1, 1, 3), 255, jnp.uint8))[0, 0, 0]:.4f}"
        '2.2489'
        """
        images = images[..., ::-1] if self.bgr else images
        return (images.astype(jnp.float32) - jnp.asarray(self.mean)) / jnp.asarray(self.std)


IMAGENET = Preprocess(mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375))
RLE_OFFICIAL = Preprocess(mean=(0.406 * 255, 0.457 * 255, 0.480 * 255), std=(255.0, 255.0, 255.0))
SIMPLE_BASELINE = Preprocess(mean=IMAGENET.mean, std=IMAGENET.std, bgr=True)
PREPROCESS = {"imagenet": IMAGENET, "rle_official": RLE_OFFICIAL, "simple_baseline": SIMPLE_BASELINE}


def preprocessor(name: str) -> Preprocess:
    """The image normalisation of that name; a ValueError for another."""
    if name not in PREPROCESS:
        raise ValueError(f"preprocess={name!r}: expected one of {', '.join(PREPROCESS)}")
    return PREPROCESS[name]


def check_size(size_wh: Sequence[int]) -> None:
    """Raise unless width and height of the input are positive."""
    if len(size_wh) != 2 or min(size_wh) < 1:
        raise ValueError(f"size_wh={size_wh!r}: expected the input's width and height in pixels, both positive")


def check_choices(settings: Any) -> None:
    """Raise where a field of a dataclass, annotated as Literal, holds something else."""
    for name, kind in get_type_hints(type(settings)).items():
        if get_origin(kind) is Literal and getattr(settings, name) not in get_args(kind):
            raise ValueError(f"{name}={getattr(settings, name)!r}: expected one of {', '.join(get_args(kind))}")


def check_positive(settings: Any, *names: str) -> None:
    """Raise where a field is not above 0."""
    for name in names:
        if not getattr(settings, name) > 0:
            raise ValueError(f"{name}={getattr(settings, name)}: expected a positive number")


def init_net(net: nn.Module, key: jax.Array, size_wh: Sequence[int]) -> tuple[PyTree, PyTree]:
    """Fresh (params, batch_stats) of a net for one image of that size."""
    width, height = size_wh
    variables = net.init(key, jnp.zeros((1, height, width, 3)), train=False)
    return variables["params"], variables.get("batch_stats", {})


def apply_net(
    net: nn.Module, variables: PyTree, images: jax.Array, *, train: bool, **options: Any
) -> tuple[Any, PyTree]:
    """Outputs of the net, and its new collections ({} unless it trains)."""
    variables = {"params": variables["params"]["net"], "batch_stats": variables["batch_stats"]}
    if not train:
        return net.apply(variables, images, train=False, **options), {}
    return net.apply(variables, images, train=True, mutable=["batch_stats"], **options)
