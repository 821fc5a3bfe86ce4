"""Runs thirty steps of every page's preset "tiny" and stores their numbers, which another version of the code must repeat.

    python -m tests.same_training --write losses.json                 in a checkout of the version before
    python -m tests.same_training --compare losses.json               in this one, on the same machine: to the bit
    python -m tests.same_training --compare losses.json --rtol 1e-3   on another machine, which rounds sums differently

A page runs as a user runs it, except for the length of the run and the number of synthetic pictures. MPII's and CrowdPose's pages
get the same pictures in the layout of their data sets. The script only uses the pages' `main`, so that it runs in any version.
"""

from __future__ import annotations

import argparse
import importlib
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

RECORDED = Path(__file__).parent / "runs_before" / "thirty_steps.json"
PICTURES = 200
CROPS = ("--epochs", "4", "--milestones", "3")
WHOLE = ("--epochs", "1.5", "--warmup-epochs", "0.5")
PAGES = {
    "coco_rle": ("--preset", "tiny", *CROPS),
    "coco_simple_baseline": CROPS,
    "coco_hrnet": CROPS,
    "coco_integral": CROPS,
    "coco_debias": (*CROPS, "--first-epochs", "2"),
    "mpii_rle": CROPS,
    "mpii_integral": CROPS,
    "coco_swahr": WHOLE,
    "crowdpose_swahr": WHOLE,
}


# Tests compile without optimisation, so that a step of HRNet takes ten seconds: there it makes one epoch of eleven steps.
SHORT = {"coco_hrnet": (11, "--epochs", "1")}


def run(page: str, folder: Path, steps: int = 30, *shorter: str) -> dict[str, Any]:
    """Trains one page's default for at least 30 steps and returns the losses of its steps and the numbers of its evaluation."""
    out = folder / "runs" / page
    argv = ["--out", str(out), "--data-dir", str(folder / "data"), "--log-every", "1", "--no-plots"]
    argv += [*PAGES[page], *shorter]
    layout = {"mpii": write_mpii, "crowdpose": write_crowdpose}.get(page.partition("_")[0])
    argv += ["--synthetic-images", str(PICTURES)] if layout is None else ["--data", str(layout(folder))]
    scores = importlib.import_module(f"experiments.{page}").main(argv)
    events = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    losses = [event["loss"] for event in events if event["event"] == "train"]
    if len(losses) < steps:
        raise ValueError(f"{page} made {len(losses)} steps: expected at least {steps}")
    return {"losses": losses, "scores": scores}


def check(page: str, folder: Path) -> None:
    """Asserts that a page's losses are the recorded ones: the first steps to rounding, the later ones as far as a training lets
    differences of rounding grow."""
    expected = json.loads(RECORDED.read_text())
    assert expected.keys() == PAGES.keys()
    steps, *shorter = SHORT.get(page, (30,))
    losses = run(page, folder, steps, *shorter)["losses"][:steps]
    recorded = np.asarray(expected[page]["losses"][:steps])
    np.testing.assert_allclose(losses[:5], recorded[:5], rtol=1e-3)
    # A loss that passes through 0 has no relative error there: it may be off by a part of the largest loss.
    np.testing.assert_allclose(losses, recorded, rtol=0.1, atol=np.abs(recorded).max() / 80)


def synthetic_coco(folder: Path) -> Path:
    """Writes the pictures and labels that the COCO pages draw themselves, and returns their folder."""
    from jaxpose.data import synthetic

    return synthetic.write_dataset(folder / "people", train=PICTURES - PICTURES // 10, val=PICTURES // 10, seed=0)


def write_mpii(folder: Path) -> Path:
    """Writes the synthetic people in the layout of MPII: centre and scale of the box, the first 16 joints."""
    coco, out = synthetic_coco(folder), folder / "mpii"
    (out / "annot").mkdir(parents=True, exist_ok=True)
    (out / "images").mkdir(exist_ok=True)
    for split, name in (("train", "train"), ("val", "valid")):
        content, images = read(coco, split)
        people = []
        for annotation in content["annotations"]:
            x, y, w, h = annotation["bbox"]
            keypoints = np.reshape(annotation["keypoints"], (-1, 3))[:16]
            people.append(
                {"image": copy_image(images[annotation["image_id"]], out / "images", split), "center": [x + w / 2, y + h / 2],
                 "scale": max(w, h) / 200, "joints": keypoints[:, :2].tolist(),
                 "joints_vis": (keypoints[:, 2] > 0).astype(int).tolist()}
            )  # fmt: skip
        (out / "annot" / f"{name}.json").write_text(json.dumps(people))
    return out


def write_crowdpose(folder: Path) -> Path:
    """Writes the synthetic people in the layout of CrowdPose: 14 joints, no areas, a crowd index per image."""
    from jaxpose.skeleton import CROWDPOSE14

    coco, out = synthetic_coco(folder), folder / "crowdpose"
    (out / "json").mkdir(parents=True, exist_ok=True)
    (out / "images").mkdir(exist_ok=True)
    for split, name in (("train", "trainval"), ("val", "test")):
        content, images = read(coco, split)
        for image in content["images"]:
            image["file_name"] = copy_image(images[image["id"]], out / "images", split)
            image["crowdIndex"] = (image["id"] % 10) / 10
        for annotation in content["annotations"]:
            keypoints = np.reshape(annotation["keypoints"], (-1, 3))
            keypoints = np.concatenate([keypoints[5:17], keypoints[0:2]])
            annotation["keypoints"] = keypoints.ravel().tolist()
            annotation["num_keypoints"] = int((keypoints[:12, 2] > 0).sum())
        content["categories"] = [{"id": 1, "name": "person", "keypoints": list(CROWDPOSE14.joints), "skeleton": []}]
        (out / "json" / f"crowdpose_{name}.json").write_text(json.dumps(content))
    return out


def read(coco: Path, split: str) -> tuple[dict[str, Any], dict[int, Path]]:
    """Returns the annotation JSON of a split, and the file of every image id."""
    (path,) = (p for p in (coco / "annotations").glob("*.json") if split in p.stem)
    content = json.loads(path.read_text())
    files = {p.name: p for p in coco.rglob("*.jpg") if split in str(p.parent.relative_to(coco))}
    return content, {image["id"]: files[Path(image["file_name"]).name] for image in content["images"]}


def copy_image(path: Path, folder: Path, split: str) -> str:
    """Copies an image under a name that is unique among the splits, and returns that name."""
    name = f"{split}_{path.name}"
    (folder / name).write_bytes(path.read_bytes())
    return name


def differences(before: dict[str, Any], now: dict[str, Any], *, rtol: float) -> list[str]:
    """Returns a sentence per different loss; `rtol` 0 compares bits. Scores are those of the moving average, whose rule has changed."""
    sentences = []
    for page, expected in before.items():
        losses = now[page]["losses"]
        if len(losses) != len(expected["losses"]):
            sentences.append(f"{page}: {len(losses)} steps, expected {len(expected['losses'])}")
        sentences += [
            f"{page}: the loss of step {step} is {y!r}, was {x!r}"
            for step, (x, y) in enumerate(zip(expected["losses"], losses, strict=False), start=1)
            if not (x == y or (rtol and np.isclose(x, y, rtol=rtol, atol=1e-9)))
        ]
    return sentences


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path, help="JSON file to write")
    parser.add_argument("--compare", type=Path, help="JSON file of the version before")
    parser.add_argument("--rtol", type=float, default=0.0, help="largest relative difference; 0: the same bits")
    parser.add_argument("--pages", nargs="*", default=list(PAGES), choices=list(PAGES))
    parser.add_argument("--folder", type=Path, help="folder for the runs; none: a temporary one")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        now = {page: run(page, options.folder or Path(temporary)) for page in options.pages}
    if options.write:
        options.write.write_text(json.dumps(now, indent=1) + "\n")
    if options.compare:
        before = {page: v for page, v in json.loads(options.compare.read_text()).items() if page in now}
        different = differences(before, now, rtol=options.rtol)
        print("\n".join(different) or f"{', '.join(before)}: the same losses")
        raise SystemExit(bool(different))


if __name__ == "__main__":
    main()
