"""Folders in a bucket: copies with digests, growing files, the lock, checkpoints, faults and kills."""

import asyncio
import dataclasses
import json
import os
import subprocess
import sys
import threading
import time
import types
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from jaxpose import buckets, checkpoint, files
from jaxpose.buckets import store

pytestmark = pytest.mark.skipif(
    not (find_spec("gcsfs") and find_spec("gcp_storage_emulator")),
    reason='needs gcsfs and gcp-storage-emulator: pip install "jaxpose[test]"',
)
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def running_server():
    from tests import bucket_server

    with bucket_server.running() as server:
        yield server


@pytest.fixture
def server(running_server, monkeypatch):
    import gcsfs.retry

    async def no_pause(seconds):
        return None

    monkeypatch.setattr(store, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(gcsfs.retry, "asyncio", types.SimpleNamespace(**(vars(asyncio) | {"sleep": no_pause})))
    running_server.fault = lambda method, path: None
    running_server.storage.wipe(keep_buckets=True)
    return running_server


@pytest.mark.parametrize("name", ["../../.bashrc", "a/../../b", "/etc/cron.d/x"])
def test_no_object_is_copied_out_of_its_folder(tmp_path, monkeypatch, name):
    listing = {f"bucket/run/{name}": {"size": 1}, "bucket/run/log": {"size": 1}}
    bucket = types.SimpleNamespace(find=lambda path, detail: listing)
    monkeypatch.setattr(store, "filesystem", lambda url: (bucket, "bucket/run"))
    with pytest.raises(ValueError, match=r"gs://bucket/run holds the object .* outside of the folder"):
        buckets.fetch("gs://bucket/run", tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def tree(folder, **contents):
    for name, content in contents.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def contents(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*"))
            if p.is_file() and not p.name.startswith(".")}  # fmt: skip


def test_tensorflow_does_not_read_the_bucket_once_it_is_imported(server, monkeypatch):
    from etils import epath
    from etils.epath import backend, gpath

    monkeypatch.delenv("EPATH_USE_TF", raising=False)
    gpath._is_tf_installed.cache_clear()
    epath.Path("/").exists()  # as a data set of this machine is opened before the bucket
    assert buckets.place("gs://pod/a")._backend is backend.fsspec_backend


def test_json_and_lists_in_a_bucket(server):
    files.write_json("gs://pod/a/b.json", {"AP": 0.5})
    assert files.read_json(Path("gs://pod/a/b.json"), "value") == {"AP": 0.5}
    assert buckets.place(Path("gs://pod/a")).is_dir() and str(buckets.place("gs://pod/a")) == "gs://pod/a"
    (size, digest) = buckets.digests("gs://pod/a")["b.json"]
    assert size == 10 and len(digest) == 32
    with pytest.raises(FileNotFoundError, match="no value found: gs://pod/absent does not exist"):
        files.read_json("gs://pod/absent", "value")


def test_a_bucket_that_does_not_exist(server, tmp_path):
    uses = (
        lambda: buckets.digests("gs://absent/run"),
        lambda: files.write_json("gs://absent/run/a.json", 1),
        lambda: buckets.fetch("gs://absent/run", tmp_path / "run"),
        lambda: buckets.Mirror(tmp_path / "run", "gs://absent/run").__enter__(),
    )
    for use in uses:
        with pytest.raises(
            FileNotFoundError, match="there is no bucket gs://absent, or it is hidden from this account"
        ):
            use()


def test_an_account_that_may_not(server, monkeypatch):
    server.fault = lambda method, path: "401"
    with pytest.raises(PermissionError, match="gs://pod/run cannot be listed: .*: log in"):
        buckets.digests("gs://pod/run")
    with pytest.raises(PermissionError, match="gs://pod/run cannot be read: .*: log in"):
        checkpoint.find("gs://pod/run")


def test_a_bucket_that_does_not_answer_is_named_within_seconds(monkeypatch, caplog):
    monkeypatch.setattr(store, "SILENCE_S", 0.02)
    monkeypatch.setattr(store, "filesystem", lambda url: (types.SimpleNamespace(find=slowly), "bucket/run"))

    def slowly(path, detail):
        time.sleep(0.2)
        return {}

    assert buckets.digests("gs://bucket/run") == {}
    assert "gs://bucket/run: no answer for 0 s, still trying; if it does not come, check the network" in caplog.text
    assert caplog.text.count("still trying") == 1, "the next sentence comes after half a minute"


def test_a_folder_there_and_back(server, tmp_path):
    here = tree(tmp_path / "here", a=b"1" * 1000, b__c=b"two", b__d=b"")
    buckets.send(here, "gs://pod/set", progress=False)
    buckets.send(tree(tmp_path / "other", x=b"-"), "gs://pod/set_2", progress=False)
    back = buckets.fetch("gs://pod/set", tmp_path / "back", progress=False)
    assert contents(back) == contents(here)
    count = len(server.requests)
    buckets.fetch("gs://pod/set", back, progress=False)
    assert len(server.requests) == count + 1, "a listing: nothing is copied twice"
    (back / "b" / "c").write_bytes(b"cut")  # the size is right, and nobody would look
    (back / "a").write_bytes(b"half")
    buckets.fetch("gs://pod/set", back, progress=False)
    assert contents(back)["a"] == b"1" * 1000, "a file of another size is copied again"
    with pytest.raises(FileNotFoundError, match="gs://pod/se does not exist, or is empty"):
        buckets.fetch("gs://pod/se", tmp_path / "none", progress=False)


@pytest.mark.parametrize("kind", ["503", "slow", "cut", "lost"])
def test_faults_that_pass(server, tmp_path, kind):
    from tests import bucket_server

    here = tree(tmp_path / "here", **{f"shard{i}": bytes([i]) * 5000 for i in range(4)})
    server.fault = bucket_server.some(3, kind)
    buckets.send(here, "gs://pod/set", progress=False)
    assert contents(buckets.fetch("gs://pod/set", tmp_path / "back", progress=False)) == contents(here)


def test_a_bucket_that_does_not_answer_ends_in_a_sentence(server, tmp_path, monkeypatch):
    monkeypatch.setattr(store, "TRIES", 2)
    server.fault = lambda method, path: (
        "503" if method == "GET" and path.endswith("alt=media") or "/download/" in path else None
    )
    buckets.send(tree(tmp_path / "here", a=b"1", b=b"2"), "gs://pod/set", progress=False)
    with pytest.raises(OSError, match=r"gs://pod/set/[ab] cannot be read: .*tried 2 times"):
        buckets.fetch("gs://pod/set", tmp_path / "back", progress=False)
    assert contents(tmp_path / "back") == {}, "nothing half read"


def test_other_contents_than_the_digest_says(server, tmp_path, monkeypatch):
    buckets.send(tree(tmp_path / "here", a=b"right"), "gs://pod/set", progress=False)
    monkeypatch.setattr(store, "TRIES", 2)
    monkeypatch.setattr(store, "md5", lambda path: "0" * 32)
    with pytest.raises(OSError, match="arrived with other contents than its digest says"):
        buckets.fetch("gs://pod/set", tmp_path / "back", progress=False)
    assert not (tmp_path / "back" / "a").exists()


def test_a_log_grows_by_parts(server, tmp_path):
    url, log = "gs://pod/run", tmp_path / "1" / "log.jsonl"
    with buckets.Mirror(tmp_path / "1", url, leave=("checkpoints",), seconds=60) as mirror:
        tree(tmp_path / "1", log_jsonl=b"", checkpoints__1__x=b"left to orbax", results__a=b"{}")
        (tmp_path / "1" / "log_jsonl").unlink()
        for number in range(3):
            with log.open("a") as file:
                file.write(json.dumps({"event": "train", "step": number}) + "\n")
            mirror.push()
        with log.open("a") as file:
            file.write('{"half of a li')
        mirror.push()
        names = set(buckets.digests(url))
        assert names == {"results/a", *(f"log.jsonl.parts/{30 * i:012d}" for i in range(3))}
        # A host that takes over now has every whole line.
        with buckets.Mirror(tmp_path / "2", url, leave=("checkpoints",), seconds=60) as other:
            assert [e["step"] for e in files.read_events(other.folder / "log.jsonl")] == [0, 1, 2]
            assert str(buckets.origin(other.folder / "checkpoints" / "5")) == "gs://pod/run/checkpoints/5"
        assert set(buckets.digests(url)) == names, "who adds nothing joins nothing"
        log.write_text(log.read_text().rpartition("\n")[0] + "\n")
    assert set(buckets.digests(url)) == {"results/a", "log.jsonl"}
    assert [e["step"] for e in files.read_events("gs://pod/run/log.jsonl")] == [0, 1, 2]
    assert buckets.origin(tmp_path / "1") == tmp_path / "1"


def test_the_mirror_shows_what_the_bucket_has(server, tmp_path):
    files.write_json("gs://pod/run/config.json", {"a": 1})
    folder = tree(tmp_path / "run", config__old=b"of another run")
    tree(folder, **{"config.json": b'{"b":2}'})  # of the same size
    with buckets.Mirror(folder, "gs://pod/run", seconds=60):
        assert contents(folder) == {"config.json": b'{"a":1}'}


def test_one_run_per_folder(server, caplog):
    with buckets.only_one("gs://pod/run", lease_s=1.0):
        start = time.monotonic()
        with pytest.raises(ValueError, match=r"another run works in gs://pod/run \(process \d+ on "):
            with buckets.only_one("gs://pod/run", lease_s=1.0):
                pass
        assert time.monotonic() - start < 1.0, "the first renewal is sign enough"
        with buckets.only_one("gs://pod/run_2", lease_s=1.0):
            pass
    assert buckets.digests("gs://pod/run") == {}
    with buckets.only_one("gs://pod/run", lease_s=1.0):
        pass


def test_a_lock_whose_owner_is_dead(server):
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    here = {"process": int(dead.stdout), "host": os.uname().nodename, "id": "a"}
    files.write_json("gs://pod/run/lock", here)
    start = time.monotonic()
    with buckets.only_one("gs://pod/run", lease_s=20):
        assert time.monotonic() - start < 5, "at once, on the same machine"
    files.write_json("gs://pod/run/lock", here | {"host": "elsewhere"})
    with buckets.only_one("gs://pod/run", lease_s=0.4):
        assert time.monotonic() - start > 0.4, "after the lease, on another"
        assert files.read_json("gs://pod/run/lock", "lock")["process"] == os.getpid()


def test_two_that_start_at_once(server):
    files.write_json("gs://pod/run/lock", {"process": 1, "host": "elsewhere", "id": "a"})
    inside, most, errors = [], [], []

    def run():
        try:
            with buckets.only_one("gs://pod/run", lease_s=0.6):
                inside.append(1)
                most.append(len(inside))
                time.sleep(1.5)
                inside.pop()
        except ValueError as error:
            errors.append(error)

    threads = [threading.Thread(target=run) for _ in range(3)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert max(most) == 1 and len(most) + len(errors) == 3


def test_a_library_that_is_missing(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        ImportError, match=r'gs://bucket/run needs gcsfs, which is not installed: pip install "jaxpose\[gcs\]"'
    ):
        buckets.place("gs://bucket/run")
    with pytest.raises(ImportError, match="s3://bucket/run needs s3fs"):
        buckets.place(Path("s3://bucket/run"))


# A run without a net: a state that every step changes, a checkpoint and an event at each, in the bucket that the argument names.
RUN = """
import sys
from pathlib import Path
import jax, jax.numpy as jnp, optax
from jaxpose import buckets, checkpoint, parallel, train
from experiments.common.log import Log
url, here, steps = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])

class Walk:
    family, level, outputs, config = "walk", "person", ("y",), {"family": "walk"}
    def init(self, key):
        return {"params": {"w": jax.random.normal(key, (64,))}, "batch_stats": {}}
    def loss(self, variables, batch, *, key):
        return ((variables["params"]["w"] - batch["x"].mean()) ** 2).sum(), ({}, {})

mesh, tx = parallel.make_mesh(), optax.adam(0.1)
step = train.make_train_step(Walk(), tx, mesh=mesh)
with buckets.only_one(url), buckets.Mirror(here, url, leave=("checkpoints",), seconds=0.2):
    log = Log(here)
    with checkpoint.Checkpoints(here / "checkpoints", keep=2, best="AP") as checkpoints:
        state = train.init_state(Walk(), tx, jax.random.key(0), mesh=mesh)
        if checkpoints.latest() is not None:
            state = checkpoints.restore(train.abstract_state(Walk(), tx, mesh=mesh), {"task": Walk.config})
        for number in range(int(state.step), steps):
            state, metrics = step(state, parallel.global_batch({"x": jnp.full((2,), float(number))}, mesh))
            log.write("train", number + 1, loss=float(metrics["loss"]))
            checkpoints.save(state, {"task": Walk.config}, metrics={"AP": -1.0 / (number + 1)})
            print("step", number + 1, flush=True)
    log.close()
"""


def run(server, url, here, *, steps=5, kill_at=None):
    """Runs RUN in a process of its own, and kills it when the server has had `kill_at` more requests."""
    environment = os.environ | server.environment | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    process = subprocess.Popen([sys.executable, "-c", RUN, url, str(here), str(steps)], env=environment, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip
    writes = lambda: sum(method != "GET" for method, _ in server.requests)  # noqa: E731
    start = writes()
    while kill_at is not None and process.poll() is None and writes() - start < kill_at:
        time.sleep(0.002)
    if kill_at is not None:
        process.kill()
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def weights(url):
    from jaxpose import checkpoint

    return checkpoint.restore_model(url, step="latest")[0]["params"]["w"]


def test_three_kills_and_faults_leave_the_bits_of_a_run_on_disk(server, tmp_path, monkeypatch):
    from jaxpose import checkpoint
    from tests import bucket_server

    for kill_at in (9, 33, 50):  # in the first save, and in later ones
        code, out, err = run(server, "gs://pod/run", tmp_path / "here", kill_at=kill_at)
        assert code == -9, err[-2000:]
    server.fault = bucket_server.some(31, "503", "lost", "cut")
    code, out, err = run(server, "gs://pod/run", tmp_path / "elsewhere")
    assert code == 0, err[-3000:]
    server.fault = lambda method, path: None
    plain = tmp_path / "plain"
    in_bucket = 'with buckets.only_one(url), buckets.Mirror(here, url, leave=("checkpoints",), seconds=0.2):'
    assert in_bucket in RUN
    monkeypatch.setattr(sys, "argv", ["run", "-", str(plain), "5"])
    exec(RUN.replace(in_bucket, "if True:"), {"__name__": "plain"})
    np.testing.assert_array_equal(weights("gs://pod/run"), weights(plain))
    assert checkpoint.read_config("gs://pod/run", step="latest")["step"] == 5
    events = files.read_events("gs://pod/run/log.jsonl")
    assert [event["step"] for event in events] == [1, 2, 3, 4, 5]
    on_disk = files.read_events(plain / "log.jsonl")
    assert [event["loss"] for event in events] == [event["loss"] for event in on_disk]
    assert buckets.place("gs://pod/run/lock").exists() is False


def test_a_damaged_checkpoint_is_set_aside(server, tmp_path):
    from jaxpose import checkpoint

    for step in (1, 2):
        tree(tmp_path / str(step), model__w=b"weights", config__metadata=b"{}")
        buckets.send(tmp_path / str(step), f"gs://pod/run/checkpoints/{step}", progress=False)
        checkpoint.write_checksums(buckets.place(f"gs://pod/run/checkpoints/{step}"))
        buckets.place(f"gs://pod/run/checkpoints/{step}/{checkpoint.COMMITTED}").write_text("")
    tree(tmp_path / "3", model__w=b"half")
    buckets.send(tmp_path / "3", "gs://pod/run/checkpoints/3", progress=False)  # not committed
    folder = buckets.place("gs://pod/run/checkpoints")
    assert checkpoint._steps(folder) == [1, 2] and checkpoint.exists("gs://pod/run")
    assert checkpoint.damage(folder / "2") is None
    (folder / "2" / "model" / "w").write_bytes(b"other")
    assert checkpoint.damage(folder / "2") == "model/w is not what was written"
    checkpoint._set_damaged_aside(folder)
    assert checkpoint._steps(folder) == [1] and (folder / "2.damaged" / "model" / "w").read_bytes() == b"other"


def test_a_checkpoint_that_was_copied_home(server, tmp_path):
    from jaxpose import checkpoint

    remote = buckets.place("gs://pod/1")
    (remote / "model").mkdir(parents=True, exist_ok=True)
    (remote / "model" / "w").write_bytes(b"weights")
    checkpoint.write_checksums(remote)
    home = buckets.fetch("gs://pod/1", tmp_path / "1", progress=False)
    assert checkpoint.damage(home) is None
    (home / "model" / "w").write_bytes(b"weighty")
    assert checkpoint.damage(home) == "model/w is not what was written"
    (home / "model" / "w").write_bytes(b"weights")
    checkpoint.write_checksums(home)
    buckets.send(home, "gs://pod/2", progress=False)
    assert checkpoint.damage(buckets.place("gs://pod/2")) is None


TINY = ("--preset", "tiny", "--synthetic-images", "16", "--depth", "18", "--resnet-stages", "1", "--width", "4",
        "--size-wh", "24", "32", "--batch-size", "8", "--log-every", "1", "--likelihood.loss", "l1", "--ema", "None",
        "--no-flip-test", "--epochs", "1", "--no-plots", "--warmup-steps", "0")  # fmt: skip


def test_a_page_trains_into_a_bucket_and_reads_it(server, tmp_path, capsys, monkeypatch):
    from experiments import coco_rle
    from jaxpose import checkpoint, cli
    from jaxpose.view import compare

    monkeypatch.chdir(tmp_path)
    cache = ["--cache", str(tmp_path / "cache"), *TINY]
    scores = coco_rle.main(["--out", "gs://pod/run", "--data-dir", "gs://pod/data", *cache])
    plain = coco_rle.main(["--out", str(tmp_path / "run"), "--data-dir", str(tmp_path / "data"), *TINY])
    assert scores == plain
    variables, config = checkpoint.restore_model("gs://pod/run")
    on_disk, _ = checkpoint.restore_model(tmp_path / "run")
    assert str(variables) == str(on_disk) and config["run"]["out"] == "gs://pod/run"
    names = set(buckets.digests("gs://pod/run"))
    assert {"log.jsonl", "baselines.json"} <= names and any(name.startswith("results/step_") for name in names)
    assert not any(name == "lock" or ".parts/" in name for name in names)
    assert sum(name.endswith(f"/{buckets.CONTENTS}") for name in buckets.digests("gs://pod/data")) == 2, "train and val"

    # Another host: nothing is prepared or trained again, and the same flags have nothing left to do.
    other = ["--cache", str(tmp_path / "other"), *TINY]
    again = coco_rle.main(["--out", "gs://pod/run", "--data-dir", "gs://pod/data", *other])
    assert again["AP"] == scores["AP"]
    capsys.readouterr()
    evaluated = coco_rle.main(["--eval-only", "gs://pod/run", "--data-dir", "gs://pod/data", *other])
    line = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert evaluated["AP"] == scores["AP"] and line["results"].startswith("gs://pod/run/results/eval_")
    assert files.read_json(line["results"], "results")
    cli.main(["view", "compare", "gs://pod/run", "--figures", "sub_benchmarks", "--out", str(tmp_path / "compared")])
    assert (tmp_path / "compared" / "sub_benchmarks.png").is_file()
    with ExitStack() as stack:
        folder = compare._here(Path("gs://pod/run"), stack)
        assert str(checkpoint.restore_model(folder)[0]) == str(variables), "read where it is, in the bucket"
        newest = max((folder / "results").glob("*_report.json"), key=lambda path: path.stat().st_mtime)
    assert newest.name.startswith("eval_") and not (folder / "checkpoints").exists()
    picture = next(tmp_path.glob("data/synthetic_16_0/**/*.jpg"))
    buckets.put("gs://pod/photos/a.jpg", picture.read_bytes())
    cli.main(["predict", "gs://pod/run", "gs://pod/photos", "--out", str(tmp_path / "poses")])
    assert json.loads((tmp_path / "poses" / "results.json").read_text())


def test_runs_to_compare_that_are_in_no_bucket(server, tmp_path, monkeypatch):
    from jaxpose import cli

    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="gs://pod/nothing is not the folder of a run"):
        cli.main(["view", "compare", "gs://pod/nothing", "--figures", "sub_benchmarks"])
    with pytest.raises(SystemExit, match="gs:/pod/out is a URL, not a path"):
        cli.main(["view", "compare", "--figures", "bias", "--out", "gs://pod/out"])
    with pytest.raises(SystemExit, match="gs://pod/run is a URL, not a path"):
        cli.main(["view", "report", "gs://pod/run"])


def test_prepared_data_in_a_bucket(server, tmp_path, capsys, monkeypatch):
    from jaxpose import cli

    monkeypatch.chdir(tmp_path)
    cli.main(["synthetic", "people", "--train", "4", "--val", "2"])
    buckets.send(tmp_path / "people", "gs://pod/people", progress=False)
    capsys.readouterr()
    cli.main(["prepare", "gs://pod/people", "--data-dir", "gs://pod/data", "--split", "val", "--name", "set"])
    line = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert line["directory"].startswith("gs://pod/data/coco_keypoints/set-val-")
    assert {"persons.npy", "source.json", buckets.CONTENTS} <= set(buckets.digests(line["directory"]))
    from experiments import coco_rle
    from experiments.common import storage
    from jaxpose.data import builder

    settings = {"data": Path("set"), "data_dir": Path("gs://pod/data"), "cache": tmp_path / "cache"}
    with storage.on_this_host(dataclasses.replace(coco_rle.PRESETS["tiny"], **settings)) as config:
        source = builder.open(config.data_dir, "val", name="set")
        assert len(source.images) == 2 and source.directory.is_relative_to(tmp_path / "cache")


def test_a_path_of_this_machine_for_whatever_a_flag_names(server, tmp_path):
    buckets.send(tree(tmp_path / "there", a=b"1", b__c=b"2"), "gs://pod/there", progress=False)
    assert contents(buckets.here("gs://pod/there", tmp_path / "cache"))["b/c"] == b"2"
    file = buckets.here(Path("gs://pod/there/b/c"), tmp_path / "cache2")
    assert file.name == "c" and file.read_bytes() == b"2" and set(contents(file.parent)) == {"c"}
    assert buckets.here("runs/a", tmp_path) == Path("runs/a")
    with pytest.raises(FileNotFoundError, match="gs://pod/there/b"):
        buckets.here("gs://pod/there/b/absent.pth", tmp_path / "cache3")
