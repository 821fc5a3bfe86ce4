"""Pickles of plain containers and arrays: equal to pickle.load, and nothing that a file names is ever run."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections import OrderedDict, defaultdict

import numpy as np
import pytest

from jaxpose import pickles

CONTENT = {
    "S1": {"Walking 1": np.arange(12, dtype=np.float32).reshape(2, 2, 3), "list": [np.zeros(0), np.array(3)]},
    ("S1", "54138969"): {"R": np.eye(3), "w": 1000, "f": np.float64(1145.0), "name": np.str_("cam")},
    "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "big": np.arange(3, dtype=">i2"),
    "text": np.array(["a", "bcd"]),
    "mask": np.array([True, False]),
    "objects": np.array([np.arange(2), None, {"a": np.ones(1)}], dtype=object),
    "ordered": OrderedDict([("b", 1), ("a", (2, np.ones(1)))]),
    "default": defaultdict(list, {"x": [1]}),
    "bytes": b"\x00\xff",
    3: None,
}


def same(a, b):
    if isinstance(b, np.ndarray):
        assert isinstance(a, np.ndarray) and a.dtype == b.dtype and a.shape == b.shape
        [same(x, y) for x, y in zip(a.ravel(), b.ravel())] if b.dtype.hasobject else np.testing.assert_array_equal(a, b)
    elif isinstance(b, dict):
        assert a.keys() == b.keys()
        [same(a[k], b[k]) for k in b]
    elif isinstance(b, (list, tuple)):
        assert type(a) is type(b) and len(a) == len(b)
        [same(x, y) for x, y in zip(a, b)]
    else:
        assert a == b and type(a) is type(b)


@pytest.mark.parametrize("protocol", [0, 2, 3, 4, 5])
def test_equal_to_pickle_load(tmp_path, protocol):
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps(CONTENT, protocol))
    same(pickles.load(path), CONTENT)


def test_object_arrays_in_npz_and_npy(tmp_path):
    positions = {"S1": {"Walking 1": [np.zeros((3, 17, 2), np.float32)] * 4}}
    ragged = np.empty(2, object)
    ragged[:] = [np.zeros(2), np.zeros(3)]
    np.savez_compressed(tmp_path / "a.npz", positions_2d=positions, n=np.arange(3), ragged=ragged)
    content = pickles.load_npz(tmp_path / "a.npz")
    same(content["positions_2d"], positions)
    same(content["n"], np.arange(3))
    same(content["ragged"], ragged)
    np.save(tmp_path / "a.npy", positions, allow_pickle=True)
    same(pickles.load_npy(tmp_path / "a.npy"), positions)


def test_pickles_of_python_2_and_old_numpy():
    """Protocol 2 with strings for bytes, and numpy.core's former name."""
    state = (
        b"(K\x01K\x02\x85cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    )
    data = (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        + state
        + b"\x89U\x08\x00\x00\x80?\x00\x00\x00@tb."
    )
    same(pickles.loads(data), np.array([1, 2], np.float32))


class Program:
    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 5])
@pytest.mark.parametrize(
    "function", [os.mkdir, exec, np.load, np.fromfile, np.array, np.ndarray, np.random.default_rng, getattr]
)
def test_nothing_is_run(tmp_path, function, protocol):
    target = tmp_path / "made"
    np.savez(tmp_path / "evil.npz", a=np.array({"a": [Program(function, str(target))]}, dtype=object))
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps({"a": Program(function, str(target))}, protocol))
    for read, name in ((pickles.load, "evil.pkl"), (pickles.load_npz, "evil.npz")):
        with pytest.raises(ValueError, match=rf"{name}.*: (it holds an object of|a call of)"):
            read(tmp_path / name)
    assert not target.exists()


def array_state(shape, dtype, content):
    """A pickle of an array that claims this shape."""

    class Claim:
        def __reduce__(self):
            return (
                np._core.multiarray._reconstruct,
                (np.ndarray, (0,), b"b"),
                (1, shape, np.dtype(dtype), False, content),
            )

    return pickle.dumps(Claim(), 4)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (array_state((2**40,), "f4", bytes(8)), "without as many bytes"),
        (array_state((2,), "O", [1]), "without as many objects"),
        (array_state([2], "f4", bytes(8)), "none that NumPy writes"),
        (array_state((-1,), "f4", bytes(4)), "integers, 0 or more"),
        (array_state((1,), [("x", "f4")], bytes(4)), "expected plain numbers"),
        (pickle.dumps({(1, (2, 3)): 0}), "keys"),
        (b"\x80\x04}" + b")" + b"\x85" * 200_000 + b"Ns.", "a tuple of more than"),
        (pickle.dumps(np.zeros(3))[:-9], "not a complete pickle"),
        (b"", "not a complete pickle"),
        (b"<!DOCTYPE html>", "not a complete pickle"),
        (b"\x80\x04" + b"]" * 1000 + b"a" * 999 + b".", "nested more than"),
        (b"\x80\x02\x82\x07)R.", "extension"),
    ],
)
def test_claims_and_damage_are_refused_by_name(tmp_path, data, message):
    path = tmp_path / "a.pkl"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=rf"a\.pkl: .*{message}"):
        pickles.load(path)


def test_shared_and_recursive_containers_are_visited_once():
    nested = [np.zeros(1)]
    for _ in range(60):
        nested = [nested, nested]
    content = pickles.loads(pickle.dumps(nested))
    assert content[0] is content[1]
    own = []
    own.append(own)
    again = pickles.loads(pickle.dumps(own))
    assert again[0] is again


def test_every_flipped_byte_gives_data_or_a_value_error():
    data = pickle.dumps(CONTENT, 4)
    rng = np.random.default_rng(0)
    for place in rng.integers(0, len(data), 400):
        flipped = bytearray(data)
        flipped[place] ^= int(rng.integers(1, 256))
        try:
            pickles.loads(bytes(flipped))
        except ValueError as error:
            assert str(error).startswith("the pickle: ")


def test_an_archive_may_not_inflate_without_bound(tmp_path, monkeypatch):
    monkeypatch.setattr(pickles, "FEW_BYTES", 10_000)
    path = tmp_path / "bomb.npz"
    np.savez_compressed(path, a=np.zeros(1_000_000), b=np.zeros(3))
    with pytest.raises(ValueError, match=r"bomb\.npz: a\.npy: the archive inflates to more than 100 times"):
        pickles.load_npz(path)
    monkeypatch.setattr(pickles, "MOST_INFLATED", 3)
    np.savez_compressed(path, **{f"a{i}": np.zeros(250) for i in range(30)})  # members count together
    with pytest.raises(ValueError, match=r"a\d+\.npy: the archive inflates to more than 3 times"):
        pickles.load_npz(path)
    np.savez(path, a=np.zeros(10_000))  # without compression any size is what the file has
    assert pickles.load_npz(path)["a"].shape == (10_000,)


def test_members_that_zip_cannot_read_are_named(tmp_path):
    path, whole = tmp_path / "a.npz", tmp_path / "whole.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("a.npy", bytes(100))
    with pytest.raises(ValueError, match=r"a\.npz: a\.npy: .*numpy\.savez does not use"):
        pickles.load_npz(path)
    np.savez_compressed(whole, a=np.arange(1000))
    data = bytearray(whole.read_bytes())
    for place in range(60, 500, 40):
        data[place] ^= 0xFF
    path.write_bytes(bytes(data))
    with pytest.raises(ValueError, match=r"a\.npz: not a file of numpy\.savez"):
        pickles.load_npz(path)


def test_a_npy_file_that_claims_more_than_it_has(tmp_path):
    path = tmp_path / "a.npy"
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": (2**40,)})
        file.write(bytes(8))
    with pytest.raises(ValueError, match=r"a\.npy: .*claims the shape"):
        pickles.load_npy(path)


def test_what_is_no_npz(tmp_path):
    path = tmp_path / "a.npz"
    path.write_bytes(b"PK\x03\x04 cut")
    with pytest.raises(ValueError, match=r"a\.npz: not a file of numpy\.savez"):
        pickles.load_npz(path)
    with pytest.raises(FileNotFoundError):
        pickles.load_npz(tmp_path / "none.npz")
