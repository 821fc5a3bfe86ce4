"""The tiny run of benchmarks/loss_throughput.py; and that both sides of it compute the same loss."""

import json
from importlib.util import find_spec

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import loss_throughput
from jaxpose import flow, losses
from tests import golden_flow


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"variant": "paper", "log_s": True}], ids=["official", "paper with log s"])
def test_one_json_line_a_side(capsys, options):
    options = loss_throughput.Options(batch=4, joints=3, repeats=2, rival=not options, **options)
    loss_throughput.main(options)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["side"] for line in lines] == (
        ["jaxpose", "torch"] if options.rival and find_spec("torch") else ["jaxpose"]
    )
    for line in lines:
        assert line["median_s"] > 0 and line["runs"] == 2 and line["versions"]["jax"] and line["device"]


@pytest.mark.skipif(not find_spec("torch"), reason="needs PyTorch")
def test_the_peer_computes_the_same_loss(golden):
    import torch

    from benchmarks.peers import torch_step

    arrays = golden("rle_official")
    mu, logits, target, weight = (arrays[f"l2_{name}"] for name in ("pred", "sigma_logits", "target", "w_bin"))
    net, variables = flow.RealNVP(), golden_flow.variables(arrays, "flow2d.")
    ours = losses.rle(
        mu,
        jax.nn.sigmoid(logits),
        target,
        lambda e: net.apply(variables, e),
        variant="official",
        weight=jnp.asarray(weight),
    ).sum() / len(mu)
    peer = torch_step.RealNVP()
    state = {k.removeprefix("flow2d."): torch.tensor(arrays[k]) for k in arrays.keys() if k.startswith("flow2d.")}
    peer.load_state_dict({k: v for k, v in state.items() if k in peer.state_dict()})
    mu, logits, target, weight = (torch.tensor(a) for a in (mu, logits, target, weight))
    theirs = torch_step.rle_loss(mu, logits.sigmoid(), target, peer, weight).item()
    np.testing.assert_allclose(theirs, arrays["l2_bin_sa1_loss_f32"], rtol=1e-4)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4)
