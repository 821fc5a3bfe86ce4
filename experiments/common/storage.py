"""Runs whose folders are in buckets: what a host copies, and what stays where it is.

    --out gs://bucket/run        checkpoints are written there by orbax, everything else into a folder of --cache that `buckets.Mirror`
                                 copies; the folder is locked against a second run
    --data gs://bucket/COCO      copied into --cache by every host, once
    --data-dir gs://bucket/data  prepared data sets are copied into --cache by every host, once; a new one is prepared by process 0
                                 and sent there
    --init gs://bucket/run       read where it is; a file is copied

The rest of the experiments sees folders of this machine.
"""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeVar

import jax

from experiments.common.config import RunConfig
from jaxpose import buckets, parallel

log = logging.getLogger(__name__)
ConfigT = TypeVar("ConfigT", bound=RunConfig)
CHECKPOINTS = "checkpoints"  # in the folder of a run; orbax writes them into the bucket itself


@contextmanager
def on_this_host(config: ConfigT) -> Iterator[ConfigT]:
    """Replaces the URLs of a run by folders of this machine for as long as it lasts.

    Args:
        config: the settings.

    Yields:
        The settings with local folders, whose checkpoints `jaxpose.checkpoint` finds in the bucket.

    Raises:
        FileNotFoundError: a folder is not in its bucket.
        ImportError: the library for a bucket is missing.
        ValueError: another run trains into --out.
        OSError: a bucket does not answer.
    """
    with ExitStack() as stack:
        changes = {}
        if (source := getattr(config, "init", None)) is not None and buckets.is_url(source):
            changes["init"] = initial(source, config.cache)
        if config.eval_only is not None and buckets.is_url(config.eval_only):
            changes["eval_only"] = buckets.place(config.eval_only)
        if config.data is not None and buckets.is_url(config.data):
            changes["data"] = buckets.here(config.data, config.cache)
            stack.enter_context(buckets.mirrored(changes["data"], buckets.url_of(config.data)))
        if buckets.is_url(config.data_dir):
            folder = buckets.local_copy(config.data_dir, config.cache)
            stack.enter_context(buckets.mirrored(folder, buckets.url_of(config.data_dir)))
            changes["data_dir"] = folder
        if buckets.is_url(config.out):
            changes["out"] = stack.enter_context(_run_folder(config))
        here = dataclasses.replace(config, **changes)
        pull(here)
        yield here
    if "out" in changes:
        log.info("the run is in %s", buckets.url_of(config.out))


@contextmanager
def _run_folder(config: RunConfig) -> Iterator[Path]:
    """Returns the folder of this machine that stands for --out; process 0 copies it."""
    url, folder = buckets.url_of(config.out), buckets.local_copy(config.out, config.cache)
    mirror = buckets.Mirror(folder, url, leave=(CHECKPOINTS,), writes=jax.process_index() == 0)
    with ExitStack() as stack:

        def first() -> None:
            if config.eval_only is None:
                stack.enter_context(buckets.only_one(url, what="another run"))
            stack.enter_context(mirror)

        parallel.on_first(first)
        if jax.process_index() != 0:
            stack.enter_context(mirror)
        yield folder


def initial(url: str | Path, cache: Path) -> Path:
    """Returns what --init names: the folder of a run where it is, or a copy of a file of weights."""
    place = buckets.place(url)
    return place if place.is_dir() else buckets.here(url, cache)


def pull(config: RunConfig) -> None:
    """Copies the complete prepared data sets that a run may read from the bucket of --data-dir to this machine."""
    url = buckets.url_of(buckets.origin(config.data_dir))
    if url is None:
        return
    complete = [name.rpartition("/")[0] for name in buckets.digests(url) if name.endswith(f"/{buckets.CONTENTS}")]
    name = None if config.data is None else re.sub(r"[^A-Za-z0-9_.]+", "_", Path(config.data).name).strip("._")
    for folder in complete:  # coco_keypoints/NAME-SPLIT-HASH/VERSION
        if name is None or folder.split("/")[1].startswith(name):
            buckets.fetch(f"{url}/{folder}", config.data_dir / folder)


def share(config: RunConfig) -> None:
    """Copies data sets that were prepared here into the bucket of --data-dir; those that it holds are left alone."""
    url = buckets.url_of(buckets.origin(config.data_dir))
    if url is None:
        return
    complete = {name.rpartition("/")[0] for name in buckets.digests(url) if name.endswith(f"/{buckets.CONTENTS}")}
    for facts in sorted(config.data_dir.glob("*/*/*/source.json")):
        folder = facts.parent.relative_to(config.data_dir).as_posix()
        if folder not in complete and not facts.parent.name.startswith("incomplete"):
            buckets.send(facts.parent, f"{url}/{folder}")
