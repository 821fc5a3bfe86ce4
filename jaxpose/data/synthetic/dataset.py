"""Pictures and annotations in COCO's layout, written by several processes and renamed into place at the end."""

from __future__ import annotations

import contextlib
import fcntl
import glob
import json
import logging
import multiprocessing.connection
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm import tqdm

from jaxpose.data.synthetic.scene import PersonSizes, check, render
from jaxpose.files import read_json
from jaxpose.skeleton import COCO17, H36M18, Skeleton

VERSION = 5
MARKER = "synthetic.json"
HELD_OUT = 1 << 31  # `val` begins at this index, so that its pictures do not depend on the number in `train`
JPEG_QUALITY = 90
logger = logging.getLogger(__name__)


def _write_image(
    task: tuple[str, int], *, folder: Path, seed: int, size_wh: tuple[int, int], space: bool = False,
    label_noise: float = 1.0, person_sizes: PersonSizes | None = None,
) -> tuple[dict, list[dict]]:  # fmt: skip
    """Render and store one picture; returns its COCO image entry and annotations."""
    split, number = task
    is_held_out = split == "val"
    options = {"space": True} if space else {}
    options |= {"label_noise": label_noise} if label_noise != 1 and not is_held_out else {}
    options |= {"person_sizes": person_sizes} if person_sizes is not None else {}
    pixels, people = render(seed, number + (HELD_OUT if is_held_out else 0), size_wh=size_wh, **options)
    name = f"{number + 1:012d}.jpg"
    Image.fromarray(pixels).save(folder / split / name, quality=JPEG_QUALITY)
    image = {"id": number + 1, "file_name": name, "width": size_wh[0], "height": size_wh[1]}
    return image, [{"image_id": number + 1, "category_id": 1, **person} for person in people]


def _category(skeleton: Skeleton) -> dict:
    category = skeleton.to_coco_category(name="person")
    return {"id": category["id"], "name": category["name"], "supercategory": "person"} | category


def _available_cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _render_all(folder: Path, *, train: int, val: int, workers: int, progress: bool, **drawing: Any) -> list:
    work = partial(_write_image, folder=folder, **drawing)
    return run_all(work, train=train, val=val, workers=workers, content="people", progress=progress)


def run_all(
    work: Callable[[tuple[str, int]], Any], *, train: int, val: int, workers: int, content: str, progress: bool
) -> list:
    """Returns the results of `work` for the pictures ("train", 0), ..., ("val", 0), ..., in this order, made by processes.

    Args:
        work: Function of (split, number); it is pickled, with its arguments, if there are several processes.
        train, val: The numbers of pictures.
        workers: The number of processes.
        content: The name of the content of the pictures, for the progress bar.
        progress: Show a progress bar.
    """
    tasks = [("train", i) for i in range(train)] + [("val", i) for i in range(val)]
    bar = partial(tqdm, total=len(tasks), desc=f"synthetic {content}", unit="image", disable=not progress)
    if workers <= 1:
        return list(bar(map(work, tasks)))
    # "spawn" is safe with JAX's and TensorFlow's threads in this process. The results keep the order of the tasks.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_end_with_parent) as pool:
        return list(bar(pool.map(work, tasks, chunksize=8)))


def _end_with_parent() -> None:
    """Ends a worker when its parent is gone: a killed parent cannot end its workers, which would wait for ever."""
    parent = multiprocessing.parent_process().sentinel

    def watch() -> None:
        multiprocessing.connection.wait([parent])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextlib.contextmanager
def workplace(out: Path) -> Iterator[Path]:
    """Makes a folder beside `out` to write into, locked while this process lives. Removes those of dead writers."""
    with contextlib.ExitStack() as stack:
        with _lock(out.parent, wait=True):  # no other process makes or removes a folder meanwhile
            for left in out.parent.glob(f".{glob.escape(out.name)}.*.partial"):
                # A folder that is completed meanwhile has been renamed.
                with contextlib.suppress(FileNotFoundError), _lock(left, wait=False) as held:
                    if held:
                        shutil.rmtree(left, ignore_errors=True)
            folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".partial", dir=out.parent))
            stack.enter_context(_lock(folder, wait=True))
        yield folder


@contextlib.contextmanager
def _lock(folder: Path, *, wait: bool) -> Iterator[bool]:
    """Yields whether the folder could be locked. The lock ends with the process, however that ends."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        held = True
    except OSError:  # another process holds it, or a network file system has no locks
        held = False
    try:
        yield held
    finally:
        os.close(handle)


def _write_annotations(path: Path, results: list, skeleton: Skeleton) -> None:
    annotations = [person for _, people in results for person in people]
    for number, annotation in enumerate(annotations):
        annotation["id"] = number + 1
    content = {
        "info": {"description": "jaxpose synthetic people", "version": str(VERSION)},
        "licenses": [],
        "images": [image for image, _ in results],
        "annotations": annotations,
        "categories": [_category(skeleton)],
        **({"keypoints_3d_unit": "mm"} if skeleton is H36M18 else {}),
    }
    path.write_text(json.dumps(content))


def _warn_of_nobody(results: list, out: Path, parameters: dict) -> None:
    """Warns if there is not one labelled joint."""
    if not any(person["num_keypoints"] for _, people in results for person in people):
        width, height = parameters["size_wh"]
        logger.warning(
            f"{out}: no joint is labelled in {len(results)} pictures of {width}x{height} pixels: of each person less than 250 square "
            f"pixels are visible (person_sizes={parameters.get('person_sizes')}): ask for larger persons, or for more pictures"
        )


def is_complete(out: Path, parameters: dict) -> bool:
    """Tells whether `out` already holds this data set; raises an error if it holds something else."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    marker = out / MARKER
    if not marker.is_file():
        raise ValueError(
            f"{out} exists and is not a synthetic data set (no {MARKER}): name another folder or remove this one"
        )
    existing = read_json(marker, "description of a synthetic data set", advice="name another folder or remove this one")
    if existing != parameters:
        raise ValueError(
            f"{out} holds another synthetic data set ({existing}, wanted {parameters}): "
            "name another folder or remove this one"
        )
    return True


def write_dataset(
    out_dir: str | os.PathLike,
    *,
    train: int = 1600,
    val: int = 400,
    seed: int = 0,
    size_wh: tuple[int, int] = (320, 256),
    space: bool = False,
    label_noise: float = 1.0,
    person_sizes: PersonSizes | None = None,
    workers: int | None = None,
    progress: bool = True,
) -> Path:
    """Writes a COCO folder of synthetic people, or reuses an existing one.

    The folder holds `annotations/person_keypoints_{train,val}.json`, `{train,val}/000000000001.jpg` and so on, and
    `synthetic.json` (the parameters). It is prepared beside its place and renamed when it is complete, so that the
    remains of an interrupted run are never read; the next run removes them.

    An annotation has COCO's keys: `area` is the visible silhouette in pixels, `bbox` surrounds the silhouette and the
    labelled joints, `keypoints` contain the label noise (see `noise`) and the visibility 0 outside the picture, 1
    occluded, 2 visible. Three more hold the truth for all joints: `keypoints_clean` (17 x 2, pixels), `keypoints_3d`
    (17 x 3, millimetres, camera coordinates) and `camera` (focal length and principal point x, y, pixels). As in COCO,
    a person who is very small or almost hidden has a box with `num_keypoints` 0.

    Args:
        out_dir: The folder to create.
        train, val: The numbers of pictures.
        seed: The seed of the data set; pixels and labels depend on it alone, whatever the number of workers.
        size_wh: The width and height of the pictures in pixels.
        space: Label the true positions of Human3.6M's 18 joints (`jaxpose.skeleton.H36M18`), with `keypoints_3d` and `camera`,
            and the kind of pose as `action`, for the format "coco_3d", in place of COCO's 17 with noise.
        label_noise: The factor on the errors of the labels of `train`. Those of `val` keep the density of `noise`, so that a
            score on them measures the net and not the labels. The pictures, the boxes and the true joints are the same.
        person_sizes: The least and the largest height of a standing person as fractions of the picture's height, in both splits
            (`render`). A person of whom less than 40 square pixels are visible has no annotation, one of less than 250 no
            labelled joints. None: the usual sizes.
        workers: The number of processes; None for one per available CPU. With more than one, a script that calls this
            needs the usual `if __name__ == "__main__":` guard.
        progress: Show a progress bar.

    Returns:
        The folder.

    Raises:
        ValueError: The folder holds something else, a number is out of range, or `space` is combined with `label_noise`.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as place:
    ...     folder = write_dataset(place, train=1, val=1, size_wh=(64, 48), workers=1, progress=False)
    ...     sorted(path.name for path in folder.iterdir())
    ['annotations', 'synthetic.json', 'train', 'val']
    """
    out = Path(out_dir).absolute()
    if train < 0 or val < 0 or train + val < 1:
        raise ValueError(f"train and val must not be negative and one of them positive, got {train} and {val}")
    if max(train, val) >= HELD_OUT:
        raise ValueError(f"at most {HELD_OUT - 1} pictures per split, got train={train} and val={val}")
    if workers is not None and workers < 1:
        raise ValueError(f"workers must be at least 1 (or None for one per CPU), got {workers}")
    check(seed=seed, index=0, size_wh=size_wh, label_noise=label_noise, person_sizes=person_sizes)
    if space and label_noise != 1:
        raise ValueError(
            f"label_noise={label_noise} has no effect with space: the labels in space are the true positions"
        )
    parameters = dict(version=VERSION, train=train, val=val, seed=seed, size_wh=list(size_wh))
    parameters |= {"space": True} if space else {}
    parameters |= {"label_noise": label_noise} if label_noise != 1 else {}
    parameters |= {"person_sizes": [float(size) for size in person_sizes]} if person_sizes is not None else {}
    if is_complete(out, parameters):
        return out

    out.parent.mkdir(parents=True, exist_ok=True)
    with workplace(out) as folder:
        return _write(folder, out, parameters, workers=workers, progress=progress)


def _write(folder: Path, out: Path, parameters: dict, *, workers: int | None, progress: bool) -> Path:
    """Writes into `folder`, which is then renamed to `out`."""
    train, val, seed, size_wh = (parameters[name] for name in ("train", "val", "seed", "size_wh"))
    space = parameters.get("space", False)
    skeleton = H36M18 if space else COCO17
    try:
        for name in ("annotations", "train", "val"):
            (folder / name).mkdir()
        processes = min(workers or _available_cpus(), -(-(train + val) // 8))
        results = _render_all(
            folder,
            train=train,
            val=val,
            seed=seed,
            size_wh=tuple(size_wh),
            space=space,
            label_noise=parameters.get("label_noise", 1.0),
            person_sizes=parameters.get("person_sizes"),
            workers=processes,
            progress=progress,
        )
        _write_annotations(folder / "annotations" / "person_keypoints_train.json", results[:train], skeleton)
        _write_annotations(folder / "annotations" / "person_keypoints_val.json", results[train:], skeleton)
        _warn_of_nobody(results, out, parameters)
        (folder / MARKER).write_text(json.dumps(parameters))
        folder.chmod(0o755)  # mkdtemp's folders are private
        folder.rename(out)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        # Another process may have completed the same data set meanwhile: the renaming failed, and its folder is used.
        if (out / MARKER).is_file() and is_complete(out, parameters):
            return out
        raise
    return out
