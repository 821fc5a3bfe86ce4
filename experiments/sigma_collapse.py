"""Which term keeps sigma small in RLE, on noise of known scale.

  python -m experiments.sigma_collapse                  a table in a minute on two cores
  python -m experiments.sigma_collapse --plot sigma.png and the curves

One joint with mu = 0 and Laplace noise of scale b. Free parameters: sigma, started at 10 b, and a flow G; Adam on fresh
noise. The flow is either a Gaussian whose only parameter is its scale, or a RealNVP. The table gives sigma / b during
the training; 1 is the true value. (`jaxpose/losses/likelihood.py` explains why.)

Output of a run with default options, sigma / b by flow:

  loss                   rescaling   RealNVP
  laplace                      1.0       1.0
    paper, no log s             68        21     grows; without limit with the rescaling flow, with RealNVP until the flow
                                                 cannot shrink any more, near e^3 = 20 (three couplings per coordinate, each
                                                 with |log scale| < 1)
    paper, log s                 1.1       1.9   decreases to 1, slowly with RealNVP
    official                    26        17     grow as the paper's: in 2D the log sigma that they count twice is offset by
    mmpose                      35        18     the log G that they count twice
  2 log sigma, 1 log G         1.0       1.0   DLE + Laplace: the released forms without the doubled log G
    dle                          3.8       4.4   arbitrary: sigma and the scale of G are one parameter too many
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro

from experiments.common.rules import AllPositive, AnyValue, LocalPath, Positive, check
from jaxpose import losses
from jaxpose.flow import RealNVP, log_normalizer


@dataclass(frozen=True)
class Config:
    """The sigma that the forms of RLE converge to, on noise of known scale."""

    steps: Annotated[int, Positive] = 1500
    points: Annotated[int, Positive] = 128
    """Number of errors drawn in each step."""
    learning_rate: Annotated[float, Positive] = 0.02
    noise: Annotated[float, Positive] = 0.05
    """Scale b of the Laplace noise."""
    start: Annotated[float, Positive] = 10.0
    """sigma / b at the start."""
    hidden: Annotated[tuple[int, ...], AllPositive] = (16, 16)
    """Hidden widths of the RealNVP."""
    seed: Annotated[int, AnyValue] = 0
    plot: Annotated[Path | None, LocalPath] = None
    """Draw the curves into this file."""


def rescaling(log_r: jax.Array, e: jax.Array) -> jax.Array:
    """Returns the log-density of a flow that can only rescale: log N(e; 0, r^2 I)."""
    return -0.5 * ((e / jnp.exp(log_r)) ** 2).sum(-1) - e.shape[-1] * (log_r + 0.5 * math.log(2 * math.pi))


LogDensity = Callable[[jax.Array], jax.Array]


def with_log_s(mu: jax.Array, sigma: jax.Array, target: jax.Array, log_g: LogDensity) -> jax.Array:
    """Returns the paper's loss with the normaliser log s of equation 16."""
    return losses.rle(mu, sigma, target, log_g, log_normalizer=log_normalizer(log_g, "laplace"))


LOSSES: dict[str, Callable[..., jax.Array]] = {
    "laplace": lambda mu, sigma, target, log_g: losses.laplace_nll(mu, sigma, target).sum(-1),
    "paper, no log s": lambda *arrays: losses.rle(*arrays),
    "paper, log s": with_log_s,
    "official": lambda *arrays: losses.rle(*arrays, variant="official"),
    "mmpose": lambda *arrays: losses.rle(*arrays, variant="mmpose"),
    "2 log sigma, 1 log G": lambda mu, sigma, target, log_g: (
        losses.rle(mu, sigma, target, log_g, base=None) + losses.laplace_nll(mu, sigma, target).sum(-1)
    ),
    "dle": lambda *arrays: losses.rle(*arrays, base=None),
}


def train(
    loss: Callable[..., jax.Array], log_g: Callable[[Any, jax.Array], jax.Array], flow_parameters: Any, config: Config
) -> np.ndarray:
    """Returns sigma / b before every step, (steps,)."""
    optimizer = optax.adam(config.learning_rate)
    params = {"log_sigma": jnp.log(config.start * config.noise), "flow": flow_parameters}

    def step(carry: tuple[Any, Any], key: jax.Array) -> tuple[tuple[Any, Any], jax.Array]:
        params, state = carry
        target = config.noise * jax.random.laplace(key, (config.points, 1, 2))

        def objective(params: Any) -> jax.Array:
            sigma = jnp.full_like(target, jnp.exp(params["log_sigma"]))
            return loss(jnp.zeros_like(target), sigma, target, lambda e: log_g(params["flow"], e)).mean()

        updates, state = optimizer.update(jax.grad(objective)(params), state)
        return (optax.apply_updates(params, updates), state), params["log_sigma"]

    keys = jax.random.split(jax.random.key(config.seed), config.steps)
    _, log_sigma = jax.jit(lambda carry: jax.lax.scan(step, carry, keys))((params, optimizer.init(params)))
    return np.exp(np.asarray(log_sigma)) / config.noise


def main(argv: Sequence[str] | None = None) -> dict[str, dict[str, np.ndarray]]:
    config = tyro.cli(Config, args=argv)
    check(config)
    net = RealNVP(hidden=config.hidden)
    variables = net.init(jax.random.key(config.seed + 1), jnp.zeros((1, 2)))
    flows = {"rescaling": (rescaling, jnp.zeros(())), "RealNVP": (net.apply, variables)}
    columns = [0, *(round(config.steps * share) - 1 for share in (0.05, 0.1, 0.2, 0.5, 1.0))]
    curves: dict[str, dict[str, np.ndarray]] = {}
    for name, (log_g, parameters) in flows.items():
        print(f"\nsigma / b, flow: {name}")
        print(f"{'step':>22}" + "".join(f"{step + 1:9d}" for step in columns))
        curves[name] = {}
        for label, loss in LOSSES.items():
            curve = curves[name][label] = train(loss, log_g, parameters, config)
            print(f"{label:>22}" + "".join(f"{curve[step]:9.2f}" for step in columns), flush=True)
    if config.plot:
        draw(curves, config.plot)
    return curves


def draw(curves: dict[str, dict[str, np.ndarray]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(curves), figsize=(12, 4), sharey=True, squeeze=False)
    for axis, (name, losses_of_flow) in zip(axes[0], curves.items(), strict=True):
        for label, curve in losses_of_flow.items():
            axis.plot(curve, label=label)
        axis.axhline(1, color="black", lw=0.8)
        axis.set(title=f"flow: {name}", xlabel="step", ylabel="sigma / b", yscale="log")
    axes[0][-1].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    main()
