"""The encoding of joints as heatmaps: one object that the target of a loss and the decoder share.

The two have to agree on the grid, that is, on the input pixel that a map pixel stands for. UDP's grid differs from all
others (`MapCodec.pixels_per_cell`), and a net that is trained on one grid and decoded on the other is wrong by up to a
pixel of its maps. Here `target` decides the grid in both directions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp

from jaxpose import heatmap
from jaxpose.tasks.base import check_choices, check_positive

Target = Literal["msra", "unbiased", "udp"]
Search = Literal["argmax", "dark", "udp"]


@dataclass(frozen=True)
class MapCodec:
    """Converts joints in input pixels to heatmaps (`encode`) and back (`decode`).

    Target and search are separate settings, as in the published configurations: "udp" maps are usually read by "udp", but
    may be read by "argmax". The grid follows from `target` alone, whatever the search.

    Attributes:
        target: kind of Gaussian, see `jaxpose.heatmap.gaussian`; "udp" also selects UDP's grid.
        sigma: standard deviation of the Gaussian in map pixels.
        search: method that locates the peak: `heatmap.argmax` (moved by `shift`), `heatmap.dark` or `heatmap.udp`.
        kernel: width of the blur of "dark" and "udp": 11 for a sigma of 2, 17 for 3.
        border: rule of the shift of "argmax" at the border of the map.
        shift: distance in map pixels that "argmax" moves towards the higher neighbour; 0 is the pixel itself.
        offset: map pixels added to a decoded position: 0.5 for nets whose targets were truncated to whole map pixels, as those
            of the published hourglass nets (QUIRK B7); the maps of the mirrored image then need no move.

    >>> codec = MapCodec(target="udp", search="udp")
    >>> joints = jnp.array([[[95.0, 127.5]]])
    >>> maps, where = codec.encode(joints, size_wh=(192, 256), size_hw=(64, 48))
    >>> maps.shape, where.tolist()
    ((1, 64, 48, 1), [[True]])
    >>> xy, peak = codec.decode(maps, size_wh=(192, 256))
    >>> bool(jnp.abs(xy - joints).max() < 0.1)
    True
    """

    target: Target = "msra"
    sigma: float = 2.0
    search: Search = "argmax"
    kernel: int = 11
    border: Literal["hrnet", "mmpose"] = "hrnet"
    shift: float = 0.25
    offset: float = 0.0

    def __post_init__(self) -> None:
        check_choices(self)
        check_positive(self, "sigma")

    def pixels_per_cell(self, size_wh: Sequence[int], size_hw: Sequence[int]) -> tuple[float, float]:
        """Returns the input pixels per map pixel, along x and along y.

        Pixel 0 of the map is pixel 0 of the input. The stride is W / w in SimpleBaseline, HRNet and integral regression;
        with UDP's targets it is (W - 1) / (w - 1), so that the last pixels coincide too, and the mirrored map is the map of
        the mirrored image.

        Args:
            size_wh: (W, H) of the input.
            size_hw: (h, w) of the maps.

        >>> MapCodec().pixels_per_cell((192, 256), (64, 48))
        (4.0, 4.0)
        """
        (width, height), (h, w) = size_wh, size_hw
        if self.target == "udp":
            return (width - 1) / max(w - 1, 1), (height - 1) / max(h - 1, 1)
        return width / w, height / h

    def to_map(self, joints: jax.Array, *, size_wh: Sequence[int], size_hw: Sequence[int]) -> jax.Array:
        """Converts input pixels (..., K, 2) to map pixels."""
        return joints / jnp.asarray(self.pixels_per_cell(size_wh, size_hw))

    def from_map(self, xy: jax.Array, *, size_wh: Sequence[int], size_hw: Sequence[int]) -> jax.Array:
        """Converts map pixels (..., K, 2) to input pixels."""
        return xy * jnp.asarray(self.pixels_per_cell(size_wh, size_hw))

    def encode(
        self, joints: jax.Array, *, size_wh: Sequence[int], size_hw: Sequence[int], where: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """Returns the Gaussians of joints, and a mask of those that a loss may use.

        Args:
            joints: (..., K, 2) in input pixels.
            size_wh: (W, H) of the input.
            size_hw: (h, w) of the maps.
            where: (..., K) mask of the labelled joints; by default all.

        Returns:
            maps (..., h, w, K), and the mask (..., K) of those joints in `where` whose Gaussian reaches into the map.
        """
        xy = self.to_map(joints, size_wh=size_wh, size_hw=size_hw)
        reaches = heatmap.reaches(xy, size_hw, sigma=self.sigma, method=self.target)
        where = reaches if where is None else where & reaches
        return heatmap.gaussian(xy, size_hw, sigma=self.sigma, method=self.target), where

    def decode(self, maps: jax.Array, *, size_wh: Sequence[int]) -> tuple[jax.Array, jax.Array]:
        """Returns the position and the height of the peak of each map.

        Args:
            maps: (..., h, w, K), with peaks above 0.
            size_wh: (W, H) of the input.

        Returns:
            coordinates (..., K, 2) in input pixels, and the heights (..., K) of the peaks.
        """
        match self.search:
            case "argmax":
                xy, peak = heatmap.argmax(maps, shift=self.shift, border=self.border)
            case "dark":
                xy, peak = heatmap.dark(maps, kernel=self.kernel)
            case "udp":
                xy, peak = heatmap.udp(maps, kernel=self.kernel)
        return self.from_map(xy + self.offset, size_wh=size_wh, size_hw=maps.shape[-3:-1]), peak

    def mirror(self, maps: jax.Array, *, flip_index: jax.Array) -> jax.Array:
        """Converts maps (B, h, w, K) of mirrored images so that they can be averaged with those of the images themselves.

        Args:
            maps: the maps of the mirrored images.
            flip_index: (K,) indices of the joints that take the place of each joint in the mirror image.
        """
        mirrored = maps[:, :, ::-1, flip_index]
        if self.target == "udp" or self.offset:
            return mirrored
        # Pixel i of the map is pixel i W / w of the input, so the mirror image is off by 1 - w / W of a column. It is moved by
        # one column, as in HRNet's code.
        return jnp.concatenate([mirrored[:, :, :1], mirrored[:, :, :-1]], axis=2)
