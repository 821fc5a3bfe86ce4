"""Files and the wrappers of training scripts -> {name: array}. (How torch.save's own format is read: test_weights_torch_file.)"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpose import weights
from tests.torch_states import linear, resnet18


@pytest.mark.parametrize("wrapper", weights.WRAPPERS)
def test_wrappers_and_prefix(wrapper):
    state = resnet18(4) | linear("fc", 10, 32)
    _, want = weights.from_torch(state, layout="resnet")
    wrapped = {"epoch": 3, wrapper: {f"module.{name}": value for name, value in state.items()}}
    _, got = weights.from_torch(wrapped, layout="resnet")
    jax.tree.map(np.testing.assert_array_equal, got, want)


def test_half_precision_becomes_float32():
    state = {k: jnp.asarray(v, jnp.bfloat16) for k, v in resnet18(4).items()}
    _, variables = weights.from_torch(state, layout="resnet")
    assert {leaf.dtype.name for leaf in jax.tree.leaves(variables)} == {"float32"}


# Files


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".tar"])
@pytest.mark.parametrize("new", [True, False])
def test_torch_files(tmp_path, suffix, new):
    torch = pytest.importorskip("torch")
    state = {"module.a": torch.arange(6.0).reshape(2, 3), "module.b": torch.ones(2, dtype=torch.bfloat16)}
    path = tmp_path / f"net{suffix}"
    torch.save({"epoch": 3, "state_dict": state}, path, _use_new_zipfile_serialization=new)
    got = weights.load_file(path)
    assert list(got) == ["a", "b"] and got["b"].dtype == np.float32
    np.testing.assert_array_equal(got["a"], np.arange(6.0).reshape(2, 3))
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ValueError, match=f"net{suffix}: not a complete file"):
        weights.load_file(path)


def test_a_missing_reader_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "safetensors.numpy", None)
    (tmp_path / "net.safetensors").touch()
    with pytest.raises(ImportError, match=r"pip install 'jaxpose\[torch\]'"):
        weights.load_file(tmp_path / "net.safetensors")


def test_safetensors(tmp_path):
    numpy = pytest.importorskip("safetensors.numpy")
    path = tmp_path / "net.safetensors"
    arrays = {
        "a": np.arange(6.0).reshape(2, 3),
        "b": np.ones(2, np.float16),
        "c": np.asarray(jnp.ones(2, jnp.bfloat16)),
    }
    numpy.save_file(arrays, path)
    got = weights.load_file(path)
    assert {name: value.dtype.name for name, value in got.items()} == {"a": "float64", "b": "float32", "c": "float32"}
    np.testing.assert_array_equal(got["a"], arrays["a"])
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(ValueError, match=r"net\.safetensors: not a complete"):
        weights.load_file(path)


def test_other_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing.pth"):
        weights.load_file(tmp_path / "nothing.pth")
    (tmp_path / "net.onnx").touch()
    with pytest.raises(ValueError, match=r"net\.onnx: unknown kind of file '\.onnx', expected one of \.pth"):
        weights.load_file(tmp_path / "net.onnx")
    torch = pytest.importorskip("torch")
    torch.save([torch.ones(2)], tmp_path / "list.pth")
    with pytest.raises(ValueError, match="list.pth: holds a list"):
        weights.load_file(tmp_path / "list.pth")
    torch.save({"a": torch.ones(2), "epoch": "three"}, tmp_path / "mixed.pth")
    with pytest.raises(ValueError, match=r"mixed.pth: not arrays of numbers: epoch"):
        weights.load_file(tmp_path / "mixed.pth")
