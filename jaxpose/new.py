"""From a labelled set to a trained model in one command: `jaxpose new NAME --data PATH`, or `--labels PROJECT`.

A set without splits is split, by video if the file names tell videos apart, otherwise by picture. Preparation, training
(`python -m experiments.coco_rle --preset auto`), evaluation and the page are those of the experiments, so this command
needs a checkout of the repository; the last lines that it prints say how to go on.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro

from jaxpose import files
from jaxpose.data import labels as tools
from jaxpose.data.formats import coco, layout
from jaxpose.evaluation.baselines import BASELINES, WHOLE_IMAGE

TRAINER = "experiments.coco_rle"


def main(
    name: tyro.conf.Positional[str],
    *,
    data: Path | None = None,
    labels: Path | None = None,
    labels_format: tools.Choice = "auto",
    names: tuple[str, ...] | None = None,
    corner: bool = False,
    box: Literal["joints", "picture"] = "joints",
    category: int | str | None = None,
    minutes: float = 10.0,
    val_share: float = 0.2,
    out: Path | None = None,
    seed: int = 0,
) -> None:
    """Train, evaluate and describe a first model of a labelled set.

    Args:
        name: Name of the run.
        data: A folder with annotations/{train,val}.json and the pictures; or one COCO-format JSON, or a folder that
            holds one, which is then split.
        labels: A project of a labelling tool in place of data: DeepLabCut, Lightning Pose, SLEAP (.slp), YOLO pose,
            Label Studio's export, CVAT's XML, labelme, COCO. If its tool does not split it, it is split.
        labels_format: The tool; auto: the one that the content shows.
        names: Names of the joints in order, if the project does not list them, or to change their order.
        corner: The tool counts pixels from the corner of the first pixel, not its centre: subtract half a pixel.
        box: Box of a person without one: the extent of the joints and a margin, or the whole picture, if it holds one person and is
            to be predicted without a detector.
        category: Name or id, if a set has several kinds of person or animal.
        minutes: Time budget in minutes for the whole run on this machine: compilation, training, evaluations and the report.
        val_share: The fraction of the pictures to hold out, if the set is not split yet.
        out: Folder of the run; none: runs/NAME.
        seed: Seed of the split and the training.
    """
    if not minutes > 0 or not 0 < val_share < 1:
        raise ValueError(
            f"--minutes {minutes} --val-share {val_share}: expected a positive number, and a part between 0 and 1"
        )
    if (data is None) == (labels is None):
        raise ValueError(
            "give the labelled set: --data, a folder or a COCO-format JSON, or --labels, a labelling tool's project"
        )
    if labels is None:
        tools.check_alone(names=names, corner=corner, labels_format=labels_format, box=box)
    if find_spec("experiments") is None and not Path("experiments/coco_rle.py").exists():
        raise ValueError(
            "jaxpose new trains with the pages of the repository (experiments/), which the installed package does not hold: "
            "run it in a checkout"
        )
    out = Path("runs") / name if out is None else out
    if labels is not None:
        options = tools.Options(names, category=category, box=box)
        converted = tools.convert(labels, out / "labels", format=labels_format, options=options, corner=corner)
        print(converted, flush=True)
        data = converted.folder if converted.is_split else converted.to_split
    folder, message = with_splits(data, out / "data", share=val_share, seed=seed)
    print(message, flush=True)
    command = [sys.executable, "-m", TRAINER, "--preset", "auto", "--data", str(folder), "--out", str(out)]
    command += [] if category is None else ["--category", str(category)]
    code = subprocess.run([*command, "--minutes", f"{minutes:g}", "--seed", str(seed)]).returncode
    if code:
        raise SystemExit(code)
    print(next_steps(out, folder))


def next_steps(out: Path, folder: Path) -> str:
    """Returns three commands to go on with; prediction needs boxes unless those of the training span the pictures."""
    path = out / BASELINES
    share = files.read_json(path, "baselines of the run")["box_share"] if path.is_file() else 0.0
    boxes = "" if share >= WHOLE_IMAGE else " --boxes BOXES.json"
    return "\n".join(
        [
            f"the evaluation as a page: {out / 'report.html'}. To go on:",
            f"  jaxpose predict {out} PICTURES/{boxes} --region 0.9                 # poses of new pictures",
            f"  jaxpose suggest {out} UNLABELLED/ --count 20                        # what to label next",
            f"  python -m {TRAINER} --data {folder} --init {out} --out {out}_2   # train on, after labelling more",
        ]
    )


def with_splits(data: Path, place: Path, *, share: float, seed: int) -> tuple[Path, str]:
    """Returns a folder with the splits train and val of a labelled set, and a sentence that says how they were made.

    Args:
        data: A split folder, which is returned unchanged; a COCO-format JSON; or a folder with one in it.
        place: The folder to write if a split has to be made.
        share: The fraction of the pictures to hold out.
        seed: The seed of the draw.

    Raises:
        FileNotFoundError: There are no annotations, or no pictures for them.
        ValueError: There are several JSON files, or fewer than two labelled pictures.
    """
    if data.is_dir() and _has_splits(data):
        return (
            data,
            f"{data} is split already: {_count(data, 'train')} pictures to train on, {_count(data, 'val')} held out",
        )
    annotations = _only_json(data)
    content = files.read_json(annotations, "annotation file (--data)")
    if not isinstance(content, dict) or not all(isinstance(content.get(k), list) for k in ("images", "annotations")):
        raise ValueError(
            f"{annotations} is not a COCO-format annotation file: expected the lists 'images' and 'annotations'"
        )
    labelled = {a.get("image_id") for a in content["annotations"] if isinstance(a, Mapping)}
    names = [str(i.get("file_name")) for i in content["images"] if isinstance(i, Mapping) and i.get("id") in labelled]
    if len(names) < 2:
        raise ValueError(
            f"{annotations} has {len(names)} labelled pictures: at least one to train on and one to hold out"
        )
    pictures = layout.pictures_of(annotations, names)
    held_out, how = choose_held_out(names, share=share, seed=seed)
    for split in ("train", "val"):
        entries = [i for i in content["images"] if (str(i.get("file_name")) in held_out) == (split == "val")]
        ids = {i.get("id") for i in entries}
        part = content | {
            "images": entries,
            "annotations": [a for a in content["annotations"] if a.get("image_id") in ids],
        }
        path = place / "annotations" / f"{split}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_json(path, part)
        tools.link(place / split, pictures)
    return place, f"{len(names) - len(held_out)} pictures to train on, {len(held_out)} held out {how}"


def choose_held_out(names: Sequence[str], *, share: float, seed: int) -> tuple[set[str], str]:
    """Selects file names to hold out, and says by what: whole videos if the names tell three or more apart, else pictures.

    Videos that would hold out more than 1.5 times the share are skipped; if all of them would, the shortest is held out.

    >>> frames = [f"clip{v}_frame{i:03d}.jpg" for v in range(4) for i in range(10)]
    >>> held_out, how = choose_held_out(frames, share=0.25, seed=0)
    >>> len(held_out), len({name[:5] for name in held_out}), how
    (10, 1, 'by video (4 are told apart by the names)')
    """
    videos = video_of(names)
    kinds = sorted(set(videos.values()))
    sizes = Counter(videos.values())
    rng = np.random.default_rng(seed)
    wanted = max(round(share * len(names)), 1)
    if not 3 <= len(kinds) <= len(names) / 2:
        order = rng.permutation(sorted(names))
        return set(order[:wanted].tolist()), "by picture (no videos are told apart by the names)"
    held_out: set[str] = set()
    for kind in rng.permutation(kinds):
        members = {name for name, video in videos.items() if video == kind}
        if len(held_out) + len(members) > 1.5 * wanted:
            continue
        held_out |= members
        if len(held_out) >= wanted:
            break
    if not held_out:
        shortest = min(kinds, key=sizes.__getitem__)
        held_out = {name for name, video in videos.items() if video == shortest}
    return held_out, f"by video ({len(kinds)} are told apart by the names)"


def video_of(names: Sequence[str]) -> dict[str, str]:
    """Returns the video of each picture, by its name: the folder, and the file name without its frame number.

    >>> video_of(["a/img001.png", "a/img002.png", "b/img001.png"])
    {'a/img001.png': 'a/', 'a/img002.png': 'a/', 'b/img001.png': 'b/'}
    >>> video_of(["session1_cam2_frame00017.jpg"])
    {'session1_cam2_frame00017.jpg': 'session1_cam2'}
    """
    videos = {}
    for name in names:
        folder, _, file = name.rpartition("/")
        stem = file.rsplit(".", 1)[0]
        bare = re.sub(r"[-_ .]*(frame|img|image|im|f)?[-_ .]*[0-9]+$", "", stem, flags=re.IGNORECASE)
        videos[name] = f"{folder}/{bare}" if folder else bare
    return videos


def _has_splits(folder: Path) -> bool:
    try:
        for split in ("train", "val"):
            coco.find(folder, split)
    except FileNotFoundError:
        return False
    return True


def _count(folder: Path, split: str) -> int:
    content: Any = files.read_json(coco.find(folder, split)[0], f"annotation file of the split {split!r}")
    return len(content.get("images", [])) if isinstance(content, dict) else 0


def _only_json(data: Path) -> Path:
    if data.is_file():
        return data
    if not data.is_dir():
        raise FileNotFoundError(f"--data {data} does not exist: give a folder or a COCO-format JSON")
    candidates = sorted(data.glob("*.json")) + sorted(data.glob("annotations/*.json"))
    if not candidates:
        raise FileNotFoundError(
            f"--data {data} holds no JSON: expected COCO-format annotations in it, or in annotations/"
        )
    if len(candidates) > 1:
        raise ValueError(
            f"--data {data} holds {', '.join(str(p.relative_to(data)) for p in candidates)}: name one of them, or call two train.json "
            "and val.json in annotations/, with their pictures in train/ and val/"
        )
    return candidates[0]
