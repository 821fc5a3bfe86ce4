"""Pull and push against HigherHRNet's numbers, and what padding may not do."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpose import heatmap, losses


def from_nodes(nodes, size):
    """Packed lists (P, K, 2) of (joint * size^2 + y * size + x, flag), a batch of them -> xy (B, P, K, 2), visible (B, P, K)."""
    xy, visible = np.zeros(nodes.shape), np.zeros(nodes.shape[:-1])
    for b, person, i in np.argwhere(nodes[..., 1] > 0):
        joint, place = divmod(nodes[b, person, i, 0], size**2)
        xy[b, person, joint], visible[b, person, joint] = (place % size, place // size), 1
    return xy, visible


@pytest.mark.parametrize("kind", ["exp", "max"])
@pytest.mark.parametrize("case", ["people", "one", "zero"])
def test_pull_and_push_of_the_reference(golden, case, kind):
    arrays = golden("swahr")
    with jax.enable_x64(True):
        tags = jnp.asarray(np.moveaxis(arrays["ae_tags"], 1, -1).astype(np.float64))
        xy, visible = from_nodes(arrays[f"ae_{case}_nodes"], 32)

        def pull_and_push(tags):
            values, where = heatmap.read(tags, xy, visible)
            return losses.associative_embedding(values, where=where, variant={"exp": "official", "max": "max"}[kind])

        np.testing.assert_array_equal(heatmap.read(tags, xy, visible)[1], visible > 0)
        pull, push = pull_and_push(tags)
        np.testing.assert_allclose(pull, arrays[f"ae_{case}_{kind}_pull_f64"], rtol=1e-6)
        np.testing.assert_allclose(push, arrays[f"ae_{case}_{kind}_push_f64"], rtol=1e-6)
        # In float32: 1e-4.
        pull, push = pull_and_push(tags.astype(jnp.float32))
        np.testing.assert_allclose(pull, arrays[f"ae_{case}_{kind}_pull_f32"], rtol=1e-4)
        np.testing.assert_allclose(push, arrays[f"ae_{case}_{kind}_push_f32"], rtol=1e-4)

        def total(tags):
            pull, push = pull_and_push(tags)
            return push.sum() + 2 * pull.sum()

        gradient = np.moveaxis(np.asarray(jax.jit(jax.grad(total))(tags)), -1, 1).ravel()
        expected = np.zeros_like(gradient)
        expected[arrays[f"ae_{case}_{kind}_grad_idx"]] = arrays[f"ae_{case}_{kind}_grad_val"]
        np.testing.assert_allclose(gradient, expected, rtol=1e-6, atol=1e-12)


def test_two_people_by_hand():
    """Tags 1.0 and 1.2, and -0.5: pull ((0.1)^2) / 2 people, push exp(-1.6^2) / 2."""
    tags, where = np.array([[1.0, 1.2], [-0.5, 7.0]]), np.array([[1, 1], [1, 0]])
    push = np.exp(-(1.6**2)) / 2
    for variant, expected in {"official": push, "mmpose": push + 0.5, "max": 0.0}.items():
        pull, found = losses.associative_embedding(tags, where=where, variant=variant)
        np.testing.assert_allclose([pull, found], [0.005, expected], rtol=1e-6)


@pytest.mark.parametrize("variant", ["official", "mmpose", "max"])
def test_padding_and_garbage_change_nothing(variant):
    rng = np.random.default_rng(0)
    tags, where = rng.normal(size=(3, 4, 5)).astype(np.float32), rng.random((3, 4, 5)) > 0.4
    where[1, 1:] = where[2] = False  # one person; nobody

    def total(tags, where):
        pull, push = losses.associative_embedding(tags, where=where, variant=variant)
        return (pull + 3 * push).sum(), (pull, push)

    both = jax.jit(jax.value_and_grad(total, has_aux=True))
    (value, (pull, push)), gradient = both(tags, where)
    assert push[1] == push[2] == pull[2] == 0 and push[0] > 0
    for garbage in (np.nan, np.inf):
        padded = np.concatenate([np.where(where, tags, garbage), np.full((3, 6, 5), garbage)], 1).astype(np.float32)
        padded_where = np.concatenate([where, np.zeros((3, 6, 5), bool)], 1)
        (again, _), padded_gradient = both(padded, padded_where)
        np.testing.assert_allclose(again, value, rtol=1e-6)
        np.testing.assert_allclose(padded_gradient[:, :4], gradient, rtol=1e-5, atol=1e-7)
        assert not np.asarray(padded_gradient)[~padded_where].any()
    eager = losses.associative_embedding(tags, where=where, variant=variant)
    np.testing.assert_allclose(eager, (pull, push), rtol=1e-6)


def test_gradient_pulls_together_and_pushes_apart():
    tags = jnp.array([[0.0, 1.0], [2.0, 2.5]])
    where = jnp.ones((2, 2), bool)
    pull = jax.grad(lambda t: losses.associative_embedding(t, where=where)[0])(tags)
    push = jax.grad(lambda t: losses.associative_embedding(t, where=where)[1])(tags)
    assert (np.sign(pull) == [[-1, 1], [-1, 1]]).all()  # descent brings a person's tags together
    assert (np.sign(push) == [[1, 1], [-1, -1]]).all()  # and drives the people apart


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t: losses.associative_embedding(t, where=t[0]), r"tags \(2, 3\), where \(3,\)"),
        (lambda t: losses.associative_embedding(t[0], where=t[0]), r"tags \(3,\)"),
        (lambda t: losses.associative_embedding(t, where=t, variant="hinge"), "variant='hinge'"),
    ],
)
def test_errors_name_what_was_given(call, message):
    with pytest.raises(ValueError, match=message):
        call(jnp.ones((2, 3)))
