"""The batch statistics of a 1x1 convolution, from the moments of its input.

With y = W^T z at every pixel, and w the column of W that a channel of y belongs to,

    E[y] = w^T E[z],    Var[y] = w^T Cov[z] w,

so that batch normalisation of y is a 1x1 convolution of z by the scaled columns. Where W has four times as many outputs as
inputs, as at the end of a bottleneck, y is the largest map of its block. Ordinarily it is written, read to be normalised, and read
twice for the gradients; by its moments it is not even formed. A TPU waits for its memory, and this form spares it a fifth of the
traffic of a ResNet-50's step, for a matrix product of the small map with itself.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxpose import platforms
from jaxpose.nets.folding import convolve_folded

MOST_INPUTS = 256
"""Of more inputs, the matrix of moments costs as much as the map that is spared (conv5_x of a ResNet-50: 7 % more cycles)."""


def are_quicker(inputs: int, outputs: int) -> bool:
    """Returns whether the statistics of a 1x1 convolution should be taken from the moments of its input.

    >>> with platforms.traced_for("tpu"):
    ...     are_quicker(64, 256), are_quicker(256, 64), are_quicker(256, 512), are_quicker(512, 2048)
    (True, False, False, False)
    >>> with platforms.traced_for("cpu"):
    ...     are_quicker(64, 256)
    False
    """
    return platforms.platform() == "tpu" and inputs <= MOST_INPUTS and outputs >= 4 * inputs


def of_product(x: jax.Array, kernel: jax.Array, fold: int) -> tuple[jax.Array, jax.Array]:
    """Returns the mean and the biased variance, (1, 1, 1, O) each, of the 1x1 convolution of a folded map over all pixels.

    Args:
        x: (B, H, W / fold, fold I).
        kernel: (1, 1, I, O), in float32 at least.
        fold: The fold of the map.
    """
    products, sums = _sums(x)
    pixels, inputs = x.size // kernel.shape[2], kernel.shape[2]
    mean = sums.reshape(fold, inputs).sum(0) / pixels
    # Of the products between the pixels that are folded together, those of each pixel with itself.
    products = jnp.trace(products.reshape(fold, inputs, fold, inputs), axis1=0, axis2=2)
    covariance = products / pixels - jnp.outer(mean, mean)
    mean_of_product = jnp.matmul(mean[None], kernel, precision="highest")
    variance = (kernel * jnp.matmul(covariance, kernel, precision="highest")).sum(2, keepdims=True)
    return mean_of_product, jnp.maximum(variance, 0)


@jax.custom_vjp
def _sums(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the sums over all pixels of x x^T, (C, C), and of x, (C,), of a map (B, H, W, C), in float32 at least."""
    # As convolutions whose kernels are as large as the map: the matrix units of a TPU add both up, in float32.
    numbers = jax.lax.ConvDimensionNumbers((3, 0, 1, 2), (3, 0, 1, 2), (2, 3, 0, 1))
    products, sums = (
        jax.lax.conv_general_dilated(
            x, other, (1, 1), "VALID", dimension_numbers=numbers, preferred_element_type=_accurate(x)
        )
        for other in (x, jnp.ones_like(x[..., :1]))
    )
    return products[0, 0], sums[0, 0, :, 0]


def _accurate(x: jax.Array) -> jnp.dtype:
    return jnp.promote_types(x.dtype, jnp.float32)


def _sums_forward(x: jax.Array) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
    return _sums(x), x


def _sums_backward(x: jax.Array, gradients: tuple[jax.Array, jax.Array]) -> tuple[jax.Array]:
    of_products, of_sums = gradients
    kernel = (of_products + of_products.T).astype(x.dtype)[None, None]
    return ((convolve_folded(x, kernel, 1).astype(_accurate(x)) + of_sums).astype(x.dtype),)


_sums.defvjp(_sums_forward, _sums_backward)
