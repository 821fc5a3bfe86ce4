"""The console script `jaxpose`: tools around the experiments. `jaxpose --help` lists them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal


def prepare(folder: Path, /, *, split: str = "train", data_dir: Path = Path("runs/data"),
            on_bad: Literal["error", "skip"] = "error") -> None:  # fmt: skip
    """Prepare one split of a COCO-format folder once, so that every later run starts at once.

    Args:
      folder: image folder and annotations; COCO 2017's layout is found by itself.
      split: name of the split: train, val, ...
      data_dir: where prepared data sets are kept.
      on_bad: stop at a bad sample, or skip it, counted and logged.
    """
    from jaxpose.data import builder

    source = builder.prepare(folder, split=split, data_dir=data_dir, on_bad=on_bad)
    print(json.dumps({"split": split, "persons": len(source), "joints": source.skeleton.num_joints}))


def synthetic(out: Path, /, *, train: int = 1800, val: int = 200, seed: int = 0) -> None:
    """Draw the embedded synthetic people: COCO JSON and JPEG files.

    Args:
      out: folder to make.
      train: images for training.
      val: images held out.
      seed: the same seed gives the same pixels and labels.
    """
    from jaxpose.data.synthetic import write_dataset

    print(write_dataset(out, train=train, val=val, seed=seed))


def main(argv: list[str] | None = None) -> None:
    """Entry point."""
    import tyro

    from jaxpose.summary import main as summary

    tools = {"summary": summary, "prepare": prepare, "synthetic": synthetic}
    try:
        tyro.extras.subcommand_cli_from_dict(tools, args=argv, description=__doc__)
    except (ValueError, FileNotFoundError) as error:
        raise SystemExit(f"jaxpose: {error}") from error


if __name__ == "__main__":
    main()
