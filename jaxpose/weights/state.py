"""Reads {name: array} from a checkpoint file: files, the wrappers of training scripts, half precision.

Code that a file may contain is never run: `torch_file` reads the files of `torch.save` with NumPy alone.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxpose import pickles
from jaxpose.weights import torch_file

logger = logging.getLogger(__name__)

# Keys under which training scripts store the tensors: the first of several is used. The averaged copies come last.
WRAPPERS = (
    "state_dict", "model", "network", "best_state_dict", "model_state_dict", "model_state", "net", "module", "weights", "params",
    "model_weights", "net_state_dict", "network_state_dict", "model_pos", "state_dict_ema", "ema_state_dict", "model_ema",
    "params_ema", "ema",
)  # fmt: skip
MOST_WRAPPERS = 8  # nested in one another
# Keys of objects that are saved with a net, and have tensors of their own.
BESIDE = re.compile(r"optim|sched|scaler|rng|loop|callback|hyper|buffer|loss|criterion|metric", re.IGNORECASE)
# Modules around a net or a part of it, whose names are part of the tensors' names: data parallelism, torch.compile, sharding
# and recomputation, Fabric.
AROUND = re.compile(
    r"(?:^|(?<=\.))(?:module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|_forward_module)\."
)
PICKLED = {
    "ultralytics.": "YOLO pose",
    "models.yolo": "YOLO pose",
    "super_gradients.": "YOLO-NAS or DEKR",
}  # by the beginning of the class name
TORCH_SUFFIXES = (".pth", ".pt", ".tar", ".ckpt", ".bin", ".pyth")


def load_file(path: str | Path, *, part: str | None = None) -> dict[str, np.ndarray]:
    """Reads the tensors of a file as {name: array}, without running code that the file may contain.

    Args:
        path: a .pth, .pt, .tar, .ckpt, .bin or .pyth file of `torch.save` (read by `weights.torch_file`, without PyTorch), or a
            .safetensors file, or a .pkl file of arrays, as Detectron2's model zoo has them (read by `jaxpose.pickles`). Wrappers of
            training scripts around a state dict, other objects next to it, and the names of wrapping modules ("module.",
            "_orig_mod.") are removed; half precision becomes float32.
        part: the net to read from a file that holds several: the key of a state dict ("state_dict_ema"), or the prefix of its
            tensors' names ("teacher"). None: the net, with a warning if the file has a copy of it.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the path is a folder or has an unknown suffix; the file is truncated, holds a pickled model instead of its state
            dict, or other objects than tensors; or there is no such part.
        ImportError: safetensors is missing.

    >>> load_file("weights.onnx")
    Traceback (most recent call last):
    FileNotFoundError: weights.onnx: no such file
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(
            f"{path}: a folder, expected a file of torch.save or .safetensors (a checkpoint in shards has to be put together by "
            "the tool that wrote it)"
        )
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    if path.suffix in TORCH_SUFFIXES:
        content = torch_file.load(path)
    elif path.suffix == ".safetensors":
        content = _load_safetensors(path)
    elif path.suffix == ".pkl":
        content = pickles.load(path)
    else:
        expected = ", ".join((*TORCH_SUFFIXES, ".safetensors", ".pkl"))
        raise ValueError(f"{path}: unknown kind of file {path.suffix!r}, expected one of {expected}")
    try:
        _refuse_pickled_model(path, content)
        if not isinstance(content, Mapping):
            raise ValueError(f"holds a {type(content).__name__}, expected a state dict {{name: tensor}}")
        state, copies = _descend(content, part)
        if copies:
            logger.warning(
                "%s also holds %s next to the state dict that is read: select another with part= (jaxpose import --part %s)",
                path, list_names(copies), sorted(copies)[0],
            )  # fmt: skip
        # No lists or similar: NumPy's result for nested ones is unbounded.
        plain = (torch_file.Tensor, np.ndarray, int, float)
        return arrays({name: value if isinstance(value, plain) else None for name, value in state.items()})
    except Exception as error:
        raise ValueError(
            f"{path}: {str(error).removeprefix(f'{path}: ')}"
        ) from error  # errors about a tensor have the path


def unwrap(state_dict: Mapping[str, Any], *, part: str | None = None) -> dict[str, Any]:
    """Returns a state dict without the wrappers of training scripts, with the net's own names.

    Args:
        state_dict: {name: anything}, possibly nested in other dicts, as in {"model_state_dict": {name: tensor}, "epoch": 3}.
        part: see `load_file`.

    Raises:
        ValueError: it is not a mapping, names are not strings, there is no such part, or two tensors have the same name.

    >>> unwrap({"epoch": 3, "state_dict": {"module.backbone._orig_mod.conv1.weight": 0}})
    {'backbone.conv1.weight': 0}
    """
    return _descend(state_dict, part)[0]


def _descend(state_dict: Mapping[str, Any], part: str | None) -> tuple[dict[str, Any], list[str]]:
    """Returns the state dict inside its wrappers, and the keys next to it that hold the same net again."""
    if not isinstance(state_dict, Mapping):
        raise ValueError(f"state_dict is a {type(state_dict).__name__}: expected {{name: array}}")
    copies: list[str] = []
    keys: list[str] = []
    for _ in range(MOST_WRAPPERS):  # a malicious dict may contain itself
        if part is not None and isinstance(state_dict.get(part), Mapping):
            state_dict, part, copies = state_dict[part], None, []
            continue
        key = _wrapper(state_dict)
        if key is None:
            break
        if part is None:
            copies = copies or _copies(state_dict, key)
        keys += [name for name, value in state_dict.items() if isinstance(value, Mapping) and isinstance(name, str)]
        state_dict = state_dict[key]
    if odd := {type(name).__name__ for name in state_dict if not isinstance(name, str)}:
        raise ValueError(f"state_dict has keys that are {list_names(odd)}: expected {{name: array}}")
    if part is not None:
        state_dict = _under(state_dict, part, keys)
    names = {name: AROUND.sub("", name) for name in state_dict}
    if len(set(names.values())) < len(names):
        twice = [name for name, ours in names.items() if ours != name and ours in state_dict]
        raise ValueError(
            f"{list_names(twice or names)}: with and without the names of wrapping modules; expected one net"
        )
    return {ours: state_dict[name] for name, ours in names.items()}, copies


def _wrapper(content: Mapping[str, Any]) -> str | None:
    """Returns the key of the state dict or of a wrapper of it; None: this is the state dict."""
    inside = [key for key, value in content.items() if isinstance(value, Mapping)]
    with_tensors = [key for key in inside if _leads_to_tensors(content[key])]
    for candidates in (with_tensors, inside):
        if wrappers := [key for key in WRAPPERS if key in candidates]:
            return wrappers[0]
    others = [key for key in with_tensors if isinstance(key, str) and not BESIDE.search(key)]
    if len(others) > 1 and not _has_tensors(content):
        raise ValueError(
            f"state dicts under {list_names(others)}: choose one with part= (jaxpose import --part {sorted(others)[0]})"
        )
    return others[0] if len(others) == 1 else None


def _leads_to_tensors(value: Mapping) -> bool:
    """Returns whether it is a state dict with tensors, or has one under the name of a wrapper."""
    return _has_tensors(value) or any(
        isinstance(value.get(key), Mapping) and _has_tensors(value[key]) for key in WRAPPERS
    )


def _has_tensors(value: Mapping) -> bool:
    return any(
        isinstance(name, str) and (isinstance(each, (torch_file.Tensor, np.ndarray)) or hasattr(each, "detach"))
        for name, each in value.items()
    )


def _copies(content: Mapping[str, Any], key: str) -> list[str]:
    """Returns keys next to `key` with tensors of the same names: usually the average of the same net's weights."""

    def names(value: Mapping) -> set[str]:
        return {AROUND.sub("", name) for name in value if isinstance(name, str) and "." in name}

    if not _has_tensors(content[key]):
        return []
    return [
        name
        for name, value in content.items()
        if name != key and isinstance(name, str) and isinstance(value, Mapping) and not BESIDE.search(name)
        if _has_tensors(value) and names(value) == names(content[key])
    ]


def _under(state_dict: Mapping[str, Any], part: str, keys: list[str]) -> dict[str, Any]:
    """Returns the tensors whose names begin with `part`, without that prefix."""
    start = part.rstrip(".") + "."
    tensors = {name.removeprefix(start): value for name, value in state_dict.items() if name.startswith(start)}
    if not tensors:
        beginnings = {name.split(".")[0] for name in state_dict if "." in name}
        raise ValueError(
            f"no part {part!r}: state dicts under {list_names(keys) or 'no key'}, names begin with {list_names(beginnings)}"
        )
    return tensors


def _refuse_pickled_model(path: Path, content: Any) -> None:
    """Raises a ValueError if the file holds a model as an object, whose weights only the original code can read."""
    if isinstance(content, Mapping):
        objects = [content.get(key) for key in WRAPPERS]
    else:
        objects = content if isinstance(content, (list, tuple)) else [content]
    if not any(each is torch_file.Inert for each in objects):
        return
    if isinstance(content, Mapping) and (_has_tensors(content) or _wrapper(content) is not None):
        return  # the file holds the weights too
    kinds = [kind for kind in torch_file.classes(path) if not kind.startswith(("__builtin__.", "builtins.", "copy"))]
    kind = next((kind for kind in kinds if not kind.startswith("torch.")), [*kinds, "of an unknown class"][0])
    guess = next(
        (f" This looks like {name}, which is not read." for start, name in PICKLED.items() if kind.startswith(start)),
        "",
    )
    raise ValueError(
        f"a whole pickled model ({kind:.100}), as torch.save(model) writes it, instead of its state dict: it cannot be read "
        f"without running its code, which is never done.{guess} In its original code base, save only the weights: "
        "torch.save(model.state_dict(), FILE)"
    )


def renamed(state: dict[str, np.ndarray], old: str, new: str) -> dict[str, np.ndarray]:
    """Returns `state` with the prefix `old` of names replaced by `new`."""
    names = {name: new + name.removeprefix(old) if name.startswith(old) else name for name in state}
    if twice := [name for name in state if names[name] != name and names[name] in state]:
        raise ValueError(f"both under {old} and {new}: {list_names(twice)}; expected the head of one net")
    return {names[name]: value for name, value in state.items()}


def arrays(state_dict: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Converts every value to an array of numbers, half precision to float32."""
    arrays = {name: _array(value) for name, value in state_dict.items()}
    if bad := [name for name, value in arrays.items() if value is None]:
        raise ValueError(f"not arrays of numbers: {list_names(bad)}; expected a state dict {{name: tensor}}")
    return arrays


def _array(value: Any) -> np.ndarray | None:
    if isinstance(value, torch_file.Tensor):
        value = value.array()
    if hasattr(value, "detach"):  # a torch.Tensor, which NumPy may refuse: on a device, with a gradient, in bfloat16
        value = value.detach().cpu()
        value = value.float() if value.is_floating_point() and value.element_size() < 4 else value
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        return None
    if not (jnp.issubdtype(array.dtype, jnp.number) or array.dtype == bool):
        return None
    half = jnp.issubdtype(array.dtype, jnp.floating) and array.dtype.itemsize < 4
    return array.astype(np.float32) if half else array


def list_names(names: Iterable[str], most: int = 20) -> str:
    """Returns the first `most` names in alphabetical order, and the number of the others."""
    names = sorted(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def check_values(tensors: Mapping[str, np.ndarray]) -> None:
    """Raises a ValueError if tensors are not weights that a net can compute with.

    Raises:
        ValueError: tensors are integers (a quantised net), NaN or infinite; the message lists them.

    >>> check_values({"bn1.weight": np.array([1.0, np.nan])})
    Traceback (most recent call last):
    ValueError: not finite: bn1.weight; NaN and infinity come from a training that diverged, or from half precision that overflowed
    """
    if bad := [name for name, value in tensors.items() if not np.issubdtype(value.dtype, np.floating)]:
        raise ValueError(f"not floating-point: {list_names(bad)}; expected float weights (is the file quantised?)")
    if bad := [name for name, value in tensors.items() if not np.isfinite(value).all()]:
        raise ValueError(
            f"not finite: {list_names(bad)}; NaN and infinity come from a training that diverged, or from half precision that "
            "overflowed"
        )


def _load_safetensors(path: Path) -> Any:
    try:
        import safetensors.numpy
    except ImportError as error:
        raise ImportError(f"reading {path} needs safetensors: pip install 'jaxpose[torch]'") from error
    try:
        return safetensors.numpy.load_file(path)
    except Exception as error:
        raise ValueError(f"{path}: not a complete safetensors file ({error})") from error


def shape_of(state: Mapping[str, np.ndarray], name: str, *, rank: int) -> tuple[int, ...]:
    """Returns the shape of a tensor that determines a size of the net.

    Raises:
        ValueError: there is no such tensor, or it has another number of axes.
    """
    if name not in state:
        raise ValueError(f"missing: {name}; the state dict has {list_names(state)}. Is this the right layout?")
    if state[name].ndim != rank:
        raise ValueError(f"{name} has shape {state[name].shape}: expected {rank} axes")
    return state[name].shape
