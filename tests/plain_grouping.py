"""The published parser in plain loops, rewritten from its description: slow, and easy to check against the golden files.

`scene` generates maps for the comparison with `jaxpose.grouping`.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import linear_sum_assignment


def scene(seed, *, people=3, size=32, joints=5, tags=1, apart=3.0, spurious=2, noise=0.0, missing=0.2):
    """Returns heatmaps (h, w, K) and tags (h, w, K, T) float32 of people whose tags are about `apart` apart."""
    rng = np.random.default_rng(seed)
    heatmaps = rng.normal(0, noise, (size, size, joints)) if noise else np.zeros((size, size, joints))
    embedding = rng.normal(0, 0.05, (size, size, joints, tags))
    y, x = np.mgrid[:size, :size]

    def bump(joint, tag, height):
        cx, cy = rng.integers(0, size, 2)
        peak = np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / 4.5) * height
        peak[peak < 0.01] = 0
        heatmaps[..., joint] = np.maximum(heatmaps[..., joint], peak)
        embedding[peak > 0.05, joint] = tag + rng.normal(0, 0.1, tags)

    for person in range(people):
        for joint in range(joints):
            if rng.random() >= missing:
                bump(joint, person * apart, rng.uniform(0.3, 1))
    for _ in range(spurious):
        bump(rng.integers(joints), rng.normal(0, 5, tags), 0.25)
    return heatmaps.astype(np.float32), embedding.astype(np.float32)


def group(heatmaps, tags, *, max_people=30, detection_threshold=0.1, tag_threshold=1.0, use_detection_value=True,
          ignore_too_much=False, joint_order, adjust=True, refine=True):  # fmt: skip
    h, w, joints = heatmaps.shape
    people: dict[float, np.ndarray] = {}
    embedded: dict[float, list] = {}
    for joint in joint_order:
        peaks = find_peaks(heatmaps[..., joint], max_people, detection_threshold)
        if not peaks:
            continue
        candidates = [(x, y, heatmaps[y, x, joint], tags[y, x, joint]) for y, x in peaks]
        keys = list(people)[:max_people]
        if keys and ignore_too_much and len(keys) == max_people:
            continue
        pairs = [(i, len(keys)) for i in range(len(candidates))]  # without people, every candidate starts a new one
        if keys:
            means = [np.mean(embedded[key], axis=0) for key in keys]
            distance = np.array([[np.linalg.norm(f[3].astype(float) - m) for m in means] for f in candidates])
            cost = distance
            if use_detection_value:
                cost = np.round(distance) * 100 - np.array([[float(f[2])] for f in candidates])
            spare = np.full((len(candidates), max(len(candidates) - len(keys), 0)), 1e10)
            pairs = list(zip(*linear_sum_assignment(np.concatenate([cost, spare], 1))))
        for i, j in pairs:
            x, y, score, tag = candidates[i]
            if j < len(keys) and distance[i, j] < tag_threshold:
                key = keys[j]
                embedded[key].append(tag)
            else:
                key = float(tag[0])
                people.setdefault(key, np.zeros((joints, 3 + len(tag)), np.float32))
                embedded[key] = [tag]
            people[key][joint] = [x, y, score, *tag]

    poses = np.array(list(people.values())).reshape(-1, joints, 3 + tags.shape[-1])
    scores = np.array([pose[:, 2].mean() for pose in poses])
    for pose in poses:
        present = [j for j in range(joints) if pose[j, 2] > 0]
        at = {j: (int(pose[j, 0]), int(pose[j, 1])) for j in present}
        if adjust:
            for j in present:
                pose[j, :2] = quarter(heatmaps[..., j], *at[j])
        if refine:
            mean = np.mean([tags[at[j][1], at[j][0], j] for j in present], axis=0)
            for j in set(range(joints)) - set(present):
                fit = heatmaps[..., j] - np.round(np.sqrt(np.square(tags[:, :, j] - mean).sum(-1)))
                y, x = np.unravel_index(fit.argmax(), fit.shape)
                if heatmaps[y, x, j] > 0:
                    pose[j, :2], pose[j, 2] = quarter(heatmaps[..., j], x, y), heatmaps[y, x, j]
    return poses, scores


def find_peaks(heatmap, most, threshold):
    """Returns (y, x) of the maxima of 5 x 5 pixels, highest first."""
    padded = np.pad(heatmap, 2, constant_values=-np.inf)
    maxima = []
    for y, x in np.argwhere(heatmap > threshold):
        if heatmap[y, x] == padded[y : y + 5, x : x + 5].max():
            maxima.append((y, x))
    return sorted(maxima, key=lambda p: -heatmap[p])[:most]


def quarter(heatmap, x, y):
    h, w = heatmap.shape
    right = heatmap[y, min(x + 1, w - 1)] > heatmap[y, max(x - 1, 0)]
    below = heatmap[min(y + 1, h - 1), x] > heatmap[max(y - 1, 0), x]
    return x + (0.75 if right else 0.25), y + (0.75 if below else 0.25)
