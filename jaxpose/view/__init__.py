"""Pictures of data, results, maps and runs. On the command line: `jaxpose view`.

`figures` draws them with matplotlib (the extra `plot`). `data`, `results`, `maps`, `report` and `compare` are the tools
`jaxpose view data` and so on; `results` and `report` read two JSON files from any program, without JAX.
"""

from jaxpose.view.figures import (
    calibration,
    curves,
    draw_pose,
    learned_density,
    people,
    require,
    scale_against_size,
    scale_maps,
    sheet,
)

__all__ = [
    "calibration",
    "curves",
    "draw_pose",
    "learned_density",
    "people",
    "require",
    "scale_against_size",
    "scale_maps",
    "sheet",
]
