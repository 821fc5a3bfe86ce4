"""Converts a paper's PyTorch checkpoint to one that the pages evaluate (--eval-only) and start from (--init).

A state dict has the numbers of a net, but not what its code base does before and after it. `published_task` adds that,
by layout:

    layout                       images                         read by                                        code
    rle_official                 RGB, odd means, no deviation   mu, 1 - sigma, exact mirror                    QUIRK R14, R16
    rle_mmpose                   ImageNet's, RGB                the same                                       QUIRK R15, R16
    simple_baseline              ImageNet's of RGB on BGR       argmax and quarter shift, maps moved a column  QUIRK H1
    hrnet                        ImageNet's, RGB                the same
    *_mmpose                     ImageNet's, RGB                the same, the shift by mmpose's border rule
    mmpose's integral models     ImageNet's, RGB                soft-argmax, confidence 1, exact mirror        QUIRK I4, D1
    higher_hrnet, swahr          ImageNet's, RGB                both resolutions, tags, flip test              QUIRK S8
    integral_3d                  ImageNet's, RGB                soft-argmax of the volume, confidence 1
    posenet_3d                   odd, RGB                       the same                                       QUIRK V10
    keypoint_rcnn, faster_rcnn*  ImageNet's, RGB, short 800     persons above 0.05, 100 at most                QUIRK E1 to E9
    detectron2_rcnn              Caffe's, BGR, short 800        the same, half a pixel, probabilities          QUIRK E1 to E9

mmpose states ImageNet's in 0..255 (1.x) or 0..1 (0.x); these are the same numbers, `tasks.IMAGENET`. Options set
everything that neither the file nor its layout holds: the input's size, the skeleton, DARK or UDP, beta. Differences in
how the released codes crop (mmpose's UDP affine, half a pixel at the border) are not imitated, nor the pixel by which
mmpose 1.x's MPII models are off (QUIRK H4).
"""

from __future__ import annotations

import json
import logging
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxpose import files, inference, weights
from jaxpose.inference import Settings
from jaxpose.nets import RCNN, HeatmapNet, ResNet, VolumeRegressor
from jaxpose.skeleton import BOX, COCO17, CROWDPOSE14, H36M17, H36M18, MPII16, RHD21, Skeleton, root_joints
from jaxpose.weights.layouts import PublishedNet, net_of, row_of

if TYPE_CHECKING:
    from jaxpose.tasks import ImageTask

logger = logging.getLogger(__name__)
Decode = Literal["argmax", "dark", "udp"]
SKELETONS = {s.name: s for s in (COCO17, CROWDPOSE14, MPII16, H36M17, H36M18, RHD21)}
BY_JOINTS = {s.num_joints: s for s in (COCO17, CROWDPOSE14, MPII16)}
SIZE = re.compile(r"(?<!\d)(\d{2,4})x(\d{2,4})(?!\d)")  # "256x192": height first, in all the code bases
SQUARE = re.compile(r"(?<=[_-])(512|640)(?=[_.-])")  # "pose_higher_hrnet_w32_512.pth"
ALONE = re.compile(r"(?<=[_-])384(?=[_.-]|$)")  # "pose_hrnet_w48_384.pth": the height
SUFFIXES = (*weights.TORCH_SUFFIXES, ".safetensors", ".pkl")
LEGACY = "9f466800"  # of keypointrcnn_resnet50_fpn_coco-9f466800.pth, whose frozen BatchNorm had an eps of 1e-5
TRAINED_FOR = re.compile(r"(?<![a-z])(dark|udp)(?![a-z])")  # "td-hm_hrnet-w32_dark-8xb64-210e_coco-256x192.pth"
# Data sets with the number of joints of COCO, CrowdPose or MPII but other joints:
# "td-hm_res101_8xb64-210e_aic-256x192.pth"
OTHER_JOINTS = re.compile(
    r"(?<![a-z0-9])(aic|ap-?10k|posetrack|h36m|human3\.?6m|mhp|jhmdb|animal[a-z]*|macaque|exlpose|lsp|lspet|3dhp)(?![a-z])"
)


def main(
    file: Path,
    /,
    *,
    layout: Literal["auto"] | weights.Layout = "auto",
    part: str | None = None,
    out: Path | None = None,
    size_wh: tuple[int, int] | None = None,
    skeleton: Literal["coco17", "crowdpose14", "mpii16", "h36m17", "h36m18", "rhd21"] | None = None,
    annotations: Path | None = None,
    category: int | str | None = None,
    decode: Decode | None = None,
    beta: float | None = None,
    preprocess: Literal["imagenet", "rle_official", "rle_official_3d", "simple_baseline"] | None = None,
    bn_eps: float | None = None,
    stats: Path | None = None,
) -> None:
    """Turn a paper's PyTorch checkpoint into one that the pages evaluate; nothing in the file is run.

    Args:
        file: .pth, .pt, .pth.tar, .ckpt, .bin as torch.save writes them, .safetensors, or the .pkl of Detectron2's model zoo.
        layout: Naming of the tensors; auto: found by the names.
        part: The net to read, if the file holds several: the key of a state dict ("state_dict_ema"), or the common
            prefix of its tensors' names ("teacher").
        out: Folder of the run to create; none: runs/ and the file's name.
        size_wh: Input width and height in pixels; none: those in the file's name ("256x192" is height x width), or the
            published default.
        skeleton: Skeleton of the joints; none: by their number, 17 COCO's, 14 CrowdPose's, 16 MPII's, unless the file's
            name indicates another data set, which is an error that asks for it.
        annotations: A COCO JSON whose category is the skeleton.
        category: Name or id, if several categories of the annotations have keypoints.
        decode: Decoding of heatmaps: argmax, or dark or udp for models that were trained for it, which is not in the
            file; none: argmax, unless the file's name indicates another, which is an error that asks for it.
        beta: Beta of the softmax of mmpose's integral models; none: 10 if the file's name contains debias, else 1.
        preprocess: Image normalisation, for a training of your own: imagenet (red, green, blue), simple_baseline (the same with
            blue first) or rle_official; none: that of the code base whose names the tensors have.
        bn_eps: Eps of the BatchNorm of an R-CNN's backbone, which the file does not state; none: 0 for torchvision's released files
            of the first version, else 1e-5.
        stats: Of Martinez's lifter, the means and deviations of its training: a folder with Human3.6M in VideoPose3D's or mmpose's
            files, from which they are computed, or an .npz file with mean_2d, std_2d (px), mean_3d and std_3d (mm).
    """
    from jaxpose import checkpoint, train

    out = out or Path("runs") / stem(file)
    if checkpoint.exists(out):
        raise FileExistsError(f"{out} holds a checkpoint already: name another --out, or remove it")
    state = weights.load_file(file, part=part)
    asked_for = _skeleton(skeleton, annotations, category)
    try:
        lifter = read_lifter(state, layout=layout, stats=stats)
        if stats is not None and (lifter is None or lifter[2]["layout"] != "martinez"):
            raise ValueError(f"--stats {stats} is for layout martinez, whose joints are standardised: leave it out")
        task, variables, facts = lifter or read(
            state, name=file.name, layout=layout, size_wh=size_wh, skeleton=asked_for, decode=decode, beta=beta,
            preprocess=preprocess, bn_eps=bn_eps,
        )  # fmt: skip
    except FileNotFoundError:  # of --stats
        raise
    except ValueError as error:
        raise ValueError(f"{file}: {str(error).removeprefix(f'{file.name}: ')}") from error
    except Exception as error:  # shapes that no published net has, which raise many exception types
        reason = str(error).splitlines()[:1] or [""]
        raise ValueError(f"{file}: not a net that can be read ({type(error).__name__}: {reason[0]:.100})") from error
    imported = {"file": file.name, "sha256": files.sha256(file), "layout": facts["layout"], "tensors": len(state)}
    settings = Settings(flip_test=facts["layout"] != "martinez") if lifter else published_settings(task)
    if padding := row_of(facts["layout"]).settings.get("padding"):
        settings = replace(settings, padding=padding)
    best = "skill" if lifter else "AP"
    config = {"task": task.config, "inference": settings.to_dict(), "best": best, "imported": imported}
    checkpoint.write_model(out, variables, config)
    page_name = (
        "h36m_lifting"
        if lifter
        else "h36m_rle"
        if facts["family"] == "regression_3d" and facts["layout"] == "rle_official"
        else page(facts["layout"], skeleton=facts["skeleton"], decode=facts.get("decode"))
    )
    command = f"python -m experiments.{page_name} --eval-only {shlex.quote(str(out))} --data DIR"
    if facts["family"] == "detection":
        command = f"jaxpose predict {shlex.quote(str(out))} photo.jpg"
    parameters = train.count_parameters(variables["params"]["net"])
    print(json.dumps({**facts, "parameters": parameters, "directory": str(out), "command": command}))


def read(
    state_dict: dict[str, np.ndarray],
    *,
    name: str = "",
    layout: Literal["auto"] | weights.Layout = "auto",
    size_wh: tuple[int, int] | None = None,
    skeleton: Skeleton | None = None,
    decode: Decode | None = None,
    beta: float | None = None,
    preprocess: str | None = None,
    bn_eps: float | None = None,
) -> tuple[ImageTask, dict[str, Any], dict[str, Any]]:
    """Converts a state dict of a pose net to (task, variables, facts).

    Args:
        state_dict: {name: array}, see `weights.from_torch`.
        name: The name of the file, which may contain the size of the input, and indicate what has to be asked.
        layout, size_wh, skeleton, decode, beta, preprocess, bn_eps: The same as in `main`.

    Returns:
        task: The task, whose `predict` returns what the published code returns.
        variables: Its variables, with the flow of RLE under params/flow if the file has one.
        facts: "layout", "family", "joints", "skeleton", "size_wh", "size_from", "preprocess", "decode" and "beta" for
            heatmaps, "bn_eps" and "classes" for detectors.

    Raises:
        ValueError: The state dict is a backbone; its names fit no or several layouts; the number of
            joints is unknown; the name indicates other joints, DARK, UDP or Caffe; options or tensors do not fit the
            layout.

    >>> from jaxpose.nets import HeatmapNet, ResNet
    >>> net = HeatmapNet(ResNet(depth=18, width=4), 17, deconvs=(8, 8, 8))
    >>> shapes = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    >>> names = weights.torch_tensors(shapes, {"backbone.": ""})
    >>> state = {name: np.zeros(shape) for name, (_, shape) in names.items()}
    >>> task, variables, facts = read(state, name="pose_resnet_18_384x288.pth.tar")
    >>> facts["layout"], facts["size_wh"], facts["size_from"], facts["preprocess"]
    ('simple_baseline', [288, 384], 'file name', 'simple_baseline')
    """
    layout, state_dict = net_of(state_dict, layout=layout)
    row = row_of(layout)
    if row.family is None:
        raise ValueError(
            f"layout {row.name}: a backbone, not a pose net: give the file to a page that trains, with --init"
        )
    family = FAMILIES[row.family]
    net, net_variables = weights.from_torch(state_dict, layout=row.name)
    if family.has_boxes:
        net = _person_detector(net, name, list(state_dict), bn_eps)
    elif bn_eps is not None:
        raise ValueError(f"--bn-eps {bn_eps}: for R-CNNs; this is layout {row.name}")
    if getattr(getattr(net, "head", None), "dim", 2) == 3:
        if decode is not None or beta is not None:
            raise ValueError(f"--decode and --beta: for heatmaps, this is layout {row.name} with three coordinates")
        return _in_space(
            state_dict, net, net_variables, layout=row.name, size_wh=size_wh, skeleton=skeleton, preprocess=preprocess
        )
    if family.has_volumes:
        if decode is not None or beta is not None:
            raise ValueError(f"--decode and --beta: for heatmaps, this is layout {row.name}, whose maps are volumes")
        return _of_volumes(
            net, net_variables, row=row, name=name, size_wh=size_wh, skeleton=skeleton, preprocess=preprocess
        )
    integral = bool(row.axes) and f"{row.axes}x" in state_dict
    _check_reading(row, name, decode=decode, beta=beta, integral=integral)
    _check_name(net, name)
    skeleton = _skeleton_of_net(net, name, skeleton)
    if size_wh is not None:
        origin = "--size-wh"
    elif integral:  # the axes of the maps, 1/4 of the input behind three deconvolutions
        stride = 32 // 2 ** len(net.deconvs)
        size_wh, origin = tuple(stride * state_dict[f"{row.axes}{axis}"].size for axis in "xy"), row.axes.rstrip("_")
    else:
        width = getattr(getattr(net, "backbone", net), "width", None)
        size_wh, origin = input_size(name, layout=row.name, skeleton=skeleton, width=width)
    if integral and decode is None:
        decode, beta = "soft_argmax", beta or (10.0 if "debias" in name else 1.0)
    decode, beta = decode or "argmax", beta or 1.0
    flow = _flow(state_dict) if family.has_flow else None
    task = published_task(
        net,
        layout=row.name,
        skeleton=skeleton,
        size_wh=size_wh,
        decode=decode,
        beta=beta,
        flow=flow,
        preprocess=preprocess,
    )
    params = {"net": net_variables["params"]} | ({} if flow is None else {"flow": flow})
    variables = {"params": params, "batch_stats": net_variables["batch_stats"]}
    width, height = size_wh
    batch = {"image": jax.ShapeDtypeStruct((1, height, width, 3), jnp.uint8)}
    if family.has_boxes:
        batch["size_hw"] = jax.ShapeDtypeStruct((1, 2), jnp.int32)
    jax.eval_shape(lambda v, x: task.predict(v, x, flip_test=False), variables, batch)  # checks the size
    facts = {
        "layout": row.name, "family": row.family, "joints": skeleton.num_joints, "skeleton": skeleton.name,
        "size_wh": list(size_wh), "size_from": origin, "preprocess": task.preprocess,
    }  # fmt: skip
    if family.has_maps:
        facts |= {"decode": decode, "beta": beta}
    if family.has_flow:
        facts["flow"] = flow is not None
    if family.has_boxes:
        facts |= {"bn_eps": net.backbone.bn_eps, "classes": net.num_classes - 1}
    return task, variables, facts


def _in_space(
    state_dict: dict[str, np.ndarray],
    net: nn.Module,
    net_variables: dict[str, Any],
    *,
    layout: weights.Layout,
    size_wh: tuple[int, int] | None,
    skeleton: Skeleton | None,
    preprocess: str | None,
) -> tuple[ImageTask, dict[str, Any], dict[str, Any]]:
    """Converts a net of RLE's authors with three coordinates, as `read` does; both of its flows come along.

    The input is square: their configuration is named 256x192 and has 256x256, so a size in the file's name is not believed.
    """
    from jaxpose import tasks

    joints = net.head.num_joints
    skeleton = skeleton or {s.num_joints: s for s in (H36M17, H36M18)}.get(joints)
    if skeleton is None or skeleton.num_joints != joints:
        raise ValueError(f"the net has {joints} joints in space: give --skeleton or --annotations with as many joints")
    size, origin = ((256, 256), "default") if size_wh is None else (tuple(size_wh), "--size-wh")
    flows = {
        name: weights.flow_from_torch(part)["params"]
        for name, prefix in (("flow", "flow3d."), ("flow_2d", "flow2d."))
        if (part := {key: value for key, value in state_dict.items() if key.startswith(prefix)})
    }
    hidden = {}
    if "flow" in flows:
        first = flows["flow"]
        layers = sum(key.startswith("s") and key.endswith("_0") for key in first)
        hidden = {"flow_layers": layers, "flow_hidden": tuple(first[f"s0_{i}"]["kernel"].shape[1] for i in (0, 1))}
    task = tasks.regression_3d(
        net, skeleton=skeleton, size_wh=size, likelihood=tasks.Likelihood(**hidden),
        preprocess="rle_official_3d" if preprocess is None else preprocess, depth=tasks.Depth(root=root_joints(skeleton)),
    )  # fmt: skip
    variables = {"params": {"net": net_variables["params"]} | flows, "batch_stats": net_variables["batch_stats"]}
    batch = {"image": jax.ShapeDtypeStruct((1, size[1], size[0], 3), jnp.uint8)}
    jax.eval_shape(lambda v, x: task.predict(v, x, flip_test=False), variables, batch)  # checks the size
    return task, variables, {
        "layout": layout, "family": task.family, "joints": joints, "skeleton": skeleton.name, "size_wh": list(size),
        "size_from": origin, "preprocess": task.preprocess, "flow": len(flows) == 2,
    }  # fmt: skip


def _of_volumes(
    net: HeatmapNet,
    net_variables: dict[str, Any],
    *,
    row: PublishedNet,
    name: str,
    size_wh: tuple[int, int] | None,
    skeleton: Skeleton | None,
    preprocess: str | None,
) -> tuple[ImageTask, dict[str, Any], dict[str, Any]]:
    """Converts a net of integral regression's code or PoseNet, as `read` does: bins of 2 m / D about the depth of the root.

    The layer of sigma, which the published nets lack, is 0; nothing reads it, since L1 states no uncertainty.
    """
    maps = net.num_joints
    skeleton = skeleton or next((s for s in (H36M18, H36M17) if not maps % s.num_joints), None)
    if skeleton is None or maps % skeleton.num_joints:
        joints = "18 or 17" if skeleton is None else f"{skeleton.num_joints} of {skeleton.name}"
        raise ValueError(
            f"the net has {maps} maps, no multiple of {joints} joints: give --skeleton or --annotations with the joints of the net"
        )
    bins = maps // skeleton.num_joints
    if bins < 2:
        raise ValueError(
            f"the net has {maps} maps, one a joint: heatmaps in the plane, which layout {row.name} has not"
        )
    size, origin = (tuple(size_wh), "--size-wh") if size_wh else input_size(name, layout=row.name, skeleton=skeleton)
    regressor = VolumeRegressor(net, bins=bins)
    task = FAMILIES[row.family].make(
        regressor, row.settings | ({} if preprocess is None else {"preprocess": preprocess}),
        {"skeleton": skeleton, "size_wh": size},
    )  # fmt: skip
    images = jax.ShapeDtypeStruct((1, size[1], size[0], 3), jnp.float32)
    sigma = jax.eval_shape(regressor.init, jax.random.key(0), images)["params"]["sigma"]
    sigma = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), sigma)
    params = {"net": {"net": net_variables["params"], "sigma": sigma}}
    variables = {"params": params, "batch_stats": {"net": net_variables["batch_stats"]}}
    batch = {"image": jax.ShapeDtypeStruct(images.shape, jnp.uint8)}
    jax.eval_shape(lambda v, x: task.predict(v, x, flip_test=False), variables, batch)  # checks the size
    return task, variables, {
        "layout": row.name, "family": task.family, "joints": skeleton.num_joints, "skeleton": skeleton.name, "bins": bins,
        "size_wh": list(size), "size_from": origin, "preprocess": task.preprocess,
    }  # fmt: skip


def read_lifter(
    state_dict: dict[str, np.ndarray],
    *,
    layout: Literal["auto"] | weights.Layout = "auto",
    stats: Path | None = None,
) -> tuple[Any, dict[str, Any], dict[str, Any]] | None:
    """Converts a state dict of a net that lifts joints to (task, variables, facts); None for any other net.

    VideoPose3D's and SRNet's nets read pixels scaled to -1..1 and predict metres relative to the pelvis, `norm="base"`, and are tested
    with the mirrored joints. Martinez's net reads and predicts standardised numbers; its means and deviations are folded into its
    layers, so that it reads pixels, `norm="raw"`.

    Args:
        state_dict: {name: array}, see `weights.from_torch`.
        layout: Its layout, or "auto".
        stats: The means and deviations of Martinez's net, see `main`.

    Raises:
        FileNotFoundError: `stats` does not exist.
        ValueError: The net is Martinez's and `stats` is None or of other joints; or it has other joints than Human3.6M's 17.
    """
    if layout not in ("auto", *LIFTERS):
        return None
    try:
        name, state_dict = net_of(state_dict, layout=layout)
    except ValueError:
        if layout == "auto":  # `read` says what the names look like
            return None
        raise
    if name not in LIFTERS:
        return None
    from jaxpose import tasks

    net, variables = weights.from_torch(state_dict, layout=name)
    if name == "martinez":
        return _martinez(net, variables, stats)
    if (net.joints_in, net.joints_out) != (H36M17.num_joints, H36M17.num_joints):
        raise ValueError(
            f"the net has {net.joints_in} joints in and {net.joints_out} out: expected the 17 of {H36M17.name}"
        )
    loss = tasks.LiftLoss(loss="mpjpe" if name == "videopose3d" else "l1")
    task = tasks.lifting(net, skeleton=H36M17, loss=loss)
    facts = {
        "layout": name,
        "family": task.family,
        "joints": H36M17.num_joints,
        "skeleton": H36M17.name,
        "frames": task.frames,
    }
    return task, {"params": {"net": variables["params"]}, "batch_stats": variables["batch_stats"]}, facts


LIFTERS = ("martinez", "videopose3d", "srnet")


def _martinez(net: Any, variables: Mapping[str, Any], stats: Path | None) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """Returns (task, variables, facts) of Martinez's net, see `read_lifter`."""
    from jaxpose import tasks
    from jaxpose.data import statistics

    if stats is None:
        raise ValueError(
            "layout martinez: its joints are standardised by means and deviations that the file does not hold; give --stats, the "
            "folder with the Human3.6M that it was trained on (VideoPose3D's data_3d_h36m.npz and data_2d_h36m_gt.npz, or mmpose's "
            "h36m_train.npz), or an .npz file with mean_2d, std_2d (16, 2) in px, mean_3d, std_3d (16, 3) in mm"
        )
    joints = len(statistics.INPUT_JOINTS), len(statistics.OUTPUT_JOINTS)
    if (net.joints_in, net.joints_out) != joints:
        raise ValueError(
            f"the net has {net.joints_in} joints in and {net.joints_out} out: expected the {joints[0]} of {H36M17.name} without the "
            f"nose and its {joints[1]} without the pelvis"
        )
    numbers = statistics_of(stats)
    task = tasks.lifting(
        net,
        skeleton=H36M17,
        norm="raw",
        input_joints=statistics.INPUT_JOINTS,
        output_joints=statistics.OUTPUT_JOINTS,
    )
    variables = statistics.folded(variables, numbers)
    facts = {
        "layout": "martinez", "family": task.family, "joints": H36M17.num_joints, "skeleton": H36M17.name, "frames": 1,
        "stats": str(stats),
    }  # fmt: skip
    return task, {"params": {"net": variables["params"]}, "batch_stats": variables["batch_stats"]}, facts


def statistics_of(path: Path) -> Any:
    """Returns the `jaxpose.data.statistics.Statistics` of a file, or of the training subjects in a folder with Human3.6M.

    Args:
        path: An .npz file of `Statistics.write`, or a folder with VideoPose3D's or mmpose's files.

    Raises:
        FileNotFoundError: The path does not exist, or the folder lacks a file.
        ValueError: A file is bad.
    """
    from jaxpose.data import human36m, statistics
    from jaxpose.data.formats import mmpose_3d, videopose3d

    if not path.is_dir():
        return statistics.Statistics.read(path)
    if (path / "h36m_train.npz").is_file():
        return statistics.Statistics.of(mmpose_3d.read(path / "h36m_train.npz").of_subjects(human36m.TRAIN))
    return statistics.Statistics.of(videopose3d.read(*videopose3d.find(path), subjects=human36m.TRAIN))


def published_task(
    net: nn.Module,
    *,
    layout: weights.Layout,
    skeleton: Skeleton,
    size_wh: tuple[int, int],
    decode: Decode | Literal["soft_argmax"] = "argmax",
    beta: float = 1.0,
    flow: dict[str, Any] | None = None,
    preprocess: str | None = None,
) -> ImageTask:
    """Returns the task of a layout: its code base's image processing and decoding; see the head of this module.

    Args:
        net: The net from `weights.from_torch`.
        layout: The layout of a pose net.
        skeleton: The skeleton of its joints.
        size_wh: The size of the input, px; at a height of 384 the published Gaussians have sigma 3, which DARK's blur
            follows.
        decode: The decoding of heatmaps.
        beta: The beta of "soft_argmax".
        flow: The parameters of RLE's flow, whose widths become the task's; none takes the published ones.
        preprocess: The image normalisation; None for the code base's.

    >>> from jaxpose.nets import HeatmapNet, HRNet
    >>> net = HeatmapNet(HRNet(4), 17, deconvs=())
    >>> task = published_task(net, layout="hrnet_mmpose", skeleton=COCO17, size_wh=(288, 384), decode="dark")
    >>> task.readout.kernel, task.codec.target, task.preprocess
    (17, 'unbiased', 'imagenet')
    """
    row = row_of(layout)
    settings = row.settings if preprocess is None else {**row.settings, "preprocess": preprocess}
    return FAMILIES[row.family].make(
        net, settings, {"skeleton": skeleton, "size_wh": tuple(size_wh)}, decode=decode, beta=beta, flow=flow
    )


def input_size(
    name: str, *, layout: weights.Layout, skeleton: Skeleton, width: int | None = None
) -> tuple[tuple[int, int], str]:
    """Returns (width, height) of the input, and their origin: the file's name, or the published default.

    Args:
        name: The name of the file.
        layout: The layout of a pose net.
        skeleton: The skeleton of its joints; MPII's inputs are square.
        width: The width of an HRNet; whole images are published at 640 px for W48, else at 512.

    >>> input_size("td-hm_hrnet-w48_8xb32-210e_coco-384x288-c161b7de.pth", layout="hrnet_mmpose", skeleton=COCO17)
    ((288, 384), 'file name')
    >>> input_size("pose_higher_hrnet_w48_640.pth.tar", layout="higher_hrnet", skeleton=COCO17)
    ((640, 640), 'file name')
    >>> input_size("mine_4x16_96x72.pth", layout="hrnet", skeleton=COCO17)
    ((72, 96), 'file name')
    >>> input_size("best.pth", layout="hrnet", skeleton=MPII16)
    ((256, 256), 'default')
    >>> input_size("best.pth", layout="swahr", skeleton=COCO17, width=48)
    ((640, 640), 'default')
    """
    for match in SIZE.finditer(name):
        height, across = int(match[1]), int(match[2])
        if (
            min(height, across) >= 32 and height % 8 == across % 8 == 0
        ):  # no other pair of numbers, such as those of layers
            return (across, height), "file name"
    return FAMILIES[row_of(layout).family].size(name, skeleton, width)


def page(layout: weights.Layout, *, skeleton: str, decode: str | None = None) -> str:
    """Returns the page in `experiments` that evaluates an imported task.

    Args:
        layout: The layout of a pose net.
        skeleton: The name of its skeleton.
        decode: The decoding of its heatmaps; none if it has no heatmaps.

    >>> page("simple_baseline_mmpose", skeleton="coco17", decode="soft_argmax")
    'coco_integral'
    """
    pages = row_of(layout).pages
    return pages.get(skeleton) or pages.get(decode) or pages[""]


def published_settings(task: ImageTask) -> Settings:
    """Returns the test settings of the code bases for a net of that task; all of them average with the mirrored image.

    MPII has one person per box, so that nothing is suppressed and the box alone ranks a person. RLE's code suppresses nobody whose
    box is annotated (QUIRK R21); its models are those of its image normalisation.

    Args:
        task: The task of an imported net.
    """
    settings = replace(inference.published(task), nms_annotated=not task.preprocess.startswith("rle_official"))
    if getattr(task, "dim", 2) == 3:  # Human3.6M's boxes are not padded
        return replace(settings, padding=1.0)
    return replace(settings, rescore="box", nms=None) if task.skeleton.name == MPII16.name else settings


def stem(file: Path) -> str:
    """Returns the file's name without the suffixes of such files.

    >>> stem(Path("models/pose_resnet_50_256x192.pth.tar"))
    'pose_resnet_50_256x192'
    """
    name = file.name
    while name.endswith(SUFFIXES):
        name = name[: name.rindex(".")]
    return name


# ---------------------------------------------------------------------------------------------------------------------
# Families of tasks: the meaning of the settings in a row of `weights.layouts`
# ---------------------------------------------------------------------------------------------------------------------


def _regression(net, settings: Mapping[str, Any], shared: Mapping[str, Any], *, flow, **_) -> ImageTask:
    """Builds the task. Settings: variant and flow_init of `tasks.Likelihood`; preprocess and outside of `tasks.regression`."""
    from jaxpose import tasks

    widths = {}
    if flow is not None:
        depth = 1 + max(int(name.split("_")[1]) for name in flow)
        widths["flow_hidden"] = tuple(flow[f"s0_{j}"]["kernel"].shape[1] for j in range(depth - 1))
        widths["flow_layers"] = len(flow) // (2 * depth)
    likelihood = tasks.Likelihood(variant=settings["variant"], flow_init=settings["flow_init"], **widths)
    return tasks.regression(
        net, **shared, likelihood=likelihood, preprocess=settings["preprocess"], outside=settings["outside"]
    )


def _heatmaps(
    net, settings: Mapping[str, Any], shared: Mapping[str, Any], *, decode: str, beta: float, **_
) -> ImageTask:
    """Builds the task. Settings: variant of `tasks.MapLoss`; border and offset of `tasks.Readout`; preprocess of `tasks.heatmaps`."""
    from jaxpose import tasks

    sigma = 3.0 if shared["size_wh"][1] >= 384 else 2.0
    if decode == "soft_argmax":
        read = tasks.Readout(decode, beta=beta, confidence="one")
        maps, joints = tasks.MapLoss("js", sigma=sigma), tasks.JointLoss("smooth_l1", variant="mmpose")
    else:
        offset = settings.get("offset", 0.0) if decode == "argmax" else 0.0
        read = tasks.Readout(decode, border=settings["border"], kernel=17 if sigma == 3 else 11, offset=offset)
        target = {"argmax": "msra", "dark": "unbiased", "udp": "udp"}[decode]
        maps = tasks.MapLoss(sigma=sigma, target=target, variant=settings["variant"])
        joints = tasks.JointLoss()
    return tasks.heatmaps(net, **shared, maps=maps, joints=joints, read=read, preprocess=settings["preprocess"])


def _bottom_up(net, settings: Mapping[str, Any], shared: Mapping[str, Any], **_) -> ImageTask:
    """Builds the task. Settings: loss, the fields of `tasks.PeopleLoss`; detection_thresholds by HRNet width; preprocess."""
    from jaxpose import tasks

    threshold = settings.get("detection_thresholds", {}).get(net.backbone.width, 0.1)
    return tasks.bottom_up(
        net, **shared, loss=tasks.PeopleLoss(**settings["loss"]),
        people=tasks.FindPeople(detection_threshold=threshold), preprocess=settings["preprocess"],
    )  # fmt: skip


def _detection(net, settings: Mapping[str, Any], shared: Mapping[str, Any], **_) -> ImageTask:
    """Builds the task. Settings: rule of `tasks.Resize`; preprocess. The size is the longest and the shorter side of an image."""
    from jaxpose import tasks

    short, longest = sorted(shared["size_wh"])
    rule = settings["rule"]
    resize = tasks.Resize(short, longest, rule=rule, half_pixel=rule == "detectron2")
    return tasks.detection(net, **shared, resize=resize, preprocess=settings["preprocess"])


def _volumes(net, settings: Mapping[str, Any], shared: Mapping[str, Any], **_) -> ImageTask:
    """Builds the task. Settings: preprocess and outside of `tasks.regression_3d`. Both codes take the depth as it is predicted."""
    from jaxpose import tasks

    depth = tasks.Depth(root=root_joints(shared["skeleton"]), relative=False)
    options = {"preprocess": settings["preprocess"], "outside": settings["outside"]}
    return tasks.regression_3d(net, **shared, likelihood=tasks.Likelihood(loss="l1"), depth=depth, **options)


def _square_size(name: str, skeleton: Skeleton, width: int | None) -> tuple[tuple[int, int], str]:
    """Returns the published size of crops for volumes, and its origin."""
    return (256, 256), "default"


def _person_size(name: str, skeleton: Skeleton, width: int | None) -> tuple[tuple[int, int], str]:
    """Returns the size of crops of persons and its origin; MPII's are square."""
    square = skeleton == MPII16
    if ALONE.search(name):
        return (384 if square else 288, 384), "file name"
    return (256 if square else 192, 256), "default"


def _whole_image_size(name: str, skeleton: Skeleton, width: int | None) -> tuple[tuple[int, int], str]:
    """Returns the size of whole images, which are square, and its origin."""
    if match := SQUARE.search(name):
        return (int(match[1]), int(match[1])), "file name"
    return ((640, 640) if width == 48 else (512, 512)), "default"


def _detector_size(name: str, skeleton: Skeleton, width: int | None) -> tuple[tuple[int, int], str]:
    """Returns the longest and the shorter side of an image, and their origin."""
    return (1333, 800), "default"


@dataclass(frozen=True)
class Family:
    """The conversion of the published nets of one task family.

    Attributes:
        make: (net, settings of the row, {"skeleton", "size_wh"}, decode=, beta=, flow=) -> the task.
        size: (name of the file, skeleton, width of the net) -> the input's size and its origin.
        has_maps: True if its nets are decoded with `decode` and `beta`.
        has_flow: True if a checkpoint may hold RLE's flow.
        has_boxes: True if its nets are detectors of boxes.
        has_volumes: True if its nets' maps are volumes, joints x bins of the depth.
    """

    make: Callable[..., ImageTask]
    size: Callable[[str, Skeleton, int | None], tuple[tuple[int, int], str]]
    has_maps: bool = False
    has_flow: bool = False
    has_boxes: bool = False
    has_volumes: bool = False


FAMILIES = {  # by the `family` of a row in `weights.layouts`
    "regression": Family(_regression, _person_size, has_flow=True),
    "heatmaps": Family(_heatmaps, _person_size, has_maps=True),
    "bottom_up": Family(_bottom_up, _whole_image_size),
    "volumes": Family(_volumes, _square_size, has_volumes=True),
    "detection": Family(_detection, _detector_size, has_boxes=True),
}


# ---------------------------------------------------------------------------------------------------------------------
# Checks and parts of `read`
# ---------------------------------------------------------------------------------------------------------------------


def _check_reading(row: PublishedNet, name: str, *, decode: Decode | None, beta: float | None, integral: bool) -> None:
    """Raises an error if --decode and --beta do not fit the layout, or the file's name asks for another --decode."""
    has_maps = FAMILIES[row.family].has_maps
    if decode is not None and not has_maps:
        raise ValueError(f"--decode {decode}: for heatmaps of persons, this is layout {row.name}")
    if beta is not None and not (integral and decode is None):
        raise ValueError(f"--beta {beta}: for mmpose's integral models, read by soft-argmax; this is layout {row.name}")
    if has_maps and decode is None and (match := TRAINED_FOR.search(name.lower())):
        raise ValueError(
            f"{name}: trained for {match[1]}, as its name says? Give --decode {match[1]}, or --decode argmax"
        )


def _person_detector(net: RCNN, name: str, names: list[str], bn_eps: float | None) -> RCNN:
    """Returns a net that outputs persons alone, with the eps that its BatchNorm was trained with."""
    if bn_eps is not None and not bn_eps >= 0:
        raise ValueError(f"--bn-eps {bn_eps}: expected 0 or a positive number, such as 1e-5")
    if bn_eps is None:
        # A counter of batches is saved by BatchNorm that was trained, whose eps nothing overwrites.
        trained = any(each.startswith("backbone.body.") and each.endswith("num_batches_tracked") for each in names)
        bn_eps = 1e-5 if trained or LEGACY in name else net.backbone.bn_eps
    if any("roi_heads.mask_" in each for each in names):
        logger.warning("%s: its mask head is left out; boxes and joints do not depend on it", name or "the state dict")
    return net.clone(backbone=net.backbone.clone(bn_eps=bn_eps), classes=(net.person_label,))


def _check_name(net: nn.Module, name: str) -> None:
    """Raises an error if the file's name indicates another net than the tensors' names and shapes."""
    if "caffe" in name.lower() and isinstance(getattr(net, "backbone", None), ResNet):
        raise ValueError(
            f"{name}: a net in Caffe's style, as its name says? Such blocks stride in their first 1x1 convolution, not in the 3x3 "
            "one; names and shapes are the same, so it would be read as another net. Take the file of PyTorch's style; if "
            "this is one, rename it"
        )


def _skeleton_of_net(net: nn.Module, name: str, skeleton: Skeleton | None) -> Skeleton:
    """Returns the requested skeleton, or the one with the net's number of joints; raises an error if it does not fit."""
    joints = net.head.num_joints if hasattr(net, "head") else net.num_joints
    if joints == 0 and skeleton is None:
        return BOX
    if skeleton is None and (match := OTHER_JOINTS.search(name.lower())):
        raise ValueError(
            f"{name}: trained on the joints of {match[1]}, as its name says? Their number, {joints}, does not tell: give "
            f"--skeleton ({', '.join(SKELETONS)}) or --annotations, a COCO JSON whose category has these joints"
        )
    skeleton = skeleton or BY_JOINTS.get(joints)
    if skeleton is None or skeleton.num_joints != joints:
        what = f"skeleton {skeleton.name} has {skeleton.num_joints}" if skeleton else "no skeleton is known for so many"
        raise ValueError(
            f"the net has {joints} joints, {what}: give --skeleton ({', '.join(SKELETONS)}) or --annotations, a COCO JSON "
            "whose category has these joints"
        )
    return skeleton


def _flow(state_dict: dict[str, np.ndarray]) -> dict[str, Any] | None:
    if not any(weights.FLOW_TENSOR.fullmatch(name) for name in state_dict):
        return None
    flow = weights.flow_from_torch(state_dict)["params"]
    if (dim := flow["s0_0"]["kernel"].shape[0]) != 2:
        raise ValueError(f"the flow has {dim} coordinates: expected 2")
    return flow


def _skeleton(name: str | None, annotations: Path | None, category: int | str | None) -> Skeleton | None:
    if category is not None and annotations is None:
        raise ValueError(f"--category {category}: it selects a category of --annotations, which is not given")
    if name is not None and annotations is not None:
        raise ValueError(f"--skeleton {name} --annotations {annotations}: give one of them")
    if annotations is None:
        return None if name is None else SKELETONS[name]
    from jaxpose.data.formats import coco

    try:
        return coco.skeleton_of(annotations, category=category)
    except ValueError as error:
        raise ValueError(
            f"--annotations {annotations}: {str(error).removeprefix(f'{annotations}').lstrip(': ')}"
        ) from error
