"""`jaxpose predict` with a run on scans: pictures and .mat files in, a table and pictures out."""

import csv
import json

import jax
import numpy as np
import pytest
from PIL import Image

from jaxpose import predict, tasks
from jaxpose.data.scans import Scan, feed, prepare
from jaxpose.data.synthetic import retina
from jaxpose.nets import ColumnRegressor, ResUNet
from jaxpose.predict import command, scans
from jaxpose.skeleton import RETINA8
from tests import tiny_run
from tests.test_data_scans import write_subject


@pytest.fixture(scope="module")
def drawn():
    return retina.draw_scans(2, seed=0, style=retina.Style(height=240, width=31))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    def task(loss):
        net = ColumnRegressor(ResUNet(width=2, levels=2), 8, sigma_bias=-3.0)
        return tasks.boundaries(net, skeleton=RETINA8, size_wh=(16, 176), likelihood=tasks.Likelihood(loss=loss))

    folder = tmp_path_factory.mktemp("run")
    variables = task("laplace").init(jax.random.key(0))
    return {loss: tiny_run.write(folder / loss, task(loss), variables=variables) for loss in ("laplace", "l1")}


def rows_of(out):
    return list(csv.DictReader((out / "boundaries.csv").open()))


def test_a_picture_and_a_file_of_duke(run, drawn, tmp_path, capsys):
    Image.fromarray(drawn[0].image).save(tmp_path / "eye.png")
    write_subject(tmp_path / "Subject_07.mat", drawn[1:])
    command.main(run["laplace"], (str(tmp_path),), out=tmp_path / "out", region=0.5)
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["scans"] == 3
    rows = rows_of(tmp_path / "out")
    assert len(rows) == 3 * 8 * 31
    assert [r["scan"] for r in rows[:: 8 * 31]] == ["Subject_07 scan 1", "Subject_07 scan 2", "eye"]
    for name in ("eye", "Subject_07_scan_2"):
        assert (tmp_path / "out" / f"{name}_boundaries.png").stat().st_size > 5000

    predictor = scans.load(run["laplace"])
    prediction = predictor(Scan("eye", "eye", drawn[0].image, lateral_um=8700 / 31), level=0.5)
    prepared = prepare(prediction.scan, height=176)
    batch = {"image": feed.padded(prepared.image, 2)[None]}
    expected = predictor.task.predict(predictor.task.init(jax.random.key(0)), batch)
    np.testing.assert_allclose(prediction.rows, expected["rows"][0, :31] + prepared.offset[:, None], atol=1e-3)
    half = np.log(2) * prediction.sigma  # half of a Laplace lies within its median
    np.testing.assert_allclose(prediction.bands[1] - prediction.rows, half, rtol=0.02)
    one = rows[2 * 8 * 31 + 5]
    assert (one["boundary"], one["column"]) == ("ILM", "5")
    assert float(one["row"]) == pytest.approx(prediction.rows[5, 0], abs=0.006)
    assert float(one["low"]) == pytest.approx(prediction.bands[0][5, 0], abs=0.006)


def test_a_scan_with_pixels_of_another_height_is_read_at_the_scale_of_the_training(run, drawn, tmp_path, capsys):
    """A scan of twice as many rows, each half as high, has its boundaries at the same micrometres."""
    double = np.repeat(drawn[0].image, 2, 0)
    Image.fromarray(drawn[0].image).save(tmp_path / "eye.png")
    Image.fromarray(double).save(tmp_path / "fine.png")
    tables = {}
    for name, height in (("eye", None), ("fine", (3.87 / 2,))):
        command.main(
            run["laplace"], (str(tmp_path / f"{name}.png"),), out=tmp_path / name, pixel_um=height, overlay=False
        )
        rows = rows_of(tmp_path / name)
        tables[name] = {
            c: np.array([float(r[c]) for r in rows]) for c in ("row", "sigma", "row_um", "sigma_um", "low_um")
        }
    eye, fine = tables["eye"], tables["fine"]
    np.testing.assert_allclose(eye["row_um"], eye["row"] * 3.87, atol=0.01)
    np.testing.assert_allclose(fine["row"], 2 * eye["row"] + 0.5, atol=0.1)  # centres of pixels are at whole numbers
    np.testing.assert_allclose(fine["sigma_um"], eye["sigma_um"], rtol=0.01)
    np.testing.assert_allclose(fine["low_um"] - fine["row_um"], eye["low_um"] - eye["row_um"], atol=0.05)
    with pytest.raises(
        ValueError, match="--pixel-um 0.00387: expected the height of a pixel in micrometres, 0.5 to 50"
    ):
        command.main(run["laplace"], (str(tmp_path / "eye.png"),), out=tmp_path / "out", pixel_um=(0.00387,))


def test_a_net_without_sigma_states_rows_alone(run, drawn, tmp_path):
    Image.fromarray(drawn[0].image).save(tmp_path / "eye.png")
    inputs = (str(tmp_path / "eye.png"),)
    command.main(run["l1"], inputs, out=tmp_path / "out", overlay=False)
    assert {(r["sigma"], r["low"], r["low_um"]) for r in rows_of(tmp_path / "out")} == {("", "", "")}
    assert not list((tmp_path / "out").glob("*.png"))
    with pytest.raises(ValueError, match="--region 0.9: the net in .* states no density"):
        command.main(run["l1"], inputs, out=tmp_path / "out", region=0.9)


def test_what_is_no_scan_is_refused(run, drawn, tmp_path):
    (tmp_path / "notes.png").write_text("no picture")
    Image.new("RGB", (31, 240), (180, 120, 60)).save(tmp_path / "photo.png")
    Image.new("L", (31, 240)).save(tmp_path / "black.png")
    Image.fromarray(drawn[0].image).convert("RGB").save(tmp_path / "eye.png")
    with pytest.raises(
        ValueError,
        match=r"3 of 4 files failed.*black: the scan is empty.*notes.png is no picture of a scan.*photo.png is no .*100% of its",
    ):
        command.main(run["l1"], (str(tmp_path),), out=tmp_path / "out", overlay=False)
    assert len(rows_of(tmp_path / "out")) == 8 * 31, "the others are predicted"
    with pytest.raises(FileNotFoundError, match="absent.png: no such file or folder"):
        command.main(run["l1"], (str(tmp_path / "absent.png"),), out=tmp_path / "out")
    with pytest.raises(ValueError, match="--boxes: it is for people in pictures"):
        command.main(run["l1"], (str(tmp_path / "eye.png"),), out=tmp_path / "out", boxes=tmp_path / "b.json")
    with pytest.raises(ValueError, match="--root-depth: it is for people in pictures"):
        command.main(run["l1"], (str(tmp_path / "eye.png"),), out=tmp_path / "out", root_depth=4000.0)
    with pytest.raises(ValueError, match="--region 1.5: expected a probability"):
        command.main(run["laplace"], (str(tmp_path / "eye.png"),), out=tmp_path / "out", region=1.5)


def test_pictures_of_16_bits_are_those_of_8(drawn, tmp_path):
    image = drawn[0].image
    for name in ("eye.png", "eye.tif"):
        Image.fromarray(image.astype(np.uint16) * 257).save(tmp_path / name)
        (scan,) = scans.scans_of(tmp_path / name)
        np.testing.assert_array_equal(scan.image, image)
    Image.fromarray(image.astype(np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(
        ValueError, match="float.tif is no picture of a scan .its values are neither of 8 nor of 16 bits"
    ):
        scans.scans_of(tmp_path / "float.tif")


def test_boundaries_that_cross_are_said(run, caplog):
    noise = np.random.default_rng(0).integers(0, 255, (240, 31), np.uint8)
    scans.load(run["l1"])(Scan("noise", "noise", noise))
    assert "noise: boundaries cross in" in caplog.text, "this net is untrained"


def test_the_other_tools_say_what_such_a_run_is(run, tmp_path):
    with pytest.raises(ValueError, match="predicts boundaries in scans, no poses"):
        predict.load(run["l1"])
    with pytest.raises(ValueError, match="holds a task of the family 'regression', expected 'boundaries'"):
        scans.load(tiny_run.write(tmp_path / "poses", tiny_run.regression_task()))


def test_tools_for_poses_refuse_it(run, tmp_path):
    from jaxpose import export

    with pytest.raises(ValueError, match="predicts boundaries in scans, no poses: jaxpose predict takes it"):
        export.main(run["l1"], out=tmp_path / "net.onnx")


def test_the_summary_counts_a_net_of_scans_and_its_flow(run, tmp_path, capsys):
    from jaxpose import summary

    summary.main(run=run["l1"])
    table = capsys.readouterr().out
    assert "ColumnRegressor, input 16 x 176 px in grey values, 8 boundaries" in table and "flow" not in table
    net = ColumnRegressor(ResUNet(width=2, levels=2), 8)
    shapes = jax.eval_shape(net.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 176, 16), np.float32))
    weights = sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))
    total = next(line for line in table.splitlines() if line.startswith("total")).split()
    assert total[1] == f"{weights:,}"
    # The last layer alone: a product of (176 rows x 2 channels) with 16 outputs in 16 columns.
    assert int(total[2].replace(",", "")) > 16 * 176 * 2 * 16
    task = tasks.boundaries(net, skeleton=RETINA8, size_wh=(16, 176))
    summary.main(run=tiny_run.write(tmp_path / "rle", task))
    flow = next(
        line for line in capsys.readouterr().out.splitlines() if line.startswith("flow, per column and boundary")
    )
    assert flow.split()[5] == "25"  # 3 x 8 knots + 1
