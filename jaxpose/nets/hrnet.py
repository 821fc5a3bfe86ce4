"""HRNet (Sun 2019): parallel branches at strides 4 to 32 that exchange their features, with stride 4 up to the end."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxpose.nets.folding import fold_after, fold_of, fold_of_images, folded, repeat_columns, unfolded
from jaxpose.nets.layers import Unit, compute_dtype, initializer, later
from jaxpose.nets.resnet import Block, check_images

MODULES = (1, 4, 3)  # of stages 2, 3 and 4, which have 2, 3 and 4 branches
BLOCKS = 4  # per branch of a module


class HRNet(nn.Module):
    """Maps images (B, H, W, 3), H and W multiples of 32, to features (B, H / 4, W / 4, width).

    Branch b has width 2^b channels at stride 4 2^b. Parameter names follow the authors' code: conv1, conv2, layer1_{i},
    transition{s}_..., stage{s}_{module} / branches_{b}_{i}, fuse_layers_{to}_{from}_...

    Attributes:
        width: number of channels of the finest branch, 32 or 48 in the published nets.
        dtype, batch_groups: compute dtype and groups of BatchNorm, as for `ResNet`.
        kernel_init: the initialisation: "he": as in torchvision's ResNets; "narrow": N(0, 0.001^2), as for every convolution
            without ImageNet weights in the code of HRNet and mmpose (QUIRK H6).

    >>> net = HRNet(width=4)
    >>> jax.eval_shape(lambda x: net.init_with_output(jax.random.key(0), x)[0], jnp.zeros((1, 64, 32, 3))).shape
    (1, 16, 8, 4)
    """

    width: int = 32
    dtype: Any = jnp.float32
    batch_groups: int = 1
    kernel_init: str = later("he")

    def __post_init__(self):
        initializer(self.kernel_init)
        if self.width < 1 or self.batch_groups < 1:
            raise ValueError(f"width={self.width}, batch_groups={self.batch_groups}: expected positive numbers")
        super().__post_init__()

    @property
    def num_features(self) -> int:
        """Channels of the feature map."""
        return self.width

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False, every_branch: bool = False) -> Any:
        """Returns the features of the finest branch, or with `every_branch` those of all four, at strides 4, 8, 16 and 32."""
        check_images(images)
        if images.shape[1] % 32 or images.shape[2] % 32:
            raise ValueError(f"images have shape {images.shape}: HRNet takes heights and widths that 32 divides")
        unit = Unit(self, train)
        fold = fold_of_images(64, images.shape[2])
        x = folded(images.astype(compute_dtype(self.dtype, images)), fold)
        for i in (1, 2):
            x = nn.relu(unit(x, 64, 3, 2, fold=fold, conv=f"conv{i}", bn=f"bn{i}"))
            fold = fold_after(fold, 2)
        x = unfolded(x, fold)
        for i in range(4):
            x = Block(64, 1, True, self.dtype, self.batch_groups, 1, self.kernel_init, name=f"layer1_{i}")(
                x, train=train
            )

        branches = [nn.relu(unit(x, self.width, 3, conv="transition1_0_0", bn="transition1_0_1"))]
        deepest = x
        for stage, modules in enumerate(MODULES, start=2):
            b = stage - 1  # the new branch
            name = f"transition{b}_{b}_0"
            branches.append(nn.relu(unit(deepest, self.width * 2**b, 3, 2, conv=f"{name}_0", bn=f"{name}_1")))
            for m in range(modules):
                last = stage == 4 and m == modules - 1
                exchange = Exchange(
                    1 if last and not every_branch else len(branches),
                    self.dtype,
                    self.batch_groups,
                    self.kernel_init,
                    name=f"stage{stage}_{m}",
                )
                branches = exchange(branches, train=train)
            deepest = branches[-1]
        return branches if every_branch else branches[0]


class Exchange(nn.Module):
    """Applies four basic blocks to every branch, then sums all branches for every output, resampled to its stride."""

    outputs: int
    dtype: Any
    batch_groups: int
    kernel_init: str = "he"

    @nn.compact
    def __call__(self, branches: list[jax.Array], *, train: bool) -> list[jax.Array]:
        unit = Unit(self, train)
        folds = [fold_of(x.shape[-1], x.shape[2]) for x in branches]
        after = []
        for b, (x, fold) in enumerate(zip(branches, folds, strict=True)):
            for i in range(BLOCKS):
                options = (self.dtype, self.batch_groups, 1, self.kernel_init)
                x = Block(x.shape[-1], 1, False, *options, name=f"branches_{b}_{i}")(x, train=train)
            after.append(folded(x, fold))
        sums = [
            sum(self.bring(unit, after, folds, source, target) for source in range(len(after)))
            for target in range(self.outputs)
        ]
        return [unfolded(nn.relu(x), fold) for x, fold in zip(sums, folds, strict=False)]

    def bring(self, unit: Unit, branches: list[jax.Array], folds: list[int], source: int, target: int) -> jax.Array:
        """Returns branch `source` with the stride, the channels and the fold of branch `target`; the branches are folded."""
        name, x, fold = f"fuse_layers_{target}_{source}", branches[source], folds[source]
        channels = [branch.shape[-1] // n for branch, n in zip(branches, folds, strict=True)]
        if source > target:  # up: 1x1, then the nearest pixel
            x = unit(x, channels[target], 1, fold=fold, conv=f"{name}_0", bn=f"{name}_1")
            x = jnp.repeat(x, 2 ** (source - target), 1)
            return repeat_columns(x, 2 ** (source - target), fold=fold, result=folds[target])
        for k in range(target - source):  # down: 3x3 with stride 2, repeatedly
            last = k == target - source - 1
            features = channels[target if last else source]
            x = unit(x, features, 3, 2, fold=fold, conv=f"{name}_{k}_0", bn=f"{name}_{k}_1")
            x, fold = x if last else nn.relu(x), fold_after(fold, 2)
        return x
