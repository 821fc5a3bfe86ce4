"""The one door to files: JSON in every encoding, errors that name the file, atomic writes, checksums."""

from __future__ import annotations

import codecs
import hashlib
import json
import os
import subprocess
import sys
import threading
import zlib
from pathlib import Path

import pytest

from jaxpose import files
from jaxpose.evaluation import average_precision, results

VALUE = {"names": ["Nase", "Ohr größer als 1 µm", "鼻"], "score": 0.5, "none": None}
ENCODINGS = {
    "utf-8": b"",
    "utf-8 with a byte order mark": codecs.BOM_UTF8,
    "utf-16-le": codecs.BOM_UTF16_LE,
    "utf-16-be": codecs.BOM_UTF16_BE,
    "utf-32-le": codecs.BOM_UTF32_LE,
}


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_json_is_read_in_every_encoding_of_unicode(encoding, tmp_path):
    path = tmp_path / "value.json"
    text = json.dumps(VALUE, ensure_ascii=False)
    path.write_bytes(ENCODINGS[encoding] + text.encode(encoding.split()[0]))
    assert files.read_json(path, "value") == VALUE
    assert files.read_json(str(path), "value") == VALUE


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_results_and_ground_truth_are_read_in_the_encodings_of_other_tools(encoding, tmp_path):
    """PowerShell writes UTF-16, and some editors put a byte order mark before UTF-8."""
    person = {"id": 1, "image_id": 7, "bbox": [0, 0, 50, 50], "area": 1500, "keypoints": [10, 20, 2]}
    truth = {"images": [{"id": 7, "file_name": "größe.jpg"}], "categories": [{"id": 1, "keypoints": ["nose"]}]}
    record = {"image_id": 7, "category_id": 1, "keypoints": [10.0, 20.0, 0.9], "score": 0.9}
    for name, content in (("truth", truth | {"annotations": [person]}), ("results", [record])):
        (tmp_path / f"{name}.json").write_bytes(json.dumps(content, ensure_ascii=False).encode(encoding))
    assert average_precision(tmp_path / "truth.json", tmp_path / "results.json", sigmas=[0.1])["AP"] > 0.999
    assert results.read(tmp_path / "results.json") == [record]


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", r"is empty, not a JSON file: expected a result file; is it complete\?"),
        (b" \n", "is empty"),
        (b"[1, 2", r"is not a JSON file: line 1, column 6 is not JSON \(.*\); is the result file complete\?"),
        (b'{"a":\n tru}', "line 2, column 2 is not JSON"),
        (b'["\xff"]', "byte 2 is not JSON in utf-8"),
        (b"\xff\xfe[", "is not JSON in utf-16"),
        (b"[" * 100_000, "nested too deeply"),
        (b"1" * 5000, "is not a JSON file: .*digits"),
        (b"PK\x03\x04\x00\x00", "is not a JSON file"),
    ],
)
def test_what_is_not_json_is_told_with_the_file(content, fault, tmp_path):
    path = tmp_path / "poses.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"poses\.json {fault}|poses\.json .*{fault}"):
        files.read_json(path, "result file")


def test_advice_takes_the_place_of_the_question(tmp_path):
    path = tmp_path / "report.json"
    for content in ("", "{"):
        path.write_text(content)
        with pytest.raises(ValueError, match=r"report\.json .*; remove it, or evaluate again$"):
            files.read_json(path, "report", advice="remove it, or evaluate again")


def test_an_absent_file_and_a_folder_are_told_apart(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no result file found: .*absent\.json does not exist; check the path"):
        files.read_json(tmp_path / "absent.json", "result file")
    (tmp_path / "file").write_text("1")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        files.read_json(tmp_path / "file" / "below.json", "result file")
    with pytest.raises(ValueError, match="is a folder, expected a result file"):
        files.read_json(tmp_path, "result file")


def test_readers_see_the_old_file_or_the_new_one(tmp_path):
    """A reader in a loop never meets half of the file, and nothing is left beside it."""
    path = tmp_path / "new" / "values.json"
    old, new = [0] * 50_000, [1] * 50_000
    files.write_json(path, old)
    seen, stop = [], threading.Event()

    def read():
        while not stop.is_set():
            seen.append(files.read_json(path, "list"))

    reader = threading.Thread(target=read)
    reader.start()
    for i in range(30):
        files.write_json(path, new if i % 2 == 0 else old)
    stop.set()
    reader.join()
    assert seen and all(value in (old, new) for value in seen)
    assert os.listdir(path.parent) == ["values.json"]


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "values.json"
    files.write_json(path, [1], indent=1)
    with pytest.raises(ValueError, match=r"values\.json cannot be written as JSON: .*not JSON compliant"):
        files.write_json(path, [float("nan")])
    files.write_json(tmp_path / "nan.json", [float("nan")], allow_nan=True)
    assert (tmp_path / "nan.json").read_text() == "[NaN]"
    write_bytes = Path.write_bytes

    def full(path, content):
        write_bytes(path, content[:1])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        files.write_json(path, [2])
    assert path.read_text() == "[\n 1\n]\n" and sorted(os.listdir(tmp_path)) == ["nan.json", "values.json"]


def test_events_are_ordered_and_a_repeated_step_counts_once(tmp_path):
    path = tmp_path / "log.jsonl"
    lines = [
        '{"event": "train", "step": 2, "loss": 3.0}',
        '{"event": "eval", "step": 2, "AP": 0.1}',
        '{"event": "train", "step": 4, "loss": 2.0}',
        '{"event": "train", "step": 2, "loss": 1.0}',  # after a resumption
        "[1]",
        '{"event": "train"}',
        '{"event": "train", "step": 6, "lo',  # the run was killed here
    ]
    path.write_text("\n".join(lines))
    assert [(e["event"], e["step"], e.get("loss")) for e in files.read_events(path)] == [
        ("train", 2, 1.0),
        ("eval", 2, None),
        ("train", 4, 2.0),
    ]


def test_checksums(tmp_path):
    content = bytes(range(256)) * 40_000  # more than one chunk
    path = tmp_path / "folder" / "b"
    files.write_whole(path, content)
    files.write_whole(tmp_path / "folder" / "a" / "c", b"")
    assert files.sha256(path) == hashlib.sha256(content).hexdigest()
    assert files.size_and_crc32(path) == [len(content), zlib.crc32(content)]
    before = files.sha256(tmp_path / "folder")
    path.rename(path.with_name("d"))
    assert files.sha256(tmp_path / "folder") != before, "names count"
    with pytest.raises(FileNotFoundError):
        files.sha256(tmp_path / "absent")


@pytest.mark.parametrize(
    "url", ["gs://bucket/x", "s3://b", "https://host/x", Path("gs://bucket/x"), Path("hdfs://h/x")]
)
def test_urls_are_refused(url):
    with pytest.raises(ValueError, match="is a URL, not a path: mount the bucket"):
        files.local(url)


def test_only_the_standard_library_is_loaded():
    code = "import sys, jaxpose.files; print([m for m in ('jax', 'numpy', 'etils', 'tensorflow') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "[]"
