"""Bodies in space in front of cameras, as labels of the formats: a few frames, made of a few numbers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from jaxpose import cameras

STANDING = np.array(
    [
        (0, 0, 0), (130, 0, 0), (140, 30, -440), (150, 60, -880), (-130, 0, 0), (-140, -60, -430), (-150, -20, -870),
        (5, 10, 240), (0, 20, 480), (5, -60, 560), (0, 10, 660), (-160, 20, 460), (-250, 60, 200), (-230, -150, 60),
        (160, 20, 460), (270, 40, 210), (300, -180, 120),
    ],
    float,
)  # fmt: skip
"""A standing body, z up: 17 joints in mm about the pelvis."""
SIZE = (1000, 1000)
FOCAL, CENTER = (1145.0, 1143.0), (512.0, 508.0)


def world(count: int = 4) -> np.ndarray:
    """Bodies turned and moved about, (N, 17, 3) mm."""
    turns = np.linspace(0, 5, count)
    turn = np.stack([cameras.rotation_matrix([0, 0, angle]) for angle in turns])
    return (
        np.einsum("nij,kj->nki", turn, STANDING)
        + np.array([[100.0 * i, -50.0 * i, 900.0] for i in range(count)])[:, None]
    )


def camera() -> tuple[np.ndarray, np.ndarray]:
    """A camera 5 m away at a height of 1.5 m that looks along the world's y axis: its rotation and its position."""
    return np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]]), np.array([0.0, -5000.0, 1500.0])


def boxes(px: np.ndarray) -> np.ndarray:
    """Boxes about the joints (N, K, 2), xywh."""
    low, high = px.min(1) - 20, px.max(1) + 20
    return np.concatenate([low, high - low], 1)


def in_camera(count: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """The bodies in camera coordinates, and their pixels."""
    rotation, position = camera()
    points = cameras.world_to_camera(world(count), rotation=np.tile(rotation, (count, 1, 1)), position=position)
    return points, cameras.project(points, focal=np.array(FOCAL), center=np.array(CENTER))


def rle_json(count: int = 4, *, offset: bool = False) -> dict:
    """The file of RLE's authors; with `offset` with translations of the other form."""
    rotation, position = camera()
    t = -rotation @ position if offset else position
    _, px = in_camera(count)
    names = [
        f"s_01_act_{2 + i:02d}_subact_01_ca_01/s_01_act_{2 + i:02d}_subact_01_ca_01_{i + 1:06d}.jpg"
        for i in range(count)
    ]
    view = {"R": rotation.tolist(), "t": t.tolist(), "f": list(FOCAL), "c": list(CENTER)}
    size = {"width": SIZE[0], "height": SIZE[1]}
    return {
        "images": [{"file_name": name, **size, "cam_param": view} for name in names],
        "annotations": [
            {"bbox": box, "keypoints_world": points, "image_id": i}
            for i, (box, points) in enumerate(zip(boxes(px).tolist(), world(count).tolist()))
        ],
    }


def write(
    folder: Path, data: dict, name: str = "Sample_trainmin_train_Human36M_protocol_2.json", *, size_wh=SIZE
) -> Path:
    """Writes the JSON and grey images; returns the folder."""
    (folder / "annotations").mkdir(parents=True, exist_ok=True)
    (folder / "annotations" / name).write_text(json.dumps(data))
    for image in data["images"]:
        path = folder / "images" / image["file_name"]
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            Image.new("RGB", size_wh, (90, 120, 150)).save(path)
    return folder
