"""The other side of input_throughput.py --whole: whole images for bottom-up training with OpenCV and a PyTorch DataLoader.

Written from a description of the released HigherHRNet and SWAHR pipelines, as a PyTorch user would write it today. Per
image: read the file, decode all of it, to RGB; draw the mask (crowds and persons without joints); scale U(0.75, 1.5),
rotation U(-30, 30), a shift of whole pixels, flip with p 0.5; at each stride, with an affine of its own, one warp of the
mask, thresholded again, and the joints of all persons; one bilinear warp of the image; all flipped by slicing; channels
first, float32, / 255, normalised. With `targets`: at each stride the Gaussians of all persons and the places where the
tags are read. Then the DataLoader's collate.
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import cv2
import numpy as np
import torch
from pycocotools import mask as coco_mask
from torch.utils.data import DataLoader, Dataset

MEAN = np.array([0.485, 0.456, 0.406], np.float32)[:, None, None]
STD = np.array([0.229, 0.224, 0.225], np.float32)[:, None, None]
SIGMA = 2
RADIUS = 3 * SIGMA + 1
PEOPLE = 30
OFFSET = np.arange(-RADIUS, RADIUS + 1, dtype=np.float32)
PATCH = np.exp(-(OFFSET**2 + OFFSET[:, None] ** 2) / (2 * SIGMA**2))


class WholeImages(Dataset):
    """Images with persons of a COCO-format file."""

    def __init__(
        self,
        annotations: Path,
        images: Path,
        *,
        size_wh: tuple[int, int],
        flip_index,
        strides: tuple[int, ...] = (4, 2),
        targets: bool = True,
        seed: int = 0,
    ):
        data = json.loads(Path(annotations).read_text())
        self.folder, self.people = Path(images), defaultdict(list)
        for person in data["annotations"]:
            self.people[person["image_id"]].append(person)
        self.images = [image for image in data["images"] if image["id"] in self.people]
        self.size_wh, self.strides, self.targets = size_wh, strides, targets
        self.flip_index = np.asarray(flip_index)
        self.rng = np.random.default_rng(seed)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int):
        width, height = self.images[index]["width"], self.images[index]["height"]
        side = min(width, height) * self.rng.uniform(0.75, 1.5)
        farthest = int(0.2 * side)
        centre = np.array([width, height]) / 2 + self.rng.integers(-farthest, farthest + 1, 2)
        rotation = self.rng.uniform(-30, 30)
        return self.transform(index, flip=self.rng.random() < 0.5, centre=centre, side=side, rotation=rotation)

    def transform(self, index: int, *, flip: bool, centre, side: float, rotation: float):
        """Returns image, masks and, with targets, heatmaps and places of the tags, else the joints; a list over the strides."""
        entry = self.images[index]
        image = cv2.cvtColor(cv2.imread(str(self.folder / entry["file_name"]), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
        mask, people = self.mask(entry), self.labelled(entry)
        step = -1 if flip else 1
        image = cv2.warpAffine(image, self.affine(centre, side, rotation, 1), self.size_wh, flags=cv2.INTER_LINEAR)
        pixels = np.transpose(image[:, ::step], (2, 0, 1)).astype(np.float32, order="C")  # else the rest is slow
        pixels /= 255
        pixels -= MEAN
        pixels /= STD
        masks, labels = [], []
        for stride in self.strides:
            affine, size_wh = self.affine(centre, side, rotation, stride), tuple(v // stride for v in self.size_wh)
            light = cv2.warpAffine(mask, affine, size_wh, flags=cv2.INTER_LINEAR)
            masks.append((light[:, ::step] > 127).astype(np.float32))
            joints = people.copy()
            joints[..., :2] = people[..., :2] @ affine[:, :2].T + affine[:, 2]
            if flip:
                joints = joints[:, self.flip_index]
                joints[..., 0] = size_wh[0] - joints[..., 0] - 1
            labels.append((heatmaps(joints, size_wh), places(joints, size_wh)) if self.targets else slots(joints))
        return pixels, masks, labels

    def labelled(self, entry) -> np.ndarray:
        """(N, K, 3) x, y, visible."""
        people = [np.array(p["keypoints"], np.float64).reshape(-1, 3) for p in self.people[entry["id"]]]
        people = [p for p in people if (p[:, 2] > 0).any()][:PEOPLE]
        return np.array(people).reshape(-1, len(self.flip_index), 3)

    def mask(self, entry) -> np.ndarray:
        """Returns (h, w) uint8, 255 at the pixels that the loss may use."""
        height, width = entry["height"], entry["width"]
        mask = np.full((height, width), 255, np.uint8)
        for person in self.people[entry["id"]]:
            if person.get("iscrowd") or not any(v > 0 for v in person["keypoints"][2::3]):
                x, y, w, h = person["bbox"]
                outline = person.get("segmentation") or [[x, y, x + w, y, x + w, y + h, x, y + h]]
                code = coco_mask.frPyObjects(outline, height, width)
                covered = coco_mask.decode(code)
                mask[(covered.any(axis=-1) if covered.ndim == 3 else covered) > 0] = 0
        return mask

    def affine(self, centre, side: float, rotation: float, stride: int) -> np.ndarray:
        """Image pixels to those of the map of a stride: the centre to the centre, the square to the shorter side."""
        angle, size = np.deg2rad(rotation), np.array(self.size_wh) / stride
        turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]) * size.min() / side
        return np.concatenate([turn, (size / 2 - turn @ centre)[:, None]], axis=1)


def heatmaps(joints: np.ndarray, size_wh: tuple[int, int]) -> np.ndarray:
    """(N, K, 3) -> (K, h, w): the larger where Gaussians meet; joints outside the map are left out."""
    w, h = size_wh
    maps = np.zeros((joints.shape[1], h, w), np.float32)
    for person in joints:
        for map_, (x, y, visible) in zip(maps, person, strict=True):
            column, row = int(x), int(y)
            if visible <= 0 or not (0 <= x < w and 0 <= y < h):
                continue
            left, top, right, bottom = column - RADIUS, row - RADIUS, column + RADIUS + 1, row + RADIUS + 1
            part = map_[max(0, top) : min(bottom, h), max(0, left) : min(right, w)]
            np.maximum(part, PATCH[max(0, -top) : min(bottom, h) - top, max(0, -left) : min(right, w) - left], out=part)
    return maps


def places(joints: np.ndarray, size_wh: tuple[int, int]) -> np.ndarray:
    """(N, K, 3) -> (PEOPLE, K, 2) int64: index of the joint in the flattened maps, and whether it is there."""
    w, h = size_wh
    entries = np.zeros((PEOPLE, joints.shape[1], 2), np.int64)
    for i, person in enumerate(joints):
        for k, (x, y, visible) in enumerate(person):
            if visible > 0 and 0 <= x < w and 0 <= y < h:
                entries[i, k] = k * h * w + int(y) * w + int(x), 1
    return entries


def slots(joints: np.ndarray) -> np.ndarray:
    """(N, K, 3) -> (PEOPLE, K, 3) float32."""
    filled = np.zeros((PEOPLE, *joints.shape[1:]), np.float32)
    filled[: len(joints)] = joints
    return filled


def batches(annotations: Path, images: Path, *, batch_size: int, seed: int = 0, **options):
    """Batches without end, made in this process by one thread. Options: of `WholeImages`."""
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(seed)
    data = WholeImages(annotations, images, seed=seed, **options)
    sampler = torch.utils.data.RandomSampler(data, replacement=False, num_samples=10**6, generator=generator)
    yield from DataLoader(data, batch_size=batch_size, sampler=sampler, num_workers=0, drop_last=True)
