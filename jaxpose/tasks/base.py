"""Defines a task, and how every task normalises an image before the net sees it.

Three Protocols define what the rest of the package may expect of a task. Each one extends the previous one:

    Task        anything that trains and predicts: all that `train`, `checkpoint` and a training loop need
    PoseTask    its outputs are joints of a skeleton (a lifting of 2D joints to 3D is one, and reads no image)
    ImageTask   it reads images of a given size: all that prediction, export and pictures need

No class has to inherit from them: any class with these members satisfies them. The families of this package
(`Regression`, `Heatmaps`, `BottomUp`) are frozen dataclasses on `NetTask` and satisfy all three.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, asdict, dataclass, field, fields, is_dataclass
from typing import Any, ClassVar, Literal, Protocol, Self, get_args, get_origin, get_type_hints, runtime_checkable

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxpose import density
from jaxpose.skeleton import Skeleton
from jaxpose.tasks.describe import build, describe

PyTree = Any
Batch = dict[str, jax.Array]
LossAndMetrics = tuple[jax.Array, tuple[PyTree, dict[str, jax.Array]]]
Level = Literal["person", "image", "scan", "detection", "pair"]


@runtime_checkable
class Task(Protocol):
    """Pure functions of variables and a batch that are trained, and the description that rebuilds them.

    The members here are all that `jaxpose.train` and `jaxpose.checkpoint` use, so a task need not read images, and its
    predictions need not be joints. A class of your own trains as soon as it has them:

    >>> class Line:
    ...     family, level, outputs, config = "line", "person", ("y",), {}
    ...     def init(self, key):
    ...         return {"params": {"w": jax.random.normal(key)}, "batch_stats": {}}
    ...     def loss(self, variables, batch, *, key):
    ...         error = variables["params"]["w"] * batch["x"] - batch["y"]
    ...         return (error**2).mean(), ({}, {"largest": jnp.abs(error).max()})
    ...     def predict(self, variables, batch, *, flip_test=True):
    ...         return {"y": variables["params"]["w"] * batch["x"]}
    ...     def density(self, variables, *, required=False):
    ...         return None
    >>> isinstance(Line(), Task)
    True
    """

    @property
    def family(self) -> str:
        """Name of the family in a stored config. Only `from_config` compares it; everywhere else it is a label."""
        ...

    @property
    def level(self) -> Level:
        """The kind of one sample of a batch: "person" (a crop), "image" (a whole image), "scan" (a scan whose columns are samples of
        boundaries), "detection" (a whole image with the boxes of its people) or "pair" (one person's joints in 2D and 3D)."""
        ...

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the arrays that `predict` returns."""
        ...

    @property
    def config(self) -> dict[str, Any]:
        """A description that JSON can hold; `jaxpose.tasks.from_config(task.config)` returns an equal task."""
        ...

    def init(self, key: jax.Array) -> PyTree:
        """Returns freshly initialised variables: {"params", "batch_stats"}."""
        ...

    def loss(self, variables: PyTree, batch: Batch, *, key: jax.Array) -> LossAndMetrics:
        """Returns (scalar, (new collections, metrics)): the mean over the global batch, and what the step also logs.

        Args:
            variables: the variables, with the structure that `init` returns.
            batch: arrays with the samples on the first axis.
            key: random key of this step.
        """
        ...

    def predict(self, variables: PyTree, batch: Batch, *, flip_test: bool = True) -> dict[str, jax.Array]:
        """Returns the arrays named in `outputs`, with the samples of the batch on the first axis.

        Args:
            variables: the variables, with the structure that `init` returns.
            batch: the inputs; labels are not needed.
            flip_test: average with the prediction for the mirrored input. A task whose input has no mirror image ignores it.
        """
        ...

    def density(self, variables: PyTree, *, required: bool = False) -> density.Model | None:
        """Returns the predictive density of the standardised error (`jaxpose.density`), or None if the task defines none.

        Args:
            variables: the variables, with the structure that `init` returns.
            required: if True, raise a ValueError for weights that lack a part of the task's density.
        """
        ...


@runtime_checkable
class PoseTask(Task, Protocol):
    """A `Task` whose outputs are joints, whatever its input is."""

    @property
    def skeleton(self) -> Skeleton:
        """Names, limbs and mirror pairs of the K joints."""
        ...


@runtime_checkable
class ImageTask(PoseTask, Protocol):
    """A `PoseTask` that reads images: what `jaxpose.predict`, `jaxpose.export`, `jaxpose.view` and the experiments need."""

    @property
    def size_wh(self) -> tuple[int, int]:
        """Width and height of the input in pixels (of the training images, for a net that takes images of any size)."""
        ...

    @property
    def size_multiple(self) -> int:
        """The number of which the width and the height of a test image must be multiples."""
        ...

    @property
    def preprocess(self) -> str:
        """Name of the image normalisation, a key of `PREPROCESS`."""
        ...

    @property
    def public_outputs(self) -> tuple[str, ...]:
        """Names of the outputs for users, without intermediate values and without a sigma that is not trained."""
        ...

    @property
    def rescore(self) -> str:
        """Name of this family's published rule for a person's score (`jaxpose.evaluation.results.person_score`)."""
        ...

    def inference_variables(self, variables: PyTree) -> PyTree:
        """Returns the part of the variables that `predict` reads."""
        ...


@dataclass(frozen=True, eq=False)
class NetTask:
    """The shared part of the families: a net that reads images, their normalisation, and the stored description.

    A family lists in `SETTINGS` what its config holds in addition to the net, the skeleton and the size: {key of the config:
    (field of the class, dataclass of the value or None for a plain value)}. Two tasks are equal only if they are the same
    object (`eq=False`), so that JAX caches the programs of `task.loss` and `task.predict` by the task.

    Attributes:
        net: a linen module, `net.apply(variables, images, train=...)`.
        skeleton: the skeleton whose joints the net predicts.
        size_wh: width and height of the input in pixels.
        preprocess: name of an image normalisation, see `PREPROCESS`.
    """

    net: nn.Module
    _: KW_ONLY
    skeleton: Skeleton
    size_wh: tuple[int, int]
    preprocess: str = "imagenet"

    family: ClassVar[str]
    level: ClassVar[Level]
    outputs: ClassVar[tuple[str, ...]]
    rescore: ClassVar[str]
    size_multiple: ClassVar[int] = 1
    SETTINGS: ClassVar[dict[str, tuple[str, type | None]]]

    def __post_init__(self) -> None:
        check_size(self.size_wh)
        object.__setattr__(self, "size_wh", tuple(self.size_wh))  # JSON has lists
        preprocessor(self.preprocess)

    @property
    def config(self) -> dict[str, Any]:
        """See `Task.config`."""
        values = {key: getattr(self, field) for key, (field, _) in self.SETTINGS.items()}
        return {
            "family": self.family,
            "net": describe(self.net),
            "skeleton": self.skeleton.to_dict(),
            "size_wh": list(self.size_wh),
            **{key: stated(value) if is_dataclass(value) else value for key, value in values.items()},
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], *, net: nn.Module | None = None) -> Self:
        """The inverse of `config`; see `jaxpose.tasks.from_config`, which selects the family."""
        missing = [name for name in ("net", "skeleton", "size_wh", *cls.SETTINGS) if name not in config]
        if missing:
            raise ValueError(f"the task's config lacks {', '.join(missing)}; its fields are {', '.join(config)}")
        if net is None and config["net"] is None:
            raise ValueError("this checkpoint was trained with a net of your own: pass it as net=")
        return cls(
            build(config["net"]) if net is None else net,
            skeleton=Skeleton.from_dict(config["skeleton"]),
            size_wh=config["size_wh"],
            **{
                field: config[key] if kind is None else kind(**config[key])
                for key, (field, kind) in cls.SETTINGS.items()
            },
        )

    @property
    def public_outputs(self) -> tuple[str, ...]:
        """See `ImageTask.public_outputs`; by default all outputs are public."""
        return self.outputs

    @property
    def units(self) -> dict[str, str]:
        """The units of outputs that depend on the family, by name (`jaxpose.export`); by default there are none."""
        return {}

    def init(self, key: jax.Array) -> PyTree:
        """See `Task.init`."""
        params, batch_stats = self.init_net(key)
        return {"params": {"net": params}, "batch_stats": batch_stats}

    def density(self, variables: PyTree, *, required: bool = False) -> density.Model | None:
        """See `Task.density`; a family defines none unless it overrides this method."""
        return None

    def inference_variables(self, variables: PyTree) -> PyTree:
        """See `ImageTask.inference_variables`; by default all variables are read."""
        return variables

    def init_net(self, key: jax.Array) -> tuple[PyTree, PyTree]:
        """Returns fresh (params, batch_stats) of the net, initialised with one image of `size_wh`."""
        width, height = self.size_wh
        variables = self.net.init(key, jnp.zeros((1, height, width, 3)), train=False)
        return variables["params"], variables.get("batch_stats", {})

    def apply_net(self, variables: PyTree, images: jax.Array, *, train: bool, **options: Any) -> tuple[Any, PyTree]:
        """Returns the net's raw outputs for images (B, H, W, 3) in 0..255, and its new collections ({} unless `train`)."""
        images = preprocessor(self.preprocess)(images)
        variables = {"params": variables["params"]["net"], "batch_stats": variables["batch_stats"]}
        if not train:
            return self.net.apply(variables, images, train=False, **options), {}
        return self.net.apply(variables, images, train=True, mutable=["batch_stats"], **options)

    def training_images(self, batch: Batch) -> jax.Array:
        """Returns the images of a training batch, (B, H, W, 3) in 0..255, with the colours of their augmentation.

        Args:
            batch: the image, and with augmented colours also "colour" (B, 3), the factors of the channels, and where the products are
                cut down to whole numbers, "truncate_colour" (B,).
        """
        if "colour" not in batch:
            return batch["image"]
        coloured = batch["image"].astype(jnp.float32) * batch["colour"][:, None, None, :]
        coloured = jnp.clip(coloured, 0.0, 255.0)
        return jnp.floor(coloured) if "truncate_colour" in batch else coloured

    @property
    def flip_index(self) -> jax.Array:
        """(K,) indices of the joints that take the place of each joint in the mirror image."""
        return jnp.asarray(self.skeleton.flip_index)


@dataclass(frozen=True)
class Preprocess:
    """Channel statistics of RGB images in 0..255: the net sees (image - mean) / std.

    `IMAGENET` is that of torchvision and mmpose. `RLE_OFFICIAL` reproduces the authors' 2D code (QUIRK R14): slightly
    different means in BGR order taken from an RGB image in 0..1, and no division by a standard deviation; their 3D code divides
    by ImageNet's deviations in BGR order (`RLE_OFFICIAL_3D`).
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    bgr: bool = False

    def __call__(self, images: jax.Array) -> jax.Array:
        """Normalises images (..., H, W, 3), uint8 or float in 0..255, to float32.

        >>> f"{IMAGENET(jnp.full((1, 1, 3), 255, jnp.uint8))[0, 0, 0]:.4f}"
        '2.2489'
        """
        images = images[..., ::-1] if self.bgr else images
        return (images.astype(jnp.float32) - jnp.asarray(self.mean)) / jnp.asarray(self.std)


def later(default: Any) -> Any:
    """Returns a field of settings that checkpoints of earlier versions lack; its default is the behaviour of those versions.

    `stated` leaves it out if it has its default, so that a stored task and the task that is rebuilt from it have equal
    configs.
    """
    return field(default=default, metadata={"later": True})


def stated(settings: Any) -> dict[str, Any]:
    """Returns the fields of a dataclass of settings as a checkpoint holds them.

    >>> @dataclass
    ... class Read:
    ...     kernel: int = 11
    ...     shift: float = later(0.25)
    >>> stated(Read()), stated(Read(shift=0.0))
    ({'kernel': 11}, {'kernel': 11, 'shift': 0.0})
    """
    defaults = {f.name: f.default for f in fields(settings) if f.metadata.get("later")}
    values = asdict(settings).items()
    return {name: value for name, value in values if name not in defaults or value != defaults[name]}


IMAGENET = Preprocess(mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375))
RLE_OFFICIAL = Preprocess(mean=(0.406 * 255, 0.457 * 255, 0.480 * 255), std=(255.0, 255.0, 255.0))
RLE_OFFICIAL_3D = Preprocess(mean=RLE_OFFICIAL.mean, std=(0.225 * 255, 0.224 * 255, 0.229 * 255))
SIMPLE_BASELINE = Preprocess(mean=IMAGENET.mean, std=IMAGENET.std, bgr=True)
UNIT = Preprocess(mean=(0.0, 0.0, 0.0), std=(255.0, 255.0, 255.0))  # princeton-vl's hourglass
BEARPAW = Preprocess(
    mean=(0.4404 * 255, 0.4440 * 255, 0.4327 * 255), std=(255.0, 255.0, 255.0)
)  # MPII's means, no deviation
DETECTRON2 = Preprocess(mean=(103.53, 116.28, 123.675), std=(1.0, 1.0, 1.0), bgr=True)
POSENET = Preprocess(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))  # of 0..1, on images in 0..255 (QUIRK V10)
PREPROCESS = {
    "imagenet": IMAGENET,
    "posenet": POSENET,
    "rle_official": RLE_OFFICIAL,
    "rle_official_3d": RLE_OFFICIAL_3D,
    "detectron2": DETECTRON2,
    "simple_baseline": SIMPLE_BASELINE,
    "unit": UNIT,
    "bearpaw": BEARPAW,
}


def preprocessor(name: str) -> Preprocess:
    """Returns the image normalisation called `name`; raises a ValueError for an unknown name."""
    if name not in PREPROCESS:
        raise ValueError(f"preprocess={name!r}: expected one of {', '.join(PREPROCESS)}")
    return PREPROCESS[name]


def not_normalization(params: PyTree) -> PyTree:
    """Returns which parameters are decayed where the published recipes exempt normalisation: those of layers without a scale.

    Args:
        params: Nested dictionaries of parameters.

    >>> not_normalization({"bn1": {"scale": 1.0, "bias": 0.0}, "conv1": {"kernel": 1.0, "bias": 0.0}})
    {'bn1': {'scale': False, 'bias': False}, 'conv1': {'kernel': True, 'bias': True}}
    """
    if not isinstance(params, Mapping):
        return True
    if "scale" in params:
        return dict.fromkeys(params, False)
    return {name: not_normalization(part) for name, part in params.items()}


def check_size(size_wh: Sequence[int]) -> None:
    """Raises a ValueError unless width and height of the input are positive."""
    if len(size_wh) != 2 or min(size_wh) < 1:
        raise ValueError(f"size_wh={size_wh!r}: expected the input's width and height in pixels, both positive")


def check_choices(settings: Any) -> None:
    """Raises a ValueError if a field annotated as Literal holds a value that is not in its list."""
    for name, kind in get_type_hints(type(settings)).items():
        if get_origin(kind) is Literal and getattr(settings, name) not in get_args(kind):
            raise ValueError(f"{name}={getattr(settings, name)!r}: expected one of {', '.join(get_args(kind))}")


def check_positive(settings: Any, *names: str) -> None:
    """Raises a ValueError if one of the named fields is not above 0."""
    for name in names:
        if not getattr(settings, name) > 0:
            raise ValueError(f"{name}={getattr(settings, name)}: expected a positive number")
