"""Make this folder's small files out of the full golden folder.

  python tests/golden/extract.py GOLDEN_DIR

Provenance: README.md beside this file.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
MODELS = ("resnet18", "resnet50", "simplebaseline_res50", "hrnet_w32")
GROUPING = "a_"  # the one case of the parser that is subset: the smallest
# file -> which of its arrays are subset; nothing that holds a photograph or a COCO annotation
ARRAYS = {
    "rle_official": lambda key: True,
    "rle_mmpose": lambda key: True,
    "eval": lambda key: not key.startswith("coco_"),
    "affine": lambda key: key.startswith(("gen_", "syn_")),
    "integral": lambda key: not key.endswith("_dhm") and "_dlogits_f32" not in key and "l2_dlogits" not in key,
    "heatmap_targets": lambda key: (
        not key.startswith(("mmpose_unbiased_sigma", "dec_hm", "mmpose_udp_sigma3_t", "mse", "ohkm"))
    ),
    "swahr": lambda key: key.startswith(("ae_", "tgt_")) and key not in ("tgt_sigma2_res128", "tgt_scale_aware"),
    "grouping": lambda key: key.startswith(GROUPING),
    "backbones": lambda key: key.startswith(MODELS) and not key.endswith("out0_sub"),
}


def main(source: Path) -> None:
    for name, keep in ARRAYS.items():
        arrays = np.load(source / f"{name}.npz", allow_pickle=False)
        subset = {key: arrays[key] for key in arrays.files if keep(key)}
        if name == "swahr":
            subset["ae_tags"] = only_read(
                subset["ae_tags"], [subset[f"ae_{case}_nodes"] for case in ("people", "one", "zero")]
            )
        np.savez_compressed(HERE / f"{name}.npz", **subset)
    full = json.loads((source / "backbones.json").read_text())
    models = {name: strip(full["models"][name]) for name in MODELS}
    (HERE / "backbones.json").write_text(json.dumps({**full, "models": models}))
    cases = json.loads((source / "grouping.json").read_text())
    (HERE / "grouping.json").write_text(json.dumps([case for case in cases if GROUPING.startswith(case["name"])]))
    (HERE / "eval.json").write_text((source / "eval.json").read_text())
    size = sum(file.stat().st_size for file in HERE.iterdir())
    print(f"{size / 2**20:.2f} MiB")


def only_read(tags: np.ndarray, nodes: list[np.ndarray]) -> np.ndarray:
    """The tag maps (B, K, h, w) with 0 wherever no joint reads them: the others have no effect and would not compress."""
    flat, read = tags.reshape(len(tags), -1), np.zeros((len(tags), tags[0].size), bool)
    for image in range(len(tags)):
        for packed in nodes:
            read[image, packed[image, ..., 0][packed[image, ..., 1] > 0]] = True
    return np.where(read, flat, 0).reshape(tags.shape).astype(tags.dtype)


def strip(model: dict) -> dict:
    return {key: value for key, value in model.items() if key != "stages"}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
