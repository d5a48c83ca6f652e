"""Figures: their numbers, their colours in both themes, their files."""

from __future__ import annotations

import base64
import io
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from repository import REPOSITORY
from stpl.data.label_space import VIPER_15
from stpl.pictures.colours import picture_palette
from stpl.pictures.pages import DARK, LIGHT
from stpl.report.curves import Curve, curves, read_metric, unfinished
from stpl.report.gallery import Picture, focus, gallery, styles
from stpl.report.plots import Style, class_figure, confusion_figure, curve_figure, purity_figure, sensitivity_figure
from stpl.report.report_page import frame_image, ids_png, player
from stpl.report.rows import tables
from stpl.report.suite import Suite
from stpl.report.theme import export, inline_svg
from stpl.runs.experiments import load_catalogue
from suite_writer import scene, write_run, write_suite

STYLE = Style("STPL", 1, LIGHT["chosen"], bold=True)


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Suite:
    runs = tmp_path_factory.mktemp("figures")
    write_suite(runs)
    for value, error in (("0.07", 0.3), ("0.1", 0.35)):
        name, setting = f"stpl,temperature={value}", {"model.temperature": value}
        write_run(runs, name, 0, error, scene(), np.random.default_rng(3), artifacts=False, overrides=setting)
    return Suite("streets", runs, load_catalogue([REPOSITORY / "experiments"]))


@pytest.fixture(scope="module")
def pictures(suite: Suite, tmp_path_factory: pytest.TempPathFactory) -> list[Picture]:
    place = tmp_path_factory.mktemp("place")
    (place / "search_importance.csv").write_text("parameter,importance\nmodel.temperature,0.75\noptimizer.lr,0.25\n")
    return gallery(suite, tables(suite), "stpl", place, place)


def luminance(colour: str) -> float:
    values = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in values)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(a: str, b: str) -> float:
    """Of WCAG 2.2."""
    light, dark = sorted((luminance(a), luminance(b)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_text_and_lines_stand_out_from_every_ground(theme: dict[str, str]) -> None:
    for ground in ("paper", "surface", "raised"):
        for text in ("ink", "muted", "accent", "good", "bad"):
            assert contrast(theme[text], theme[ground]) >= 4.5, (text, ground)
        for line in ("chosen", *(name for name in theme if name.startswith("series-"))):
            assert contrast(theme[line], theme[ground]) >= 3, (line, ground)


def test_themes_name_the_same_colours_each_once() -> None:
    assert list(LIGHT) == list(DARK)
    assert len(set(LIGHT.values())) == len(LIGHT)
    painted = {"#{:02x}{:02x}{:02x}".format(*colour) for colour in picture_palette(VIPER_15)}
    assert not painted & set(LIGHT.values())  # else a class would change its colour with the theme


def test_svg_follows_the_theme_and_is_well_formed(pictures: list[Picture]) -> None:
    seen: set[str] = set()
    for picture in pictures:
        text = inline_svg(picture.figure, picture.name, 'said "so" & <so>')
        root = ET.fromstring(text)
        assert root.get("aria-label") == 'said "so" & <so>'
        assert not any(colour in text for colour in LIGHT.values())
        assert set(re.findall(r"var\(--([\w-]+)\)", text)) <= {*LIGHT, "sans"}
        ids = [element.get("id") for element in root.iter() if element.get("id")]
        assert not seen & {str(name) for name in ids}
        seen |= {str(name) for name in ids}
        referred = re.findall(r'(?:url\(#|href="#)([^")]+)', text)
        assert set(referred) <= set(ids)
        assert "http" not in re.sub(r'xmlns(:\w+)?="[^"]*"', "", text)


def test_every_kind_of_figure_is_there(pictures: list[Picture]) -> None:
    assert [picture.name for picture in pictures] == [
        "intervals-table3", "intervals-table4", "classes", "curves-miou-table3", "curves-loss-table3",
        "curves-miou-table4", "curves-loss-table4", "sensitivity-temperature", "importance-search",
        "embedding-source_only", "embedding-stpl", "embedding-oracle", "purity", "confusion-source_only",
        "confusion-stpl",
    ]  # fmt: skip
    titles = {picture.name: picture.figure.axes[0].get_title("left") for picture in pictures}
    assert titles["embedding-stpl"] == "STPL\nσ intra 2.3, σ inter 0.5"


def test_figures_need_what_runs_left(tmp_path: Path) -> None:
    write_suite(tmp_path, {"source_only": 0.5, "stpl": 0.3}, artifacts=False)
    suite = Suite("streets", tmp_path, load_catalogue([REPOSITORY / "experiments"]))
    names = [picture.name for picture in gallery(suite, tables(suite), "stpl", tmp_path, tmp_path)]
    assert names == ["classes", "curves-miou-table3", "curves-loss-table3", "curves-miou-table4", "curves-loss-table4"]


def test_files_of_a_figure_are_whole_and_always_the_same(pictures: list[Picture], tmp_path: Path) -> None:
    picture = next(picture for picture in pictures if picture.name == "confusion-stpl")
    first, second = (export(picture.figure, tmp_path / folder / "x.y") for folder in "ab")
    assert [path.name for path in first] == ["x.y.svg", "x.y.png", "x.y.pdf"]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    assert first[2].read_bytes().startswith(b"%PDF")
    with Image.open(first[1]) as image:
        assert image.convert("RGB").getpixel((0, 0)) == (255, 255, 255)  # a ground of its own, unlike on the page
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["x.y.pdf", "x.y.png", "x.y.svg"]
    assert "white" not in inline_svg(picture.figure, "again", "")


def test_curves_are_means_and_ranges_over_seeds(suite: Suite, tmp_path: Path) -> None:
    for seed, values in enumerate(([1.0, 2.0], [3.0, 6.0, 9.0])):
        folder = tmp_path / f"streets/stpl/seed{seed}"
        folder.mkdir(parents=True)
        lines = [f"{10 * step},val/miou,{value}" for step, value in enumerate(values)]
        (folder / "metrics.csv").write_text("step,name,value\n0,progress/steps,40\n" + "\n".join(lines) + "\n30,val/mi")
    here = Suite("streets", tmp_path, suite.catalogue)
    assert curves(here, ["naive", "stpl"], "val/miou") == [
        Curve("stpl", (0, 10, 20), (2.0, 4.0, 9.0), (1.0, 2.0, 9.0), (3.0, 6.0, 9.0), seeds=2)
    ]
    assert [(run.run, run.step, run.steps, run.miou) for run in unfinished(here)] == [
        ("stpl/seed0", 10, 40, 2.0), ("stpl/seed1", 20, 40, 9.0),
    ]  # fmt: skip
    assert unfinished(suite) == []
    assert read_metric(tmp_path / "none.csv", "val/miou") == {}


def test_a_caption_speaks_of_the_bands_that_there_are(suite: Suite, tmp_path: Path) -> None:
    for several, said in (({}, "One seed of each row."), ({"stpl"}, "a row of one seed has none."),
                          ({"stpl", "naive"}, "to the greatest.")):  # fmt: skip
        runs = tmp_path / str(len(several))
        write_suite(runs, {"naive": 0.4, "stpl": 0.3}, seeds=1, artifacts=False)
        for name in several:
            write_run(runs, name, 1, 0.5, scene(), np.random.default_rng(1), artifacts=False)
        here = Suite("streets", runs, suite.catalogue)
        drawn = {one.name: one for one in gallery(here, tables(here), "stpl", runs, runs)}["curves-miou-table3"]
        assert drawn.caption.endswith(said)
        assert len(drawn.figure.axes[0].collections) == len(several)


def test_the_axes_of_an_embedding_are_explained(pictures: list[Picture]) -> None:
    captions = [picture.caption for picture in pictures if picture.name.startswith("embedding")]
    assert len(captions) == 3
    assert all("axes are not features and have no unit" in caption for caption in captions)


def test_lines_carry_the_numbers() -> None:
    curve = Curve("stpl", (0, 10), (20.0, 40.0), (19.0, 39.0), (21.0, 41.0))
    axes = curve_figure([curve], {"stpl": STYLE}, "t", "y").axes[0]
    np.testing.assert_array_equal(axes.lines[0].get_xydata(), [[0, 20], [10, 40]])
    assert len(axes.collections) == 0
    axes = curve_figure([replace(curve, seeds=2)], {"stpl": STYLE}, "t", "y").axes[0]
    assert len(axes.collections) == 1
    axes = purity_figure([(STYLE, {10: 80.0, 1: 90.0})]).axes[0]
    np.testing.assert_array_equal(axes.lines[0].get_xydata(), [[1, 90], [10, 80]])
    axes = sensitivity_figure("τ", [(0.1, 41.0, None), (0.07, 42.0, 0.5)], log=True).axes[0]
    np.testing.assert_array_equal(axes.lines[0].get_xydata(), [[0.07, 42], [0.1, 41]])
    axes = class_figure(["road", "car"], [(STYLE, {"road": 90.0, "car": None})]).axes[0]
    assert [90.0, 0.0] in [list(map(float, point)) for line in axes.lines for point in np.asarray(line.get_xydata())]


def test_confusion_says_shares_of_the_truth() -> None:
    counts = np.array([[90, 10, 0], [25, 75, 0], [0, 0, 0]])
    texts = confusion_figure(counts, ["a", "b", "absent"], "t").axes[0].texts
    assert {(text.get_position(), text.get_text()) for text in texts} == {
        ((0, 0), "90"), ((1, 0), "10"), ((0, 1), "25"), ((1, 1), "75"),
    }  # fmt: skip


def test_the_rows_to_compare(suite: Suite) -> None:
    rows = focus(suite, tables(suite), "stpl")
    names = ("source_only", "batchnorm_augmented", "stpl", "oracle")
    assert (rows.reference, rows.baseline, rows.chosen, rows.bound) == names
    looks = styles(suite, rows)
    assert looks["stpl"].bold
    shown = [looks[name].colour for name in names]
    assert len(set(shown)) == 4


def decode(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.split(",", 1)[1])))


def test_images_of_the_player_are_the_predictions() -> None:
    ids = np.arange(6, dtype=np.uint8).repeat(20).reshape(6, 20) * 2
    ids[5] = 255
    image = np.array(decode(ids_png(ids, VIPER_15.classes)).convert("RGBA"))
    np.testing.assert_array_equal(image[:5, :, :3], picture_palette(VIPER_15)[ids[:5]])
    assert (image[:5, :, 3] == 255).all()
    assert (image[5, :, 3] == 0).all()
    frame = np.full((6, 20, 3), 77, np.uint8)
    assert np.abs(np.array(decode(frame_image(frame))).astype(int) - 77).max() <= 2


def test_the_player_leaves_out_what_does_not_fit(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = player(suite, ["source_only", "stpl"])
    assert whole is not None
    assert [row["name"] for row in whole["rows"]][:2] == ["source_only", "stpl"]
    assert whole["left_out"] == []
    size = sum(map(len, [*whole["frames"], *whole["labels"], *whole["rows"][0]["images"], *whole["rows"][1]["images"]]))
    monkeypatch.setattr("stpl.report.report_page.BUDGET", size)
    part = player(suite, ["source_only", "stpl"])
    assert part is not None
    assert [row["name"] for row in part["rows"]] == ["source_only", "stpl"]
    assert len(part["left_out"]) == len(whole["rows"]) - 2


def test_sensitivity_and_importance_carry_the_numbers(suite: Suite, pictures: list[Picture]) -> None:
    named = {picture.name: picture.figure.axes[0] for picture in pictures}
    measured = [suite.records(f"stpl,temperature={value}")[0]["last"]["miou"] for value in ("0.07", "0.1")]
    line = np.asarray(named["sensitivity-temperature"].lines[0].get_xydata())
    np.testing.assert_allclose(line, [[0.07, measured[0]], [0.1, measured[1]]], atol=0.005)
    assert [bar.get_width() for bar in named["importance-search"].patches] == [75, 25]  # type: ignore[attr-defined]
