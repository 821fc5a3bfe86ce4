"""The other side of tpu_forms.py: a ResNet in plain linen, as flax's ImageNet example builds one (layers of the library alone).

Written from the description of the net, with what that example chooses: no biases, the stride of a bottleneck on its 3x3
convolution, statistics of BatchNorm in float32 with momentum 0.9 and eps 1e-5, "SAME" padding, `linen.max_pool` of 3x3.
"""

from __future__ import annotations

from typing import Any

import jax
from flax import linen as nn

STAGES = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


class Bottleneck(nn.Module):
    """relu(x + f(x)); f is 1x1, 3x3, 1x1 with four times the channels."""

    features: int
    stride: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        def conv_bn(
            y: jax.Array, features: int, side: int, stride: int = 1, *, scale: Any = nn.initializers.ones
        ) -> jax.Array:
            y = nn.Conv(features, (side, side), (stride, stride), use_bias=False, dtype=self.dtype)(y)
            return batch_norm(self.dtype, train=train, scale_init=scale)(y)

        y = nn.relu(conv_bn(x, self.features, 1))
        y = nn.relu(conv_bn(y, self.features, 3, self.stride))
        y = conv_bn(y, 4 * self.features, 1, scale=nn.initializers.zeros)
        if x.shape != y.shape:
            x = conv_bn(x, 4 * self.features, 1, self.stride)
        return nn.relu(x + y)


def batch_norm(dtype: Any, *, train: bool, **options: Any) -> nn.BatchNorm:
    """Returns flax's batch normalisation with the example's numbers."""
    return nn.BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-5, dtype=dtype, **options)


class Part(nn.Module):
    """The stem, one stage of the ResNet, or the whole backbone: the same part as `benchmarks.tpu_forms.Part`."""

    part: str
    depth: int
    width: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        if self.part in ("stem", "backbone"):
            x = nn.Conv(self.width, (7, 7), (2, 2), use_bias=False, dtype=self.dtype)(x)
            x = nn.relu(batch_norm(self.dtype, train=True)(x))
            x = nn.max_pool(x, (3, 3), strides=(2, 2), padding="SAME")
        for number in map(int, {"stem": "", "backbone": "1234"}.get(self.part, self.part[-1])):
            for i in range(STAGES[self.depth][number - 1]):
                stride = 2 if number > 1 and i == 0 else 1
                x = Bottleneck(self.width * 2 ** (number - 1), stride, self.dtype)(x, train=True)
        return x
