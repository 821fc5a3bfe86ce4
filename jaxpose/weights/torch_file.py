"""Reads files of `torch.save` with NumPy alone; nothing that a file names is imported or called.

Both formats are read: the zip archive (PyTorch 1.6 and newer: data.pkl, and a member per storage) and the older format
(a magic number, protocol, system, the pickle, the storages' keys, and their bytes one after another).

Why this is safe is said in `jaxpose.pickles`, whose means this module uses: a pickle can only call what
`Unpickler.find_class` and `Unpickler.persistent_load` return. Here these return the dictionary, the dtypes and the rebuilders
of tensors of this module, and for every other name `Inert`. None of them has state that a pickle could change: BUILD calls
their `__setstate__`, which does nothing.
"""

from __future__ import annotations

import io
import math
import pickle
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from jaxpose.pickles import Inert, PlainDict, Still, Unusable, check_opcodes

MAGIC = 0x1950A86A20F9469CFC6C  # of the older format
DTYPES = {
    "float64": "f8", "float32": "f4", "float16": "f2", "bfloat16": "u2", "int64": "i8", "int32": "i4", "int16": "i2",
    "int8": "i1", "uint8": "u1", "uint16": "u2", "uint32": "u4", "uint64": "u8", "bool": "?", "complex64": "c8",
    "complex128": "c16",
}  # fmt: skip
STORAGES = {
    "DoubleStorage": "float64", "FloatStorage": "float32", "HalfStorage": "float16", "BFloat16Storage": "bfloat16",
    "LongStorage": "int64", "IntStorage": "int32", "ShortStorage": "int16", "CharStorage": "int8",
    "ByteStorage": "uint8", "BoolStorage": "bool", "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128", "UntypedStorage": "uint8",
}  # fmt: skip
REBUILD = {
    ("torch._utils", "_rebuild_tensor"), ("torch._utils", "_rebuild_tensor_v2"), ("torch._utils", "_rebuild_tensor_v3"),
    ("torch._utils", "_rebuild_parameter"), ("torch._utils", "_rebuild_parameter_with_state"),
    ("torch._tensor", "_rebuild_from_type_v2"),
}  # fmt: skip
OTHER_FILES = {  # other kinds of files named .pth, by their first bytes
    b"<": "a web page (a download that asked for a login?)",
    b"version https://git-lfs": "a pointer of Git LFS, not the file itself",
    b"\x1f\x8b": "a gzip archive: unpack it first",
    b"\x89HDF": "an HDF5 file",
    b"{": "JSON",
}
MOST_COPIES = 8  # tensors that share a storage are copied; together they may take at most this many times the file,
FEW_BYTES = 2**24  # or at most this many bytes
MOST_AXES = 64  # NumPy's limit
MOST_CLASSES = 100  # the number of names that are remembered


class _Dtype(Still):
    __slots__ = ("name",)

    def __init__(self, name: str):
        self.name = name


class _Storage(Still):
    __slots__ = ("dtype", "key")

    def __init__(self, key: str, dtype: str):
        self.key, self.dtype = key, dtype


class Tensor(Still):
    """A tensor of a file, read on demand."""

    __slots__ = ("_dtype", "_file", "_key", "_offset", "_size", "_stride")

    def __init__(self, file: _File, key: str, dtype: str, offset: int, size: tuple, stride: tuple):
        self._file, self._key, self._dtype = file, key, dtype
        self._offset, self._size, self._stride = offset, size, stride

    def array(self) -> np.ndarray:
        """Returns a copy of the numbers; bfloat16 becomes float32, which represents it exactly.

        Raises:
            ValueError: the tensor claims to be larger than its data in the file, or the data are damaged.
        """
        try:
            return self._file.read(self._key, self._dtype, self._offset, self._size, self._stride)
        except Unusable as error:
            raise ValueError(f"{self._file.path}: {error}") from error
        except Exception as error:
            raise ValueError(f"{self._file.path}: a tensor that cannot be an array ({error})") from error


class _Rebuild(Still):
    """A function of PyTorch that builds a tensor from a storage, or a parameter from a tensor."""

    __slots__ = ("file", "name")

    def __init__(self, name: str, file: _File):
        self.name, self.file = name, file

    def __call__(self, *args):
        match self.name, args:
            case (("_rebuild_parameter" | "_rebuild_parameter_with_state"), (Tensor() as tensor, *_)):
                return tensor
            case "_rebuild_from_type_v2", (_Rebuild() as function, _, tuple(inner), _):
                return function(*inner)
            case "_rebuild_tensor_v3", (
                _Storage() as storage,
                offset,
                size,
                stride,
                _,
                _,
                _Dtype() as dtype,
                *metadata,
            ):
                name = dtype.name
            case (("_rebuild_tensor" | "_rebuild_tensor_v2"), (_Storage() as storage, offset, size, stride, *more)):
                name, metadata = storage.dtype, more[2:]
            case _:
                return Inert
        if any(metadata):  # a view that is negated or conjugated on reading
            return Inert
        return Tensor(self.file, storage.key, name, offset, size, stride)


class _File:
    """The bytes of a file, and the places of the storages in them."""

    def __init__(self, path: Path, data: bytes, order: str = "<"):
        self.path, self.data, self.order = path, data, order
        self.places: dict[
            str, tuple[int, int, int]
        ] = {}  # first byte, number of bytes and checksum (0: none) of each storage
        self.dtypes: dict[str, str] = {}
        self.sound: set[str] = set()
        self.classes: list[str] = []  # names of the objects that are not read
        self.copied = 0

    def storage(self, key: str) -> memoryview:
        if key not in self.places:
            raise Unusable(f"the storage {key!r:.50} of a tensor is not in the file")
        start, size, checksum = self.places[key]
        content = memoryview(self.data)[start : start + size]
        if len(content) != size or (checksum and key not in self.sound and zlib.crc32(content) != checksum):
            raise Unusable(f"the storage {key!r:.50} is cut off or damaged; download or copy the file again")
        self.sound.add(key)
        return content

    def read(self, key: str, dtype: str, offset: int, size: tuple, stride: tuple) -> np.ndarray:
        bytes_ = self.storage(key)
        code = np.dtype(DTYPES[dtype]).newbyteorder(self.order)
        numbers = np.frombuffer(bytes_[: len(bytes_) // code.itemsize * code.itemsize], code)
        if not (type(size) is type(stride) is tuple and len(size) == len(stride) <= MOST_AXES):
            raise Unusable(f"size and strides of a tensor: expected two tuples of the same length, {MOST_AXES} at most")
        if not all(
            type(n) is int for n in (offset, *size, *stride)
        ):  # not shown: nested lists have texts without bound
            raise Unusable("size, strides and offset of a tensor: expected integers, 0 or more")
        description = f"{str(size):.60} with strides {str(stride):.60} from {offset!r:.20}"
        if min((offset, *size, *stride)) < 0:
            raise Unusable(f"a tensor of size {description}: expected integers, 0 or more")
        if 0 in size:
            return np.zeros(size, code.newbyteorder("="))
        # Each axis alone first: the product of unbounded numbers would take long.
        last = offset + sum((n - 1) * s for n, s in zip(size, stride))
        if max(size, default=1) > len(numbers) or math.prod(size) > len(numbers) or last >= len(numbers):
            raise Unusable(f"a tensor of size {description} claims more than the {len(numbers)} numbers of its storage")
        self.copied += math.prod(size) * code.itemsize
        if self.copied > max(MOST_COPIES * len(self.data), FEW_BYTES):
            raise Unusable(f"its tensors share storages and claim more than {MOST_COPIES} times the file")
        strides = tuple(s * code.itemsize for s in stride)
        view = np.lib.stride_tricks.as_strided(numbers[offset:], size, strides, writeable=False)
        if dtype == "bfloat16":  # the upper half of a float32
            return (view.astype(np.uint32) << 16).view(np.float32)
        return view.astype(code.newbyteorder("="))  # a copy


class _Unpickler(pickle.Unpickler):
    """See the docstring of this module."""

    def __init__(self, stream: io.BytesIO, file: _File):
        super().__init__(stream, encoding="latin-1")  # Python 2's strings
        self.file = file

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return PlainDict
        if (module, name) in REBUILD:
            return _Rebuild(name, self.file)
        if module in ("torch", "torch.cuda", "torch.storage") and name in STORAGES:
            return _Dtype(STORAGES[name])
        if module == "torch" and name in DTYPES:
            return _Dtype(name)
        if len(self.file.classes) < MOST_CLASSES:
            self.file.classes.append(f"{module:.100}.{name:.100}")
        return Inert

    def persistent_load(self, pid: Any) -> Any:
        match pid:
            case ("storage", _Dtype() as dtype, str(key), _, _):
                view = None
            case ("storage", _Dtype() as dtype, str(key), _, _, view):
                pass
            case _:
                return Inert
        if view is not None:
            raise Unusable("a storage that is a part of another: load the file with PyTorch and save it again")
        if self.file.dtypes.setdefault(key, dtype.name) != dtype.name:
            raise Unusable(f"the storage {key!r:.50} has two types of numbers")
        return _Storage(key, dtype.name)


def load(path: str | Path) -> Any:
    """Reads a file of `torch.save`, with a `Tensor` for every tensor and `Inert` for every object that is not plain data.

    Args:
        path: the file, which is read completely.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is truncated, damaged, not from torch.save, or a TorchScript program; or it claims more than it holds.

    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile(suffix=".pth") as file:
    ...     _ = file.write(b"<!DOCTYPE html>") + (file.flush() or 0)
    ...     load(file.name)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: ...: not a file of torch.save but a web page (a download that asked for a login?)
    """
    return _read(Path(path))[0]


def classes(path: str | Path) -> list[str]:
    """Returns the classes of the objects that `load` replaces by `Inert`, in the order of the file; functions are included.

    Args:
        path: a file that `load` reads.

    >>> import pickle, tempfile
    >>> with tempfile.NamedTemporaryFile(suffix=".pth") as file:
    ...     for part in (MAGIC, 1001, {"little_endian": True}, {"when": Path("a")}, []):
    ...         pickle.dump(part, file, protocol=2)
    ...     file.flush()
    ...     classes(file.name)[0].endswith("Path")
    True
    """
    return list(dict.fromkeys(_read(Path(path))[1].classes))


def _read(path: Path) -> tuple[Any, _File]:
    file = _File(path, path.read_bytes())
    try:
        content = _load_zip(file) if file.data.startswith(b"PK\x03\x04") else _load_old(file)
    except Unusable as error:
        raise ValueError(f"{path}: {error}") from error
    except Exception as error:  # many exception types, depending on the damage
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        if isinstance(error, KeyError):  # its text is one number: the file is a text, or the like
            reason = f"it begins with {file.data[:16]!r}"
        raise ValueError(
            f"{path}: not a complete file of torch.save: truncated or damaged ({reason:.100}); download or copy it again"
        ) from error
    return content, file


def _load_zip(file: _File) -> Any:
    data = file.data
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {info.filename: info for info in archive.infolist()}
    roots = [name.removesuffix("data.pkl") for name in members if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(roots) != 1:
        names = ", ".join(sorted(members)[:5])
        raise Unusable(f"not a file of torch.save but a zip archive with {len(roots)} data.pkl (it holds {names:.200})")
    root = roots[0]
    if f"{root}constants.pkl" in members or any(name.startswith(f"{root}code/") for name in members):
        raise Unusable(
            "a TorchScript program, not a checkpoint: save its weights with PyTorch, "
            "torch.save(torch.jit.load(FILE).state_dict(), OUT)"
        )

    def place(info: zipfile.ZipInfo) -> tuple[int, int, int]:
        if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
            raise Unusable(
                f"{info.filename:.50} is compressed, which torch.save never does: unpack and pack it without compression"
            )
        header = data[info.header_offset : info.header_offset + 30]
        if not header.startswith(b"PK\x03\x04"):
            raise Unusable(
                f"{info.filename:.50} is not where the directory of the archive says; download or copy the file again"
            )
        names = sum(struct.unpack_from("<HH", header, 26))
        return info.header_offset + 30 + names, info.file_size, info.CRC

    parts = {name.removeprefix(root): place(info) for name, info in members.items() if name.startswith(root)}
    file.places = {name.removeprefix("data/"): spot for name, spot in parts.items() if name.startswith("data/")}
    file.places |= {part: parts[part] for part in ("data.pkl", "byteorder") if part in parts}
    order = bytes(file.storage("byteorder")) if "byteorder" in parts else b"little"
    if order not in (b"little", b"big"):
        raise Unusable(f"byteorder is {order!r:.30}: expected little or big")
    file.order = {b"little": "<", b"big": ">"}[order]
    return _unpickle(io.BytesIO(file.storage("data.pkl")), file)


def _load_old(file: _File) -> Any:
    data = file.data
    for start, kind in OTHER_FILES.items():
        if data.startswith(start):
            raise Unusable(f"not a file of torch.save but {kind}")
    if data[8:9] == b"{":
        raise Unusable("not a file of torch.save but of safetensors: name it .safetensors")
    if data[257:262] == b"ustar":
        raise Unusable("a tar archive, as PyTorch wrote before 0.2: load it with PyTorch and save it again")
    if not data:
        raise Unusable("not a complete file of torch.save: it is empty")
    stream = io.BytesIO(data)
    magic = _unpickle(stream, file)
    if type(magic) is not int or magic != MAGIC:
        raise Unusable("not a file of torch.save but a plain pickle")
    _unpickle(stream, file)  # the protocol
    system = _unpickle(stream, file)
    little = system.get("little_endian", True) if isinstance(system, dict) else True
    file.order = "<" if little else ">"
    content = _unpickle(stream, file)
    keys = _unpickle(stream, file)
    if not isinstance(keys, list) or not all(isinstance(key, str) and key in file.dtypes for key in keys):
        raise Unusable("its list of storages does not match those of its tensors; download or copy the file again")
    place = stream.tell()
    for key in keys:
        numel = int.from_bytes(data[place : place + 8], "little" if little else "big", signed=True)
        size = numel * np.dtype(DTYPES[file.dtypes[key]]).itemsize
        if numel < 0 or place + 8 + size > len(data):
            raise Unusable("not a complete file of torch.save: it ends within its tensors; download or copy it again")
        file.places[key] = place + 8, size, 0
        place += 8 + size
    return content


def _unpickle(stream: io.BytesIO, file: _File) -> Any:
    """Reads the next pickle of `stream`, and leaves the stream after it."""
    start = stream.tell()
    check_opcodes(stream)
    end = stream.tell()
    stream.seek(start)
    content = _Unpickler(stream, file).load()
    stream.seek(end)
    return content
