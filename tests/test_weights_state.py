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


# What training scripts write


def dotted(prefix: str, name: str = "w") -> dict[str, np.ndarray]:
    return {f"{prefix}{name}.{leaf}": np.ones(2) for leaf in ("weight", "bias")}


@pytest.mark.parametrize(
    "prefix",
    [
        "module.",
        "_orig_mod.",
        "module._orig_mod.",
        "_orig_mod.module.",
        "_fsdp_wrapped_module.",
        "_forward_module.module.",
    ],
)
def test_names_of_wrapping_modules_are_taken_off_wherever_they_stand(prefix):
    assert list(weights.state.unwrap(dotted(prefix))) == ["w.weight", "w.bias"]
    inside = dotted(f"backbone.{prefix}") | dotted("head.")
    assert list(weights.state.unwrap(inside)) == list(dotted("backbone.") | dotted("head."))
    assert list(weights.state.unwrap(dotted("my_module."))) == list(dotted("my_module."))


def test_a_tensor_with_and_without_a_wrapping_modules_name_is_refused():
    with pytest.raises(ValueError, match=r"module\.w\.bias, module\.w\.weight: with and without"):
        weights.state.unwrap(dotted("") | dotted("module."))


OPTIMIZER = {"state": {0: {"exp_avg": np.ones(2)}}, "param_groups": [{"lr": 0.1}]}


@pytest.mark.parametrize(
    "content",
    [
        {"model_state_dict": dotted(""), "optimizer_state_dict": OPTIMIZER, "epoch": 3, "loss": np.ones(())},
        {"checkpoint": {"state_dict": dotted("")}, "epoch": 3},
        {"generator": dotted("module."), "optimizer": OPTIMIZER},
        {"model": {"depth": 50}, "weights": dotted("")},
        {"state_dict_ema": dotted("module.")},
        {"state_dict": dotted(""), "callbacks": {"ema": {"best": 1.0}}, "loops": {"fit": {}}},
    ],
)
def test_the_state_dict_is_found_among_what_is_saved_beside_it(content):
    assert list(weights.state.unwrap(content)) == list(dotted(""))


def saved(tmp_path, content, name="net.ckpt"):
    torch = pytest.importorskip("torch")
    torch.save(
        jax.tree.map(lambda x: torch.from_numpy(x) if isinstance(x, np.ndarray) else x, content), tmp_path / name
    )
    return tmp_path / name


def test_a_part_is_chosen_by_its_key_or_by_the_beginning_of_its_names(tmp_path, caplog):
    content = {"state_dict": dotted(""), "ema": {"module": {name: value + 1 for name, value in dotted("").items()}}}
    content["model_ema"] = {f"module.{name}": value + 2 for name, value in dotted("").items()} | {
        "n_averaged": np.ones(())
    }
    path = saved(tmp_path, content)
    assert weights.load_file(path)["w.bias"].tolist() == [1, 1]
    assert "net.ckpt also holds model_ema next to the state dict that is read" in caplog.text
    caplog.clear()
    assert weights.load_file(path, part="ema")["w.bias"].tolist() == [2, 2]
    assert weights.load_file(path, part="model_ema")["w.bias"].tolist() == [3, 3] and not caplog.text
    path = saved(tmp_path, {"state_dict": dotted("student.") | dotted("teacher.net.")}, "net.bin")
    assert sorted(weights.load_file(path, part="teacher.net")) == ["w.bias", "w.weight"]
    with pytest.raises(
        ValueError, match=r"net\.bin: no part 'pupil': state dicts under state_dict, names begin with student, tea"
    ):
        weights.load_file(path, part="pupil")
    path = saved(tmp_path, {"gen": dotted(""), "dis": dotted("x.")})
    with pytest.raises(ValueError, match=r"state dicts under dis, gen: choose one with part= .*--part dis"):
        weights.load_file(path)
    assert len(weights.load_file(path, part="gen")) == 2


class Pickled:
    """Stands for a module that somebody saved as a whole."""


def test_whole_pickled_models_are_refused_with_their_class_and_what_to_do(tmp_path):
    model = Pickled()
    for content in (model, {"model": model, "epoch": 3, "optimizer": OPTIMIZER}, [model], model.__init__):
        path = saved(tmp_path, content, "net.pt") if not isinstance(content, Pickled) else tmp_path / "net.pt"
        if isinstance(content, Pickled):
            pytest.importorskip("torch").save(content, path)
        with pytest.raises(
            ValueError, match=r"net\.pt: a whole pickled model \(.*Pickled\).*torch\.save\(model\.state_dict\(\)"
        ):
            weights.load_file(path)


def test_a_pickled_yolo_is_known_by_its_class(tmp_path, monkeypatch):
    monkeypatch.setattr(Pickled, "__module__", "ultralytics.nn.tasks")
    tasks = type(jax)("ultralytics.nn.tasks")
    tasks.Pickled = Pickled
    for name in ("ultralytics", "ultralytics.nn", "ultralytics.nn.tasks"):
        monkeypatch.setitem(__import__("sys").modules, name, tasks)
    path = saved(tmp_path, {"model": Pickled(), "ema": None}, "yolo11n-pose.pt")
    with pytest.raises(
        ValueError, match=r"\(ultralytics\.nn\.tasks\.Pickled\).*looks like YOLO pose, which is not read"
    ):
        weights.load_file(path)


def test_a_folder_is_not_a_file(tmp_path):
    (tmp_path / "last.ckpt").mkdir()
    with pytest.raises(ValueError, match=r"last\.ckpt: a folder, expected a file .*in shards"):
        weights.load_file(tmp_path / "last.ckpt")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("conv1.weight", np.nan, r"not finite: conv1\.weight; NaN and infinity"),
        ("layer2.0.bn1.running_mean", np.inf, r"not finite: layer2\.0\.bn1\.running_mean;"),
    ],
)
def test_weights_that_no_net_computes_with_are_refused(name, value, message):
    state = {**resnet18(4)}
    state[name] = state[name].copy()
    state[name].flat[0] = value
    with pytest.raises(ValueError, match=message):
        weights.from_torch(state, layout="resnet")
    # What is not read may hold anything.
    weights.from_torch(
        resnet18(4) | {"fc.weight": np.full((3, 32), np.nan), "n_averaged": np.array(3)}, layout="resnet"
    )


def test_quantised_and_overflown_weights_are_refused():
    with pytest.raises(
        ValueError, match=r"not floating-point: conv1\.weight; expected float weights \(is the file quantised"
    ):
        weights.from_torch(resnet18(4) | {"conv1.weight": np.ones((4, 3, 7, 7), np.int8)}, layout="resnet")
    half = {name: np.asarray(value, np.float16) for name, value in resnet18(4).items()}
    with np.errstate(over="ignore"):
        half["bn1.weight"] = half["bn1.weight"] * np.float16(1e4) * np.float16(1e4)
    with pytest.raises(ValueError, match=r"not finite: bn1\.weight; .*half precision that overflowed"):
        weights.from_torch(half, layout="resnet")
