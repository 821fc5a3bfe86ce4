"""A small z-buffer for quadrics: ellipsoids, elliptic cones and boxes under a pinhole camera, with NumPy.

A primitive is a unit shape under an affine map `point = centre + axes @ local` (camera coordinates: x right, y down, z
into the picture, metres):

    ball   |local| = 1
    cone   local_x^2 + local_y^2 = (1 + taper local_z)^2,   0 <= local_z <= 1, open at both ends
    box    max |local_i| = 1

Along the ray `point = t d`, `d = (X, Y, 1)` (so t is the depth), the first two read `A t^2 + 2 B t + C = 0` with A
quadratic in d, B linear and C constant. The discriminant `B^2 - A C` is one quadratic form in (X, Y, 1): three array
operations decide a patch of pixels, and only the pixels that are hit are looked at further.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

BALL, CONE, BOX = 0, 1, 2
NEAR = 0.05  # metres; primitives that reach closer to the camera are not drawn
NOTHING = -1


def cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Returns the cross product of two vectors (np.cross takes ten times as long for (3,))."""
    return np.array([a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]])


@dataclass
class Primitives:
    """A list of primitives in world coordinates that grows part by part.

    `owner` is the person's index (-1: an object), `joints` a bit mask of the joints that the primitive's limb carries,
    `material` a row of the palette, `offset` the texture coordinate (metres) where the primitive begins, `cut` a plane
    (n, c) in local coordinates: only n . local >= c is drawn.
    """

    kind: list = field(default_factory=list)
    centre: list = field(default_factory=list)
    axes: list = field(default_factory=list)
    taper: list = field(default_factory=list)
    owner: list = field(default_factory=list)
    joints: list = field(default_factory=list)
    material: list = field(default_factory=list)
    offset: list = field(default_factory=list)
    cut: list = field(default_factory=list)

    def add(self, kind, centre, axes, *, material, taper=0.0, owner=-1, joints=0, offset=0.0, cut=None) -> None:
        self.kind.append(kind)
        self.centre.append(centre)
        self.axes.append(axes)
        self.taper.append(taper)
        self.owner.append(owner)
        self.joints.append(joints)
        self.material.append(material)
        self.offset.append(offset)
        self.cut.append(cut)

    def ball(self, centre, radii, *, frame=None, **paint) -> None:
        """Adds an ellipsoid; `frame` holds its axes as columns."""
        radii = np.broadcast_to(np.asarray(radii, float), (3,))
        self.add(BALL, np.asarray(centre), (np.eye(3) if frame is None else frame) * radii, **paint)

    def cone(self, start, end, r0, r1, *, wide=None, flat=1.0, **paint) -> None:
        """Adds a cone from `start` (radius r0) to `end` (radius r1); r is measured along `wide`, flat * r across it."""
        along = np.asarray(end) - start
        wide = np.array([1.0, 0.0, 0.0]) if wide is None else wide
        across = cross(along, wide)
        if not across.any():
            across = cross(along, wide[[2, 0, 1]])
        across = across / np.sqrt(across @ across)
        wide = cross(across, along)
        wide = wide / np.sqrt(wide @ wide)
        self.add(
            CONE, np.asarray(start), np.stack([wide * r0, across * (r0 * flat), along], 1), taper=r1 / r0 - 1.0, **paint
        )

    def box(self, centre, half, *, frame=None, **paint) -> None:
        """Adds a box with half extents `half` along the columns of `frame`."""
        self.add(BOX, np.asarray(centre), (np.eye(3) if frame is None else frame) * np.asarray(half, float), **paint)

    def __len__(self) -> int:
        return len(self.kind)


@dataclass
class Surface:
    """The surface that each pixel sees: `index` (h, w) of the primitive or -1, `depth` (h, w) in metres or infinite.

    The other arrays hold the N covered pixels, sorted by primitive: `pixel` flat index, `primitive`, `local` (N, 3)
    coordinates on the unit shape, `normal` (N, 3) unit, camera coordinates, towards the camera.
    """

    index: np.ndarray
    depth: np.ndarray
    pixel: np.ndarray
    primitive: np.ndarray
    local: np.ndarray
    normal: np.ndarray


@dataclass
class _Forms:
    """Per primitive: the inverse map, the camera in local coordinates, and the coefficients of the quadratic in t."""

    inverse: np.ndarray  # (P, 3, 3) local = inverse @ point + origin
    origin: np.ndarray  # (P, 3)
    shape: np.ndarray  # (P,) coefficient of local_z^2: 1 for a ball, -taper^2 for a cone
    slope: np.ndarray  # (P,) coefficient of local_z: -taper for a cone
    b: np.ndarray  # (P, 3) B = b . d
    c: np.ndarray  # (P,)
    disc: np.ndarray  # (P, 3, 3) discriminant = d' disc d


def _forms(kind: np.ndarray, centre: np.ndarray, axes: np.ndarray, taper: np.ndarray) -> _Forms:
    inverse = np.linalg.inv(axes)
    origin = -np.einsum("pij,pj->pi", inverse, centre)
    shape = np.where(kind == CONE, -(taper**2), 1.0)
    slope = np.where(kind == CONE, -taper, 0.0)
    diagonal = np.stack([np.ones_like(shape), np.ones_like(shape), shape], 1)
    linear = np.stack([np.zeros_like(slope), np.zeros_like(slope), slope], 1)
    a = np.einsum("pki,pk,pkj->pij", inverse, diagonal, inverse)
    b = np.einsum("pki,pk->pi", inverse, diagonal * origin + linear)
    c = np.einsum("pi,pi->p", diagonal * origin + 2.0 * linear, origin) - 1.0
    disc = b[:, :, None] * b[:, None, :] - c[:, None, None] * a
    return _Forms(inverse, origin, shape, slope, b, c, disc)


def _extent(kind, centre, axes, taper):
    """Camera-space bounds (P, 2 ends, 3) as centre and half extent; a ball and a box repeat their single bound."""
    round_ = np.sqrt((axes**2).sum(2))
    disc = np.sqrt((axes[:, :, :2] ** 2).sum(2))
    box = np.abs(axes).sum(2)
    cone = kind == CONE
    first = np.where(cone[:, None], disc, np.where((kind == BOX)[:, None], box, round_))
    last = np.where(cone[:, None], disc * (1.0 + taper)[:, None], first)
    far = np.where(cone[:, None], centre + axes[:, :, 2], centre)
    return np.stack([centre, far], 1), np.stack([first, last], 1)


def _patches(middle, half, *, focal, centre_xy, size_wh, supersample):
    """Pixel rectangles (P, 4) x0, y0, x1, y1 (end exclusive) that hold each primitive, and whether it can be drawn."""
    near = middle[..., 2] - half[..., 2]
    drawable = (near > NEAR).all(1)
    near, far = np.maximum(near, NEAR), np.maximum(middle[..., 2] + half[..., 2], NEAR)
    low, high = middle[..., :2] - half[..., :2], middle[..., :2] + half[..., :2]
    low = np.minimum(low / near[..., None], low / far[..., None]).min(1)
    high = np.maximum(high / near[..., None], high / far[..., None]).max(1)
    low, high = ((v * focal + centre_xy + 0.5) * supersample for v in (low, high))
    limit = np.asarray(size_wh) * supersample
    start, stop = np.clip(np.floor(low), 0, limit).astype(int), np.clip(np.ceil(high), 0, limit).astype(int)
    return np.concatenate([start, stop], 1), drawable & (stop > start).all(1)


def _hit_box(inverse, origin, x, y):
    """Returns the depth at which each ray of the patch enters the box, and the pixels of these rays."""
    enter, leave = np.float32(0.0), np.float32(np.inf)
    for i in range(3):
        q = inverse[i, 0] * x[None, :] + (inverse[i, 1] * y + inverse[i, 2])[:, None]
        q = np.where(np.abs(q) < 1e-9, np.float32(1e-9), q)
        t0, t1 = (-1.0 - origin[i]) / q, (1.0 - origin[i]) / q
        enter, leave = np.maximum(enter, np.minimum(t0, t1)), np.minimum(leave, np.maximum(t0, t1))
    rows, cols = np.nonzero(enter < leave)
    return rows, cols, enter[rows, cols]


def _hit_quadric(disc, b, c, x, y):
    """Returns the depth of the nearer intersection with an ellipsoid or an infinite cone, for the rays that meet it."""
    row = (disc[0, 0] * x + 2.0 * disc[0, 2]) * x + disc[2, 2]
    col = (disc[1, 1] * y + 2.0 * disc[1, 2]) * y
    value = (2.0 * disc[0, 1] * y)[:, None] * x + row
    value += col[:, None]
    rows, cols = np.nonzero(value > 0.0)
    along = b[0] * x[cols] + b[1] * y[rows] + b[2]
    # The stable form of (-B - sqrt(disc)) / A: it needs no A and gives the entering side.
    denominator = np.sqrt(value[rows, cols]) - along
    t = c / np.where(denominator > 1e-12, denominator, np.float32(np.inf))
    return rows, cols, t


def draw(primitives: Primitives, *, rotation, position, focal, centre_xy, size_wh, supersample) -> Surface:
    """Returns the nearest primitive, depth, local coordinates and normal of every pixel.

    Args:
        primitives: The primitives, in world coordinates.
        rotation, position: The camera: camera = rotation @ (world - position).
        focal: The focal length, pixels.
        centre_xy: The principal point, pixels.
        size_wh: The width and height of the image.
        supersample: The arrays are this many times as large, and sub-pixel j has its centre at
            (j + 0.5) / supersample - 0.5.
    """
    width, height = size_wh[0] * supersample, size_wh[1] * supersample
    x = (((np.arange(width) + 0.5) / supersample - 0.5 - centre_xy[0]) / focal).astype(np.float32)
    y = (((np.arange(height) + 0.5) / supersample - 0.5 - centre_xy[1]) / focal).astype(np.float32)
    depth = np.full((height, width), np.inf, np.float32)
    index = np.full((height, width), NOTHING, np.int16)

    kind, taper = np.array(primitives.kind), np.array(primitives.taper)
    centre = (np.array(primitives.centre) - position) @ rotation.T
    axes = np.einsum("ij,pjk->pik", rotation, np.array(primitives.axes))
    forms = _forms(kind, centre, axes, taper)
    middle, half = _extent(kind, centre, axes, taper)
    patches, drawable = _patches(
        middle, half, focal=focal, centre_xy=np.asarray(centre_xy), size_wh=size_wh, supersample=supersample
    )
    inverse, origin = forms.inverse.astype(np.float32), forms.origin.astype(np.float32)
    disc, b, c = forms.disc.astype(np.float32), forms.b.astype(np.float32), forms.c.astype(np.float32)

    for k in np.flatnonzero(drawable):
        x0, y0, x1, y1 = patches[k]
        xs, ys = x[x0:x1], y[y0:y1]
        if kind[k] == BOX:
            rows, cols, t = _hit_box(inverse[k], origin[k], xs, ys)
        else:
            rows, cols, t = _hit_quadric(disc[k], b[k], c[k], xs, ys)
        if not len(t):
            continue
        seen = (t > 0.0) & (t < depth[y0:y1, x0:x1][rows, cols])
        rows, cols, t = rows[seen], cols[seen], t[seen]
        keep = _inside_cut(kind[k], primitives.cut[k], inverse[k], origin[k], xs[cols], ys[rows], t)
        if keep is not None:
            rows, cols, t = rows[keep], cols[keep], t[keep]
        depth[y0:y1, x0:x1][rows, cols] = t
        index[y0:y1, x0:x1][rows, cols] = k
    return _surface(index, depth, x, y, kind, forms, inverse, origin)


def _inside_cut(kind, cut, inverse, origin, x, y, t):
    """Marks hits on the finite cone and on the drawn side of the cutting plane; None means all."""
    if kind != CONE and cut is None:
        return None
    keep = np.ones(len(t), bool)
    if kind == CONE:
        z = t * (inverse[2, 0] * x + inverse[2, 1] * y + inverse[2, 2]) + origin[2]
        keep &= (z >= 0.0) & (z <= 1.0)
    if cut is not None:
        normal, limit = np.asarray(cut[0], np.float32), cut[1]
        n, o = normal @ inverse, normal @ origin
        keep &= t * (n[0] * x + n[1] * y + n[2]) + o >= limit
    return keep


def _surface(index, depth, x, y, kind, forms, inverse, origin) -> Surface:
    """Computes local coordinates and normals of the covered pixels, primitive by primitive (a slice each after one sort)."""
    pixel = np.flatnonzero(index.ravel() != NOTHING)
    primitive = index.ravel()[pixel]
    order = np.argsort(primitive, kind="stable")
    pixel, primitive = pixel[order], primitive[order]
    t = depth.ravel()[pixel]
    px, py = t * x[pixel % index.shape[1]], t * y[pixel // index.shape[1]]
    local, normal = np.empty((3, len(t)), np.float32), np.empty((3, len(t)), np.float32)

    starts = np.searchsorted(primitive, np.arange(len(kind) + 1))
    for k in np.flatnonzero(np.diff(starts)):
        part = slice(starts[k], starts[k + 1])
        m, o = inverse[k], origin[k]
        for i in range(3):
            local[i, part] = m[i, 0] * px[part] + m[i, 1] * py[part] + (m[i, 2] * t[part] + o[i])
        gradient = local[:, part].copy()
        if kind[k] == BOX:  # the face that was hit is that of the largest local coordinate
            gradient *= np.abs(gradient) >= np.abs(gradient).max(0)
        else:
            gradient[2] = forms.shape[k] * gradient[2] + forms.slope[k]
        for i in range(3):
            normal[i, part] = m[0, i] * gradient[0] + m[1, i] * gradient[1] + m[2, i] * gradient[2]
    normal /= np.sqrt((normal * normal).sum(0)) + 1e-12
    return Surface(index, depth, pixel, primitive, local.T, normal.T)
