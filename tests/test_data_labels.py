"""Projects of labelling tools: every coordinate as the files have it, what was left out counted, what is wrong refused."""

from __future__ import annotations

import base64
import csv
import dataclasses
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from experiments import coco_rle, coco_swahr
from experiments.common import kinds
from jaxpose import new
from jaxpose.data import command, labels
from jaxpose.data.formats import coco
from jaxpose.data.labels.project import order_of, read_xml, read_yaml

JOINTS = ("snout", "left ear", "right ear", "tail")
SIZE = (40, 30)
FORMATS = {"dlc_single": "deeplabcut", "dlc_multi": "deeplabcut", "slp": "sleap"}

# name -> people -> joints: x, y, visibility; what every test writes in its tool's way
PEOPLE = {
    "img1.png": [{"snout": (3.5, 4.25, 2), "left ear": (6, 7, 2), "tail": (20.125, 21, 2)}],
    "img2.png": [{"tail": (9, 8, 2)}, {"right ear": (30, 12.5, 2), "snout": (31, 3, 2)}],
}


def picture(path: Path, size=SIZE, *, mode="RGB") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, 90).save(path)
    return path


def convert(path: Path, tmp_path: Path, **options):
    """The conversion, the people of each picture by joint, and the categories."""
    corner, format = options.pop("corner", False), options.pop("format", "auto")
    converted = labels.convert(path, tmp_path / "out", format=format, options=labels.Options(**options), corner=corner)
    people, categories = {}, None
    for file, images in converted.files.values():
        content = json.loads(file.read_text())
        categories = content["categories"]
        joints = {c["id"]: c["keypoints"] for c in categories}
        names = {image["id"]: image["file_name"] for image in content["images"]}
        for image in content["images"]:
            people[image["file_name"]] = []
        for a in content["annotations"]:
            triples = zip(a["keypoints"][::3], a["keypoints"][1::3], a["keypoints"][2::3], strict=True)
            named = zip(joints[a["category_id"]], triples, strict=True)
            people[names[a["image_id"]]].append({n: t for n, t in named if t[2]})
        coco.read(file, images)  # what comes later takes it
    return converted, people, categories


def like(people, expected, *, prefix=""):
    assert set(people) == {prefix + name for name in expected}
    for name, persons in expected.items():
        assert people[prefix + name] == [{j: pytest.approx(v, abs=1e-9) for j, v in p.items()} for p in persons], name


# ------------------------------------------------------------------------------------------------------- the golden sets


@pytest.mark.parametrize(
    "name", ["dlc_single", "dlc_multi", "slp", "pkg.slp", "yolo", "labelstudio", "cvat", "labelme"]
)
def test_every_expected_coordinate(data_dir, tmp_path, name):
    folder = data_dir("label_formats")
    expected = json.loads((folder / "expected.json").read_text())
    if name in ("slp", "pkg.slp"):
        pytest.importorskip("sleap_io")
    of = expected["files"]["slp" if name == "pkg.slp" else name]
    path = folder / ("slp/labels.pkg.slp" if name == "pkg.slp" else of["path"])
    converted, people, categories = convert(path, tmp_path)
    assert converted.format == FORMATS.get(name, "sleap" if name == "pkg.slp" else name)
    assert categories[0]["keypoints"] == expected["joints"]
    edges = [[a - 1, b - 1] for a, b in categories[0]["skeleton"]]
    assert edges == (expected["edges"] if name in ("dlc_single", "dlc_multi", "slp", "pkg.slp", "cvat") else [])
    assert set(people) == set(of["images"])
    for file, persons in of["images"].items():
        assert len(people[file]) == len(persons)
        for person, wanted in zip(people[file], persons, strict=True):
            for k, (joint, xy) in enumerate(zip(expected["joints"], wanted["xy"], strict=True)):
                if xy is None:
                    assert joint not in person
                    continue
                hidden = wanted["vis"][k] == 1 if "vis" in wanted else wanted.get("occluded", [False] * 5)[k]
                assert person[joint][:2] == pytest.approx(xy, abs=of.get("tolerance_px", 1e-12))
                assert person[joint][2] == (1 if hidden else 2)


# --------------------------------------------------------------------------------------------------------------- DeepLabCut


def write_dlc(
    folder: Path, *, columns=1, separator="/", config=True, individuals=None, scorer="A B", video="v 1", skip=()
):
    """A project whose rows are PEOPLE; joints of the CSV in another order than in config.yaml."""
    parts = ("tail", "snout", "right ear", "left ear")
    who = individuals or [None]
    head = [["scorer"], ["individuals"], ["bodyparts"], ["coords"]]
    for row in head:
        row += [""] * (columns - 1)
    for person in who:
        for part in parts:
            for coord in "xy":
                for row, value in zip(head, (scorer, person, part, coord), strict=True):
                    row.append(value)
    rows = head if individuals else [head[0], *head[2:]]
    for name, people in PEOPLE.items():
        cells = ["labeled-data", video, name]
        row = cells if columns == 3 else [separator.join(cells)]
        for i in range(len(who)):
            for part in parts:
                row += list(map(repr, people[i][part][:2])) if i < len(people) and part in people[i] else ["", ""]
        rows.append(row)
        if name not in skip:
            picture(folder / "labeled-data" / video / name)
    file = folder / "labeled-data" / video / f"CollectedData_{scorer}.csv"
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", newline="") as stream:
        csv.writer(stream).writerows(rows)
    if config:
        listed = "\n".join(f"- {name}" for name in JOINTS)
        kind = "bodyparts: MULTI!\nmultianimalbodyparts:" if individuals else "bodyparts:"
        (folder / "config.yaml").write_text(
            f"Task: t\nscorer: {scorer}\nmultianimalproject: {str(bool(individuals)).lower()}\n{kind}\n{listed}\n"
            "skeleton:\n- - snout\n  - tail\n- - objectA\n  - tail\n"
        )
    return file


FIRST = {name: people[:1] for name, people in PEOPLE.items()}


@pytest.mark.parametrize("columns, separator", [(3, "/"), (1, "/"), (1, "\\")])
def test_deeplabcut_index_forms_and_order(tmp_path, columns, separator):
    write_dlc(tmp_path / "p", columns=columns, separator=separator)
    converted, people, categories = convert(tmp_path / "p", tmp_path)
    like(people, FIRST, prefix="labeled-data/v 1/")
    assert categories[0]["keypoints"] == list(JOINTS)  # config.yaml's order, not the CSV's
    assert categories[0]["skeleton"] == [[1, 4]]  # DeepLabCut's left-over defaults are no joints
    assert converted.labelled == {"snout": 1, "left ear": 1, "right ear": 0, "tail": 2}
    source = coco.read(*converted.files["train"])
    assert source.skeleton.flip_pairs == ((1, 2),)


def test_deeplabcut_paths_that_name_one_project(tmp_path):
    file = write_dlc(tmp_path / "p", columns=3)
    for path in (tmp_path / "p", tmp_path / "p/config.yaml", tmp_path / "p/labeled-data", file.parent, file):
        _, people, categories = convert(path, tmp_path)
        like(people, FIRST, prefix="labeled-data/v 1/")
        assert categories[0]["keypoints"] == list(JOINTS)


def test_deeplabcut_multi_animal_and_unique_parts(tmp_path):
    file = write_dlc(tmp_path / "p", columns=3, individuals=["m1", "m2"])
    text = file.read_text().splitlines()
    more = (["A B"] * 2, ["single"] * 2, ["corner"] * 2, ["x", "y"], ["1", "2"], ["", ""])
    file.write_text("\n".join(",".join([line, *cells]) for line, cells in zip(text, more, strict=True)))
    config = tmp_path / "p/config.yaml"
    config.write_text(config.read_text() + "uniquebodyparts:\n- corner\n")
    converted, people, _ = convert(tmp_path / "p", tmp_path)
    like(people, PEOPLE, prefix="labeled-data/v 1/")
    assert any("exist once" in line and count == 1 for line, count in converted.left_out.items())
    annotations = json.loads(converted.files["train"][0].read_text())["annotations"]
    assert [a["individual"] for a in annotations] == ["m1", "m1", "m2"]
    _, people, categories = convert(tmp_path / "p", tmp_path, category="single")
    assert people == {"labeled-data/v 1/img1.png": [{"corner": (1, 2, 2)}]} and categories[0]["keypoints"] == ["corner"]


def test_lightning_pose(tmp_path):
    file = write_dlc(tmp_path / "p", columns=1, config=False)
    file.rename(tmp_path / "p/CollectedData.csv")
    _, people, categories = convert(tmp_path / "p", tmp_path)
    like(people, FIRST, prefix="labeled-data/v 1/")
    assert categories[0]["keypoints"] == ["tail", "snout", "right ear", "left ear"]  # the header's


def test_deeplabcut_counts_what_it_leaves_out(tmp_path):
    file = write_dlc(tmp_path / "p", columns=3, skip=["img1.png"])
    file.write_text(file.read_text() + "labeled-data,v 1,img3.png" + "," * 8 + "\n")
    converted, people, _ = convert(tmp_path / "p", tmp_path)
    assert list(people) == ["labeled-data/v 1/img2.png"] and (converted.pictures, converted.persons) == (1, 1)
    assert sorted(converted.left_out.values()) == [1, 1] and "files are missing" in " ".join(converted.left_out)


def edit(file: Path, old: str, new_: str, count=1):
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new_, count))


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda f: f.unlink(), "has no labels: looked for"),
        (lambda f: edit(f, "20.125,21", "20.125"), "line 4: has 10 columns, the header has 11"),
        (lambda f: edit(f, "20.125,21", "20.125,"), "expected two finite numbers, or two empty cells"),
        (lambda f: edit(f, "20.125,21", "inf,21"), "is at 'inf'"),
        (lambda f: edit(f, "A B,A B", "A B,Eve"), "2 scorers"),
        (lambda f: edit(f, "x,y", "x,likelihood"), "these are predictions"),
        (lambda f: edit(f, "tail", "tale", 2), "body part 'tale', which 'bodyparts'"),
        (lambda f: edit(f, "img2.png", "img1.png"), "labelled more than once"),
        (lambda f: edit(f, "bodyparts,", "parts,"), "the first rows begin with"),
        (lambda f: f.with_name("img1.png").write_bytes(b"no"), "cannot be read as a picture"),
        (
            lambda f: [p.unlink() for p in f.parent.glob("*.png")],
            "no labelled person whose picture is there: 2 labelled",
        ),
        (lambda f: edit(f, "snout,snout", "tail,tail"), "columns of 'tail' twice"),
    ],
)
def test_a_bad_deeplabcut_project_is_refused(tmp_path, change, message):
    change(write_dlc(tmp_path / "p", columns=3))
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        convert(tmp_path / "p", tmp_path, format="deeplabcut")


def test_several_scorers_need_the_project_to_say_whose(tmp_path):
    file = write_dlc(tmp_path / "p", columns=3)
    other = file.with_name("CollectedData_Eve.csv")
    other.write_text(file.read_text().replace("A B", "Eve").replace("3.5", "5.5"))
    like(convert(tmp_path / "p", tmp_path)[1], FIRST, prefix="labeled-data/v 1/")  # config.yaml names A B
    (tmp_path / "p/config.yaml").unlink()
    with pytest.raises(ValueError, match="labels of several scorers"):
        convert(tmp_path / "p", tmp_path)
    assert convert(other, tmp_path)[1]["labeled-data/v 1/img1.png"][0]["snout"][0] == 5.5


def test_a_scorer_may_have_any_name(tmp_path, caplog):
    config = write_dlc(tmp_path / "p").parents[2] / "config.yaml"
    config.write_text("scorer: '{x}'\n" + config.read_text().replace("scorer: A B", ""))
    converted, _, _ = convert(tmp_path / "p", tmp_path)
    assert any("({x})" in kind for kind in converted.left_out) and "1 CSV files are not of the scorer" in caplog.text


def test_bad_entries_are_left_out_when_asked(tmp_path):
    edit(write_dlc(tmp_path / "p", columns=3), "20.125,21", "inf,21")
    converted, people, _ = convert(tmp_path / "p", tmp_path, on_bad="skip")
    assert "tail" not in people["labeled-data/v 1/img1.png"][0]
    assert converted.left_out["left out: coordinate not a number"] == 1


# ---------------------------------------------------------------------------------------------------------------------- YOLO


def write_yolo(folder: Path, *, dims=3, names=True, train="images/train", extra=""):
    for name, people in PEOPLE.items():
        split = "train" if name == "img1.png" else "val"
        picture(folder / "images" / split / name)
        lines = []
        for person in people:
            joints = [person.get(joint, (0, 0, 0)) for joint in JOINTS]
            values = [v for x, y, s in joints for v in (x / SIZE[0], y / SIZE[1], s)[:dims]]
            lines.append(" ".join(map(repr, [0, 0.5, 0.5, 0.5, 0.25, *values])))
        label = folder / "labels" / split / Path(name).with_suffix(".txt")
        label.parent.mkdir(parents=True, exist_ok=True)
        label.write_text("\n".join(lines) + "\n")
    listed = "kpt_names: {0: [" + ", ".join(JOINTS) + "]}\n" if names else ""
    (folder / "data.yaml").write_text(
        f"path: /elsewhere\ntrain: {train}\nval: images/val\nkpt_shape: [4, {dims}]\nflip_idx: [0, 2, 1, 3]\n"
        f"names: {{0: mouse}}\n{listed}{extra}"
    )
    return folder / "data.yaml"


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("train", ["images/train", "../images/train", "[images/train]"])
def test_yolo(tmp_path, dims, train):
    file = write_yolo(tmp_path / "p", dims=dims, train=train)
    converted, people, categories = convert(file, tmp_path)
    like(people, {"train/img1.png": PEOPLE["img1.png"], "val/img2.png": PEOPLE["img2.png"]}, prefix="images/")
    assert categories[0]["keypoints"] == list(JOINTS) and categories[0]["name"] == "mouse"
    assert set(converted.files) == {"train", "val"} and converted.is_split
    source = coco.read(*converted.files["train"])
    assert source.skeleton.flip_pairs == ((1, 2),)
    assert source.persons["box"][0].tolist() == [10, 11.25, 20, 7.5]


def test_yolo_without_names_asks_for_them(tmp_path):
    file = write_yolo(tmp_path / "p", names=False)
    with pytest.raises(ValueError, match="does not name the 4 joints: give them in order, --names"):
        convert(file, tmp_path)
    with pytest.raises(ValueError, match="--names has 2 names"):
        convert(file, tmp_path, names=("a", "b"))
    assert convert(file, tmp_path, names=JOINTS)[2][0]["keypoints"] == list(JOINTS)


def test_yolo_turns_pictures_as_viewers_do(tmp_path):
    file = write_yolo(tmp_path / "p")
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "p/images/train/img1.png"
    Image.new("RGB", SIZE[::-1], 9).save(path.with_suffix(".jpg"), exif=exif)
    path.unlink()
    converted, people, _ = convert(file, tmp_path)
    like(people, {"train/img1.jpg": PEOPLE["img1.png"], "val/img2.png": PEOPLE["img2.png"]}, prefix="images/")


@pytest.mark.parametrize(
    "old, new_, message",
    [
        ("kpt_shape: [4, 3]\n", "", "has no kpt_shape"),
        ("[4, 3]", "[4]", "kpt_shape is"),
        ("[0, 2, 1, 3]", "[0, 2, 1]", "flip_idx is not the numbers 0 to 3"),
        ("tail]", "snout]", "not 4 different names"),
        ("images/val", "images/nowhere", "which is not in"),
        ("images/val", "/dev/null", "/dev/null., which is not in"),
        ("names: {0: mouse}", "names: 7", "'names' is not a list"),
        ("path:", "path: [", "is not a YAML file"),
    ],
)
def test_a_bad_data_yaml_is_refused(tmp_path, old, new_, message):
    file = write_yolo(tmp_path / "p")
    edit(file, old, new_)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        convert(tmp_path / "p", tmp_path)


@pytest.mark.parametrize(
    "old, new_, message",
    [
        ("0 0.5", "0.5", "has 16 values: expected 17"),
        ("0 0.5", "3 0.5", "is of class 3"),
        ("0 0.5", "0 7.5", "has the value 7.5: expected fractions"),
        ("0 0.5", "0 nan", "not a finite number"),
        ("0.5 0.25 ", "0 0.25 ", "has no extent inside the image"),
        (" 2 ", " 0.7 ", "has the visibility 0.7"),
    ],
)
def test_a_bad_yolo_line_is_refused_or_left_out(tmp_path, old, new_, message):
    file = write_yolo(tmp_path / "p")
    edit(tmp_path / "p/labels/val/img2.txt", old, new_)
    with pytest.raises(ValueError, match=rf"img2\..*{message}"):
        convert(file, tmp_path)
    converted, people, _ = convert(file, tmp_path, on_bad="skip")
    assert len(people["images/val/img2.png"]) == 1 and sum(converted.left_out.values()) == 1


def test_yolo_labels_without_pictures(tmp_path):
    file = write_yolo(tmp_path / "p")
    (tmp_path / "p/images/train/img1.png").unlink()
    picture(tmp_path / "p/images/train/empty.png")
    converted, people, _ = convert(file, tmp_path)
    assert people["images/train/empty.png"] == [] and sum(converted.left_out.values()) == 2
    for path in (tmp_path / "p/images").rglob("*.png"):
        path.unlink()
    with pytest.raises(
        ValueError, match="no labelled person whose picture is there: 2 labelled pictures were left out"
    ):
        convert(file, tmp_path)


# -------------------------------------------------------------------------------------------------------------- Label Studio


def write_labelstudio(folder: Path, *, link="parent", address="/data/upload/1/0123abcd-{}", completions=False):
    tasks = []
    for t, (name, people) in enumerate(PEOPLE.items()):
        picture(folder / name)
        result = []
        size = {"original_width": SIZE[0], "original_height": SIZE[1], "image_rotation": 0}
        for i, person in enumerate(people):
            if link != "none":
                value = {"x": 10, "y": 10, "width": 50, "height": 50, "rotation": 0, "rectanglelabels": ["mouse"]}
                result.append({"id": f"r{i}", "type": "rectanglelabels", "value": value, **size})
            for joint, (x, y, _) in person.items():
                value = {"x": 100 * x / SIZE[0], "y": 100 * y / SIZE[1], "width": 0.5, "keypointlabels": [joint]}
                key = f"k{i}{joint}"
                parent = {"parentID": f"r{i}"} if link == "parent" else {}
                result.append({"id": key, "type": "keypointlabels", "value": value, **size, **parent})
                if link == "relation":
                    result.append({"type": "relation", "from_id": f"r{i}", "to_id": key, "direction": "left"})
        annotation = {"id": t, "was_cancelled": False, "result": result, "updated_at": "2026-03-04T10:00:00Z"}
        tasks.append({"id": t, "data": {"image": address.format(name)},
                      "completions" if completions else "annotations": [annotation]})  # fmt: skip
    file = folder / "export.json"
    file.write_text(json.dumps(tasks))
    return file


def retask(file: Path, change):
    tasks = json.loads(file.read_text())
    change(tasks)
    file.write_text(json.dumps(tasks))


@pytest.mark.parametrize(
    "link, address, completions",
    [
        ("parent", "/data/upload/1/0123abcd-{}", False),
        ("relation", "/data/local-files/?d=set%20a/{}", True),
        ("relation", "s3://bucket/deep/{}", False),
    ],
)
def test_label_studio(tmp_path, link, address, completions):
    file = write_labelstudio(tmp_path / "p", link=link, address=address, completions=completions)
    _, people, categories = convert(file, tmp_path)
    like(people, PEOPLE)
    assert categories[0]["name"] == "mouse"
    assert set(categories[0]["keypoints"]) == set(JOINTS)
    names = ("tail", "right ear", "left ear", "snout")
    assert convert(file, tmp_path, names=names)[2][0]["keypoints"] == list(names)
    (tmp_path / "p/config.xml").write_text(
        "<View><KeyPointLabels name='k' toName='i'>" + "".join(f"<Label value='{j}'/>" for j in JOINTS) +
        "</KeyPointLabels></View>"
    )  # fmt: skip
    assert convert(file, tmp_path)[2][0]["keypoints"] == list(JOINTS)


def test_label_studio_without_links_is_one_person(tmp_path):
    file = write_labelstudio(tmp_path / "p", link="none")
    with pytest.raises(ValueError, match="2 keypoints 'snout' would belong to one person"):
        retask(file, lambda tasks: tasks[0]["annotations"][0]["result"].append(tasks[0]["annotations"][0]["result"][0]))
        convert(file, tmp_path)
    file = write_labelstudio(tmp_path / "p", link="none")
    _, people, _ = convert(file, tmp_path)
    like(people, {"img1.png": PEOPLE["img1.png"], "img2.png": [PEOPLE["img2.png"][0] | PEOPLE["img2.png"][1]]})


def test_label_studio_cancelled_and_several_annotations(tmp_path):
    file = write_labelstudio(tmp_path / "p")

    def change(tasks):
        tasks[1]["annotations"][0]["was_cancelled"] = True
        newer = json.loads(json.dumps(tasks[0]["annotations"][0]))
        newer["updated_at"], newer["result"][1]["value"]["x"] = "2026-03-05T10:00:00Z", 50
        tasks[0]["annotations"].insert(0, newer)

    retask(file, change)
    converted, people, _ = convert(file, tmp_path)
    assert list(people) == ["img1.png"] and people["img1.png"][0]["snout"][0] == 20
    assert {"cancelled": 1, "several annotations": 1}.items() <= {
        word: count for word in ("cancelled", "several annotations") for line, count in converted.left_out.items() if word in line
    }.items()  # fmt: skip


def test_label_studio_json_min(tmp_path):
    rows = []
    for t, (name, (person, *_)) in enumerate(PEOPLE.items()):
        picture(tmp_path / "p" / name)
        size = {"original_width": SIZE[0], "original_height": SIZE[1]}
        points = [
            {"x": 100 * x / SIZE[0], "y": 100 * y / SIZE[1], "width": 1, "keypointlabels": [joint], **size}
            for joint, (x, y, _) in person.items()
        ]
        rows.append({"id": t, "img": f"/data/upload/{t}-{name}"[:13] + f"/{name}", "kp": points, "annotator": 1})
    file = tmp_path / "p/min.json"
    file.write_text(json.dumps(rows))
    like(convert(file, tmp_path)[1], FIRST)
    rows[0]["kp"].append(rows[0]["kp"][0])
    file.write_text(json.dumps(rows))
    with pytest.raises(ValueError, match="not JSON-MIN, which leaves the links out"):
        convert(file, tmp_path)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda r: r[1]["value"].update(x=100.5), "expected percent of the picture"),
        (lambda r: r[1]["value"].update(x="a"), "expected percent of the picture"),
        (lambda r: r[0].update(original_width=0), "expected the picture's positive width"),
        (lambda r: r[1].update(image_rotation=90), "turned by 90 degrees"),
        (lambda r: r.append(r[1]), "2 keypoints 'snout' would belong to one person"),
    ],
)
def test_a_bad_export_of_label_studio_is_refused(tmp_path, change, message):
    file = write_labelstudio(tmp_path / "p")
    retask(file, lambda tasks: change(tasks[0]["annotations"][0]["result"]))
    with pytest.raises(ValueError, match=message):
        convert(file, tmp_path)


# ---------------------------------------------------------------------------------------------------------------------- CVAT

META = (
    "<meta><task><labels><label><name>mouse</name><type>skeleton</type><svg>"
    '&lt;line data-node-from="1" data-node-to="4"/&gt;</svg></label>'
    + "".join(f"<label><name>{j}</name><type>points</type><parent>mouse</parent></label>" for j in JOINTS)
    + "</labels></task></meta>"
)
BARE_META = (
    "<meta><project><labels>"
    + "".join(f"<label><name>{j}</name><type>points</type></label>" for j in JOINTS)
    + "<label><name>box</name><type>rectangle</type></label></labels></project></meta>"
)


def points(person, *, extra=""):
    """Points of a skeleton, from the last to the first; a joint that is not labelled is outside."""
    lines = []
    for joint in reversed(JOINTS):
        x, y, v = person.get(joint, (1, 1, 0))
        lines.append(
            f'<points label="{joint}" outside="{int(not v)}" occluded="{int(v == 1)}" points="{x},{y}" {extra}/>'
        )
    return "".join(lines)


def write_cvat(folder: Path, body: str, *, meta=META) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "annotations.xml"
    file.write_text(f"<?xml version='1.0'?><annotations><version>1.1</version>{meta}{body}</annotations>")
    return file


def cvat_images(folder: Path, **options) -> Path:
    body = ""
    for i, (name, people) in enumerate(PEOPLE.items()):
        picture(folder / "images" / "day 1" / name)
        inner = "".join(f'<skeleton label="mouse">{points(p)}</skeleton>' for p in people)
        body += f'<image id="{i}" name="day 1/{name}" width="{SIZE[0]}" height="{SIZE[1]}">{inner}</image>'
    return write_cvat(folder, body, **options)


def test_cvat_images(tmp_path):
    file = cvat_images(tmp_path / "p")
    _, people, categories = convert(tmp_path / "p", tmp_path)
    like(people, PEOPLE, prefix="day 1/")
    assert categories[0]["keypoints"] == list(JOINTS) and categories[0]["skeleton"] == [[1, 4]]
    edit(file, 'occluded="0"', 'occluded="1"')  # the tail of the first
    assert convert(file, tmp_path)[1]["day 1/img1.png"][0]["tail"] == (20.125, 21, 1)
    edit(file, 'name="day 1/img2.png"', 'subset="Validation" name="day 1/img2.png"')
    assert set(convert(file, tmp_path)[0].files) == {"train", "val"}
    like(convert(file, tmp_path / "corner", corner=True)[1], {
        name: [{j: (x - 0.5, y - 0.5, 1 if (name, j) == ("img1.png", "tail") else v) for j, (x, y, v) in p.items()} for p in people]
        for name, people in PEOPLE.items()
    }, prefix="day 1/")  # fmt: skip


def test_a_cvat_export_without_its_pictures_says_so(tmp_path):
    mouse = f'<skeleton label="mouse">{points(PEOPLE["img1.png"][0])}</skeleton>'
    body = f'<image id="0" name="a.png" width="40" height="30">{mouse}</image>'
    with pytest.raises(ValueError, match="1 labelled pictures were left out, since their files are missing"):
        convert(write_cvat(tmp_path / "p", body), tmp_path)


def test_cvat_bare_points(tmp_path):
    body = ""
    for name, people in PEOPLE.items():
        picture(tmp_path / "p/images" / name)
        inner = '<box label="box" xtl="1" ytl="2" xbr="11" ybr="22" group_id="2"/>'
        for g, person in enumerate(people, start=1):
            inner += "".join(
                f'<points label="{j}" occluded="0" points="{x},{y}" group_id="{g}"/>' for j, (x, y, _) in person.items()
            )
        body += f'<image id="{name}" name="{name}" width="{SIZE[0]}" height="{SIZE[1]}">{inner}</image>'
    file = write_cvat(tmp_path / "p", body, meta=BARE_META)
    converted, people, categories = convert(file, tmp_path)
    assert [person for person in people["img1.png"] if person] == PEOPLE["img1.png"]
    assert people["img2.png"] == PEOPLE["img2.png"]
    assert [c["name"] for c in categories] == ["box"] and categories[0]["keypoints"] == list(JOINTS)
    boxes = [a["bbox"] for a in json.loads(converted.files["train"][0].read_text())["annotations"]]
    assert [1, 2, 10, 20] in boxes
    file.write_text(file.read_text().replace(' group_id="1"', "").replace(' group_id="2"', "").replace("tail", "snout"))
    with pytest.raises(ValueError, match="points 'snout' without a group: group the points"):
        convert(file, tmp_path)
    write_cvat(tmp_path / "p", body, meta="")
    with pytest.raises(ValueError, match="does not list the joints"):
        convert(file, tmp_path)
    assert convert(file, tmp_path, names=JOINTS)[2][0]["keypoints"] == list(JOINTS)


def test_cvat_points_without_names(tmp_path):
    picture(tmp_path / "p/a.png")
    body = f'<image name="a.png" width="{SIZE[0]}" height="{SIZE[1]}"><points label="mouse" points="1,2;3,4"/></image>'
    file = write_cvat(tmp_path / "p", body, meta="")
    with pytest.raises(ValueError, match="which have no names: give them in order with --names"):
        convert(file, tmp_path)
    assert convert(file, tmp_path, names=("b", "a"))[1] == {"a.png": [{"b": (1, 2, 2), "a": (3, 4, 2)}]}


def test_cvat_video(tmp_path):
    frames = {}
    tracks = ""
    for i in range(2):
        shapes = ""
        for f, people in enumerate(PEOPLE.values()):
            picture(tmp_path / f"p/images/frame_{f + 7:06d}.PNG")
            if i < len(people):
                shapes += f'<skeleton frame="{f + 7}" keyframe="{f}">{points(people[i])}</skeleton>'
                frames.setdefault(f"frame_{f + 7:06d}.PNG", []).append(people[i])
        tracks += (
            f'<track id="{i}" label="mouse">{shapes}<skeleton frame="9" outside="1">{points({})}</skeleton></track>'
        )
    size = f"<original_size><width>{SIZE[0]}</width><height>{SIZE[1]}</height></original_size>"
    file = write_cvat(tmp_path / "p", tracks, meta=META.replace("</task>", size + "</task>"))
    converted, people, categories = convert(file, tmp_path)
    like(people, frames, prefix="images/")
    assert categories[0]["keypoints"] == list(JOINTS)
    assert [a["individual"] for a in json.loads(converted.files["train"][0].read_text())["annotations"]] == [
        "0",
        "0",
        "1",
    ]


@pytest.mark.parametrize(
    "old, new_, message",
    [
        ("<?xml version='1.0'?>", '<!DOCTYPE a [<!ENTITY e "ee">]>', "has a DOCTYPE"),
        ('width="40"', 'width="0"', "size 0x30"),
        ("20.125,21", "20.125", "expected two numbers x,y"),
        ('label="tail"', 'label="tale"', "a joint 'tale', which is not one of"),
        ('label="tail"', 'label="snout"', "two points 'snout'"),
        ("img2.png", "img1.png", "labelled more than once"),
        ("</annotations>", "", "not an XML file"),
        ("image id", "picture id", "has no <image> and no <track>"),
    ],
)
def test_a_bad_cvat_file_is_refused(tmp_path, old, new_, message):
    file = cvat_images(tmp_path / "p")
    if old == "image id":
        file.write_text(file.read_text().replace("<image", "<picture").replace("</image", "</picture"))
    else:
        edit(file, old, new_)
    with pytest.raises(ValueError, match=message):
        convert(file, tmp_path)


# ------------------------------------------------------------------------------------------------------------------- labelme


def write_labelme(folder: Path, *, group=True, embed=False, image_path="{}"):
    for name, people in PEOPLE.items():
        shapes = []
        for g, person in enumerate(people):
            for joint, (x, y, _) in person.items():
                shapes.append(
                    {"label": joint, "points": [[x, y]], "shape_type": "point", "group_id": g if group else None}
                )
        corners = [[20, 25], [1, 2]]
        shapes.append(
            {"label": "mouse", "points": corners, "shape_type": "rectangle", "group_id": 0 if group else None}
        )
        data = None
        if embed:
            buffer = io.BytesIO()
            Image.new("RGB", SIZE, 3).save(buffer, "PNG")
            data = base64.b64encode(buffer.getvalue()).decode()
        else:
            picture(folder / name)
        entry = {
            "version": "5.5",
            "flags": {},
            "shapes": shapes,
            "imagePath": image_path.format(name),
            "imageData": data,
        }
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).with_suffix(".json").write_text(
            json.dumps(entry | {"imageHeight": SIZE[1], "imageWidth": SIZE[0]})
        )
    return folder


@pytest.mark.parametrize("image_path, embed", [("{}", False), ("..\\elsewhere\\{}", False), ("{}", True)])
def test_labelme(tmp_path, image_path, embed):
    converted, people, categories = convert(write_labelme(tmp_path / "p", image_path=image_path, embed=embed), tmp_path)
    like(people, PEOPLE)
    boxes = [a["bbox"] for a in json.loads(converted.files["train"][0].read_text())["annotations"]]
    assert boxes[0] == [1, 2, 19, 23]
    assert [c["name"] for c in categories] == ["mouse"]
    (tmp_path / "p/labels.txt").write_text("__ignore__\nmouse\n" + "\n".join(JOINTS))
    assert convert(tmp_path / "p", tmp_path)[2][0]["keypoints"] == list(JOINTS)


def test_labelme_without_groups(tmp_path):
    write_labelme(tmp_path / "p", group=False)
    merged = {"img1.png": PEOPLE["img1.png"], "img2.png": [PEOPLE["img2.png"][0] | PEOPLE["img2.png"][1]]}
    like(convert(tmp_path / "p", tmp_path)[1], merged)
    edit(tmp_path / "p/img2.json", "right ear", "tail")
    with pytest.raises(ValueError, match="2 points 'tail': give the points of each person a group_id"):
        convert(tmp_path / "p", tmp_path)


@pytest.mark.parametrize(
    "old, new_, message",
    [
        ('"imageHeight": 30', '"imageHeight": 0', "expected the picture's positive width and height"),
        ("[[6, 7]]", "[[6]]", "is not a labelled point of 1 x, y"),
        ("[[6, 7]]", "[[6, NaN]]", "is not a labelled point of 1 x, y"),
        ('"shapes"', '"shapes2"', "no JSON of labelme"),
    ],
)
def test_a_bad_labelme_file_is_refused(tmp_path, old, new_, message):
    write_labelme(tmp_path / "p")
    (tmp_path / "p/img2.json").unlink()
    edit(tmp_path / "p/img1.json", old, new_)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        convert(tmp_path / "p", tmp_path, format="labelme")


# --------------------------------------------------------------------------------------------------------------------- SLEAP


@pytest.mark.parametrize("embed", [False, True])
def test_sleap(tmp_path, embed):
    sio = pytest.importorskip("sleap_io")
    paths = [str(picture(tmp_path / "made" / name)) for name in PEOPLE]
    skeleton = sio.Skeleton(
        nodes=list(JOINTS), edges=[("snout", "tail")], symmetries=[("left ear", "right ear")], name="mouse"
    )
    video = sio.Video.from_filename(paths)
    frames = []
    for i, people in enumerate(PEOPLE.values()):
        instances = []
        for person in people:
            xy = np.array([person.get(joint, (np.nan, np.nan))[:2] for joint in JOINTS], float)
            instances.append(sio.Instance.from_numpy(xy, skeleton=skeleton))
        instances[0].points["visible"][3] = False  # the tail has a place: it is occluded
        guess = sio.PredictedInstance.from_numpy(np.ones((4, 2)), skeleton=skeleton)
        frames.append(sio.LabeledFrame(video=video, frame_idx=i, instances=[*instances, guess]))
    file = tmp_path / "p" / ("labels.pkg.slp" if embed else "labels.slp")
    file.parent.mkdir()
    sio.Labels(frames).save(str(file), embed="all" if embed else False, verbose=False)
    (tmp_path / "made").rename(tmp_path / ("gone" if embed else "p/pictures"))  # the project was moved
    converted, people, categories = convert(file, tmp_path)
    hidden = {
        name: [{j: (*v[:2], 1 if j == "tail" else 2) for j, v in p.items()} for p in people_]
        for name, people_ in PEOPLE.items()
    }
    like(people, hidden, prefix="" if embed else "pictures/")
    assert categories[0]["keypoints"] == list(JOINTS) and categories[0]["flip_pairs"] == [["left ear", "right ear"]]
    assert any("predicted instances" in line and count == 2 for line, count in converted.left_out.items())
    source = coco.read(*converted.files["train"])
    assert source.skeleton.flip_pairs == ((1, 2),) and source.skeleton.limbs == ((0, 3),)


def test_a_file_that_is_not_sleaps_is_refused(tmp_path):
    pytest.importorskip("sleap_io")
    (tmp_path / "a.slp").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="cannot be read as a SLEAP file"):
        convert(tmp_path / "a.slp", tmp_path)


# ------------------------------------------------------------------------------------------------------------------- the rest


def test_coco_is_taken_as_it_is(tmp_path):
    converted, people, _ = convert(write_yolo(tmp_path / "p"), tmp_path)
    again = labels.convert(converted.folder, tmp_path / "again")
    assert again.format == "coco" and again.labelled == converted.labelled and set(again.files) == {"train", "val"}
    assert again.files["val"][0].read_bytes() == converted.files["val"][0].read_bytes()
    with pytest.raises(ValueError, match="names the joints of 'mouse' itself"):
        labels.convert(converted.folder, tmp_path / "again", options=labels.Options(names=("a",)))


def coco_file(folder: Path, **changes) -> Path:
    """A COCO file of one picture and one joint, with some of its lists replaced."""
    picture(folder / "a.png")
    person = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [2, 3, 10, 10], "num_keypoints": 1, "iscrowd": 0}
    content = {
        "images": [{"id": 1, "file_name": "a.png", "width": SIZE[0], "height": SIZE[1]}],
        "annotations": [person | {"keypoints": [5, 6, 2]}],
        "categories": [{"id": 1, "name": "mouse", "keypoints": ["nose"]}],
    }
    if "keypoints" in changes:
        content["annotations"][0]["keypoints"] = changes.pop("keypoints")
    path = folder / "coco.json"
    path.write_text(json.dumps(content | changes))
    return path


@pytest.mark.parametrize("keypoints", [[5, 6, 2], [[5, 6, 2]], [[5, 6]], [5, 6, 2, None, None, 0]])
def test_half_a_pixel_is_subtracted_from_joints_in_every_form(tmp_path, keypoints):
    converted = labels.convert(coco_file(tmp_path, keypoints=keypoints), tmp_path / "out", corner=True)
    (person,) = json.loads(converted.files["train"][0].read_text())["annotations"]
    assert person["keypoints"][:3] == [4.5, 5.5, 2] and person["bbox"] == [1.5, 2.5, 10, 10]


@pytest.mark.parametrize("corner", [False, True])
@pytest.mark.parametrize(
    "changes",
    [
        {"categories": None},
        {"categories": [{"id": 1, "name": "mouse", "keypoints": 5}]},
        {"categories": [{"id": [1], "name": "mouse", "keypoints": ["nose"]}]},
        {"annotations": [None]},
        {"annotations": [{"category_id": [1]}]},
    ],
)
def test_a_broken_coco_file_is_left_to_its_reader(tmp_path, changes, corner):
    converted = labels.convert(coco_file(tmp_path, **changes), tmp_path / "out", corner=corner)
    with pytest.raises(ValueError, match="train.json"):
        coco.read(*converted.files["train"])


def test_a_json_that_is_cut_off_is_said_to_be_so(tmp_path):
    path = tmp_path / "export.json"
    path.write_text('[{"id": 1, "data": {"img": "a.jpg"}, "annot')
    with pytest.raises(ValueError, match=r"export.json .*complete"):
        labels.guess(path)


def test_what_is_no_project_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist: give the project's folder"):
        labels.guess(tmp_path / "no")
    with pytest.raises(ValueError, match="in no format of labels that is known. Read are deeplabcut: "):
        labels.guess(tmp_path)
    write_dlc(tmp_path / "p")
    with pytest.raises(ValueError, match=r"holds the deeplabcut project p: give --labels .*/p$"):
        labels.guess(tmp_path)
    write_labelme(tmp_path / "p")
    with pytest.raises(ValueError, match=r"labels of several formats \(deeplabcut, labelme\)"):
        labels.guess(tmp_path / "p")
    like(convert(tmp_path / "p", tmp_path, format="labelme")[1], PEOPLE)


def test_xml_and_yaml_are_read_without_running_or_expanding_anything(tmp_path):
    bomb = tmp_path / "bomb.xml"
    bomb.write_text(
        '<!DOCTYPE a [<!ENTITY e "eeee"><!ENTITY f "&e;&e;">]><annotations>&f;</annotations>', encoding="utf-16"
    )
    with pytest.raises(ValueError, match="it has a DOCTYPE"):
        read_xml(bomb)
    file = tmp_path / "data.yaml"
    file.write_text("a: &a {x: 1}\nb: {<<: [*a, *a], y: on}\nc: !!python/object/apply:os.getcwd []\n")
    value = read_yaml(file)
    assert value["b"]["y"] == "on" and "x" not in value["b"] and value["c"] == []


def test_a_yaml_whose_aliases_would_be_millions_of_values_is_refused(tmp_path):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    file = tmp_path / "data.yaml"
    file.write_text("\n".join([*lines, "kpt_shape: *a8"]))
    with pytest.raises(ValueError, match="aliases of aliases"):
        read_yaml(file)
    file.write_text("a: &a [1, 3]\nkpt_shape: *a")
    assert read_yaml(file)["kpt_shape"] == ["1", "3"]


def test_labelme_pictures_inside_files_of_one_name_in_two_folders(tmp_path):
    picture(tmp_path / "a.png")
    inside = base64.b64encode((tmp_path / "a.png").read_bytes()).decode()
    shape = {"label": "nose", "points": [[5, 6]], "shape_type": "point"}
    for video in ("one", "two"):
        (tmp_path / "set" / video).mkdir(parents=True)
        entry = {"shapes": [shape], "imagePath": "x.png", "imageData": inside}
        (tmp_path / "set" / video / "0001.json").write_text(
            json.dumps(entry | {"imageWidth": SIZE[0], "imageHeight": SIZE[1]})
        )
    _, people, _ = convert(tmp_path / "set", tmp_path)
    assert list(people) == ["one/0001.png", "two/0001.png"]


def test_label_studio_rows_and_addresses_may_be_anything(tmp_path):
    picture(tmp_path / "a.png")
    point = {"x": 50, "y": 50, "keypointlabels": ["nose"], "original_width": SIZE[0], "original_height": SIZE[1]}
    rows = [{"id": [1], "image": "a.png", "kp": [point]}, {"id": 2, "image": "http://[x/b.png", "kp": [point]}]
    (tmp_path / "export.json").write_text(json.dumps(rows))
    converted, people, _ = convert(tmp_path / "export.json", tmp_path)
    assert list(people) == ["a.png"] and sum(converted.left_out.values()) >= 1


def test_the_order_of_joints_is_that_of_most_persons():
    assert order_of([["b", "c"], ["a", "b", "c"], ["a", "c"]]) == ["a", "b", "c"]
    assert sorted(order_of([["a", "b"], ["b", "c"], ["c", "a"]])) == ["a", "b", "c"]  # a circle ends too
    assert order_of([]) == []


def test_the_same_project_is_not_written_twice(tmp_path):
    path = write_labelme(tmp_path / "p", embed=True)
    first = labels.convert(path, tmp_path / "out")
    files = [p for p in (tmp_path / "out").rglob("*") if p.is_file()]
    times = {p: p.stat().st_mtime_ns for p in files if p.name != "pictures.sha256"}
    assert labels.convert(path, tmp_path / "out") == first
    assert times == {p: p.stat().st_mtime_ns for p in times}
    places = {labels.folder_for(path, "d", corner=corner) for corner in (False, True)}
    assert len(places) == 2 and labels.folder_for(path, "d") in places


def test_new_splits_a_project_by_video(tmp_path):
    project = tmp_path / "p"
    for video in "abc":
        write_dlc(project, columns=3, video=video)
    converted = labels.convert(project, tmp_path / "labels")
    folder, message = new.with_splits(converted.to_split, tmp_path / "data", share=0.3, seed=0)
    assert message == "4 pictures to train on, 2 held out by video (3 are told apart by the names)"
    parts = {split: coco.read(*coco.find(folder, split)) for split in ("train", "val")}
    assert len(parts["train"]) == 4 and len(parts["val"]) == 2
    assert len({Path(parts["val"].file_name(i)).parent for i in range(2)}) == 1


def test_new_takes_a_project(tmp_path, monkeypatch, capsys):
    calls = []

    class Done:
        returncode = 0

    monkeypatch.setattr(new.subprocess, "run", lambda command: calls.append(command) or Done())
    new.main("mouse", labels=write_labelme(tmp_path / "p"), names=JOINTS, category="mouse", out=tmp_path / "run")
    assert calls[0][calls[0].index("--category") + 1] == "mouse"
    data = Path(calls[0][calls[0].index("--data") + 1])
    assert data == tmp_path / "run/data"
    sources = [coco.read(*coco.find(data, split)) for split in ("train", "val")]
    assert [source.skeleton.joints for source in sources] == [JOINTS, JOINTS]
    assert "labelme: 2 pictures, 3 persons; labelled joints: snout 2" in capsys.readouterr().out
    new.main("mouse", labels=write_yolo(tmp_path / "y"), out=tmp_path / "run2")  # split by its tool
    assert Path(calls[1][calls[1].index("--data") + 1]) == tmp_path / "run2/labels"
    with pytest.raises(ValueError, match="give the labelled set: --data"):
        new.main("mouse")
    with pytest.raises(ValueError, match="belong to --labels"):
        new.main("mouse", data=tmp_path, corner=True)


def test_prepare_takes_a_project(tmp_path, capsys):
    path = write_labelme(tmp_path / "p")
    command.prepare(labels=path, data_dir=tmp_path / "data", split="val", val_fraction=0.5, corner=True)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    assert lines[0]["persons"] == 3 and lines[1]["split"] == "val" and lines[1]["persons"] in (1, 2)
    with pytest.raises(FileNotFoundError, match="has no split 'val', only train: .* --val-fraction"):
        command.prepare(labels=path, data_dir=tmp_path / "data", split="val")
    with pytest.raises(ValueError, match="leave out the folder"):
        command.prepare(tmp_path, labels=path, data_dir=tmp_path / "data")
    with pytest.raises(ValueError, match="belong to --labels"):
        command.prepare(tmp_path, names=("a",), data_dir=tmp_path / "data")


def test_the_whole_picture_is_the_box_where_it_holds_one_person(tmp_path):
    write_dlc(tmp_path / "alone")
    options = labels.Options(box="picture")
    converted, people, _ = convert(tmp_path / "alone", tmp_path, box="picture")
    content = json.loads(converted.files["train"][0].read_text())
    sizes = {image["id"]: [0, 0, image["width"], image["height"]] for image in content["images"]}
    assert content["annotations"] and all(a["bbox"] == sizes[a["image_id"]] for a in content["annotations"])
    write_dlc(tmp_path / "two", individuals=("a", "b"))
    with pytest.raises(ValueError, match="has 2 persons: --box picture is for pictures of one person each"):
        convert(tmp_path / "two", tmp_path, box="picture")
    with pytest.raises(ValueError, match="--box picture: .* is COCO JSON"):
        labels.convert(converted.folder, tmp_path / "again", options=options)


@pytest.mark.parametrize("page", [coco_rle, coco_swahr])
def test_pages_take_a_project(tmp_path, page):
    path = write_labelme(tmp_path / "p")
    config = page.Config(labels=path, names=JOINTS, data_dir=tmp_path / "data", out=tmp_path / "run")
    config.check()
    train, val = kinds.open_splits(config)
    assert (len(train.images), len(val.images)) == (1, 1) and train.skeleton.joints == JOINTS
    again = kinds.open_splits(config)
    assert [source.directory for source in again] == [train.directory, val.directory]  # prepared once
    train, val = kinds.open_splits(dataclasses.replace(config, val_fraction=0.4))
    assert (len(train.images), len(val.images)) == (1, 1)
    train, val = kinds.open_splits(dataclasses.replace(config, labels=write_yolo(tmp_path / "y"), eval_only=tmp_path))
    assert train is None and val.file_name(0) == "images/val/img2.png"
    for changes, message in (({"data": tmp_path}, "leave out --data"), ({"labels": None}, "belong to --labels")):
        with pytest.raises(ValueError, match=message):
            dataclasses.replace(config, **changes).check()
