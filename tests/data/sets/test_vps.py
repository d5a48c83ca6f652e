"""Cityscapes-VPS: its frames and labels in every form that they come in, and lists of its frames."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stpl.cli import main
from stpl.data.clip import BACKWARD, IGNORE, Wants
from stpl.data.data_set import FileLayout
from stpl.data.fake import fake
from stpl.data.label_space import CITYSCAPES_19, PALETTE, label_space
from stpl.data.sequence import SequenceClips, open_cache
from stpl.data.sequence_set import open_set
from stpl.data.sets.vps import SET, read_classes
from stpl.errors import ConfigError, DataError

SIZE = (32, 64)
KEYS = [f"frankfurt_000000_{number:06d}" for number in range(279, 305, 5)]
LABELS = [
    f"0001_{place:04d}_{key}_{'gtFine_color' if place == 4 else 'final_mask'}.png"
    for place, key in enumerate(KEYS, start=1)
]


@pytest.fixture(scope="module")
def master(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("vps")
    fake("vps", root, SIZE)
    return root


@pytest.fixture
def root(master: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(master, tmp_path / "data"))


def reader(root: Path, split: str = "train") -> SequenceClips:
    return SequenceClips(open_set(root, "vps", split, size=SIZE), label_space("vps15"))


def test_the_fake_is_laid_out_as_the_authors_scripts_do(root: Path) -> None:
    folder = root / "cityscapes_vps" / "train"
    assert sorted(path.name for path in (folder / "labelmap").iterdir()) == LABELS
    frames = sorted(path.name for path in (folder / "img_all").iterdir())
    assert frames == [f"frankfurt_000000_{number:06d}_leftImg8bit.png" for number in range(275, 305)]
    assert reader(root).files.keys() == KEYS
    second = [f"frankfurt_000000_{number:06d}" for number in range(410, 436, 5)]
    assert reader(root, "val").files.keys() == second


def test_a_clip_is_a_labelled_frame_with_the_one_before_it(root: Path) -> None:
    clip = reader(root).read(2, Wants(flows=(BACKWARD,), labels=(0,)))
    folder = root / "cityscapes_vps/train/img_all"
    for frame, number in zip(clip.frames, (288, 289), strict=True):
        stored = np.asarray(Image.open(folder / f"frankfurt_000000_{number:06d}_leftImg8bit.png"))
        assert np.array_equal(frame.permute(1, 2, 0).numpy(), stored)
    assert clip.flows[BACKWARD].shape == (2, *SIZE)


def test_beyond_a_snippet_s_end_its_last_frame_comes_again(root: Path) -> None:
    """The 30th frame has a label. A frame that is missing within a snippet is refused all the same."""
    found = reader(root)
    last = found.read(5, Wants(frames=(-1, 0, 1), flows=(BACKWARD, (0, 1))))
    assert last.frames[2].equal(last.frames[1])
    assert last.flows[0, 1].abs().max() < 0.01
    found.require(Wants(frames=(-1, 0, 1), flows=((0, 1),)))
    hole = root / "cityscapes_vps/train/img_all/frankfurt_000000_000285_leftImg8bit.png"
    hole.unlink()
    with pytest.raises(DataError, match=r"000285_leftImg8bit\.png: there is no such frame"):
        reader(root).require(Wants(frames=(-1, 0, 1)))


def test_labels_are_the_same_in_every_form(root: Path) -> None:
    folder = root / "cityscapes_vps" / "train"
    known = reader(root).read(0, Wants(labels=(0,))).labels[0]
    present = set(known.flatten().tolist())
    assert present <= {*range(15), IGNORE}
    assert len(present) > 4
    ids = read_classes(folder / "labelmap" / LABELS[0])
    thing = CITYSCAPES_19.classes.index("car")
    assert (ids == thing).any()
    counted = np.where(ids == thing, thing * 1000 + 7, ids).astype(np.uint16)
    colours = np.zeros((256, 3), np.uint8)
    colours[:19] = list(PALETTE.values())
    colours[IGNORE] = (0, 20, 40)
    (folder / "labelmap").rename(folder / "unused")
    for name, image in {"panoptic_inst": Image.fromarray(counted), "cls": Image.fromarray(colours[ids])}.items():
        (folder / name).mkdir()
        image.save(folder / name / LABELS[0])
        found = reader(root)
        assert len(found) == 1
        assert found.read(0, Wants(labels=(0,))).labels[0].equal(known)
        shutil.rmtree(folder / name)


def test_poles_and_riders_of_vat_vst_s_classes() -> None:
    space = label_space("vps15")
    table = SET.table(space)
    names = [None if value == IGNORE else space.classes[value] for value in table[:19]]
    assert names == [
        "road", "sidewalk", "building", None, "fence", "pole", "light", "sign", "vegetation", "terrain", "sky",
        "person", "person", "car", "truck", "bus", None, "motorcycle", None,
    ]  # fmt: skip
    from stpl.data.sets.viper import SET as VIPER

    assert VIPER.table(space)[[10, 22, 20]].tolist() == [4, IGNORE, 10]
    assert VIPER.table(label_space("viper15"))[10] == IGNORE


def test_frames_of_cityscapes_beside_it_serve_as_well(root: Path) -> None:
    known = reader(root).read(0, Wants())
    there = root / "Cityscapes/leftImg8bit_sequence/val"
    there.mkdir(parents=True)
    (root / "cityscapes_vps/train/img_all").rename(there / "frankfurt")
    for path in (root / "cityscapes_vps/val/img_all").iterdir():
        path.rename(there / "frankfurt" / path.name)
    shutil.rmtree(root / "cityscapes_vps/val/img_all")
    found = reader(root)
    assert found.files.frames.folder == there
    assert found.files.keys() == KEYS  # and none of the validation split
    assert found.read(0, Wants()).frames.equal(known.frames)
    cache = open_cache(found.files)
    kept = SequenceClips(found.files, label_space("vps15"), cache=cache)
    assert kept.read(0, Wants()).frames.equal(known.frames)
    shutil.rmtree(root / "cityscapes_vps/train/labelmap")
    with pytest.raises(DataError, match=r"labelmap: there are no labels[\s\S]*which snippets of Cityscapes"):
        reader(root)


def test_a_layout_with_another_set_s_frames_is_not_drawn(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has the frames of another data set"):
        fake("vps", tmp_path, SIZE, layout="archive")
    assert isinstance(SET.layouts["archive"], FileLayout)
    assert not list(tmp_path.iterdir())


def test_every_verb_takes_it(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["vps", f"--root={root}", "--size=32,64"]
    assert main(["data", "flow", *options]) == 0
    assert main(["data", "check", *options]) == 0
    said = capsys.readouterr().out
    assert "vps train: 6 clips (published work has 2400)" in said
    assert "6 of 6 flow files" in said
    assert main(["data", "cache", *options]) == 0


def test_a_list_holds_all_frames_of_the_videos_that_are_kept(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All frames of the training snippets, as VAT-VST draws its pairs; labels are there for every fifth."""
    out = root / "all.txt"
    base = ["data", "list", "vps", f"--root={root}", "--size=32,64"]
    assert main([*base, f"--out={out}", "--frames=all"]) == 0
    assert capsys.readouterr().out == f"{out}: frames 29, videos 1\n"
    lines = out.read_text().splitlines()
    assert lines == [f"frankfurt_000000_{number:06d}_leftImg8bit.png" for number in range(276, 305)]
    files = open_set(root, "vps", "train", frame_list=out, size=SIZE)
    assert len(files) == 29
    assert main([*base, f"--out={out}"]) == 0
    assert [line[:-16] for line in out.read_text().splitlines()] == KEYS


def test_the_first_frame_of_a_drive_is_in_no_list(tmp_path: Path) -> None:
    fake("synthia", tmp_path, SIZE)
    out = tmp_path / "list.txt"
    assert main(["data", "list", "synthia", f"--root={tmp_path}", f"--out={out}", "--frames=all"]) == 0
    assert out.read_text().splitlines() == [f"{number:06d}.png" for number in range(1, 7)]


def test_videos_are_chosen_by_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fake("viper", tmp_path, SIZE)
    day, out = tmp_path / "day.txt", tmp_path / "list.txt"
    base = ["data", "list", "viper", f"--root={tmp_path}", f"--out={out}", f"--videos={day}"]
    day.write_text("\n002\n")
    assert main(base) == 0
    assert out.read_text().splitlines() == ["002/002_00010.jpg", "002/002_00020.jpg"]
    assert main([*base, "--frames=all"]) == 0
    assert len(out.read_text().splitlines()) == 11
    out.unlink()
    for text, message in (("001\n003", "line 2 is no video of this split: '003'"), ("\n", "list of videos is empty")):
        day.write_text(text)
        assert main(base) == 2
        assert message in capsys.readouterr().err
    day.unlink()
    assert main(base) == 2
    assert "the list of videos cannot be read" in capsys.readouterr().err
    assert not out.exists()
