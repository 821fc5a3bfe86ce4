"""What a checkpoint file holds -> {name: array}: files, the wrappers of training scripts, half precision.

Code that a file may hold is never run: `torch_file` reads what `torch.save` writes with NumPy alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxpose.weights import torch_file

WRAPPERS = ("state_dict", "model", "network", "best_state_dict")  # where training scripts put the tensors
MOST_WRAPPERS = 8  # around one another
TORCH_SUFFIXES = (".pth", ".pt", ".tar")


def load_file(path: str | Path) -> dict[str, np.ndarray]:
    """The tensors of a file as {name: array}, without running code that the file may hold.

    Args:
        path: .pth, .pt or .tar as `torch.save` writes them (read by `weights.torch_file`, without PyTorch), or .safetensors.
            Wrappers, what lies beside the state dict in them, and the prefix "module." are taken off; half precision becomes
            float32.

    Raises:
        FileNotFoundError: no such file.
        ValueError: an unknown suffix, a truncated file, or a state dict that holds other objects than tensors.
        ImportError: safetensors is missing.

    >>> load_file("weights.onnx")
    Traceback (most recent call last):
    FileNotFoundError: weights.onnx: no such file
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    if path.suffix in TORCH_SUFFIXES:
        content = torch_file.load(path)
    elif path.suffix == ".safetensors":
        content = _load_safetensors(path)
    else:
        expected = ", ".join((*TORCH_SUFFIXES, ".safetensors"))
        raise ValueError(f"{path}: unknown kind of file {path.suffix!r}, expected one of {expected}")
    if not isinstance(content, Mapping):
        raise ValueError(f"{path}: holds a {type(content).__name__}, expected a state dict {{name: tensor}}")
    try:
        state = unwrap(content)
        # No list or the like: what NumPy makes of nested ones has no bound.
        plain = (torch_file.Tensor, np.ndarray, int, float)
        return arrays({name: value if isinstance(value, plain) else None for name, value in state.items()})
    except Exception as error:
        raise ValueError(f"{path}: {str(error).removeprefix(f'{path}: ')}") from error  # a tensor's error has the name


def unwrap(state_dict: Mapping[str, Any]) -> Mapping[str, Any]:
    """Take off the dicts that training scripts wrap around a state dict, and the "module." of data parallelism."""
    if not isinstance(state_dict, Mapping):
        raise ValueError(f"state_dict is a {type(state_dict).__name__}: expected {{name: array}}")
    for _ in range(MOST_WRAPPERS):  # a hostile dict may hold itself
        inner = next((state_dict[w] for w in WRAPPERS if isinstance(state_dict.get(w), Mapping)), None)
        if inner is None:
            break
        state_dict = inner
    if odd := {type(name).__name__ for name in state_dict if not isinstance(name, str)}:
        raise ValueError(f"state_dict has keys that are {listed(odd)}: expected {{name: array}}")
    state_dict = dict(state_dict)
    if all(name.startswith("module.") for name in state_dict):
        return {name.removeprefix("module."): value for name, value in state_dict.items()}
    return state_dict


def renamed(state: dict[str, np.ndarray], old: str, new: str) -> dict[str, np.ndarray]:
    """`state` with `old` at the beginning of a name as `new`."""
    names = {name: new + name.removeprefix(old) if name.startswith(old) else name for name in state}
    if twice := [name for name in state if names[name] != name and names[name] in state]:
        raise ValueError(f"both under {old} and {new}: {listed(twice)}; expected the head of one net")
    return {names[name]: value for name, value in state.items()}


def arrays(state_dict: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Every value as an array of numbers, half precision as float32."""
    arrays = {name: _array(value) for name, value in state_dict.items()}
    if bad := [name for name, value in arrays.items() if value is None]:
        raise ValueError(f"not arrays of numbers: {listed(bad)}; expected a state dict {{name: tensor}}")
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


def listed(names: Iterable[str], most: int = 20) -> str:
    names = sorted(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _load_safetensors(path: Path) -> Any:
    try:
        import safetensors.numpy
    except ImportError as error:
        raise ImportError(f"reading {path} needs safetensors: pip install 'jaxpose[torch]'") from error
    try:
        return safetensors.numpy.load_file(path)
    except Exception as error:
        raise ValueError(f"{path}: not a complete safetensors file ({error})") from error
