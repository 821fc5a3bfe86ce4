"""Files of torch.save, read without it: equal to torch.load, and nothing that a file names is ever run."""

from __future__ import annotations

import contextlib
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from jaxpose import weights
from jaxpose.pickles import PlainDict
from jaxpose.weights import torch_file
from jaxpose.weights.torch_file import Inert

FORMATS = pytest.mark.parametrize("new", [True, False], ids=["zip", "old"])


def save(torch, content, path, *, new=True, **options):
    torch.save(content, path, _use_new_zipfile_serialization=new, **options)
    return path


def write(path, pickled: bytes, storages: dict[str, bytes] | None = None):
    """A zip archive with this pickle, as torch.save lays it out."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        for key, data in (storages or {}).items():
            archive.writestr(f"archive/data/{key}", data)
    return path


def body(content) -> bytes:
    """The opcodes that push plain data."""
    return pickle.dumps(content, 2)[2:-1]


def name(module: str, attribute: str) -> bytes:
    """The opcode that pushes what a module calls so."""
    return f"c{module}\n{attribute}\n".encode()


def tensor(size, stride, *, offset=0, kind="FloatStorage", key="0", rebuild="_rebuild_tensor_v2") -> bytes:
    """The opcodes that push a tensor, as torch.save writes them."""
    storage = b"(" + body("storage") + name("torch", kind) + body(key) + body("cpu") + body(6) + b"tQ"
    return name("torch._utils", rebuild) + b"(" + storage + body(offset) + body(size) + body(stride) + b"\x89}tR"


def state_dict(**values: bytes) -> bytes:
    """A pickle of {name: what the opcodes push}."""
    items = b"".join(body(key) + value for key, value in values.items())
    return b"\x80\x02}(" + items + b"u."


def tensors(torch):
    base = torch.arange(24.0).reshape(4, 6)
    every = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16,
             torch.int8, torch.uint8, torch.bool, torch.complex64, torch.complex128]  # fmt: skip
    return {
        **{str(dtype): (torch.arange(6) - 2).abs().to(dtype).reshape(2, 3) for dtype in every},
        "turned": base.T, "part": base[1:3, 2:5], "every other": base.flatten()[3::2], "tied": base,
        "empty": torch.zeros(0, 3), "number": torch.tensor(7), "parameter": torch.nn.Parameter(base * 2),
        "channels last": torch.arange(48.0).reshape(2, 4, 2, 3).to(memory_format=torch.channels_last),
    }  # fmt: skip


@FORMATS
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_kind_of_tensor_is_that_of_torch_load(tmp_path, new, protocol):
    torch = pytest.importorskip("torch")
    state = tensors(torch)
    state["parameter"].note = "parameters have attributes in some code bases"
    path = save(torch, state, tmp_path / "net.pth", new=new, pickle_protocol=protocol)
    found, expected = torch_file.load(path), torch.load(path, weights_only=False)
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        wide = tensor.detach().float() if tensor.dtype == torch.bfloat16 else tensor.detach()
        array = found[name].array()
        assert array.dtype == wide.numpy().dtype and array.flags.writeable
        np.testing.assert_array_equal(array, wide.numpy(), err_msg=name)


@pytest.mark.parametrize("dtype", ["uint16", "uint32", "uint64"])
def test_dtypes_without_a_storage_of_their_own(tmp_path, dtype):
    torch = pytest.importorskip("torch")
    path = save(torch, {"a": torch.arange(5).to(getattr(torch, dtype))[1:]}, tmp_path / "net.pth")
    array = torch_file.load(path)["a"].array()
    assert array.dtype == dtype and array.tolist() == [1, 2, 3, 4]


def test_numbers_that_numpy_lacks_and_views_that_are_computed_stay_inert(tmp_path):
    torch = pytest.importorskip("torch")
    state = {
        "float8": torch.ones(3).to(torch.float8_e4m3fn),
        "conjugated": torch.ones(3, dtype=torch.complex64).conj(),
        "sparse": torch.eye(3).to_sparse(),
        "kept": torch.ones(2),
    }
    found = torch_file.load(save(torch, state, tmp_path / "net.pth"))
    assert [found[name] is Inert for name in state] == [True, True, True, False]
    with pytest.raises(ValueError, match=r"net\.pth: not arrays of numbers: conjugated, float8, sparse"):
        weights.load_file(tmp_path / "net.pth")


# Hostile and other objects


class Reduced:
    """Pickled as a call."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


class Stateful:
    """A class with state, items and keys of its own, which the reader does not know."""

    def __init__(self, **state):
        self.__dict__.update(state)


class Words(list):
    pass


class Table(dict):
    pass


def hostile(marker) -> dict:
    """Ways to run code when it is unpickled; each would make `marker`."""
    touch = f"open({str(marker)!r}, 'w')"
    return {
        "system": Reduced(os.system, f"touch {marker}"),
        "eval": Reduced(eval, touch),
        "exec": Reduced(exec, touch),
        "open": Reduced(open, str(marker), "w"),
        "mkdir": Reduced(os.mkdir, str(marker)),
        "nested": Reduced(getattr, Reduced(__import__, "os"), "system"),
        "subprocess": Reduced(subprocess.Popen, ["touch", str(marker)]),
    }


@pytest.mark.parametrize("way", list(hostile("x")))
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_no_call_of_a_file_is_made(tmp_path, way, protocol):
    marker = tmp_path / "made"
    content = {"state_dict": {"a": 1.5}, "evil": [hostile(marker)[way], {"deep": hostile(marker)[way]}]}
    path = write(tmp_path / "net.pth", pickle.dumps(content, protocol))
    found = torch_file.load(path)
    assert found == {"state_dict": {"a": 1.5}, "evil": [Inert, {"deep": Inert}]}
    assert weights.load_file(path)["a"] == 1.5
    assert not marker.exists()
    if way != "nested":  # the test can fail: pickle itself does call
        with contextlib.suppress(FileExistsError):  # the second one, of mkdir
            pickle.loads(pickle.dumps(content, protocol))
        deadline = 100
        while not marker.exists() and (deadline := deadline - 1):
            subprocess.run(["sleep", "0.02"])
        assert marker.exists()


@FORMATS
def test_a_hostile_file_of_torch_save_is_read_without_running_it(tmp_path, new):
    torch = pytest.importorskip("torch")
    marker = tmp_path / "made"
    content = {"state_dict": {"a": torch.ones(2)}, "evil": hostile(marker)["open"]}
    path = save(torch, content, tmp_path / "net.pth", new=new)
    np.testing.assert_array_equal(weights.load_file(path)["a"], [1, 1])
    assert not marker.exists()
    torch.load(path, weights_only=False)
    assert marker.exists()
    save(torch, {"a": torch.ones(2), "evil": hostile(marker)["open"]}, path, new=new)
    with pytest.raises(ValueError, match=r"net\.pth: not arrays of numbers: evil"):
        weights.load_file(path)


@pytest.mark.parametrize(
    "opcodes",
    [
        b"(ios\nsystem\n",  # INST
        b"(" + name("os", "system") + b"o",  # OBJ
        name("os", "system") + b"(" + body("true") + b"tR",
        name("os", "system") + b")\x81",  # NEWOBJ
        name("os", "system") + b")}\x92",  # NEWOBJ_EX
        body("os") + body("system") + b"\x93)R",  # STACK_GLOBAL
        name("os", "system") + b")R}b",  # BUILD on what was called
        name("os", "system") + b"}" + body("x") + body(1) + b"sb",  # and on the name itself
        name("os", "system") + b"(" + body(1) + body(2) + b"e",  # APPENDS
        name("os", "system") + b"(" + body(1) + body(2) + b"u",  # SETITEMS
        name("os", "system") + b")R)R)R",  # calling what a call gave
        name("os", "system") + b")R)\x81",  # a class out of a call: nested classes of old protocols
    ],
)
def test_whatever_is_done_with_an_unknown_name_gives_something_inert(tmp_path, opcodes):
    pickled = state_dict(odd=opcodes, kept=body(3))
    assert torch_file.load(write(tmp_path / "net.pth", pickled)) == {"odd": Inert, "kept": 3}


def test_unknown_objects_are_keys_and_parts_of_sets(tmp_path):
    inert = name("os", "system")
    pickled = b"\x80\x04}(" + inert + body(1) + body("set") + b"\x8f(" + inert + b"\x90u."
    assert torch_file.load(write(tmp_path / "net.pth", pickled)) == {Inert: 1, "set": {Inert}}


def test_a_pickle_cannot_change_the_reader(tmp_path):
    """BUILD sets attributes of what has no __setstate__: everything that the reader hands out has one."""
    known = [("collections", "OrderedDict"), ("torch", "FloatStorage"), ("torch", "float32"),
             ("torch._utils", "_rebuild_tensor_v2"), ("os", "system")]  # fmt: skip
    attributes = body({"__doc__": "changed"})
    before = {kind: dict(vars(kind)) for kind in (PlainDict, torch_file.Inert, torch_file._Rebuild)}
    for module, attribute in known:
        for state in (attributes, b"N" + attributes + b"\x86"):  # the second by setattr
            path = write(tmp_path / "net.pth", b"\x80\x02" + name(module, attribute) + state + b"b.")
            torch_file.load(path)
    path = write(tmp_path / "net.pth", state_dict(a=tensor((2,), (1,)) + attributes + b"b"), {"0": bytes(24)})
    assert torch_file.load(path)["a"].array().tolist() == [0, 0]
    assert before == {kind: dict(vars(kind)) for kind in before}


def test_the_registry_of_extensions_is_no_way_round(tmp_path, monkeypatch):
    import copyreg

    monkeypatch.setitem(copyreg._extension_cache, 7, os.getcwd)
    pickled = b"\x80\x02\x82\x07)R."
    assert pickle.loads(pickled) == os.getcwd(), "the test can fail"
    with pytest.raises(ValueError, match=r"net\.pth: its pickle asks for an extension .*EXT1"):
        torch_file.load(write(tmp_path / "net.pth", pickled))


GONE = """
class HistoryBuffer:
    def __init__(self):
        self._log_history, self._statistics_methods = np.arange(3.0), {"mean": max}
class Config(dict):
    pass
class Hub:
    class Inner:
        pass
"""


@FORMATS
@pytest.mark.parametrize("protocol", [2, 4])
def test_a_training_checkpoint_whose_classes_are_gone(tmp_path, new, protocol, monkeypatch):
    """As mmengine writes them: a message hub, a config, an optimiser beside the tensors."""
    torch = pytest.importorskip("torch")
    import types

    module = types.ModuleType("engine_that_is_gone")
    module.np = np
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(GONE, vars(module))
    gone = vars(module)
    inner = gone["Hub"].Inner()
    inner.value = {1, 2}
    content = {
        "meta": {"cfg": gone["Config"](a=1), "dataset_meta": {"sigmas": np.array([0.1]), "name": "coco"},
                 "epoch": 210, "scalar": np.float64(0.5), "path": Path("x"), gone["Hub"]: 1},
        "message_hub": {"log_scalars": {"loss": gone["HistoryBuffer"]()}, "inner": [inner, (inner, frozenset({1}))]},
        "state_dict": {"module.backbone.a": torch.ones(2, 3), "module.b": torch.tensor(2)},
        "optimizer": torch.optim.Adam([torch.nn.Parameter(torch.ones(2))]).state_dict(),
    }  # fmt: skip
    path = save(torch, content, tmp_path / "epoch_210.pth", new=new, pickle_protocol=protocol)
    monkeypatch.delitem(sys.modules, module.__name__)
    found = torch_file.load(path)
    assert found["meta"]["epoch"] == 210 and found["meta"]["cfg"] is Inert and found["meta"][Inert] == 1
    assert found["message_hub"]["log_scalars"]["loss"] is Inert
    state = weights.load_file(path)
    assert state.keys() == {"backbone.a", "b"} and state["b"] == 2


# What claims more than there is


@pytest.mark.parametrize(
    ("size", "stride", "offset", "message"),
    [
        ((7,), (1,), 0, r"size \(7,\) with strides \(1,\) from 0 claims more than the 6 numbers"),
        ((2, 3), (3, 1), 1, "claims more"),
        ((2, 3), (4, 1), 0, "claims more"),
        ((1000, 1000), (0, 0), 0, "claims more"),
        ((2**62, 2**62), (0, 0), 0, "claims more"),
        ((1,), (1,), 6, "claims more"),
        ((), (), 2**70, "claims more"),
        ((2,), (-1,), 5, "expected integers, 0 or more"),
        ((2,), (1,), -1, "expected integers, 0 or more"),
        ((2.0,), (1,), 0, "expected integers, 0 or more"),
        ((2,), (1, 1), 0, "expected two tuples of the same length"),
        ([2], [1], 0, "expected two tuples of the same length"),
        ((1,) * 65, (1,) * 65, 0, "64 at most"),
        ((0, 2**62, 2**62), (1, 1, 1), 0, "a tensor that cannot be an array"),
    ],
)
def test_a_tensor_cannot_claim_more_than_its_storage(tmp_path, size, stride, offset, message):
    pickled = state_dict(a=tensor(size, stride, offset=offset))
    path = write(tmp_path / "net.pth", pickled, {"0": bytes(24)})
    with pytest.raises(ValueError, match=rf"net\.pth: .*{message}"):
        torch_file.load(path)["a"].array()


def test_a_storage_in_many_tensors_fills_no_memory(tmp_path):
    many = {f"t{i}": tensor((250,), (1,)) for i in range(300)}
    path = write(tmp_path / "net.pth", state_dict(**many), {"0": bytes(1000)})
    assert len(weights.load_file(path)) == 300
    many = {f"t{i}": tensor((250_000,), (1,)) for i in range(30)}
    path = write(tmp_path / "net.pth", state_dict(**many), {"0": bytes(1_000_000)})
    with pytest.raises(
        ValueError, match=r"^[^:]*net\.pth: its tensors share storages and claim more than 8 times the file"
    ):
        weights.load_file(path)


@pytest.mark.parametrize(
    ("pickled", "message"),
    [
        (b"\x80\x02]r\xff\xff\xff\x7f.", "stores its object 2 at place 2147483647"),
        (b"]p999999999\n.", "stores its object 1 at place 999999999"),
        (b"\x80\x02}" + b")" + b"\x85" * 200_000 + b"Ns.", "a tuple of more than 10000 parts"),  # hashed by recursion
        (b"\x80\x02}" + b")q\x01" + b"h\x01\x86q\x01h\x01" * 60 + b"Ns.", "a tuple of more than 10000 parts"),
        (b"\x80\x04}(" + b"N" * 10_000 + b"\x91Ns.", "a frozenset of more than 10000 parts"),
        (b"\x80\x04}" + b"(" * 5000 + b"\x91" * 5000 + b"Ns.", "its keys are tuples, sets or large integers of"),
        (
            pickle.dumps({i * (2**61 - 1): 0 for i in range(1, 5100)}, 2),
            "its keys are tuples, sets or large integers of",
        ),
        (pickle.dumps({i * (2**61 - 1) for i in range(1, 5100)}, 4), "its keys are tuples, sets or large integers of"),
        (pickle.dumps({"a": {(i, i) for i in range(4000)}}, 4), "its keys are tuples, sets or large integers of"),
        (b"\x80\x04\x8e" + (2**50).to_bytes(8, "little") + b"x", "not a complete file"),
        (b"\x80\x05\x96" + (2**62).to_bytes(8, "little") + b"x", "not a complete file"),
        (b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999, "not a complete file"),  # no end
        (b"\x80\x05\x97.", "not a complete file"),  # a buffer out of band
    ],
)
def test_counts_and_depths_without_bound_are_refused(tmp_path, pickled, message):
    with pytest.raises(ValueError, match=rf"net\.pth: .*{message}"):
        torch_file.load(write(tmp_path / "net.pth", pickled))


def test_deep_lists_and_a_dict_in_itself_are_read(tmp_path):
    deep = b"\x80\x02}(" + body("x") + b"]" * 50_000 + b"a" * 49_999 + b"u."
    assert list(torch_file.load(write(tmp_path / "net.pth", deep))) == ["x"]
    itself = b"\x80\x02}q\x00" + body("state_dict").replace(b"q\x00", b"") + b"h\x00s."
    with pytest.raises(ValueError, match="not arrays of numbers: state_dict"):
        weights.load_file(write(tmp_path / "net.pth", itself))


def doubled(depth: int) -> list:
    """Some hundred bytes as a pickle; as text or as an array 2^depth times as much."""
    nested = [1]
    for _ in range(depth):
        nested = [nested, nested]
    return nested


def test_what_doubles_at_every_level_is_never_walked_through(tmp_path):
    path, nested, storage = tmp_path / "net.pth", doubled(60), {"0": bytes(24)}
    with pytest.raises(ValueError, match=r"net\.pth: not arrays of numbers: a;"):
        weights.load_file(write(path, pickle.dumps({"a": nested}, 2)))
    assert torch_file.load(path)["a"][0][0]
    for claim in (
        tensor(nested, (1,)),
        tensor((nested,), (1,)),
        tensor((1,), nested),
        tensor((1,), (1,), offset=nested),
    ):
        with pytest.raises(ValueError, match=r"net\.pth: size.* of a tensor: expected"):
            weights.load_file(write(path, state_dict(a=claim), storage))
    name = frozenset([1])
    for _ in range(4):
        name = frozenset([frozenset([name, 2]), frozenset([name, 3])])
    for key, kind in ((name, "frozenset"), (2**70, "int"), ((1, 2), "tuple")):
        with pytest.raises(ValueError, match=rf"net\.pth: state_dict has keys that are {kind}: expected"):
            weights.load_file(write(path, pickle.dumps({"state_dict": {key: 1.0}}, 4)))


def test_python_2s_ordered_dicts_have_strings_for_keys(tmp_path):
    pairs = [["a", 1.5], [2**61 - 1, 0], [(1, 2), 0]]
    pickled = b"\x80\x02" + name("collections", "OrderedDict") + body(pairs) + b"\x85R."
    assert torch_file.load(write(tmp_path / "net.pth", pickled)) == {"a": 1.5}


# Damage, and other files


def a_file(torch, path, *, new):
    content = {"state_dict": {"a": torch.arange(40.0), "b": torch.ones(3, 2)}, "meta": {"x": Stateful(y=Words("z"))}}
    return save(torch, content, path, new=new)


@FORMATS
def test_a_file_that_is_cut_off_is_named(tmp_path, new):
    torch = pytest.importorskip("torch")
    data = a_file(torch, tmp_path / "net.pth", new=new).read_bytes()
    path = tmp_path / "cut.pth"
    for length in [*range(0, 64), *range(64, len(data), 23), len(data) - 1]:
        path.write_bytes(data[:length])
        with pytest.raises(ValueError, match=r"cut\.pth: not a complete file of torch\.save.*"):
            torch_file.load(path)


@FORMATS
def test_whatever_byte_is_flipped_only_a_value_error_comes_out(tmp_path, new):
    torch = pytest.importorskip("torch")
    data = bytearray(a_file(torch, tmp_path / "net.pth", new=new).read_bytes())
    intact = {name: value.tobytes() for name, value in weights.load_file(tmp_path / "net.pth").items()}
    path, rng, damaged = tmp_path / "flipped.pth", np.random.default_rng(0), 0
    spots = [*range(len(data) - 500, len(data)), *rng.integers(0, len(data), 300)]  # all of the zip directory
    for spot in spots:
        changed = bytearray(data)
        changed[spot] ^= 1 << rng.integers(8)
        if rng.random() < 0.2:
            changed[rng.integers(len(data))] = rng.integers(256)
        path.write_bytes(changed)
        try:
            found = {name: value.tobytes() for name, value in weights.load_file(path).items()}
        except ValueError as error:
            assert str(path) in str(error) and "\n" not in str(error)
            damaged += 1
        else:
            assert not new or found == intact, "a checksum lies over every tensor"
    assert damaged > 100


def test_checksums_that_were_not_computed_are_not_checked(tmp_path):
    torch = pytest.importorskip("torch")
    torch.serialization.set_crc32_options(False)
    try:
        path = a_file(torch, tmp_path / "net.pth", new=True)
    finally:
        torch.serialization.set_crc32_options(True)
    assert weights.load_file(path)["a"].tolist() == list(range(40))


def test_a_compressed_archive_is_refused(tmp_path):
    """Members that unpack to more than the file: none is unpacked."""
    path = tmp_path / "net.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", state_dict(a=tensor((2_500_000,), (1,))))
        archive.writestr("archive/data/0", bytes(10_000_000))
    with pytest.raises(ValueError, match=r"net\.pth: archive/data.pkl is compressed, which torch\.save never does"):
        torch_file.load(path)


def test_a_missing_storage_and_two_types_of_one_are_named(tmp_path):
    path = write(tmp_path / "net.pth", state_dict(a=tensor((2,), (1,), key="9")), {"0": bytes(24)})
    with pytest.raises(ValueError, match=r"net\.pth: the storage '9' of a tensor is not in the file"):
        torch_file.load(path)["a"].array()
    both = state_dict(a=tensor((2,), (1,)), b=tensor((2,), (1,), kind="LongStorage"))
    with pytest.raises(ValueError, match="the storage '0' has two types of numbers"):
        torch_file.load(write(tmp_path / "net.pth", both, {"0": bytes(24)}))


def test_bytes_of_the_other_order(tmp_path):
    path = tmp_path / "net.pth"
    numbers = {"0": np.arange(6, dtype=">f4").tobytes(), "1": np.array([0x3FC0], ">u2").tobytes()}
    half = tensor((1,), (1,), kind="BFloat16Storage", key="1")
    write(path, state_dict(a=tensor((2, 3), (3, 1)), b=half), numbers)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("archive/byteorder", "big")
    found = weights.load_file(path)
    assert found["a"].tolist() == [[0, 1, 2], [3, 4, 5]] and found["b"].tolist() == [1.5]
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("archive/byteorder", "middle")
    with pytest.raises(ValueError, match="byteorder is b'middle': expected little or big"):
        torch_file.load(path)


@pytest.mark.parametrize(
    ("start", "message"),
    [
        (b"<!DOCTYPE html><html>", "not a file of torch.save but a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS"),
        (b"\x1f\x8b\x08", "a gzip archive: unpack it first"),
        (b"\x40\0\0\0\0\0\0\0{", "of safetensors: name it .safetensors"),
        (pickle.dumps({"a": 1}), "but a plain pickle"),
        (bytes(257) + b"ustar", "a tar archive, as PyTorch wrote before 0.2"),
        (b"", "it is empty"),
        (b"words", "not a complete file"),
        (b"hello", "not a complete file.*it begins with b'hello'"),
    ],
)
def test_other_files_are_called_by_name(tmp_path, start, message):
    (tmp_path / "net.pth").write_bytes(start)
    with pytest.raises(ValueError, match=rf"net\.pth: .*{message}") as stop:
        torch_file.load(tmp_path / "net.pth")
    assert "\n" not in str(stop.value)


def test_other_archives_are_called_by_name(tmp_path):
    path = tmp_path / "net.pth"
    np.savez(tmp_path / "net", a=np.ones(2))
    (tmp_path / "net.npz").rename(path)
    with pytest.raises(ValueError, match=r"a zip archive with 0 data\.pkl .it holds a\.npy"):
        torch_file.load(path)
    write(path, state_dict())
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("archive/constants.pkl", b"")
    with pytest.raises(ValueError, match="a TorchScript program, not a checkpoint: save its weights"):
        torch_file.load(path)


def test_reading_needs_no_torch(tmp_path):
    path = write(tmp_path / "net.pth", state_dict(a=tensor((2, 3), (1, 2))), {"0": np.arange(6, dtype="<f4").tobytes()})
    code = "import sys; sys.modules['torch'] = None; from jaxpose.weights.torch_file import load\n"
    code += f"print(load({str(path)!r})['a'].array().tolist())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert done.stdout.strip() == "[[0.0, 2.0, 4.0], [1.0, 3.0, 5.0]]", done.stderr
