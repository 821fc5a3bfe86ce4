"""JPEG files: what is read as it is, converted or refused."""

import sys

import numpy as np
import pytest
from PIL import Image

from jaxpose.data.pixels import decode_picture, load_jpeg
from tests import tiny_coco


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_coco.write(tmp_path_factory.mktemp("coco"))


def test_load_jpeg_gives_the_file_as_it_is(folder):
    path = folder / "train" / "000000.jpg"
    assert load_jpeg(path, size_wh=(97, 121), verify=True) == path.read_bytes()


def test_load_jpeg_refuses(tmp_path, folder):
    whole = (folder / "train" / "000001.jpg").read_bytes()
    cases = {"cut.jpg": whole[: len(whole) // 2], "stub.jpg": whole[:20], "text.jpg": b"hello", "empty.jpg": b""}
    for file, content in cases.items():
        (tmp_path / file).write_bytes(content)
        with pytest.raises(ValueError, match=rf"{file}.*replace"):
            load_jpeg(tmp_path / file)
    (tmp_path / "zeros.jpg").write_bytes(whole + b"\0\0")  # some writers fill up
    load_jpeg(tmp_path / "zeros.jpg")
    with pytest.raises(FileNotFoundError, match=r"absent\.jpg does not exist"):
        load_jpeg(tmp_path / "absent.jpg")
    with pytest.raises(ValueError, match=r"160x120 pixels, its annotations say 80x60: resize"):
        load_jpeg(folder / "train" / "000001.jpg", size_wh=(80, 60))
    with pytest.raises(ValueError, match="turned"):
        load_jpeg(folder / "train" / "000001.jpg", size_wh=(120, 160))


def test_verify_finds_damage_inside(tmp_path):
    (tmp_path / "bad.jpg").write_bytes(tiny_coco.damaged(tiny_coco.jpeg(tiny_coco.picture((160, 120)))))
    load_jpeg(tmp_path / "bad.jpg")  # header and end are fine
    with pytest.raises(ValueError, match=r"bad\.jpg.*damaged"):
        load_jpeg(tmp_path / "bad.jpg", verify=True)


@pytest.mark.parametrize("kind", ["half and an end", "zeros inside", "zeros to the end", "a few bytes of the scan"])
def test_verify_finds_what_decoders_fill_up(tmp_path, capfd, kind):
    pytest.importorskip("cv2")
    whole = tiny_coco.jpeg(tiny_coco.picture((160, 120)))
    third, half, scan = len(whole) // 3, len(whole) // 2, whole.index(b"\xff\xda")
    data = {
        "half and an end": whole[:half] + b"\xff\xd9",
        "zeros inside": whole[:half] + bytes(1500) + whole[half + 1500 :],
        "zeros to the end": whole[:third] + bytes(len(whole) - third - 2) + b"\xff\xd9",
        "a few bytes of the scan": whole[: scan + 60] + b"\xff\xd9",
    }[kind]
    path = tmp_path / "bad.jpg"
    path.write_bytes(data)
    decode_picture(data, path)
    with pytest.raises(ValueError, match=r"bad\.jpg is damaged inside \(Corrupt JPEG data: premature end.*replace"):
        load_jpeg(path, verify=True)
    for options in ({}, {"progressive": True}, {"subsampling": 0}, {"optimize": True}):
        path.write_bytes(tiny_coco.jpeg(tiny_coco.picture((160, 120)), **options))
        load_jpeg(path, verify=True)
    path.write_bytes(whole[:-2] + bytes(range(1, 50)) + b"\xff\xd9")  # all pixels are there
    load_jpeg(path, verify=True)
    assert capfd.readouterr() == ("", "")


def test_verify_without_opencv(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    path = tmp_path / "good.jpg"
    path.write_bytes(tiny_coco.jpeg(tiny_coco.picture((160, 120))))
    assert load_jpeg(path, verify=True) == path.read_bytes()


def test_the_upper_half_of_sixteen_bits_is_read_and_more_refused(tmp_path):
    numbers = np.arange(48 * 64).reshape(48, 64)
    Image.fromarray((numbers * 20).astype(np.uint16)).save(tmp_path / "deep.png")
    Image.fromarray(numbers.astype(np.float32)).save(tmp_path / "real.tiff")
    pixels = np.asarray(decode_picture(load_jpeg(tmp_path / "deep.png"), "deep.png"), int)
    assert pixels.shape == (48, 64, 3) and np.abs(pixels - (numbers * 20 >> 8)[..., None]).max() <= 3
    with pytest.raises(ValueError, match=r"real.tiff has the mode 'F', .*expected 8 bits"):
        load_jpeg(tmp_path / "real.tiff")


def test_no_image_and_no_file(tmp_path):
    (tmp_path / "text.jpg").write_text("hello")
    with pytest.raises(ValueError, match=r"text\.jpg cannot be read \(not an image that Pillow can read\)"):
        load_jpeg(tmp_path / "text.jpg")
    with pytest.raises(ValueError, match="is a folder: name an image file"):
        load_jpeg(tmp_path)


@pytest.mark.parametrize(
    ("file", "mode"),
    [
        ("a.png", "RGB"),
        ("b.png", "RGBA"),
        ("c.png", "L"),
        ("d.jpg", "CMYK"),
        ("e.bmp", "RGB"),
        ("f.gif", "P"),
        ("g.png", "LA"),
        ("h.png", "1"),
    ],
)
def test_other_formats_become_rgb_jpeg(tmp_path, file, mode):
    image = tiny_coco.picture((64, 48))
    Image.fromarray(image).convert(mode).save(tmp_path / file)
    data = load_jpeg(tmp_path / file, size_wh=(64, 48))
    decoded = decode_picture(data, file)
    assert data.startswith(b"\xff\xd8\xff") and decoded.mode == "RGB"
    original = np.asarray(Image.open(tmp_path / file).convert("RGB"), int)
    assert np.abs(np.asarray(decoded, int) - original).mean() < 4
