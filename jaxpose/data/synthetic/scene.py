"""One picture: a camera, people on a ground plane, objects among them, and the people's labels.

World: y up, the ground is y = 0, the camera stands at (0, eye height, 0) and looks along +z, pitched up or down. Camera
coordinates: x right, y down, z into the picture. Pixel centres lie at integers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from jaxpose.data.synthetic import objects
from jaxpose.data.synthetic.backdrop import draw_backdrop
from jaxpose.data.synthetic.dress import draw_body, sample_outfit
from jaxpose.data.synthetic.labels import annotate, in_space, owners
from jaxpose.data.synthetic.paint import Palette, photograph
from jaxpose.data.synthetic.pose import Body, rotation, sample_body
from jaxpose.data.synthetic.raster import Primitives, draw

SUPERSAMPLE = 2  # surfaces are drawn at twice the size and reduced, for smooth edges and finer silhouettes
TYPICAL_HEIGHT = 1.7  # metres; converts a size in pixels to a distance
SMALLEST_SIZE, LARGEST_SIZE = 0.05, 2.0  # of `person_sizes`; a larger person would stand around the camera
PersonSizes = tuple[float, float]


@dataclass(frozen=True)
class Camera:
    """A pinhole camera without roll."""

    rotation: np.ndarray  # (3, 3) camera = rotation @ (world - position)
    position: np.ndarray  # (3,) metres
    focal: float  # pixels
    centre: tuple[float, float]  # principal point, pixels

    def to_camera(self, world: np.ndarray) -> np.ndarray:
        return (world - self.position) @ self.rotation.T

    def project(self, world: np.ndarray) -> np.ndarray:
        """Projects world coordinates in metres (..., 3) to pixels (..., 2)."""
        point = self.to_camera(world)
        return point[..., :2] / point[..., 2:] * self.focal + self.centre


def _aim(rng: np.random.Generator, size_wh, *, focal: float, depth: float, tall: float) -> Camera:
    """Returns a camera of any height, pitched so that the middle of a person of this height and depth is near the centre."""
    width, height = size_wh
    eye = float(np.clip(rng.normal(1.4, 0.4), 0.35, 3.2))
    target, row = tall * rng.uniform(0.42, 0.72), height * rng.uniform(0.44, 0.56)
    pitch = np.arctan2(eye - target, depth) - np.arctan((row - (height - 1) / 2) / focal)
    to_camera = np.diag([-1.0, -1.0, 1.0])  # world x is the camera's left, world y is up
    turn = rotation("x", np.rad2deg(pitch)) @ to_camera
    return Camera(turn, np.array([0.0, eye, 0.0]), focal, ((width - 1) / 2, (height - 1) / 2))


def _place(rng, camera: Camera, size_wh, body: Body, depth: float, taken: list) -> bool:
    """Moves a body to a free place at this depth, mostly whole in the picture; returns False if there is none.

    The first person always gets one in the end: in the middle, where the camera is aimed.
    """
    width, height = size_wh
    for attempt in range(8):
        cut = rng.random() < 0.14  # cut by the border
        column = rng.uniform(-0.04, 1.04) if cut else rng.uniform(0.14, 0.86)
        last = not taken and attempt == 7
        column = 0.5 if last else column
        spot = np.array([(camera.centre[0] - column * width) / camera.focal * depth, 0.0, depth])
        middle = camera.project(spot + body.points["midhip"])
        if not (0.0 < middle[1] < 1.05 * height or last):
            continue
        free = all(np.hypot(*(spot - other)[[0, 2]]) > 0.75 for other, _ in taken)
        # A part of the person behind must be visible beside the one in front.
        aside = [0.20 * camera.focal * TYPICAL_HEIGHT / min(depth, other[2]) for other, _ in taken]
        if free and all(abs(middle[0] - u) > least for (_, u), least in zip(taken, aside, strict=True)):
            taken.append((spot, middle[0]))
            body.move(spot)
            return True
    return False


def _yaw(rng: np.random.Generator) -> float:
    """Draws a yaw: towards the camera (180 degrees) as often as away from it, any angle between, profiles being rarer."""
    return float(rng.choice([0.0, 180.0]) + rng.normal(0.0, 34.0))


def _sizes(rng: np.random.Generator, count: int, height: int, person_sizes: PersonSizes | None) -> list[float]:
    """Draws the sizes in pixels that people would have if they stood upright, in a picture of this height."""
    if person_sizes is not None:
        # The camera is aimed at the first, so that the largest is in the picture.
        return sorted(height * np.exp(rng.uniform(*np.log(person_sizes), count)), reverse=True)
    first = height * np.exp(rng.uniform(np.log(0.60), np.log(1.15)))
    return [first, *(first * np.exp(rng.uniform(np.log(0.38), np.log(1.05), count - 1)))]


def _people(
    rng: np.random.Generator, size_wh, focal: float, person_sizes: PersonSizes | None
) -> tuple[Camera, list[Body]]:
    """Draws one to four people of very different size; the camera is aimed at the first, who is mostly the largest."""
    count = int(rng.choice([1, 2, 3, 4], p=[0.44, 0.33, 0.15, 0.08]))
    bodies = [sample_body(rng, yaw=_yaw(rng)) for _ in range(count)]
    sizes = _sizes(rng, count, size_wh[1], person_sizes)
    depths = [focal * TYPICAL_HEIGHT / size for size in sizes]
    camera = _aim(rng, size_wh, focal=focal, depth=depths[0], tall=bodies[0].points["head"][1])
    taken: list = []
    return camera, [b for b, depth in zip(bodies, depths, strict=True) if _place(rng, camera, size_wh, b, depth, taken)]


def _furnish(rng, prims: Primitives, palette: Palette, camera: Camera, bodies: list[Body], wall: float) -> list:
    """Dresses the people, adds chairs, things in hands, obstacles and furniture; returns their shadows."""
    shadows = []
    for owner, body in enumerate(bodies):
        draw_body(prims, body, sample_outfit(rng, palette, body), owner=owner)
        shadows += [(body.points[name], 0.22) for name in ("left_ankle", "right_ankle")]
        shadows.append((body.points["midhip"], 0.4))
        if body.kind == "sit":
            objects.chair(rng, prims, palette, body)
        if rng.random() < 0.08:
            objects.in_hand(rng, prims, palette, body)
        if rng.random() < 0.11:
            shadows.append((objects.obstacle(rng, prims, palette, camera.position[1], body), 0.4))
    near = min(body.points["midhip"][2] for body in bodies)
    shadows += [(spot, 0.4) for spot in objects.furniture(rng, prims, palette, near=near, wall=wall)]
    return shadows


def check(
    *,
    seed: int,
    index: int,
    size_wh: tuple[int, int],
    label_noise: float = 1.0,
    person_sizes: PersonSizes | None = None,
) -> None:
    """Raises a ValueError for arguments that `render` does not accept."""
    if seed < 0 or index < 0:
        raise ValueError(f"seed and index must not be negative, got {seed} and {index}")
    if len(size_wh) != 2 or min(size_wh) < 32:
        raise ValueError(f"size_wh must be (width, height), each at least 32 pixels, got {size_wh}")
    if not 0 <= label_noise < float("inf"):
        raise ValueError(f"label_noise={label_noise}: expected a factor of 0 or more on the errors of the labels")
    if person_sizes is not None and not are_sizes(person_sizes):
        raise ValueError(f"person_sizes={person_sizes}: expected {EXPECTED_SIZES}")


EXPECTED_SIZES = (
    f"the least and the largest height of a standing person as fractions of the picture's height, "
    f"{SMALLEST_SIZE} <= least <= largest <= {LARGEST_SIZE:g}"
)


def are_sizes(person_sizes: PersonSizes) -> bool:
    """Tells whether these are valid `person_sizes` of `render`.

    >>> are_sizes((0.1, 1.2)), are_sizes((1.2, 0.1))
    (True, False)
    """
    return len(person_sizes) == 2 and bool(SMALLEST_SIZE <= person_sizes[0] <= person_sizes[1] <= LARGEST_SIZE)


def render(
    seed: int,
    index: int,
    *,
    size_wh: tuple[int, int] = (320, 256),
    space: bool = False,
    label_noise: float = 1.0,
    person_sizes: PersonSizes | None = None,
) -> tuple[np.ndarray, list[dict]]:
    """Draws picture `index` of the data set with this seed; it depends on these numbers only.

    Args:
        seed, index: Integers from 0.
        size_wh: The width and height in pixels.
        space: Label Human3.6M's 18 joints, with their depth, in place of COCO's 17; the picture is the same.
        label_noise: The factor on the errors of the labels; 0 labels the true positions. The picture is the same.
        person_sizes: The least and the largest height of a standing person of 1.7 m, as fractions of the picture's height: the
            logarithm of every person's is uniform between them. People of another height, people who sit and people whom the
            border cuts off have boxes of other heights. None: the first person between 0.60 and 1.15, the others between 0.38 and
            1.05 times as large.

    Returns:
        image (h, w, 3) uint8 RGB, and its people: COCO annotations without ids (`write_dataset` lists the keys).

    Raises:
        ValueError: The seed, the index or the label noise is negative, the picture is smaller than 32 x 32, or the sizes are no
            range from 0.05 to 2.

    >>> image, people = render(0, 0, size_wh=(160, 128))
    >>> image.shape, len(people[0]["keypoints"])
    ((128, 160, 3), 51)
    """
    check(seed=seed, index=index, size_wh=size_wh, label_noise=label_noise, person_sizes=person_sizes)
    rng = np.random.default_rng([seed, index])
    focal = size_wh[0] * rng.uniform(0.85, 1.9)
    camera, bodies = _people(rng, size_wh, focal, person_sizes)
    outdoors = bool(rng.random() < 0.35)
    farthest = max(body.points["midhip"][2] for body in bodies)
    wall = farthest + (40.0 if outdoors else rng.uniform(0.8, 4.0))

    prims, palette = Primitives(), Palette()
    reach = 14.0  # metres; furniture farther away would be too small
    if person_sizes is not None:  # people may all be farther away than that
        reach = max(reach, min(body.points["midhip"][2] for body in bodies) + 4.0)
    shadows = _furnish(rng, prims, palette, camera, bodies, min(wall, reach))
    surface = draw(
        prims,
        rotation=camera.rotation,
        position=camera.position,
        focal=focal,
        centre_xy=camera.centre,
        size_wh=size_wh,
        supersample=SUPERSAMPLE,
    )
    backdrop = draw_backdrop(rng, camera, size_wh, wall=wall, outdoors=outdoors, shadows=shadows)
    image = photograph(rng, backdrop, surface, prims, palette, supersample=SUPERSAMPLE)
    person_of_pixel = owners(surface, prims)
    people = [
        annotate(
            rng,
            surface,
            prims,
            camera,
            body,
            i,
            mask=person_of_pixel == i,
            size_wh=size_wh,
            supersample=SUPERSAMPLE,
            label_noise=label_noise,
        )  # fmt: skip
        for i, body in enumerate(bodies)
    ]
    if space:
        people = [
            None if person is None else in_space(person, camera, body)
            for person, body in zip(people, bodies, strict=True)
        ]
    return image, [person for person in people if person is not None]
