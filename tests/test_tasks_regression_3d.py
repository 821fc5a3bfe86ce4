"""Joints in space: which loss scores which joint, masks, flips, the stored config, and the released net."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from jaxpose import losses, tasks, train, weights
from jaxpose.skeleton import H36M18
from jaxpose.tasks import Depth, Likelihood
from tests import torch_states

SIZE = (24, 32)
SMALL = {"flow_layers": 2, "flow_hidden": (4,)}
K = 18


class Echo(nn.Module):
    """A net without convolutions: the outputs are read off the means of both halves of the image."""

    @nn.compact
    def __call__(self, images, *, train=False):
        left, right = images[:, :, :12].mean((1, 2, 3)), images[:, :, 12:].mean((1, 2, 3))
        x = nn.Dense(K * 6, kernel_init=nn.initializers.normal(0.1))(jnp.stack([left, right], -1))
        mu, raw = jnp.split(x.reshape(-1, K, 6), 2, -1)
        return mu, nn.sigmoid(raw - 1)


def make(likelihood=None, **options):
    options = {"outside": "keep"} | options
    if "auxiliary" in options:
        return tasks.Regression3D(Echo(), skeleton=H36M18, size_wh=SIZE, **options)
    likelihood = likelihood or Likelihood(**SMALL)
    return tasks.regression_3d(Echo(), skeleton=H36M18, size_wh=SIZE, likelihood=likelihood, **options)


def batch(count=4, seed=0):
    rng = np.random.default_rng(seed)
    joints = np.concatenate([rng.uniform(0, 24, (count, K, 2)), rng.normal(0, 300, (count, K, 1))], -1)
    return {
        "image": jnp.asarray(rng.integers(0, 256, (count, 32, 24, 3), dtype=np.uint8)),
        "joints": jnp.asarray(joints, jnp.float32),
        "visibility": jnp.asarray(rng.integers(0, 3, (count, K)), jnp.int8),
        "has_depth": jnp.asarray(np.arange(count)[:, None] % 2 == 0) & jnp.ones((count, K), bool),
    }


LIKELIHOODS = [
    Likelihood(**SMALL), Likelihood(variant="paper", **SMALL), Likelihood("l1"),
]  # fmt: skip


@pytest.mark.parametrize("likelihood", LIKELIHOODS, ids=lambda s: f"{s.loss}_{s.variant}")
def test_garbage_where_nothing_is_labelled_changes_nothing(likelihood):
    task = make(likelihood, outside="mask")
    variables = task.init(jax.random.key(0))
    data = batch()
    loss = lambda params, data: task.loss({**variables, "params": params}, data, key=jax.random.key(0))[0]  # noqa: E731
    program = jax.jit(jax.value_and_grad(loss))
    value, grads = program(variables["params"], data)
    depthless = data["joints"].at[..., 2].set(jnp.where(data["has_depth"], data["joints"][..., 2], jnp.nan))
    garbage = {**data, "joints": jnp.where((data["visibility"] == 0)[..., None], jnp.inf, depthless)}
    other, other_grads = program(variables["params"], garbage)
    assert np.isfinite(value) and value == other
    for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(other_grads)):
        assert np.isfinite(a).all()
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("variant", ["mmpose", "official"])
def test_depth_decides_between_the_two_flows(variant):
    """A joint with depth by the flow of three coordinates, any other by that of two: summed by hand."""
    task = make(Likelihood(variant=variant, **SMALL))
    variables = task.init(jax.random.key(1))
    data = batch()
    mu, sigma = Echo().apply({"params": variables["params"]["net"]}, tasks.IMAGENET(data["image"]))
    target = data["joints"] / jnp.array([24, 32, 2000.0]) - jnp.array([0.5, 0.5, 0])
    flows = {dim: task.likelihood.flow(dim=dim) for dim in (2, 3)}
    params = {2: variables["params"]["flow_2d"], 3: variables["params"]["flow"]}
    sigma = sigma + (1e-9 if variant == "official" else 0.0)
    total = 0.0
    for dim, counted in ((3, data["has_depth"]), (2, ~data["has_depth"])):
        log_prob = lambda x, dim=dim: flows[dim].apply({"params": params[dim]}, x, method="log_prob")  # noqa: E731
        values = losses.rle(mu[..., :dim], sigma[..., :dim], target[..., :dim], log_prob, variant=variant,
                            where=counted & (data["visibility"] > 0))  # fmt: skip
        total += values.sum() / 4
    np.testing.assert_allclose(task.loss(variables, data, key=jax.random.key(0))[0], total, rtol=2e-5)


def test_colours_are_products_of_whole_numbers_where_the_code_has_them():
    task, images = make(), batch()
    images["colour"] = jnp.asarray(np.random.default_rng(0).uniform(0.8, 1.2, (4, 3)), jnp.float32)
    plain = task.training_images(images)
    whole = task.training_images(images | {"truncate_colour": jnp.ones(4, bool)})
    product = np.asarray(images["image"], np.float32) * np.asarray(images["colour"])[:, None, None]
    np.testing.assert_array_equal(whole, np.minimum(product, 255).astype(np.uint8))
    assert np.abs(plain - whole).max() < 1 and (plain != whole).mean() > 0.5 and plain.max() == 255


def test_a_joint_beyond_the_extent_is_masked_as_published():
    task = make(Likelihood("l1"), outside="mask")
    data = batch(2)
    data["visibility"] = jnp.full((2, K), 2, jnp.int8)
    data["joints"] = jnp.zeros((2, K, 3)).at[..., :2].set(5.0)
    data["joints"] = data["joints"].at[:, 0, 2].set(1001.0).at[:, 1, 0].set(24.5).at[:, 2, 0].set(24.0)
    inside = np.asarray(task.inside(data, task.normalized(data["joints"])))
    assert inside.sum(1).tolist() == [16, 17]  # the second person has no depth
    assert not inside[0, 0] and inside[1, 0] and not inside[0, 1] and inside[0, 2]


def test_prediction_is_relative_to_the_root_and_mirrors_with_the_image():
    task = make()
    variables = task.init(jax.random.key(0))
    data = batch(2)
    out = task.predict(variables, data, flip_test=False)
    assert set(out) == set(task.outputs) and out["xy"].shape == (2, K, 2) and out["depth"].shape == (2, K)
    assert not out["depth"][:, 0].any()
    np.testing.assert_allclose(out["depth"], out["mu"][..., 2] * 2000, rtol=1e-6)
    plain = make(depth=Depth(relative=False)).predict(variables, data, flip_test=False)
    np.testing.assert_allclose(plain["depth"] - plain["depth"][:, :1], out["depth"], atol=1e-3)
    both = task.predict(variables, data, flip_test=True)
    mirrored = task.predict(variables, {"image": data["image"][:, :, ::-1]}, flip_test=True)
    np.testing.assert_allclose(mirrored["depth"][:, H36M18.flip_index], both["depth"], atol=1e-3)
    np.testing.assert_allclose(23 - mirrored["xy"][:, H36M18.flip_index, 0], both["xy"][..., 0], atol=1e-3)


def test_the_config_gives_the_task_back_and_the_density_has_three_dimensions():
    from jaxpose.nets import PoseRegressor, RegressionHead, ResNet

    net = PoseRegressor(ResNet(depth=18, width=4), RegressionHead(K, dim=3))
    task = make(depth=Depth(root=(1, 4), bone_length=4500.0))
    task = tasks.regression_3d(net, skeleton=H36M18, size_wh=SIZE, likelihood=task.likelihood, depth=task.depth)
    config = json.loads(json.dumps(task.config))
    assert config["family"] == "regression_3d" and tasks.from_config(config).config == task.config
    variables = make().init(jax.random.key(0))
    assert tasks.predictive_density(config, variables).dim == 3
    assert set(task.inference_variables(variables)["params"]) == {"net"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"likelihood": Likelihood("basic")}, "loss='basic'"),
        ({"auxiliary": tasks.MapLoss()}, "auxiliary.kind='mse'"),
        ({"depth": Depth(root=(18,))}, "depth.root"),
    ],
)
def test_what_there_is_not_in_space(options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_depth_settings_are_checked():
    for options, message in (
        ({"extent": 0}, "extent=0"),
        ({"root": ()}, "at least one"),
        ({"bone_length": -1.0}, "bone_length"),
    ):
        with pytest.raises(ValueError, match=message):
            Depth(**options)


@pytest.mark.reference
def test_released_net(golden, golden_json):
    """RLE's 3D net: outputs with and without the mirrored image, the loss in training mode, and its gradients."""
    case, settings = golden("three_d/rle3d_model"), golden_json("three_d/rle3d_model")
    with jax.enable_x64(True):
        state = torch_states.sine_weights(settings, settings)
        net, variables = weights.from_torch(state, layout="rle_official")
        double = lambda tree: jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), tree)  # noqa: E731
        params = {"net": double(variables["params"])}
        for name, part in (("flow", "flow3d."), ("flow_2d", "flow2d.")):
            params[name] = double(
                weights.flow_from_torch({k: v for k, v in state.items() if k.startswith(part)})["params"]
            )
        variables = {"params": params, "batch_stats": double(variables["batch_stats"])}
        b, y, x, c = np.mgrid[:3, :128, :128, :3]
        off = settings["image_offset"]
        image = 0.5 * np.sin(0.05 * (y + 1) * (c + 1) + 0.7 * b + off) + 0.5 * np.cos(0.03 * (x + 1) + 0.3 * b + off)
        image = jnp.asarray(image.astype(np.float32), jnp.float64)  # normalised already
        task = tasks.regression_3d(net, skeleton=H36M18, size_wh=(128, 128), depth=Depth())

        def forward(params, train, seen):
            variants = {**variables, "params": params["net"]}
            if train:
                return net.apply(variants, seen, train=True, mutable=["batch_stats"])[0]
            backbone = lambda module, _: module.name == "backbone"  # noqa: E731
            (mu, sigma), parts = net.apply(variants, seen, capture_intermediates=backbone)
            return mu, sigma, parts["intermediates"]["backbone"]["__call__"][0].mean((1, 2))

        apply = jax.jit(forward, static_argnums=1)
        mu, sigma, features = apply(params, False, image)
        np.testing.assert_allclose(features[:, :32], case["feature_first32"], rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(jnp.linalg.norm(features, axis=1), case["feature_norm"], rtol=1e-9)
        relative = mu.at[..., 2].add(-mu[:, :1, 2])
        np.testing.assert_allclose(relative, case["eval_pred"], rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(sigma, case["eval_sigma"] - 1e-9, rtol=1e-8)
        np.testing.assert_allclose(1 - sigma.mean(-1), case["eval_score"][..., 0], rtol=1e-6)
        other, other_sigma, _ = apply(params, False, image[:, :, ::-1])
        other = other.at[..., 2].add(-other[:, :1, 2])
        swap = jnp.asarray(H36M18.flip_index)
        np.testing.assert_allclose(
            (relative + task.mirrored(other)[:, swap]) / 2, case["flip_averaged_pred"], rtol=1e-8
        )
        score = 1 - (sigma + other_sigma[:, swap]).mean(-1) / 2
        np.testing.assert_allclose(score, case["flip_averaged_score"][..., 0], rtol=1e-6)
        weight, target = jnp.asarray(case["weight"]), jnp.asarray(case["target"], jnp.float64)
        labels = {"batch": {"has_depth": weight[..., 2] > 0}, "where": weight[..., 0] > 0}

        def flow_part(values, mu, sigma):
            """What is left of the loss (B, K) without the Laplace term, which counts labelled coordinates."""
            laplace = np.log(np.sqrt(2 * np.pi) * sigma) + np.abs(target - mu) / (np.sqrt(2) * sigma + 1e-9)
            return values - (laplace * weight).sum(-1)

        # In evaluation the code takes the root's depth off before its loss, too (QUIRK V7).
        values = task.joint_losses({"params": params}, relative, sigma, target, **labels)
        expected = (case["eval_mode_nf_loss"] * weight).sum(-1)
        np.testing.assert_allclose(flow_part(values, relative, sigma + 1e-9), expected, rtol=1e-7, atol=1e-7)

        def loss(params):
            mu, sigma = forward(params, True, image)
            values = task.joint_losses({"params": params}, mu, sigma, target, **labels)
            return values.sum() / 3, (mu, sigma, values)

        (value, (mu, sigma, values)), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
        np.testing.assert_allclose(mu, case["train_pred"], rtol=1e-8, atol=1e-10)
        sigma = np.asarray(sigma) + 1e-9
        np.testing.assert_allclose(sigma, case["train_sigma"], rtol=1e-8)
        expected = (case["train_nf_loss"] * weight).sum(-1)
        np.testing.assert_allclose(flow_part(values, mu, sigma), expected, rtol=1e-7, atol=1e-7)
        np.testing.assert_allclose(value, case["train_loss"], rtol=1e-9)
        for name in ("coord", "sigma"):
            np.testing.assert_allclose(
                grads["net"]["head"][name]["bias"], case[f"grad_fc_{name}_bias"], rtol=1e-6, atol=1e-9
            )
        total = np.sqrt(sum(float((g**2).sum()) for g in jax.tree.leaves(grads)))
        # The released configuration: the norm of each tensor is at most 35 (--clip-norm 35 --clip-each).
        bounded, _ = train._clip_each(35.0).update(grads, optax.EmptyState())
        # The same weights with the position of every name in the file in their place: which tensor is which.
        places = {name: np.full(np.shape(state[name]), float(i)) for i, name in enumerate(case["grad_names"].tolist())}
        numbers = {name: places.get(name, np.ones(np.shape(value))) for name, value in state.items()}
        tree = {"net": weights.from_torch(numbers, layout="rle_official")[1]["params"]}
        for name, part in (("flow", "flow3d."), ("flow_2d", "flow2d.")):
            of_flow = {k: v for k, v in numbers.items() if k.startswith(part)}
            tree[name] = weights.flow_from_torch(of_flow)["params"]
        order = jax.tree.leaves(jax.tree.map(lambda leaf: int(np.ravel(leaf)[0]), tree))
        assert sorted(order) == list(range(len(places)))
        for gradients, expected in ((grads, case["grad_norm"]), (bounded, case["clipped_grad_norm"])):
            norms = [float(jnp.linalg.norm(g.ravel())) for g in jax.tree.leaves(gradients)]
            np.testing.assert_allclose(norms, expected[order], rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(total, np.sqrt((case["grad_norm"] ** 2).sum()), rtol=1e-6)


def test_depth_in_key_bones_is_stored_and_said():
    task = make(depth=Depth(5.0, unit="bone"))
    assert task.units["depth"] == "lengths of the key bone, relative to the root, away from the camera"
    assert "5 lengths of the key bone" in task.units["sigma"] and "unit" not in make().config["depth"]
    assert Depth(**task.config["depth"]) == task.depth
    with pytest.raises(ValueError, match="unit='cm': expected one of mm, bone"):
        Depth(unit="cm")
