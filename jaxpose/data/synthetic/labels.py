"""The labels of a person: visibility from the depth buffer, box and area from the silhouette, noisy keypoints."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from jaxpose.data.synthetic.noise import sample_noise
from jaxpose.data.synthetic.pose import Body
from jaxpose.data.synthetic.raster import Primitives, Surface
from jaxpose.skeleton import COCO17

SMALLEST_AREA = 40.0  # pixels; a person with a smaller visible area is not annotated
# A person below these limits has a box but no keypoints, as in COCO.
FEWEST_VISIBLE = 4
SMALLEST_LABELLED = 250.0

# A joint counts as seen when the surface at its pixel belongs to its own limb and lies at most this far in front of it
# (fractions of the height: the thickness of the flesh, so that the far shoulder is not seen through the near one).
_FLESH = {"nose": 0.035, "eye": 0.02, "ear": 0.035, "shoulder": 0.075, "elbow": 0.05, "wrist": 0.04}
_FLESH |= {"hip": 0.10, "knee": 0.065, "ankle": 0.05}
FLESH = np.array([_FLESH[name.split("_")[-1]] for name in COCO17.joints])


def visibility(
    surface: Surface, prims: Primitives, body: Body, owner: int, *, pixel, depth, size_wh, supersample
) -> np.ndarray:
    """Returns COCO visibility (17,): 0 outside the picture, 2 if the depth buffer shows the joint's own limb, else 1.

    Args:
        surface: The surfaces of the picture.
        prims: Their primitives.
        body: The person.
        owner: The person's index.
        pixel: The true projections (17, 2).
        depth: The depths of the joints, metres (17,).
        size_wh: The width and height of the picture.
        supersample: The number of sub-pixels per pixel and axis.
    """
    inside = (pixel >= 0).all(1) & (pixel <= np.array(size_wh) - 1).all(1) & (depth > 0)
    sub = np.rint((np.where(inside[:, None], pixel, 0.0) + 0.5) * supersample - 0.5).astype(int)
    hit, surface_depth = surface.index[sub[:, 1], sub[:, 0]], surface.depth[sub[:, 1], sub[:, 0]]
    carries = (np.array(prims.joints)[hit] >> np.arange(len(pixel))) & 1
    own = (hit >= 0) & (np.array(prims.owner)[hit] == owner) & (carries == 1)
    near = depth - surface_depth <= FLESH * body.shape.height * max(1.0, body.shape.girth)
    return np.where(inside, np.where(own & near, 2, 1), 0)


def _box(mask: np.ndarray, labelled_xy: np.ndarray, size_wh, supersample: int) -> list[float]:
    """Returns xywh around the silhouette (h, w) and the labelled joints (n, 2), inside the picture."""
    cols, rows = np.flatnonzero(mask.any(0)) // supersample, np.flatnonzero(mask.any(1)) // supersample
    low = np.array([cols[0], rows[0]])
    high = np.array([cols[-1], rows[-1]]) + 1  # a box ends behind its last pixel
    low, high = (
        np.minimum(low, labelled_xy.min(0, initial=np.inf)),
        np.maximum(high, labelled_xy.max(0, initial=-np.inf)),
    )
    low, high = np.maximum(low, 0), np.minimum(high, size_wh)
    return [float(v) for v in np.round([*low, *(high - low)], 2)]


def owners(surface: Surface, prims: Primitives) -> np.ndarray:
    """Returns the person of each sub-pixel (h, w) int8, -1 for none."""
    table = np.array([*prims.owner, -1], np.int8)  # index -1 (nothing) reads the last
    return table[surface.index]


def annotate(
    rng, surface: Surface, prims: Primitives, camera, body: Body, owner: int, *, mask, size_wh, supersample: int,
    label_noise: float = 1.0,
) -> dict | None:  # fmt: skip
    """Returns a person's COCO annotation without ids, or None if almost nothing of it (`mask`: its sub-pixels) is visible.

    Args:
        rng: The generator of the label errors.
        surface: The surfaces of the picture.
        prims: Their primitives.
        camera: The camera of the picture.
        body: The person.
        owner: The person's index.
        mask: The person's sub-pixels (h, w).
        size_wh: The width and height of the picture.
        supersample: The number of sub-pixels per pixel and axis.
        label_noise: The factor on the errors that `sample_noise` draws.
    """
    area = float(mask.sum()) / supersample**2
    if area < SMALLEST_AREA:
        return None
    joints, clean = camera.to_camera(body.joints), camera.project(body.joints)
    seen = visibility(
        surface, prims, body, owner, pixel=clean, depth=joints[:, 2], size_wh=size_wh, supersample=supersample
    )
    if (seen == 2).sum() < FEWEST_VISIBLE or area < SMALLEST_LABELLED:
        seen = np.zeros_like(seen)
    labelled = (seen > 0)[:, None]
    noise = label_noise * sample_noise(rng, visibility=seen, scale=np.sqrt(area), joint=np.arange(COCO17.num_joints))
    keypoints = np.concatenate([np.where(labelled, clean + noise, 0.0), seen[:, None]], 1)
    return {
        "bbox": _box(mask, clean[seen > 0], size_wh, supersample),
        "area": area,
        "iscrowd": 0,
        "num_keypoints": int((seen > 0).sum()),
        "keypoints": _flat(keypoints, 3),
        "keypoints_clean": _flat(clean, 3),
        "keypoints_3d": _flat(joints * 1000.0, 1),
        "camera": [float(camera.focal), *map(float, camera.centre)],
        "segmentation": [],
    }


def in_space(person: dict, camera, body: Body) -> dict:
    """Returns a person's annotation with Human3.6M's 18 joints, in pixels and in space, in place of COCO's 17.

    They are the true ones of all joints, as a motion capture labels them, whether they are seen or not. A person without
    labelled joints, or with a joint behind the camera, has none.

    Args:
        person: The annotation from `annotate`.
        camera: The camera of the picture.
        body: The person.
    """
    joints, pixel = camera.to_camera(body.space_joints), camera.project(body.space_joints)
    is_labelled = person["num_keypoints"] > 0 and bool((joints[:, 2] > 0.1).all())
    seen = np.full((len(joints), 1), 2.0 if is_labelled else 0.0)
    return {
        **{key: person[key] for key in ("bbox", "area", "iscrowd", "segmentation", "camera")},
        "num_keypoints": len(joints) if is_labelled else 0,
        "keypoints": _flat(np.concatenate([np.where(seen > 0, pixel, 0.0), seen], 1), 3),
        "keypoints_3d": _flat(joints * 1000.0, 2) if is_labelled else None,
        "action": body.kind,
    }


def _flat(values: np.ndarray, decimals: int) -> list[float]:
    return np.round(values, decimals).ravel().tolist()


def overlay(image: np.ndarray, people: list[dict], *, zoom: int = 2, clean: bool = False) -> Image.Image:
    """Draws boxes, limbs and joints over a picture.

    Args:
        image: (h, w, 3) uint8.
        people: Annotations as returned by `render`.
        zoom: The enlargement.
        clean: Draw the true positions instead of the noisy labels.

    Returns:
        A picture. Joints of the left are green, of the right orange, in the middle magenta; red rings are occluded ones.
    """
    size = image.shape[1] * zoom, image.shape[0] * zoom
    picture = Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(picture)
    for person in people:
        labels = np.array(person["keypoints"]).reshape(-1, 3)
        xy = np.array(person["keypoints_clean"]).reshape(-1, 2) if clean else labels[:, :2]
        xy, seen = (xy + 0.5) * zoom, labels[:, 2]
        x, y, w, h = np.array(person["bbox"]) * zoom
        pen.rectangle([x, y, x + w - 1, y + h - 1], outline=(255, 255, 255))
        for a, b in COCO17.limbs:
            if seen[a] and seen[b]:
                pen.line([*xy[a], *xy[b]], fill=(80, 160, 255), width=1)
        for name, (u, v), s in zip(COCO17.joints, xy, seen, strict=True):
            colour = {"left": (60, 255, 60), "right": (255, 140, 0)}.get(name.split("_")[0], (255, 0, 255))
            if s:
                ring = [u - 2, v - 2, u + 2, v + 2]
                pen.ellipse(ring, fill=colour if s == 2 else None, outline=colour if s == 2 else (255, 0, 0))
    return picture
