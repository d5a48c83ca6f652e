import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from numpy.typing import NDArray

from fakes import MovingShapes
from stpl.data.label_space import VIPER_15
from stpl.data.videos.video_clips import VideoFrames
from stpl.errors import ConfigError, DataError
from stpl.pictures.labels import legend, overlay, paint
from stpl.pictures.side_by_side import SideBySide, VideoStyle

PALETTE = VIPER_15.palette
SCENE = MovingShapes(3, (48, 96))


def flat(colour: tuple[int, int, int], size: tuple[int, int] = (48, 96)) -> NDArray[np.uint8]:
    return np.full((*size, 3), colour, np.uint8)


def record(path: Path, panels: list[NDArray[np.uint8]], frames: int = 4, **options: Any) -> list[NDArray[np.uint8]]:
    """Write the same panels several times; what a player decodes."""
    with SideBySide(path, 10.0, [f"panel {i}" for i in range(len(panels))], **options) as video:
        for _ in range(frames):
            video.write(panels)
    return list(VideoFrames(path).frames())


def test_paint_gives_each_class_its_colour_and_ignores_the_rest() -> None:
    labels = np.array([[0, 1, 14], [15, 255, -1]])
    painted = paint(labels, PALETTE)
    assert painted.dtype == np.uint8
    assert painted[0].tolist() == [PALETTE[i].tolist() for i in (0, 1, 14)]
    assert not painted[1].any()
    np.testing.assert_array_equal(paint(labels.astype(np.uint8), PALETTE)[0], painted[0])


def test_overlay_blends_known_pixels_only() -> None:
    frame = np.random.default_rng(0).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    labels = np.arange(20).reshape(4, 5)
    blended = overlay(frame, labels, PALETTE, alpha=0.25)
    for y in range(4):
        for x in range(5):
            value = labels[y, x]
            wanted = 0.75 * frame[y, x] + 0.25 * PALETTE[value] if value < 15 else frame[y, x]
            assert np.abs(blended[y, x] - wanted).max() <= 0.5
    np.testing.assert_array_equal(overlay(frame, labels, PALETTE, 0.0), frame)
    np.testing.assert_array_equal(overlay(frame, labels, PALETTE, 1.0)[:3], paint(labels, PALETTE)[:3])


@pytest.mark.parametrize("width", [90, 300, 1200])
def test_legend_shows_every_class(width: int) -> None:
    strip = legend(VIPER_15.classes, PALETTE, width)
    assert strip.shape[1:] == (width, 3)
    for colour in PALETTE:
        assert (strip == colour).all(axis=-1).sum() > 100  # a filled swatch


def test_legend_needs_fewer_rows_when_wider() -> None:
    heights = [legend(VIPER_15.classes, PALETTE, width).shape[0] for width in (100, 300, 600, 3000)]
    assert heights == sorted(heights, reverse=True)
    assert heights[-1] < 40


@pytest.mark.parametrize("codec", ["vp8", "vp9"])
def test_a_player_sees_the_panels_in_order(codec: Literal["vp8", "vp9"], tmp_path: Path) -> None:
    colours = [(200, 40, 40), (40, 200, 40), (40, 40, 200)]
    frames = record(tmp_path / "deep" / "v.webm", [flat(colour) for colour in colours], style=VideoStyle(codec))
    assert len(frames) == 4
    height, width = frames[0].shape[:2]
    assert height % 2 == 0
    assert width % 2 == 0
    for index, colour in enumerate(colours):
        centre = frames[0][height // 2, (2 * index + 1) * width // 6]
        assert np.abs(centre.astype(int) - colour).max() < 12
    assert VideoFrames(tmp_path / "deep" / "v.webm").fps == pytest.approx(10.0)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["v.webm"]


def test_the_file_is_webm(tmp_path: Path) -> None:
    record(tmp_path / "v.webm", [flat((1, 2, 3))])
    data = (tmp_path / "v.webm").read_bytes()
    assert data[:4] == b"\x1a\x45\xdf\xa3"  # EBML
    assert b"webm" in data[:64]
    assert b"V_VP8" in data[:1000]


def test_moving_panels_come_back_as_written(tmp_path: Path) -> None:
    path = tmp_path / "v.webm"
    with SideBySide(path, 10.0, ["one"], style=VideoStyle(panel_width=96)) as video:
        for time in range(8):
            video.write([SCENE.frame(time)])
    decoded = [frame[30:78, 8:104] for frame in VideoFrames(path).frames()]
    errors = np.array([[np.abs(frame.astype(int) - SCENE.frame(t)).mean() for t in range(8)] for frame in decoded])
    assert errors.argmin(axis=1).tolist() == list(range(8))
    assert errors.diagonal().max() < 12


def test_small_panels_are_enlarged_by_whole_factors_and_large_ones_shrunk(tmp_path: Path) -> None:
    small = record(tmp_path / "a.webm", [flat((9, 9, 9))], style=VideoStyle(panel_width=300))[0]
    assert small.shape == (30 + 3 * 48 + 8, 8 + 3 * 96 + 8, 3)
    large = record(tmp_path / "b.webm", [flat((9, 9, 9), (200, 400))], style=VideoStyle(panel_width=100))[0]
    assert large.shape == (30 + 50 + 8, 8 + 100 + 8, 3)


def test_four_panels_make_a_square_and_the_legend_stands_below(tmp_path: Path) -> None:
    panels = [flat((50 * i, 100, 100)) for i in range(4)]
    plain = record(tmp_path / "a.webm", panels, style=VideoStyle(panel_width=96))[0]
    assert plain.shape[:2] == (2 * (30 + 48) + 8, 3 * 8 + 2 * 96)
    explained = record(
        tmp_path / "b.webm", panels, style=VideoStyle(panel_width=96), legend=(VIPER_15.classes, PALETTE)
    )[0]
    assert explained.shape[0] > plain.shape[0] + 50


def test_titles_are_drawn(tmp_path: Path) -> None:
    frame = record(tmp_path / "v.webm", [flat((0, 0, 0))] * 2, style=VideoStyle(panel_width=96))[0]
    strip = frame[:28]
    assert strip[:, :104].max() > 150
    assert strip[:, 112:].max() > 150


def test_failing_block_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "v.webm"
    path.write_bytes(b"the old video")

    def fail_midway() -> None:
        with SideBySide(path, 10.0, ["a"]) as video:
            video.write([flat((1, 2, 3))])
            raise KeyError("the network failed")

    with pytest.raises(KeyError, match="the network failed"):
        fail_midway()
    assert [p.name for p in tmp_path.iterdir()] == ["v.webm"]
    assert path.read_bytes() == b"the old video"


def test_no_frame_is_told(tmp_path: Path) -> None:
    with (
        pytest.raises(DataError, match=r"v\.webm: no frame was written[\s\S]*→"),
        SideBySide(tmp_path / "v.webm", 10.0, ["a"]),
    ):
        pass
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "panels",
    [
        [flat((0, 0, 0))],
        [flat((0, 0, 0)), flat((0, 0, 0), (48, 90))],
        [flat((0, 0, 0))[..., 0], flat((0, 0, 0))[..., 0]],
        [flat((0, 0, 0)).astype(np.float32)] * 2,
    ],
)
def test_unfit_panels_are_told(panels: list[NDArray[Any]], tmp_path: Path) -> None:
    with SideBySide(tmp_path / "v.webm", 10.0, ["a", "b"]) as video:
        video.write([flat((0, 0, 0))] * 2)
        with pytest.raises(DataError, match=r"v\.webm: expected 2 uint8 panels[\s\S]*→ resize"):
            video.write(panels)


def test_panels_that_change_size_are_told(tmp_path: Path) -> None:
    with SideBySide(tmp_path / "v.webm", 10.0, ["a"]) as video:
        video.write([flat((0, 0, 0))])
        with pytest.raises(DataError, match=r"panels \[H,W,3\] of one size[\s\S]*→"):
            video.write([flat((0, 0, 0), (50, 96))])


def test_encoder_that_cannot_open_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match=r"file/v\.webm: the vp8 encoder cannot open[\s\S]*→ choose a writable folder"):
        record(tmp_path / "file" / "v.webm", [flat((0, 0, 0))])


@pytest.mark.parametrize(
    ("name", "fps", "titles"), [("v.mp4", 10.0, ["a"]), ("v.webm", 0.0, ["a"]), ("v.webm", 10.0, [])]
)
def test_unfit_options_are_told(name: str, fps: float, titles: list[str], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"{name}: [\s\S]*→"):
        SideBySide(tmp_path / name, fps, titles)


@pytest.mark.slow
def test_nothing_is_printed_while_writing(tmp_path: Path) -> None:
    program = (
        "import numpy as np, pathlib, sys; from stpl.pictures.side_by_side import SideBySide\n"
        "with SideBySide(pathlib.Path(sys.argv[1]), 5.0, ['a']) as v: v.write([np.zeros((32, 32, 3), np.uint8)])\n"
        "print('after', file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path / "v.webm")], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "after\n")


@pytest.mark.parametrize("size", [(3000, 8), (8, 3000)])
def test_panels_of_odd_shapes_are_bounded_both_ways(size: tuple[int, int], tmp_path: Path) -> None:
    panels = [flat((200, 200, 200), size)] * 3
    frame = record(tmp_path / "v.webm", panels, legend=(VIPER_15.classes, PALETTE))[0]
    assert max(frame.shape) < 2200
    assert frame.max() > 150
