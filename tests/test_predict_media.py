"""Pictures of every kind and videos in and out, and what is drawn on them."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from jaxpose.predict import media
from tests import tiny_coco

PIXELS = tiny_coco.picture((40, 24))


def saved(tmp_path, image, name="x.png", **options):
    image.save(tmp_path / name, **options)
    return tmp_path / name


def test_a_file_a_pillow_image_and_an_array_are_the_same_picture(tmp_path):
    path = saved(tmp_path, Image.fromarray(PIXELS))
    for source in (path, str(path), Image.open(path), PIXELS):
        np.testing.assert_array_equal(media.picture(source), PIXELS)


def test_grey_palette_and_cmyk_become_rgb(tmp_path):
    grey = PIXELS[..., 0]
    expected = np.repeat(grey[..., None], 3, -1)
    for source in (saved(tmp_path, Image.fromarray(grey)), grey, grey[..., None]):
        np.testing.assert_array_equal(media.picture(source), expected)
    np.testing.assert_array_equal(media.picture(saved(tmp_path, Image.fromarray(grey).convert("P"), "p.png")), expected)
    cmyk = media.picture(saved(tmp_path, Image.fromarray(PIXELS).convert("CMYK"), "c.jpg", quality=100))
    assert np.abs(cmyk.astype(int) - PIXELS).mean() < 6
    bits = media.picture(saved(tmp_path, Image.fromarray(grey > 128), "b.png"))
    np.testing.assert_array_equal(bits[..., 0], np.where(grey > 128, 255, 0))


def test_sixteen_bits_keep_their_upper_eight(tmp_path):
    deep = PIXELS[..., 0].astype(np.uint16) * 257
    for source in (
        saved(tmp_path, Image.fromarray(deep), "deep.png"),
        saved(tmp_path, Image.fromarray(deep), "deep.tif"),
        deep,
    ):
        np.testing.assert_array_equal(media.picture(source)[..., 1], PIXELS[..., 0])


def test_what_is_transparent_is_white(tmp_path):
    alpha = np.zeros(PIXELS.shape[:2], np.uint8)
    alpha[:, 20:] = 255
    rgba = np.dstack([PIXELS, alpha])
    for source in (saved(tmp_path, Image.fromarray(rgba)), rgba):
        found = media.picture(source)
        assert (found[:, :20] == 255).all()
        np.testing.assert_array_equal(found[:, 20:], PIXELS[:, 20:])


@pytest.mark.parametrize("orientation, turn", [(3, 2), (6, 3), (8, 1)])
def test_a_photograph_is_turned_as_its_exif_data_say(tmp_path, orientation, turn):
    exif = Image.Exif()
    exif[0x0112] = orientation
    for name, options in (("x.jpg", {"quality": 100, "subsampling": 0}), ("x.png", {})):
        stored = saved(tmp_path, Image.fromarray(PIXELS), name, exif=exif, **options)
        expected = np.rot90(PIXELS, turn).astype(int)
        found = media.picture(stored)
        assert found.shape == expected.shape and np.abs(found - expected).max() < 12


def test_bad_pictures_end_in_a_sentence_that_names_them(tmp_path):
    good = saved(tmp_path, Image.fromarray(PIXELS), "good.jpg")
    (tmp_path / "text.jpg").write_text("not an image")
    (tmp_path / "cut.jpg").write_bytes(good.read_bytes()[:-300])
    (tmp_path / "empty.png").write_bytes(b"")
    for name in ("text.jpg", "cut.jpg", "empty.png"):
        with pytest.raises(ValueError, match=f"{name} cannot be read"):
            media.picture(tmp_path / name)
    with pytest.raises(FileNotFoundError, match="absent.jpg does not exist"):
        media.picture(tmp_path / "absent.jpg")
    with pytest.raises(ValueError, match="is a folder"):
        media.picture(tmp_path)
    with pytest.raises(ValueError, match="32 bits per pixel"):
        media.picture(saved(tmp_path, Image.fromarray(PIXELS[..., 0].astype(np.float32)), "f.tif"))
    for array in (PIXELS / 255, PIXELS[..., :2], PIXELS[None], PIXELS[:0], PIXELS.astype(np.int32)):
        with pytest.raises(ValueError, match="expected .h, w."):
            media.picture(array)


def test_a_huge_picture_is_refused_before_it_is_decoded(tmp_path):
    path = saved(tmp_path, Image.new("1", (20_000, 12_000)), "huge.png")  # 30 kB on disk
    with pytest.raises(ValueError, match=r"huge.png has 20000x12000 pixels, more than 100,000,000.*--max-pixels"):
        media.picture(path)
    with pytest.raises(ValueError, match="more than 900"):
        media.picture(PIXELS, max_pixels=900)
    assert Image.MAX_IMAGE_PIXELS is not None, "Pillow's own limit is in place again"
    with pytest.raises(ValueError, match="sides up to"):
        media.picture(np.zeros((1, 40_000), np.uint8))


def frames(count=12, size_wh=(64, 48)):
    """Smooth pictures whose brightness says which they are."""
    return [np.full((size_wh[1], size_wh[0], 3), 20 + 15 * i, np.uint8) for i in range(count)]


def test_a_video_comes_back_frame_by_frame(tmp_path):
    made = frames()
    with media.VideoWriter(tmp_path / "v.mp4", size_wh=(64, 48), rate=12.5) as writer:
        for frame in made:
            writer.write(frame)
        with pytest.raises(ValueError, match="a frame is"):
            writer.write(made[0][:10])
    video = media.video(tmp_path / "v.mp4")
    assert video.size_wh == (64, 48) and video.frames == 12 and video.rate == pytest.approx(12.5)
    for _ in range(2):  # as often as one likes
        found = list(video)
        assert len(found) == 12
        assert all(np.abs(a.astype(int) - b).max() < 8 for a, b in zip(found, made, strict=True))


def test_a_video_that_failed_leaves_no_file(tmp_path):
    with pytest.raises(RuntimeError), media.VideoWriter(tmp_path / "v.mp4", size_wh=(64, 48), rate=10) as writer:
        writer.write(frames()[0])
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_bad_videos(tmp_path):
    (tmp_path / "text.mp4").write_text("not a video")
    with pytest.raises(ValueError, match="text.mp4 cannot be read"):
        media.video(tmp_path / "text.mp4")
    with pytest.raises(FileNotFoundError):
        media.video(tmp_path / "absent.mp4")
