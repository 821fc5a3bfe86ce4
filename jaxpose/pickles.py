"""Reads pickles of plain containers and NumPy arrays with NumPy alone; nothing that a file names is imported or called.

Data sets and model zoos hand out pickles: `.pkl` files of dictionaries and arrays, and `.npz` and `.npy` files of arrays with
``dtype=object``, which are pickles too. `numpy.load(allow_pickle=True)` and `pickle.load` run whatever program such a file
holds. `load` and `load_npz` read the same files without that.

Why this is safe: a pickle is a program of about sixty opcodes. It can only call what `Unpickler.find_class` and
`Unpickler.persistent_load` return, whichever opcode asks (GLOBAL, STACK_GLOBAL, INST; REDUCE, NEWOBJ and OBJ only call what
is on the stack). The reader of this module returns stand-ins of its own for the few functions that NumPy's arrays need, and
refuses every other name. No stand-in has state that a pickle could change: BUILD calls their `__setstate__`. The registry of
extensions (EXT1, EXT2, EXT4), whose cache would bypass find_class, is rejected beforehand by `check_opcodes`. So is everything
that makes the C implementation allocate or recurse without bound: unfilled places in the memo; huge nested tuples and
frozensets, whose hash is a recursion; and many keys with hashes that a file can choose (those of strings are salted), which
collide. `jaxpose.weights.torch_file` reads the pickles of PyTorch by the same means, and replaces unknown names by `Inert`.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import re
import sys
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

TUPLE_PARTS = 10_000  # limit for a tuple or frozenset with its nested parts, and for all that are keys
HASH_MODULUS = sys.hash_info.modulus  # integers hash to themselves below it
MOST_AXES = 64  # NumPy's limit
MOST_NESTED = 200  # containers in containers
MOST_INFLATED = 100
"""Factor by which a compressed .npz may grow, all members together; poses reach 2 to 10, an attack 1000."""
FEW_BYTES = 2**26  # that an archive of any size may hold, such as one of zeros
PIECE = 2**20  # bytes that are inflated at a time
ENCRYPTED = 1  # flag of a member of a zip archive
PLAIN_DTYPE = re.compile(r"(?:[biufc][1-9]\d{0,1}|[SU]\d{1,6}|O8?)")
ATOMS = (str, bytes, int, float, complex, bool, type(None), np.generic)


class Unusable(ValueError):
    """A problem with the file, described in the words of its reader."""


class _Absorbing(type):
    """A class that is its own instance: every operation on it returns the class itself."""

    def __call__(cls, *args, **kwargs):
        return cls

    def _nothing(cls, *args):
        """Implements BUILD, APPEND, APPENDS, ADDITEMS, SETITEM and SETITEMS."""

    __setstate__ = __setitem__ = append = extend = add = _nothing


class Inert(metaclass=_Absorbing):
    """Stands for every object of a file that is not a tensor, number, string, list, tuple, set or dictionary.

    >>> Inert("os.system", 1) is Inert
    True
    """

    def __new__(cls, *args, **kwargs):
        return cls


class Still:
    """An object without state that a pickle could set."""

    __slots__ = ()

    def __setstate__(*args):
        pass


class PlainDict(Still, dict):
    """Stands for collections.OrderedDict, on which PyTorch sets an attribute."""

    def __init__(self, items: Any = ()):  # pairs from Python 2, whose keys no opcode shows: only strings are read
        super().__init__((key, value) for key, value in items if isinstance(key, str))


class _Dtype(Still):
    """A dtype of plain numbers, strings or objects; BUILD gives it the byte order."""

    __slots__ = ("code", "order")

    def __init__(self, code: Any, *_: Any):
        if not (isinstance(code, str) and PLAIN_DTYPE.fullmatch(code)):
            raise Unusable(f"an array of dtype {code!r:.50}: expected plain numbers, strings or objects")
        self.code, self.order = code, "="

    def __setstate__(self, state: Any) -> None:  # (version, byte order, ...); NumPy's own are "<", ">", "|" and "="
        if not (isinstance(state, tuple) and len(state) > 2 and isinstance(state[1], str) and state[1] in "<>|="):
            raise Unusable("an array whose dtype has a state that NumPy does not write")
        if any(part is not None for part in state[2:5]):
            raise Unusable("an array with fields (a record array): expected plain numbers, strings or objects")
        self.order = state[1]

    def numpy(self) -> np.dtype:
        try:
            return np.dtype("O") if self.code.startswith("O") else np.dtype(self.code).newbyteorder(self.order)
        except TypeError as error:
            raise Unusable(f"an array of dtype {self.code!r}, which NumPy does not have") from error


class _Array(Still):
    """The parts of an array, which `_finish` puts together when everything is read."""

    __slots__ = ("content", "dtype", "fortran", "shape")

    def __init__(self, shape: Any = None, dtype: Any = None, fortran: bool = False, content: Any = None):
        self.shape, self.dtype, self.fortran, self.content = shape, dtype, fortran, content

    def __setstate__(self, state: Any) -> None:
        match state:
            case (int(), tuple(shape), _Dtype() as dtype, fortran, content):
                self.shape, self.dtype, self.fortran, self.content = shape, dtype, bool(fortran), content
            case _:
                raise Unusable("an array whose state is none that NumPy writes")

    def array(self) -> np.ndarray:
        """Returns the array, read-only where its numbers are a view of the file's. Objects in it are not finished."""
        shape = self.shape
        if not (isinstance(shape, tuple) and len(shape) <= MOST_AXES and all(type(n) is int and n >= 0 for n in shape)):
            raise Unusable("an array without a shape, or with one that is no tuple of integers, 0 or more")
        if not isinstance(self.dtype, _Dtype):
            raise Unusable("an array without a dtype")
        dtype, count = self.dtype.numpy(), math.prod(shape)
        order = "F" if self.fortran else "C"
        if dtype.hasobject:
            if not isinstance(self.content, list) or len(self.content) != count:
                raise Unusable(f"an array of objects of shape {shape!s:.60} without as many objects")
            flat = np.empty(count, object)
            for index, item in enumerate(self.content):  # one by one: NumPy would walk into nested lists
                flat[index] = item
            return flat.reshape(shape, order=order)
        content = self.content.encode("latin-1") if isinstance(self.content, str) else self.content  # Python 2's
        if not isinstance(content, (bytes, bytearray)) or len(content) != count * dtype.itemsize:
            raise Unusable(f"an array of shape {shape!s:.60} and dtype {dtype} without as many bytes")
        if not content:
            if count:  # strings of length 0, which NumPy would make one byte long
                raise Unusable(f"an array of shape {shape!s:.60} of nothing")
            return np.zeros(shape, dtype)
        return np.frombuffer(content, dtype).reshape(shape, order=order)


class _Call(Still):
    """A function of NumPy (or Python's codecs) that builds a part of an array."""

    __slots__ = ("name",)

    def __init__(self, name: str):
        self.name = name

    def __call__(self, *args: Any) -> Any:
        match self.name, args:
            case "_reconstruct", (_Call(name="ndarray"), *_):
                return _Array()
            case "_frombuffer", (content, _Dtype() as dtype, tuple(shape), ("C" | "F") as order):
                return _Array(shape, dtype, order == "F", content)
            case "scalar", (_Dtype() as dtype, (bytes() | str()) as content):
                return _Array((), dtype, False, content).array()[()]
            case "dtype", (code, *_):
                return _Dtype(code)
            case "encode", (str(text), "latin1" | "latin-1" | "bytes"):
                return text.encode("latin-1")
            case "bytes", ():  # protocols below 3
                return b""
            case "OrderedDict", ():
                return PlainDict()
            case "OrderedDict", (list(pairs),):
                return PlainDict(pairs)
            case "defaultdict", _:
                return PlainDict()
        raise Unusable(f"a call of {self.name} with arguments that NumPy does not write")


_NUMPY = {"numpy.core.multiarray", "numpy._core.multiarray", "numpy.core.numeric", "numpy._core.numeric", "numpy"}
_CALLS = {(module, name) for module in _NUMPY for name in ("_reconstruct", "scalar", "_frombuffer", "dtype", "ndarray")}
_CALLS |= {
    ("builtins", "bytes"),
    ("__builtin__", "bytes"),
    ("_codecs", "encode"),
    ("collections", "OrderedDict"),
    ("collections", "defaultdict"),
}
_FACTORIES = {(module, name) for module in ("builtins", "__builtin__") for name in ("list", "dict", "int", "float")}


class _Unpickler(pickle.Unpickler):
    """See the docstring of this module."""

    def __init__(self, stream: io.BytesIO):
        super().__init__(stream, encoding="latin-1")  # Python 2's strings

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _CALLS:
            return _Call(name)
        if (module, name) in _FACTORIES:  # of a defaultdict
            return Inert
        raise Unusable(
            f"it holds an object of {module:.100}.{name:.100}, which is neither a plain container nor a NumPy array; "
            "nothing of the file was run. Open it where it was written and save plain dictionaries, lists and arrays"
        )


def load(path: str | Path) -> Any:
    """Reads a pickle of plain containers and NumPy arrays.

    Args:
        path: The file (`.pkl`), of any protocol of Python 2 or 3. It is read completely.

    Returns:
        What the file holds: dictionaries (also for OrderedDict and defaultdict), lists, tuples, sets, strings, bytes, numbers,
        None, and arrays, which are read-only.

    Raises:
        OSError: The file cannot be read.
        ValueError: The file is truncated or no pickle, or holds objects of another kind, which are never run.

    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile(suffix=".pkl") as file:
    ...     pickle.dump({"xy": np.zeros((2, 3)), "names": ["a"]}, file)
    ...     file.flush()
    ...     load(file.name)
    {'xy': array([[0., 0., 0.],
           [0., 0., 0.]]), 'names': ['a']}
    """
    path = Path(path)
    return loads(path.read_bytes(), name=str(path))


def loads(data: bytes, *, name: str = "the pickle") -> Any:
    """Reads a pickle of plain containers and NumPy arrays from its bytes. See `load`.

    Args:
        data: The pickle.
        name: How errors call it.

    Raises:
        ValueError: As in `load`.

    >>> loads(pickle.dumps([1, (2.0, "a")]))
    [1, (2.0, 'a')]
    >>> loads(b"cos\\nsystem\\n(S'ls'\\ntR.", name="poses.pkl")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: poses.pkl: it holds an object of os.system, which is neither a plain container nor a NumPy array; ...
    """
    stream = io.BytesIO(data)
    try:
        check_opcodes(stream)
        stream.seek(0)
        return _Finisher().finish(_Unpickler(stream).load())
    except Unusable as error:
        raise ValueError(f"{name}: {error}") from error
    except Exception as error:  # many exception types, depending on the damage
        reason = str(error).splitlines()[:1] or [type(error).__name__]
        raise ValueError(
            f"{name}: not a complete pickle: truncated, damaged or another kind of file ({reason[0]:.100})"
        ) from error


def load_npz(path: str | Path) -> dict[str, Any]:
    """Reads a `.npz` file, also where its arrays hold objects, which NumPy alone reads by running the file.

    Args:
        path: The file.

    Returns:
        The arrays by name. An array of objects without axes (a dictionary that was saved as an array) is the object itself.

    Raises:
        OSError: The file cannot be read.
        ValueError: The file is no `.npz` archive, is damaged, holds objects of another kind, or inflates to more than
            `MOST_INFLATED` times its size.

    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile(suffix=".npz") as file:
    ...     np.savez(file, positions_2d=np.array({"S1": [np.zeros(2)]}, dtype=object), fps=np.array(50))
    ...     load_npz(file.name)
    {'positions_2d': {'S1': [array([0., 0.])]}, 'fps': array(50)}
    """
    path = Path(path)
    try:
        with zipfile.ZipFile(path) as archive:
            members = [name for name in archive.namelist() if name.endswith(".npy")]
            if not members:
                raise ValueError(f"{path}: a zip archive without .npy members: expected a file of numpy.savez")
            left = max(MOST_INFLATED * path.stat().st_size, FEW_BYTES)
            arrays: dict[str, Any] = {}
            for name in members:
                content = _inflated(archive, name, most=left, where=f"{path}: {name}")
                left -= len(content)
                arrays[name.removesuffix(".npy")] = _npy(content, f"{path}: {name}")
            return arrays
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise ValueError(f"{path}: not a file of numpy.savez, or cut off; download or copy it again") from error


def _inflated(archive: zipfile.ZipFile, name: str, *, most: int, where: str) -> bytes:
    """Returns the bytes of a member of an archive, in pieces: one call of zipfile inflates without any limit."""
    member = archive.getinfo(name)
    if member.flag_bits & ENCRYPTED or member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{where}: encrypted, or packed by a method that numpy.savez does not use: pack it again")
    content = bytearray()
    with archive.open(member) as file:
        while part := file.read(PIECE):
            content += part
            if len(content) > most:
                raise ValueError(
                    f"{where}: the archive inflates to more than {MOST_INFLATED} times its size, which data never do: if you trust "
                    "it, save it with numpy.savez, without compression"
                )
    return bytes(content)


def load_npy(path: str | Path) -> Any:
    """Reads a `.npy` file, also where its array holds objects. See `load_npz`.

    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile(suffix=".npy") as file:
    ...     np.save(file, np.array({"a": 1}, dtype=object))
    ...     file.flush()
    ...     load_npy(file.name)
    {'a': 1}
    """
    path = Path(path)
    return _npy(path.read_bytes(), str(path))


def _npy(data: bytes, name: str) -> Any:
    """Returns the array of a .npy file, or the object of an array of objects without axes."""
    stream = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(stream)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = header(stream)
        if not dtype.hasobject:
            if math.prod(shape) * dtype.itemsize > len(data):  # NumPy would allocate it before it reads
                raise Unusable(f"it claims the shape {shape!s:.60}, and has {len(data)} bytes")
            stream.seek(0)
            return np.lib.format.read_array(stream, allow_pickle=False)
    except Exception as error:
        reason = str(error).splitlines()[:1] or [type(error).__name__]
        raise ValueError(f"{name}: not a complete .npy array ({reason[0]:.100})") from error
    content = loads(data[stream.tell() :], name=name)
    if not isinstance(content, np.ndarray) or content.shape != shape:
        raise ValueError(
            f"{name}: its header promises an array of objects of shape {shape!s:.60}, which it does not hold"
        )
    return content.item() if content.shape == () else content


class _Finisher:
    """Puts arrays in the place of their parts; every container is visited once, however often it occurs."""

    def __init__(self) -> None:
        self.done: dict[int, Any] = {}
        self.alive: list[Any] = []  # what `done` knows by its id must not be freed

    def finish(self, item: Any, depth: int = 0) -> Any:
        if isinstance(item, ATOMS):
            return item
        if id(item) in self.done:
            return self.done[id(item)]
        if depth > MOST_NESTED:
            raise Unusable(f"containers that are nested more than {MOST_NESTED} deep")
        self.alive.append(item)
        if isinstance(item, (dict, list)):
            result = self.done[id(item)] = item  # first: a container may hold itself
            for key in item if isinstance(item, dict) else range(len(item)):
                _check_key(key)
                item[key] = self.finish(item[key], depth + 1)
        elif isinstance(item, _Array):
            result = item.array()
            self.done[id(item)] = result
            if result.dtype.hasobject:
                for index in np.ndindex(result.shape):
                    result[index] = self.finish(result[index], depth + 1)
        elif isinstance(item, tuple):
            result = tuple(self.finish(part, depth + 1) for part in item)
        elif isinstance(item, (set, frozenset, bytearray)):
            for part in item if not isinstance(item, bytearray) else ():
                _check_key(part)
            result = item
        else:
            raise Unusable(f"it holds a {type(item).__name__.strip('_').lower()} where data were expected")
        self.done[id(item)] = result
        return result


def _check_key(key: Any) -> None:
    parts = key if isinstance(key, tuple) else (key,)
    if not all(isinstance(part, ATOMS) for part in parts):
        raise Unusable("keys or members of sets that are no strings, numbers or tuples of these")


def check_opcodes(stream: io.BytesIO) -> None:
    """Raises an error if the next pickle needs more than its length can mean, or registered extensions.

    The check tracks the number of parts of every object on the stack: of tuples and frozensets with their nested parts, 2 for
    an integer with the same hash as another, else 1; None is a mark.

    Args:
        stream: The bytes; they are read to the end of the pickle.

    Raises:
        Unusable: The pickle does what no pickler writes.

    >>> check_opcodes(io.BytesIO(pickle.dumps({"a": 1})))
    """
    stack: list[int | None] = []
    memo: dict[int, int] = {}
    in_keys = 0
    for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
        name = opcode.name
        if name.startswith("EXT"):
            raise Unusable(f"its pickle asks for an extension of Python's registry ({name}), which data never do")
        if name.endswith("GET"):
            stack.append(memo[int(argument)])
        elif name.endswith("PUT"):
            if not 0 <= int(argument) <= count:
                raise Unusable(f"its pickle stores its object {count} at place {argument}, which picklers never do")
            memo[int(argument)] = stack[-1]
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name == "DUP":
            stack.append(stack[-1])
        else:
            before = opcode.stack_before
            popped: list[int] = []
            if pickletools.markobject in before or (name == "POP" and stack[-1] is None):
                while (top := stack.pop()) is not None:
                    popped.append(top)
                before = before[: before.index(pickletools.markobject)] if name != "POP" else []
            for _ in before:
                popped.append(stack.pop())
            parts = 1 + (type(argument) is int and abs(argument) >= HASH_MODULUS)
            if name.startswith(("TUPLE", "FROZENSET")):
                parts = 1 + sum(popped)
            if parts > TUPLE_PARTS:
                raise Unusable(f"its pickle has a {name.strip('123').lower()} of more than {TUPLE_PARTS} parts")
            if name in ("SETITEM", "SETITEMS", "DICT"):  # popped: value, key, value, key, ...
                in_keys += sum(key for key in popped[1::2] if key > 1)
            elif name in ("ADDITEMS", "FROZENSET"):
                in_keys += sum(key for key in popped if key > 1)
            if in_keys > TUPLE_PARTS:
                raise Unusable(
                    f"its keys are tuples, sets or large integers of more than {TUPLE_PARTS} parts, which data never have"
                )
            stack += [None if kind is pickletools.markobject else parts for kind in opcode.stack_after]
