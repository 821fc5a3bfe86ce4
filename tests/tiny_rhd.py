"""A data set of a few drawn hands in RHD's layout: pictures, masks and a pickle for each split."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from jaxpose import hands

SIZE = 96
K = np.array([[110.0, 0.0, 48.0], [0.0, 110.0, 48.0], [0.0, 0.0, 1.0]], np.float32)


def in_space(seed: int) -> np.ndarray:
    """Returns a right hand (21, 3) in metres, turned and moved by the seed."""
    rng = np.random.default_rng(seed)
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    turn *= np.sign(np.linalg.det(turn))
    hand = hands.example_hand()
    return (hand - hand[12]) @ turn.T + [*rng.uniform(-0.05, 0.05, 2), rng.uniform(0.5, 0.8)]


def entry(seed: int) -> dict[str, np.ndarray]:
    """Returns the arrays of a picture: a left and a right hand."""
    right, left = in_space(seed), in_space(seed + 1000) * [-1, 1, 1]
    xyz = np.concatenate([left, right]).astype(np.float32)
    uv = xyz[:, :2] / xyz[:, 2:] * K[0, 0] + K[:2, 2]
    inside = (uv >= 0).all(1) & (uv <= SIZE - 1).all(1)
    return {"xyz": xyz, "uv_vis": np.concatenate([uv, inside[:, None]], 1).astype(np.float32), "K": K.copy()}


def write(folder: Path, *, training: int = 5, evaluation: int = 3, change: Any = None) -> Path:
    """Writes the data set; `change(split, entries)` may alter the entries of a split before they are stored."""
    home = folder / "RHD_published_v2"
    for split, count, first in (("training", training, 0), ("evaluation", evaluation, 100)):
        for name in ("color", "mask"):
            (home / split / name).mkdir(parents=True, exist_ok=True)
        entries = {i: entry(first + i) for i in range(count)}
        if change is not None:
            change(split, entries)
        for i in range(count):
            rng = np.random.default_rng(first + i)
            picture, mask = rng.integers(60, 110, (SIZE, SIZE, 3)).astype(np.uint8), np.zeros((SIZE, SIZE), np.uint8)
            for side, value, tone in ((slice(0, 21), 5, 190), (slice(21, 42), 20, 230)):
                for x, y in np.rint(entries[i]["uv_vis"][side, :2]).astype(int):
                    picture[max(y - 2, 0) : max(y + 3, 0), max(x - 2, 0) : max(x + 3, 0)] = tone
                    mask[max(y - 2, 0) : max(y + 3, 0), max(x - 2, 0) : max(x + 3, 0)] = value
            mask[:40, :40] = 7 if i % 2 else 25  # the larger hand is the left or the right one
            Image.fromarray(picture).save(home / split / "color" / f"{i:05d}.png")
            Image.fromarray(mask).save(home / split / "mask" / f"{i:05d}.png")
        with (home / split / f"anno_{split}.pickle").open("wb") as file:
            pickle.dump(entries, file, protocol=2)
    return home
