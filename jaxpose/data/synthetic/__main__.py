"""`python -m jaxpose.data.synthetic OUT`: write a folder of synthetic people, and a sheet to look at them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro
from PIL import Image

from jaxpose.data.synthetic import overlay, render, write_dataset


def contact_sheet(
    *,
    seed: int,
    count: int = 24,
    columns: int = 4,
    size_wh: tuple[int, int] = (320, 256),
    label_noise: float = 1.0,
    person_sizes: tuple[float, float] | None = None,
) -> Image.Image:
    """Draws the first training pictures, each beside a copy with boxes, limbs and joints (red rings: occluded)."""
    rows = -(-count // columns)
    sheet = Image.new("RGB", (2 * columns * size_wh[0], rows * size_wh[1]))
    for i in range(count):
        image, people = render(seed, i, size_wh=size_wh, label_noise=label_noise, person_sizes=person_sizes)
        x, y = 2 * (i % columns) * size_wh[0], i // columns * size_wh[1]
        sheet.paste(Image.fromarray(image), (x, y))
        sheet.paste(overlay(image, people, zoom=1), (x + size_wh[0], y))
    return sheet


def main(
    out: Annotated[Path, tyro.conf.Positional],
    *,
    train: int = 1600,
    val: int = 400,
    seed: int = 0,
    size_wh: tuple[int, int] = (320, 256),
    label_noise: float = 1.0,
    person_sizes: tuple[float, float] | None = None,
    workers: int | None = None,
    sheet: Path | None = None,
) -> None:
    """Write synthetic people in COCO's layout.

    Args:
        out: Folder to create (reused if it already holds the same data set).
        train: Number of training pictures.
        val: Number of held-out pictures.
        seed: Seed of the data set.
        size_wh: Width and height of the pictures in pixels.
        label_noise: Factor on the errors of the training labels; those of the held-out pictures keep 1.
        person_sizes: Least and largest height of a standing person as fractions of the picture's height; by default the usual
            sizes.
        workers: Number of processes; by default one per CPU.
        sheet: Also write the first pictures with their labels to this file.
    """
    drawing = {"seed": seed, "size_wh": size_wh, "label_noise": label_noise, "person_sizes": person_sizes}
    folder = write_dataset(out, train=train, val=val, workers=workers, **drawing)
    print(folder)
    if sheet is not None:
        contact_sheet(**drawing).save(sheet)
        print(sheet)


if __name__ == "__main__":
    tyro.cli(main)
