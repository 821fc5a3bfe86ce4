"""Forms of a ResNet's stem and of its stages, each compiled alone by the TPU's compiler: cycles, bytes, memory.

    python -m benchmarks.tpu_forms                                     # stem and conv2_x of a ResNet-50, 64 images, v5e, 256x192
    python -m benchmarks.tpu_forms --part layer2 --topology v6e:1x1
    python -m benchmarks.tpu_forms --part backbone --form tpu flax         # stem and all stages, beside flax's

The forms are those of `jaxpose.platforms`, "cpu" (1x1 convolutions and deconvolutions as matrix products, the max pool of shifted
slices) and "tpu"; "unfolded", which is "tpu" without the maps that `jaxpose.nets.folding` folds into 128 channels; "statistics of
maps", which is "tpu" without `jaxpose.nets.moments`; and "flax", the ResNet of flax's ImageNet example
(`benchmarks.peers.flax_resnet`, bottlenecks only). Parts of other nets: "exchange2" to "exchange4", a module of an HRNet's stage of
so many branches, and "higher", the deconvolution of HigherHRNet with the blocks behind it (--width 32 --size-wh 512 512).
Forward and backward, with the gradient of the weights and, after the stem, of the input; one device, nothing is run. Prints a JSON
line per form.
Needs libtpu: `pip install "jaxpose[tpu-compile]"`. A part takes half a minute to two minutes, more where others work.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import tyro
from flax import linen as nn
from jax.sharding import SingleDeviceSharding

from benchmarks.common import versions
from benchmarks.peers import flax_resnet
from jaxpose import compile, platforms
from jaxpose.nets import folding, higher_hrnet, hrnet, moments, resnet


@dataclass(frozen=True)
class Options:
    """What to compile."""

    part: tuple[
        Literal[
            "stem", "layer1", "layer2", "layer3", "layer4", "backbone", "exchange2", "exchange3", "exchange4", "higher"
        ],
        ...,
    ] = ("stem", "layer1")
    form: tuple[Literal["cpu", "unfolded", "statistics of maps", "tpu", "flax"], ...] = ("cpu", "tpu")
    topology: str = "v5e:1x1"
    batch: int = 64
    depth: Literal[18, 34, 50, 101, 152] = 50
    width: int = 64
    size_wh: tuple[int, int] = (192, 256)
    dtype: Literal["float32", "bfloat16"] = "bfloat16"


class Part(nn.Module):
    """The stem, one stage or the backbone of a ResNet, or a part of an HRNet or HigherHRNet."""

    part: str
    depth: int
    width: int
    dtype: Any
    batch_groups: int = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        if self.part == "stem":
            return resnet.stem(self, x, train=True)
        if self.part == "higher":
            net = higher_hrnet.HigherHRNet(Given(), 17, dtype=self.dtype)
            return net(x, train=True)[1]
        if self.part.startswith("exchange"):
            # The other branches have a half of the sides and twice the channels each; here they begin as parts of the first one.
            branches = [jnp.repeat(x[:, :: 2**b, :: 2**b], 2**b, -1) for b in range(int(self.part[-1]))]
            return hrnet.Exchange(1, self.dtype, self.batch_groups, name="module")(branches, train=True)[0]
        if self.part == "backbone":
            return resnet.ResNet(self.depth, self.width, self.dtype)(x, train=True)
        return resnet.layer(self, x, int(self.part[-1]), train=True)


class Given(nn.Module):
    """A backbone whose features are its input."""

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        return x


def input_shape(options: Options, part: str) -> tuple[int, ...]:
    """Returns the shape of the part's input.

    >>> [input_shape(Options(), part) for part in ("stem", "layer1", "layer2")]
    [(64, 256, 192, 3), (64, 64, 48, 64), (64, 64, 48, 256)]
    """
    width, height = options.size_wh
    if part in ("stem", "backbone"):
        return options.batch, height, width, 3
    if part == "higher" or part.startswith("exchange"):
        return options.batch, height // 4, width // 4, options.width
    number, expansion = int(part[-1]), 4 if resnet.STAGES[options.depth][1] else 1
    stride = 4 if number == 1 else 2**number
    channels = options.width if number == 1 else 2 ** (number - 2) * options.width * expansion
    return options.batch, height // stride, width // stride, channels


def measure(options: Options, part: str, form: str) -> dict:
    """Compiles one part in one form and returns its line."""
    place = SingleDeviceSharding(compile.topology_devices(options.topology)[0])
    kind = flax_resnet.Part if form == "flax" else Part
    net = kind(part, options.depth, options.width, jnp.dtype(options.dtype))
    shaped = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place)  # noqa: E731
    x = jax.ShapeDtypeStruct(input_shape(options, part), jnp.dtype(options.dtype), sharding=place)
    variables = jax.tree.map(shaped, jax.eval_shape(net.init, jax.random.key(0), x))

    def both_passes(params, batch_stats, x, weight):
        def loss(params, x):
            y, new = net.apply({"params": params, "batch_stats": batch_stats}, x, mutable=["batch_stats"])
            return (y.astype(jnp.float32) * weight).sum(), new

        return jax.value_and_grad(loss, argnums=0 if x.shape[-1] == 3 else (0, 1), has_aux=True)(params, x)

    start, lanes, most_inputs = time.perf_counter(), folding.LANES, moments.MOST_INPUTS
    folding.LANES = 1 if form == "unfolded" else lanes
    moments.MOST_INPUTS = 0 if form == "statistics of maps" else most_inputs
    with platforms.traced_for("cpu" if form == "cpu" else "tpu"):
        y, _ = jax.eval_shape(lambda v, x: net.apply(v, x, mutable=["batch_stats"]), variables, x)
        lowered = jax.jit(both_passes).lower(variables["params"], variables["batch_stats"], x, shaped(y))
    folding.LANES, moments.MOST_INPUTS = lanes, most_inputs
    program = lowered.compile()
    report, cost = compile.read_program(program.as_text()), program.cost_analysis()
    return {"benchmark": "tpu_forms", "part": part, "form": form, "topology": options.topology, "batch": options.batch,
            "m_cycles": round(report.cycles / 1e6, 2), "gb": round(cost["bytes accessed"] / 1e9, 2),
            "hbm_gb": round(report.hbm / 1e9, 2),
            "temporaries_gib": round(program.memory_analysis().temp_size_in_bytes / 2**30, 2),
            "compile_s": round(time.perf_counter() - start, 1), "versions": versions()}  # fmt: skip


def main(options: Options) -> list[dict]:
    if "flax" in options.form and options.depth not in flax_resnet.STAGES:
        raise ValueError(
            f"--form flax --depth {options.depth}: expected one of {', '.join(map(str, flax_resnet.STAGES))}"
        )
    lines = []
    for part in options.part:
        for form in options.form:
            lines.append(measure(options, part, form))
            print(json.dumps(lines[-1]), flush=True)
    return lines


if __name__ == "__main__":
    main(tyro.cli(Options))
