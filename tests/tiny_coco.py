"""A COCO folder of a few small images, for the tests of `jaxpose.data`."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
from PIL import Image

from jaxpose.skeleton import COCO17

CATEGORY = {"id": 1, "name": "person", "keypoints": list(COCO17.joints), "skeleton": []}
# Odd and even sizes; chroma subsampling of all kinds (0: none, 2: both axes); the last one is grey.
KINDS = [
    {"size": (97, 121), "subsampling": 2},
    {"size": (160, 120), "subsampling": 1},
    {"size": (133, 90), "subsampling": 0},
    {"size": (120, 160), "subsampling": 2},
    {"size": (101, 99), "mode": "L"},
]


def picture(size_wh, *, seed=0) -> np.ndarray:
    """Returns coloured smooth noise, in which every wrong pixel is visible and which JPEG preserves."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (size_wh[1] // 8 + 1, size_wh[0] // 8 + 1, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize(size_wh, Image.BICUBIC))


def jpeg(pixels: np.ndarray, *, mode="RGB", **options) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(out, "JPEG", quality=90, **options)
    return out.getvalue()


def damaged(data: bytes) -> bytes:
    """Returns a JPEG file with intact header and end whose Huffman table is invalid: no decoder accepts it."""
    table = data.index(b"\xff\xc4") + 5
    return data[:table] + b"\xff" * 16 + data[table + 16 :]


def person(number: int, image: dict, *, rng, labelled=17) -> dict:
    """Returns a person with a box that may reach out of the image and `labelled` joints, some outside the box."""
    w, h = rng.uniform(0.3, 0.7, 2) * (image["width"], image["height"])
    x, y = rng.uniform(-0.1, 0.5, 2) * (image["width"], image["height"])
    xy = np.round(rng.uniform(-0.1, 1.1, (17, 2)) * (w, h) + (x, y), 2)
    visibility = np.where(rng.permutation(17) < labelled, rng.integers(1, 3, 17), 0)
    keypoints = np.concatenate([xy, visibility[:, None]], axis=1) * (visibility > 0)[:, None]
    return {
        "id": number,
        "image_id": image["id"],
        "category_id": 1,
        "bbox": [round(float(v), 2) for v in (x, y, w, h)],
        "area": round(float(w * h) / 2, 2),
        "iscrowd": 0,
        "num_keypoints": labelled,
        "keypoints": [float(v) for v in keypoints.ravel()],
        "segmentation": [[round(float(v), 2) for v in (x, y, x + w, y, x + w, y + h, x, y + h)]],
    }


def content(images: int = 5, *, persons: int = 2, seed: int = 0) -> dict:
    """Returns the JSON: `persons` labelled persons per image, and in the first image also an unlabelled one and a crowd."""
    rng = np.random.default_rng(seed)
    entries, people = [], []
    for i in range(images):
        width, height = KINDS[i % len(KINDS)]["size"]
        entries.append({"id": 100 + 3 * i, "file_name": f"{i:06d}.jpg", "width": width, "height": height})
        for _ in range(persons):
            people.append(person(1000 + len(people), entries[-1], rng=rng, labelled=int(rng.integers(3, 18))))
    crowd = {"size": [entries[0]["height"], entries[0]["width"]], "counts": [500, 40, 200]}
    crowd["counts"].append(entries[0]["height"] * entries[0]["width"] - 740)
    people.append(person(9000, entries[0], rng=rng, labelled=0))
    people.append(person(9001, entries[0], rng=rng, labelled=0) | {"iscrowd": 1, "segmentation": crowd})
    return {"images": entries, "annotations": people, "categories": [CATEGORY]}


def write(folder: Path, data: dict | None = None, *, split: str = "train", name: str | None = None) -> Path:
    """Writes images and JSON (`annotations/SPLIT.json`) into `folder`, except images whose names contain a slash."""
    data = content() if data is None else data
    (folder / "annotations").mkdir(parents=True, exist_ok=True)
    (folder / split).mkdir(exist_ok=True)
    for i, entry in enumerate(data["images"]):
        kind = {k: v for k, v in KINDS[i % len(KINDS)].items() if k != "size"}
        path = folder / split / entry["file_name"]
        if "/" not in entry["file_name"] and not path.exists():
            path.write_bytes(jpeg(picture((entry["width"], entry["height"]), seed=i), **kind))
    (folder / "annotations" / (name or f"{split}.json")).write_text(json.dumps(data))
    return folder
