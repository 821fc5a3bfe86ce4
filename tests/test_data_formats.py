"""The formats as a whole: what a module offers, and how the format of a folder is found."""

import inspect
import json
import sys
import types
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import pytest

from jaxpose.data import builder, crops, formats
from jaxpose.data.checks import Problems
from jaxpose.data.formats import Format, Reader, coco, layout
from jaxpose.skeleton import Skeleton
from tests import (
    test_data_formats_crowdpose,
    test_data_formats_mpii,
    test_data_formats_rhd,
    test_data_space,
    tiny_coco,
    tiny_space,
)


def write_whole_body(folder):
    """COCO's folder with the fields of COCO-WholeBody: confidences in face and hands."""
    data = tiny_coco.content()
    for person in data["annotations"][:-2]:
        x, y, w, h = person["bbox"]
        for field, count in (("foot_kpts", 6), ("face_kpts", 68), ("lefthand_kpts", 21), ("righthand_kpts", 21)):
            third = 2 if field == "foot_kpts" else 0.25
            person[field] = [v for i in range(count) for v in (x + w * i / count, y + h / 2, third)]
    return tiny_coco.write(folder, data, name="coco_wholebody_train_v1.0.json")


WRITERS = {
    "coco_wholebody": (write_whole_body, "train"),
    "coco": (tiny_coco.write, "train"),
    "mpii": (test_data_formats_mpii.write, "valid"),
    "crowdpose": (test_data_formats_crowdpose.write, "test"),
    "rhd": (test_data_formats_rhd.write, "train"),
    "rhd_mmpose": (test_data_formats_rhd.write_mmpose, "train"),
    "coco_3d": (lambda folder: test_data_space.write(folder), "train"),
    "human36m": (lambda folder: tiny_space.write(folder, tiny_space.rle_json()), "train"),
}


@pytest.fixture(scope="module", params=get_args(Format))
def example(request, tmp_path_factory):
    write, split = WRITERS[request.param]
    return request.param, write(tmp_path_factory.mktemp(request.param)), split


@pytest.mark.parametrize("name", get_args(Format))
def test_a_module_offers_what_the_protocol_lists(name):
    module = formats.reader(name)
    assert isinstance(module, types.ModuleType) and isinstance(module.CONTENT, str)
    methods = {key: value for key, value in vars(Reader).items() if inspect.isfunction(value) and key[0] != "_"}
    assert set(methods) == {"find", "recognises", "own_skeleton", "read", "ground_truth"}
    for key, method in methods.items():
        expected = [p for p in inspect.signature(method).parameters.values() if p.name != "self"]
        offered = inspect.signature(getattr(module, key)).parameters.values()
        assert [(p.name, p.kind, p.default) for p in offered] == [(p.name, p.kind, p.default) for p in expected], key
        assert key in module.__all__


def test_the_format_of_a_folder_is_found(example, caplog):
    name, folder, split = example
    assert formats.guess(folder, split) == name
    caplog.clear()
    assert formats.choose("auto", folder, split).__name__.endswith(f".{name}")
    assert (f"{folder}: read as {name}" in caplog.text) == (name != "coco")
    assert formats.choose("mpii", folder, split) is formats.reader("mpii")


def test_a_file_is_recognised_by_one_format_wherever_it_lies(example):
    name, folder, split = example
    path, _ = formats.reader(name).find(folder, split)
    assert [other for other in get_args(Format) if formats.reader(other).recognises(path)] == [name]
    assert formats.guess(None, split, annotations=path) == name


def test_the_ground_truth_is_what_the_evaluation_reads(example):
    name, folder, split = example
    module = formats.reader(name)
    annotations, images = module.find(folder, split)
    truth = module.ground_truth(annotations, images, split=split)
    truth = truth if isinstance(truth, dict) else json.loads(truth.read_text())
    assert len(truth["images"]) == len(module.read(annotations, images, split=split).images)


class Dots(types.ModuleType):
    """A toy format: a folder with one text file per image, "x y" of two joints; even images are for evaluation."""

    CONTENT = "a folder dots/ with one text file per image"
    SKELETON = Skeleton("stick", ("top", "end"), (), ((0, 1),), (0.1, 0.1))

    def find(self, folder, split, *, annotations=None, images=None):
        labels = Path(annotations or Path(folder) / "dots")
        if not labels.is_dir():
            raise layout.NoAnnotations(f"{labels} is no folder", looked_for=[labels])
        return labels, Path(images or folder)

    def recognises(self, annotations):
        return Path(annotations).is_dir() and any(Path(annotations).glob("*.txt"))

    def own_skeleton(self, annotations, *, category=None):
        return self.SKELETON

    def read(self, annotations, images, *, split=None, skeleton=None, category=None, on_bad="error"):
        numbers = [int(path.stem) for path in sorted(Path(annotations).glob("*.txt"))]
        numbers = [n for n in numbers if (n % 2 == 0) == (split == "val")]
        entries = [{"id": n, "file_name": f"{n}.jpg", "width": 64, "height": 48} for n in numbers]
        people = []
        for n in numbers:
            (x, y), (u, v) = np.loadtxt(Path(annotations) / f"{n}.txt").tolist()
            box = [min(x, u), min(y, v), abs(u - x) + 1, abs(v - y) + 1]
            people.append({"id": n, "image_id": n, "category_id": 1, "bbox": box, "keypoints": [x, y, 2, u, v, 2]})
        category = self.SKELETON.to_coco_category()
        return coco.assemble(
            {"images": entries, "annotations": people, "categories": [category]},
            Path(images),
            skeleton=skeleton or self.SKELETON,
            category=category,
            problems=Problems(Path(annotations), on_bad),
        )

    def ground_truth(self, annotations, images, *, split=None):
        return self.read(annotations, images, split=split).ground_truth()


def test_a_new_format_is_one_module_and_its_name(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "jaxpose.data.formats.dots", Dots("jaxpose.data.formats.dots"))
    monkeypatch.setattr(formats, "Format", Literal["coco", "mpii", "crowdpose", "dots"])
    (tmp_path / "dots").mkdir()
    for n in range(1, 6):
        (tmp_path / f"{n}.jpg").write_bytes(tiny_coco.jpeg(tiny_coco.picture((64, 48), seed=n)))
        (tmp_path / "dots" / f"{n}.txt").write_text(f"{10 + n} 5\n{30 + n} 40\n")
    assert formats.guess(tmp_path, "train") == "dots"
    reader = formats.choose("auto", tmp_path, "train")
    for split, count in (("train", 3), ("val", 2)):
        source = builder.prepare(tmp_path, split=split, data_dir=tmp_path / "data", reader=reader, progress=False)
        assert len(source) == count and source.skeleton.name == "stick"
        joints = crops.plan(source, [0], size_wh=(48, 64))["joints"]
        assert joints.shape == (1, 2, 2) and len(source.ground_truth()["annotations"]) == count
    (tmp_path / "dots" / "1.txt").write_text("12 5\n30 40\n")
    changed = builder.prepare(tmp_path, split="train", data_dir=tmp_path / "data", reader=reader, progress=False)
    assert changed.persons["keypoints"][0, 0, 0] == 12  # a change of the labels is noticed, though they are a folder


def test_no_such_format():
    with pytest.raises(ValueError, match="format 'voc': expected one of coco, mpii, crowdpose"):
        formats.reader("voc")


def test_a_folder_without_annotations_names_what_was_looked_for(tmp_path):
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "mine.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match=r"not a folder"):
        formats.guess(tmp_path / "nowhere", "val")
    with pytest.raises(
        FileNotFoundError,
        match=r"no annotations for split 'val' in .*: looked for .*annotations/person_keypoints_val2017\.json.* \(coco\); "
        r".*annot/val\.json.* \(mpii\); .*json/crowdpose_val\.json.* \(crowdpose\); "
        r".*Human36M_subjectS_data\.json.* \(human36m\); there is labels/mine\.json",
    ):
        formats.guess(tmp_path, "val")
    with pytest.raises(FileNotFoundError, match=r"absent\.json does not exist"):
        formats.guess(None, "val", annotations=tmp_path / "absent.json")


def test_annotations_of_several_formats_and_of_none(tmp_path):
    folder = tiny_coco.write(tmp_path / "both")
    test_data_formats_mpii.write(folder, name="annot/train.json")
    with pytest.raises(
        ValueError, match=r"several formats, coco \(.*\), mpii \(.*annot/train\.json\): give the format"
    ):
        formats.guess(folder, "train")
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "train.json").write_text('[{"image_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}]')
    with pytest.raises(
        ValueError, match=r"train\.json is in no known format \(coco is an object.*mpii is a list.*--format"
    ):
        formats.guess(tmp_path, "train")


def test_a_file_with_the_name_of_one_format_is_described_by_it(tmp_path):
    (tmp_path / "rhd_train.json").write_text('{"images": [], "annotations": [{"id": 1}]}')
    with pytest.raises(
        ValueError, match=r"rhd_train\.json is in no known format \(rhd_mmpose is as COCO's, [^;]*\): convert"
    ):
        formats.guess(tmp_path, "train")


def test_several_files_of_a_split_are_an_error_that_names_them(tmp_path):
    folder = tiny_coco.write(tmp_path)
    content = (folder / "annotations" / "train.json").read_text()
    (folder / "annotations" / "train.json").unlink()
    for year in ("2014", "2017"):
        (folder / "annotations" / f"person_keypoints_train{year}.json").write_text(content)
    with pytest.raises(FileNotFoundError, match="several files for split 'train' .*2014.*2017"):
        formats.guess(folder, "train")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_a_format_is_recognised_in_every_encoding(tmp_path, encoding):
    path = tmp_path / "test.json"
    for content, expected in (
        (test_data_formats_crowdpose.content(), "crowdpose"),
        (test_data_formats_mpii.content(), "mpii"),
        (tiny_coco.content(), "coco"),
    ):
        path.write_text("\n " + json.dumps(content), encoding=encoding)
        assert formats.guess(None, "test", annotations=path) == expected


@pytest.mark.parametrize("field", ["hand_type", "joint_cam", "cam_param", "keypoints_world"])
def test_one_more_field_does_not_make_another_format(tmp_path, field):
    """Such as the side of a hand in one's own annotations, which were COCO's before hands in space had a format."""
    content = tiny_coco.content()
    content["annotations"][0][field] = "left"
    (tmp_path / "test.json").write_text(json.dumps(content))
    assert formats.guess(None, "test", annotations=tmp_path / "test.json") == "coco"


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "test.json is empty"), ('[{"id": 1}, {"i', r"test.json is cut off: a JSON file ends with")],
)
def test_empty_and_cut_off_files_are_named(tmp_path, text, message):
    (tmp_path / "test.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        formats.guess(None, "test", annotations=tmp_path / "test.json")


@pytest.mark.parametrize("order", [("images", "annotations", "categories"), ("annotations", "categories", "images")])
def test_crowd_indices_are_seen_in_a_long_file(tmp_path, order):
    data = test_data_formats_crowdpose.content()
    data["annotations"] *= 3000
    path = tmp_path / "test.json"
    path.write_text(json.dumps({key: data[key] for key in order}))
    assert path.stat().st_size > 4 * layout.EDGE
    assert formats.guess(None, "test", annotations=path) == "crowdpose"
