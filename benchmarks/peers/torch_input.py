"""The other side of input_throughput.py: crops for top-down training with OpenCV and a PyTorch DataLoader.

Written from the published description of the official RLE pipeline, as a PyTorch user would write it today. Per
sample: read the file, decode all of it, to RGB; clip the box, fit the aspect, x 1.25; half body (p 0.3, more than 3
joints), scale U(0.75, 1.25), rotation U(-45, 45) with p 0.5, flip with p 0.5; the affine from three points, one
bilinear warp, the joints through it; channels first, float32, / 255, minus the means; targets x / W - 0.5 with
weights. Then the DataLoader's collate.
"""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

MEAN = np.array([0.406, 0.457, 0.480], np.float32)[:, None, None]  # as in the official code
UPPER = np.arange(11)


class OfficialCrops(Dataset):
    """Persons with keypoints of a COCO-format file."""

    def __init__(self, annotations: Path, images: Path, *, size_wh: tuple[int, int], flip_pairs, seed: int = 0):
        data = json.loads(Path(annotations).read_text())
        self.names = {image["id"]: str(Path(images) / image["file_name"]) for image in data["images"]}
        self.people = [
            a for a in data["annotations"] if not a.get("iscrowd") and any(v > 0 for v in a["keypoints"][2::3])
        ]
        self.size_wh, self.aspect, self.flip_pairs = size_wh, size_wh[0] / size_wh[1], flip_pairs
        self.rng = np.random.default_rng(seed)

    def __len__(self) -> int:
        return len(self.people)

    def __getitem__(self, index: int):
        person = self.people[index]
        image = cv2.cvtColor(cv2.imread(self.names[person["image_id"]], cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
        height, width = image.shape[:2]
        joints = np.array(person["keypoints"], np.float32).reshape(-1, 3)
        visible = np.minimum(joints[:, 2], 1.0)
        center, size = self.box(person["bbox"], width, height)
        if visible.sum() > 3 and self.rng.random() < 0.3:
            center, size = self.half_body(joints[:, :2], visible) or (center, size)
        size = size * self.rng.uniform(0.75, 1.25)
        rotation = self.rng.uniform(-45, 45) if self.rng.random() < 0.5 else 0.0
        xy = joints[:, :2]
        if self.rng.random() < 0.5:
            image = image[:, ::-1]
            xy = np.stack([width - xy[:, 0] - 1, xy[:, 1]], axis=1)
            for a, b in self.flip_pairs:
                xy[[a, b]], visible[[a, b]] = xy[[b, a]], visible[[b, a]]
            center = np.array([width - center[0] - 1, center[1]])
        affine = self.affine(center, size, rotation)
        crop = cv2.warpAffine(np.ascontiguousarray(image), affine, self.size_wh, flags=cv2.INTER_LINEAR)
        xy = xy @ affine[:, :2].T + affine[:, 2]
        pixels = torch.from_numpy(np.transpose(crop, (2, 0, 1)).astype(np.float32, order="C") / 255 - MEAN)
        target = torch.from_numpy((xy / self.size_wh - 0.5).astype(np.float32))
        return pixels, target, torch.from_numpy(np.repeat(visible[:, None], 2, axis=1))

    def box(self, xywh, width: int, height: int):
        x, y, w, h = xywh
        first = np.clip([x, y], 0, [width - 1, height - 1])
        last = np.clip([x + w - 1, y + h - 1], 0, [width - 1, height - 1])
        return (first + last) / 2, self.fitted(last - first) * 1.25

    def fitted(self, size):
        w, h = size
        return np.array([w, w / self.aspect] if w > self.aspect * h else [h * self.aspect, h])

    def half_body(self, xy, visible):
        upper = np.isin(np.arange(len(xy)), UPPER) & (visible > 0)
        lower = ~np.isin(np.arange(len(xy)), UPPER) & (visible > 0)
        if self.rng.standard_normal() < 0.5 and upper.sum() > 2:
            is_used = upper
        else:
            is_used = lower if lower.sum() > 2 else upper
        if is_used.sum() < 2:
            return None
        points = xy[is_used]
        return points.mean(axis=0), self.fitted(points.max(axis=0) - points.min(axis=0) + 1e-3) * 1.5

    def affine(self, center, size, rotation):
        """Centre, half the width along the (turned) upward axis, and the corner that completes the right angle."""
        angle, w = np.deg2rad(rotation), self.size_wh[0]
        up = 0.5 * size[0] * np.array([np.sin(angle), -np.cos(angle)])
        source = np.array([center, center + up, center + up + [up[1], -up[0]]], np.float32)
        middle = np.array(self.size_wh) / 2
        target = np.array([middle, middle + [0, -w / 2], middle + [-w / 2, -w / 2]], np.float32)
        return cv2.getAffineTransform(source, target)


def batches(annotations: Path, images: Path, *, size_wh: tuple[int, int], flip_pairs, batch_size: int, seed: int = 0):
    """Yields batches endlessly, made in this process by one thread."""
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(seed)
    data = OfficialCrops(annotations, images, size_wh=size_wh, flip_pairs=flip_pairs, seed=seed)
    sampler = torch.utils.data.RandomSampler(data, replacement=False, num_samples=10**6, generator=generator)
    yield from DataLoader(data, batch_size=batch_size, sampler=sampler, num_workers=0, drop_last=True)
