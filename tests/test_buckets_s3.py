"""Folders in a bucket of S3, against a server of moto in this process: what gs:// is tested for, but for faults and kills."""

import threading
from importlib.util import find_spec

import pytest

from jaxpose import buckets, files
from jaxpose.buckets import store

pytestmark = pytest.mark.skipif(
    not (find_spec("s3fs") and find_spec("moto")), reason='needs s3fs and moto: pip install s3fs "moto[server]"'
)


@pytest.fixture(scope="module")
def endpoint():
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(port=0)
    server.start()
    yield f"http://127.0.0.1:{server._server.server_port}"
    server.stop()


@pytest.fixture
def bucket(endpoint, monkeypatch):
    import s3fs

    for name, value in {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_DEFAULT_REGION": "us-east-1",
                        "AWS_ENDPOINT_URL": endpoint, "AWS_EC2_METADATA_DISABLED": "true"}.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(store, "FIRST_PAUSE_S", 0.01)
    s3fs.S3FileSystem.clear_instance_cache()
    fs = s3fs.S3FileSystem()
    if not fs.exists("pod"):
        fs.mkdir("pod")
    yield "s3://pod"
    fs.rm("pod", recursive=True)
    s3fs.S3FileSystem.clear_instance_cache()


def test_a_folder_there_and_back(bucket, tmp_path):
    here = tmp_path / "here"
    for name, content in {"a": b"1" * 1000, "b/c": b"two", "b/d": b""}.items():
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).write_bytes(content)
    buckets.send(here, f"{bucket}/set", progress=False)
    back = buckets.fetch(f"{bucket}/set", tmp_path / "back", progress=False)
    assert {p.relative_to(back).as_posix() for p in back.rglob("*") if p.is_file() and not p.name.startswith(".")} == {
        "a",
        "b/c",
        "b/d",
    }
    assert (back / "a").read_bytes() == b"1" * 1000
    size, digest = buckets.digests(f"{bucket}/set")["a"]
    assert size == 1000 and len(digest) == 32, "the digest is an MD5, which copies are checked by"


def test_json_and_a_log_that_grows(bucket, tmp_path):
    files.write_json(f"{bucket}/a/b.json", {"AP": 0.5})
    assert files.read_json(f"{bucket}/a/b.json", "value") == {"AP": 0.5}
    with buckets.Mirror(tmp_path / "run", f"{bucket}/run", seconds=60) as mirror:
        with (tmp_path / "run" / "log.jsonl").open("a") as log:
            log.write('{"step": 1}\n')
        mirror.push()
        assert any(".parts/" in name for name in buckets.digests(f"{bucket}/run"))
    assert set(buckets.digests(f"{bucket}/run")) == {"log.jsonl"}


def test_one_run_per_folder(bucket, monkeypatch):
    with buckets.only_one(f"{bucket}/run", lease_s=0.4):
        held = threading.Event()

        def other():
            try:
                with buckets.only_one(f"{bucket}/run", lease_s=0.4):
                    pass
            except ValueError as error:
                assert "another run works in" in str(error)
                held.set()

        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        assert held.is_set()
    assert "lock" not in buckets.digests(f"{bucket}/run")
