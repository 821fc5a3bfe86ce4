r"""DeepLabCut projects with one or several animals, and Lightning Pose's data folders.

A project has ``config.yaml`` and ``labeled-data/VIDEO/CollectedData_SCORER.csv`` beside the pictures; Lightning Pose
has one ``CollectedData.csv`` in the data folder. The CSV begins with three rows (scorer, bodyparts, coords) or four
(individuals after scorer). The picture stands in three columns (labeled-data, VIDEO, FILE), or in one, with / or \
between folders.

The order of joints is that of config.yaml; without it that of the header. An empty cell is a joint that is not
labelled; nothing says whether a labelled one is hidden. Pixels count from the centre of the first one. The .h5 file
beside the CSV holds the same.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxpose.data.labels.project import (
    Options,
    Person,
    Picture,
    Pictures,
    Project,
    Skeleton,
    number,
    picture_size,
    read_yaml,
)
from jaxpose.data.reading import Notes

CONTENT = (
    "a DeepLabCut project or a Lightning Pose folder (config.yaml, labeled-data/, CollectedData*.csv), or such a CSV"
)
KIND = "animal"
UNIQUE = "single"
"""The individual under which DeepLabCut has the body parts that exist once in a picture, such as corners of the arena."""
MULTI = "MULTI!"
CSVS = "CollectedData*.csv"
HEADER = ("scorer", "individuals", "bodyparts", "coords")


def recognises(path: Path) -> bool:
    """Whether a path is such a project, its config.yaml, or one of its CSV files."""
    if path.is_dir():
        config = path / "config.yaml"
        return (config.is_file() and (path / "labeled-data").is_dir()) or bool(_csvs(path))
    if path.suffix.lower() in (".yaml", ".yml"):
        return (path.parent / "labeled-data").is_dir()
    if path.suffix.lower() == ".h5":
        return path.name.startswith("CollectedData")
    if path.suffix.lower() != ".csv":
        return False
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        return file.readline(200).startswith("scorer,")


def read(path: Path, options: Options) -> Project:
    """Reads a project.

    Args:
        path: The project's folder, its config.yaml, or one CSV of labels.
        options: Choices in reading. The category "single" reads the unique body parts in place of the animals.

    Raises:
        FileNotFoundError: There is no CSV of labels.
        ValueError: A file is wrong, and where.
    """
    root, csvs = _locate(path)
    config_file = root / "config.yaml"
    config = read_yaml(config_file) if config_file.is_file() else {}
    if not csvs:
        raise FileNotFoundError(_no_labels(path, root))
    project = Project(path, root, options)
    pictures = Pictures(root, project)
    header_order: list[str] = []
    unique = str(options.category) == UNIQUE
    for file in _of_one_scorer(csvs, config.get("scorer"), path, project.notes):
        columns, rows = _table(file)
        header_order += [part for who, part in columns if (who == UNIQUE) == unique and part not in header_order]
        for row_number, name, cells in rows:
            _add_row(project, pictures, file, row_number, name, columns, cells, unique=unique)
    project.skeletons[UNIQUE if unique else KIND] = _skeleton(config, header_order, project, config_file, unique=unique)
    return project


def _csvs(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"labeled-data/*/{CSVS}")) + sorted(folder.glob(CSVS)) or sorted(folder.glob(f"*/{CSVS}"))


def _locate(path: Path) -> tuple[Path, list[Path]]:
    """The project's folder and its CSV files."""
    if path.suffix.lower() in (".csv", ".h5") and path.is_file():
        home, file = path.parent, path.with_suffix(".csv")  # the .h5 holds what the CSV beside it does
        return (home.parent.parent if home.parent.name == "labeled-data" else home), [file] if file.is_file() else []
    folder = path if path.is_dir() else path.parent
    csvs = _csvs(folder)
    if folder.parent.name == "labeled-data":  # one video's folder
        return folder.parent.parent, csvs
    return (folder.parent if folder.name == "labeled-data" else folder), csvs


def _no_labels(path: Path, root: Path) -> str:
    stores = sorted(root.glob("labeled-data/*/CollectedData*.h5"))
    if stores:
        return (
            f"{path} has {stores[0].relative_to(root)} without the CSV that DeepLabCut writes beside it: write it with "
            "pandas.read_hdf(FILE).to_csv(FILE with .csv)"
        )
    return f"{path} has no labels: looked for labeled-data/VIDEO/{CSVS} and {CSVS} in {root}; label some frames first"


def _of_one_scorer(csvs: Sequence[Path], scorer: Any, path: Path, notes: Notes) -> list[Path]:
    """One CSV of every folder: the only one, or that of the project's scorer."""
    files = []
    for folder in dict.fromkeys(file.parent for file in csvs):
        here = [file for file in csvs if file.parent == folder]
        own = [file for file in here if isinstance(scorer, str) and file.name == f"CollectedData_{scorer}.csv"]
        if len(here) > 1 and not own:
            raise ValueError(
                f"{folder} has labels of several scorers ({', '.join(file.name for file in here)}) and {path} does not say whose "
                "count (scorer in config.yaml): give the path of one CSV"
            )
        files.append((own or here)[0])
        if isinstance(scorer, str) and not own and here[0].stem != "CollectedData":
            notes.add(
                f"{{n}} CSV files are not of the scorer that config.yaml names ({scorer}), and were read", here[0].name
            )
    return files


def _table(file: Path) -> tuple[list[tuple[str, str]], list[tuple[int, str, list[str]]]]:
    """The joints of a CSV, (individual, body part) each, and its rows: line number, picture, cells (two a joint)."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            lines = list(csv.reader(stream))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{file} is not a CSV file in UTF-8: {error}; export it again") from None
    heads = [line[0].strip() if line else "" for line in lines[:4]]
    wanted = [name for name in HEADER if name != "individuals" or heads[1:2] == ["individuals"]]
    if heads[: len(wanted)] != wanted:
        raise ValueError(
            f"{file}: the first rows begin with {', '.join(map(repr, heads))}: expected 'scorer', ('individuals',) 'bodyparts' and "
            "'coords', as DeepLabCut writes them"
        )
    head = dict(zip(wanted, lines, strict=False))
    index = next((i for i, cell in enumerate(head["scorer"]) if i and cell.strip()), len(head["scorer"]))
    for name in wanted[1:]:
        if len(head[name]) != len(head["scorer"]):
            raise ValueError(
                f"{file}: the row {name!r} has {len(head[name])} columns, 'scorer' has {len(head['scorer'])}: expected as many"
            )
    scorers = list(dict.fromkeys(head["scorer"][index:]))
    if not scorers:
        raise ValueError(f"{file}: has no body part: expected columns after the {index} of the picture's name")
    if len(scorers) != 1:
        raise ValueError(
            f"{file}: has labels of {len(scorers)} scorers ({', '.join(scorers)}): expected one; keep one's columns"
        )
    columns = _joints(file, head, index)
    rows = []
    for line_number, line in enumerate(lines[len(wanted) :], start=len(wanted) + 1):
        if not any(cell.strip() for cell in line):
            continue
        if len(line) != len(head["scorer"]):
            raise ValueError(
                f"{file}, line {line_number}: has {len(line)} columns, the header has {len(head['scorer'])}: expected as many"
            )
        name = "/".join(cell.strip() for cell in line[:index] if cell.strip()).replace("\\", "/")
        rows.append((line_number, re.sub(r"^.*/(?=labeled-data/)", "", name), line[index:]))
    return columns, rows


def _joints(file: Path, head: dict[str, list[str]], index: int) -> list[tuple[str, str]]:
    """(individual, body part) of every pair of columns."""
    parts, coords = head["bodyparts"][index:], head["coords"][index:]
    people = head["individuals"][index:] if "individuals" in head else [""] * len(parts)
    if "likelihood" in coords:
        raise ValueError(
            f"{file}: has columns 'likelihood': these are predictions; expected a CollectedData CSV of labels"
        )
    if coords != ["x", "y"] * (len(coords) // 2):
        raise ValueError(f"{file}: the row 'coords' is not x, y, x, y, ...: {', '.join(coords)[:200]}")
    columns = list(zip(people[::2], parts[::2], strict=True))
    if columns != list(zip(people[1::2], parts[1::2], strict=True)):
        raise ValueError(f"{file}: an x column is not followed by the y column of the same body part")
    twice = [part for part in columns if columns.count(part) > 1]
    if twice or not columns:
        raise ValueError(f"{file}: " + (f"has columns of {twice[0][1]!r} twice" if twice else "has no body part"))
    return columns


def _add_row(
    project: Project, pictures: Pictures, file: Path, line: int, name: str, columns: list[tuple[str, str]], cells: list[str],
    *, unique: bool,
) -> None:  # fmt: skip
    """The people of one row."""
    people: dict[str, Person] = {}
    others: dict[str, None] = {}
    labelled = 0
    for (who, part), x_text, y_text in zip(columns, cells[::2], cells[1::2], strict=True):
        blank = [text.strip().lower() in ("", "nan") for text in (x_text, y_text)]
        if all(blank):
            continue
        x, y = number(x_text), number(y_text)
        if x is None or y is None:
            project.problems.add(
                "coordinate not a number",
                f"{file}, line {line}: {part!r} is at {x_text!r}, {y_text!r}: expected two finite numbers, or two empty cells",
            )
            continue
        labelled += 1
        if (who == UNIQUE) != unique:
            others[part] = None
            continue
        person = people.setdefault(who, Person({}, UNIQUE if unique else KIND, individual=who or None))
        person.joints[part] = (x, y, 2)
    if not labelled:
        project.unlabelled(name)
        return
    for part in others:
        project.notes.add(
            "{n} labels of "
            + ("animals were left out, since --category single was given" if unique else
               "body parts that exist once (individual 'single') were left out; --category single reads these alone"), repr(part)
        )  # fmt: skip
    if not people:
        return
    picture_name = pictures.find(name)
    if picture_name is None and file.parent != project.root:  # the folder was renamed
        picture_name = pictures.find((file.parent / name.rpartition("/")[2]).relative_to(project.root).as_posix())
    if picture_name is None:
        project.missing(name)
        return
    size = picture_size(project.root / picture_name)
    project.add(Picture(picture_name, size, list(people.values())), entry=f"{file}, line {line}")


def _skeleton(config: dict[str, Any], header: list[str], project: Project, file: Path, *, unique: bool) -> Skeleton:
    """The joints in the order of config.yaml, or of the header."""
    multiple = str(config.get("multianimalproject", "")).lower() == "true" or config.get("bodyparts") == MULTI
    key = "uniquebodyparts" if unique else "multianimalbodyparts" if multiple else "bodyparts"
    listed = config.get(key)
    if listed is not None and not (isinstance(listed, list) and all(isinstance(name, str) for name in listed)):
        raise ValueError(f"{file}: {key!r} is not a list of names: expected the body parts, one an entry")
    joints = project.options.names or listed or header
    extra = [name for name in header if name not in joints]
    if extra:
        where = "--names" if project.options.names else f"{key!r} of {file}"
        raise ValueError(
            f"{project.path}: the labels have the body part {extra[0]!r}, which {where} does not list ({', '.join(joints)}): add it "
            "there, or take it out of the CSV"
        )
    if len(set(joints)) < len(joints):
        raise ValueError(f"{file}: {key!r} names a body part twice ({', '.join(joints)})")
    edges = config.get("skeleton")
    pairs = [edge for edge in edges if isinstance(edge, list) and len(edge) == 2] if isinstance(edges, list) else []
    return Skeleton(tuple(joints), tuple((str(a), str(b)) for a, b in pairs))
