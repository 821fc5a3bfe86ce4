"""The weights of the golden detectors, by the rule of their README, and their inputs."""

from __future__ import annotations

import cv2
import numpy as np

from tests import torch_states


def weights(entries: list, scales: list, ab: list[float]) -> dict[str, np.ndarray]:
    """Returns {name: float32 array} of a list of (name, shape)."""
    return torch_states.sine_state(
        entries, ab, scale_of=lambda name: next(scale for prefix, scale in scales if name.startswith(prefix))
    )


MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def torchvision_batch(images: list[np.ndarray], sizes_hw: np.ndarray, padded_hw: np.ndarray) -> np.ndarray:
    """Returns (B, H, W, 3) float32: normalised, resized to the given sizes, and padded."""
    batch = np.zeros((len(images), *padded_hw, 3), np.float32)
    for i, (image, (height, width)) in enumerate(zip(images, sizes_hw, strict=True)):
        normalised = (image.astype(np.float32) / np.float32(255) - MEAN.astype(np.float32)) / STD.astype(np.float32)
        batch[i, :height, :width] = cv2.resize(normalised, (int(width), int(height)), interpolation=cv2.INTER_LINEAR)
    return batch
