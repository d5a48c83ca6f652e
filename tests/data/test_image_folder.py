"""Which files of a folder are frames: images of all kinds, no labels, and a line on what is left out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from stpl.data.videos import decoder
from stpl.data.videos.image_folder import image_endings, list_frames
from stpl.errors import DataError

COUNT = 3
Pixels = NDArray[np.uint8]


@pytest.fixture(autouse=True)
def anew() -> None:
    """Notes are printed once a process."""
    decoder.note_once.cache_clear()


def photo(number: int) -> Pixels:
    return np.random.default_rng(number).integers(0, 256, (24, 32, 3), dtype=np.uint8)


def labels(number: int) -> Pixels:
    ids = np.zeros((24, 32), np.uint8)
    ids[8:20, number : number + 12] = 7
    return ids


def palette(number: int) -> Image.Image:
    image = Image.fromarray(labels(number)).convert("P")
    image.putpalette(list(range(256)) * 3)
    return image


def coloured(number: int) -> Image.Image:
    return Image.fromarray(np.stack([labels(number)] * 3, 2))


def fill(folder: Path, frame: str, label: str, image: object = None) -> None:
    for number in range(COUNT):
        Image.fromarray(photo(number)).save(folder / frame.format(number))
        if label:
            made = image(number) if callable(image) else Image.fromarray(labels(number))
            made.save(folder / label.format(number))


@pytest.mark.parametrize(
    ("frame", "label", "image"),
    [
        ("{}.png", "{}_labels.png", None),
        ("{}.jpg", "{}-mask.png", coloured),
        ("img_{}.jpg", "mask_{}.png", None),
        ("ulm_{}_leftImg8bit.png", "ulm_{}_gtFine_labelIds.png", None),
        ("ulm_{}_leftImg8bit.png", "ulm_{}_gtFine_color.png", coloured),
        ("{}_color.jpg", "{}_depth.png", None),
        ("{}.jpg", "{}.png", palette),
        ("{}.jpg", "{}.png", coloured),
        ("{}.png", "{}_L.png", coloured),
        ("a{}.png", "z{}.png", palette),
        ("a{}.png", "z{}.png", lambda n: Image.fromarray(photo(n)[..., 0].astype(np.uint16) * 99)),
    ],
)
def test_labels_beside_frames_are_left_out_with_a_word(
    frame: str, label: str, image: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(tmp_path, frame, label, image)
    assert [path.name for path in list_frames(tmp_path)] == [frame.format(number) for number in range(COUNT)]
    assert list_frames(tmp_path)
    (line,) = capsys.readouterr().err.splitlines()
    assert f"note: {tmp_path}: {COUNT} images are left out" in line
    assert label.format(0) in line


@pytest.mark.parametrize(
    ("frame", "other", "image"),
    [
        ("a{}.png", "z{}.png", lambda n: Image.fromarray(photo(n)[..., 0])),  # a camera at night
        ("{}.png", "{}_b.png", lambda n: Image.fromarray(photo(n + 9))),
        ("seg1_{}.png", "", None),
        ("a{}.png", "b{}.png", coloured),
    ],
)
def test_frames_that_are_no_labels_stay(
    frame: str, other: str, image: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(tmp_path, frame, other, image)
    assert len(list_frames(tmp_path)) == COUNT * (2 if other else 1)
    assert capsys.readouterr().err == ""


def test_a_folder_of_labels_alone_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(COUNT):
        palette(number).save(tmp_path / f"{number}.png")
    assert len(list_frames(tmp_path)) == COUNT
    assert "these images look like label maps" in capsys.readouterr().err


def test_one_frame_under_two_endings_is_refused(tmp_path: Path) -> None:
    fill(tmp_path, "{}.jpg", "{}.png", lambda n: Image.fromarray(photo(n)))
    with pytest.raises(DataError, match=r"0\.jpg and 0\.png have one name \(3 such names\)"):
        list_frames(tmp_path)


@pytest.mark.parametrize("ending", [".jfif", ".jpe", ".jp2", ".avif", ".webp", ".TIFF", ".pnm", ".tga"])
def test_frames_of_any_kind_that_pillow_reads(ending: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if ending.lower() not in image_endings():
        pytest.skip("this Pillow does not read it")
    fill(tmp_path, f"{{}}{ending}", "")
    assert len(list_frames(tmp_path)) == COUNT
    assert capsys.readouterr().err == ""


def test_what_is_left_out_is_counted_by_kind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(tmp_path, "{}.png", "")
    for name in ("a.txt", "b.TXT", "c.mp4", "Thumbs.db", ".DS_Store", "._0.png", "README"):
        (tmp_path / name).touch()
    (tmp_path / "sub").mkdir()
    assert len(list_frames(tmp_path)) == COUNT
    assert list_frames(tmp_path)
    expected = f"note: {tmp_path}: 4 files are left out: 2 .txt, 1 .mp4, 1 without an ending\n"
    assert capsys.readouterr().err == expected


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["a.mp4", "b.mp4"], r"it holds 2 \.mp4\n  → name videos one by one: --video=\[.*a\.mp4,.*b\.mp4\]"),
        (["a.gif", "b.gif"], r"it holds 2 \.gif\n  → convert them; images are \.png"),
        ([".a.png"], r"it is empty\n  → give a folder of images \(\.png"),
        (["front/", "rear/"], r"it holds 2 folders\n  → name its folders one by one: .*front, .*rear"),
    ],
)
def test_a_folder_without_images(names: list[str], said: str, tmp_path: Path) -> None:
    for name in names:
        (tmp_path / name).mkdir() if name.endswith("/") else (tmp_path / name).touch()
    with pytest.raises(DataError, match=f"no image found in this folder: {said}"):
        list_frames(tmp_path)


def test_pages_of_a_file_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pages = [Image.fromarray(photo(number)) for number in range(COUNT)]
    for name in ("a.tif", "b.tif"):
        pages[0].save(tmp_path / name, save_all=True, append_images=pages[1:])
    assert len(list_frames(tmp_path)) == 2
    assert "a.tif holds 3 images; the first of each file is used" in capsys.readouterr().err
