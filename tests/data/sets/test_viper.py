from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from stpl.data.clip import IGNORE, Wants
from stpl.data.label_space import VIPER_15
from stpl.data.sequence import SequenceClips
from stpl.data.sequence_set import open_set
from stpl.data.sets.viper import without_own_car
from stpl.errors import ConfigError, DataError

NATIVE, SIZE = (48, 80), (24, 40)
FRAMES, LABELS = "Viper/train/img", "Viper/train/cls"
CAR = 24


def write_frames(root: Path, sequence: str, numbers: range) -> None:
    folder = root / FRAMES / sequence
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        noise = np.random.default_rng(number).integers(0, 255, (*NATIVE, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{sequence}_{number:05d}.jpg")


def write_label(root: Path, sequence: str, number: int, ids: NDArray[Any] | None = None) -> Path:
    path = root / LABELS / sequence / f"{sequence}_{number:05d}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    ids = np.random.default_rng(number).integers(0, 24, NATIVE, dtype=np.uint8) if ids is None else ids
    Image.fromarray(ids).save(path)
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_frames(tmp_path, "001", range(1, 23))
    write_frames(tmp_path, "002", range(10, 21))
    for sequence, number in (("001", 10), ("001", 15), ("001", 20), ("002", 10), ("002", 20)):
        write_label(tmp_path, sequence, number)
    return tmp_path


def reader(root: Path, *, frame_list: Path | None = None, **options: Any) -> SequenceClips:
    return SequenceClips(open_set(root, "viper", "train", size=SIZE, frame_list=frame_list), VIPER_15, **options)


def keys(dataset: SequenceClips) -> list[str]:
    return [dataset.key(index) for index in range(len(dataset))]


def frame_list(folder: Path, *lines: str) -> Path:
    path = folder / "list.txt"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_every_tenth_labelled_frame_with_a_predecessor_is_current(root: Path) -> None:
    assert keys(reader(root)) == ["001_00010", "001_00020", "002_00020"]  # 002_00010 is the first of its video


def test_names_are_the_lineages(root: Path) -> None:
    files = open_set(root, "viper", "train")
    assert files.size == (720, 1280)
    assert files.flow_folder == "Estimated_optical_flow_Viper_train"
    assert files.flow_name(0) == "001_0001000009_int16_x10.npy"


def test_frames_are_resized_as_pillow_does_it(root: Path) -> None:
    clip = reader(root).read(1, Wants())
    assert clip.key == "001_00020"
    for frame, number in zip(clip.frames.numpy(), (19, 20), strict=True):
        image = Image.open(root / FRAMES / "001" / f"001_{number:05d}.jpg").convert("RGB")
        wanted = np.asarray(image.resize(SIZE[::-1], Image.Resampling.BICUBIC))
        np.testing.assert_array_equal(frame.transpose(1, 2, 0), wanted)


def test_every_id_becomes_the_train_id_of_the_lineage(root: Path) -> None:
    ids = np.arange(32, dtype=np.uint8).repeat(2).reshape(1, 64).repeat(32, axis=0)
    ids[:, 48:50] = 0  # no car here: the player's own is another test's
    write_label(root, "001", 10, ids)
    label = SequenceClips(open_set(root, "viper", "train"), VIPER_15).label(0)
    names = {3: "road", 4: "sidewalk", 9: "building", 11: "fence", 13: "light", 14: "sign", 7: "vegetation",
             8: "vegetation", 6: "terrain", 2: "sky", 20: "person", 27: "truck", 26: "bus", 23: "motorcycle",
             22: "bicycle"}  # fmt: skip
    wanted = [VIPER_15.classes.index(names[i]) if i in names else IGNORE for i in range(32)]
    assert label[0, ::2].tolist() == wanted


def own_car_by_hand(ids: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Flood fill from the bottom-centre pixel over the eight neighbours."""
    result, (height, width) = ids.copy(), ids.shape
    waiting = [(height - 1, width // 2)]
    while waiting:
        y, x = waiting.pop()
        if 0 <= y < height and 0 <= x < width and result[y, x] == CAR:
            result[y, x] = 0
            waiting += [(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
    return result


@pytest.mark.parametrize("seed", range(12))
def test_own_car_is_the_region_at_the_bottom_centre(seed: int) -> None:
    rng = np.random.default_rng(seed)
    ids = np.where(rng.random((15, 21 + seed % 2)) < 0.45, CAR, 3).astype(np.uint8)
    ids[-1, ids.shape[1] // 2] = CAR if seed else 3
    np.testing.assert_array_equal(without_own_car(ids), own_car_by_hand(ids))


def test_own_car_is_looked_for_after_the_resize(root: Path) -> None:
    ids = np.full(NATIVE, 3, np.uint8)
    ids[20:48, 30:50] = CAR
    ids[40, :] = 3  # parts the car at full size; the nearest neighbours at half size are the odd rows
    write_label(root, "001", 10, ids)
    native, small = (reader(root, label_size=size).label(0) for size in ("native", "input"))
    car = VIPER_15.classes.index("car")
    assert int((native == car).sum()) == 20 * 20
    assert int((small == car).sum()) == 0
    assert int((small == IGNORE).sum()) == 14 * 10


def test_other_cars_stay(root: Path) -> None:
    ids = np.full(NATIVE, 3, np.uint8)
    ids[4:12, 8:20] = ids[44:, 30:50] = CAR
    write_label(root, "001", 10, ids)
    label = reader(root, label_size="input").label(0)
    assert int((label == VIPER_15.classes.index("car")).sum()) == 4 * 6
    assert label.shape == SIZE


def test_a_list_of_the_lineage_chooses_frames(root: Path, tmp_path: Path) -> None:
    path = frame_list(tmp_path, "001/001_00020.jpg", "", "001/001_00015.jpg")
    assert keys(reader(root, frame_list=path)) == ["001_00020", "001_00015"]


@pytest.mark.parametrize(
    "line", ["../001/001_00010.jpg", "/001/001_00010.jpg", "001/002_00010.jpg", "001/001_10.jpg", "001/001_00010.png",
             "../../001_00010.jpg", "001_00010.jpg"]
)  # fmt: skip
def test_a_line_that_names_no_frame_is_told(line: str, root: Path, tmp_path: Path) -> None:
    path = frame_list(tmp_path, "001/001_00010.jpg", line)
    with pytest.raises(DataError, match=r"list\.txt: line 2 is no frame[\s\S]*→ .*001/001_00001\.jpg"):
        reader(root, frame_list=path)


def test_listed_frames_that_are_missing_are_named(root: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"001_00016\.png: there is no such label[\s\S]*→ unpack"):
        reader(root, frame_list=frame_list(tmp_path, "001/001_00010.jpg", "001/001_00016.jpg"))
    write_label(root, "003", 10)
    with pytest.raises(DataError, match=r"003_00010\.jpg: there is no such frame[\s\S]*→ unpack"):
        reader(root, frame_list=frame_list(tmp_path, "003/003_00010.jpg"))


@pytest.mark.parametrize("number", ["00019", "00020"])
def test_a_hole_in_the_video_is_named_at_construction(number: str, root: Path) -> None:
    (root / FRAMES / "001" / f"001_{number}.jpg").unlink()
    with pytest.raises(DataError, match=rf"001_{number}\.jpg: there is no such frame\n[\s\S]*→ unpack"):
        reader(root)


def test_empty_folders_are_named(root: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"Viper/train/img: there are no frames[\s\S]*→ unpack VIPER"):
        reader(tmp_path / "elsewhere")
    for path in (root / LABELS).rglob("*.png"):
        path.unlink()
    with pytest.raises(DataError, match=r"Viper/train/cls: there are no labels[\s\S]*→ unpack VIPER"):
        reader(root)


@pytest.mark.parametrize("keep", [0, 30, 400])
def test_torn_files_are_named(keep: int, root: Path) -> None:
    frame, label = root / FRAMES / "001" / "001_00009.jpg", root / LABELS / "001" / "001_00010.png"
    label.write_bytes(label.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"001_00010\.png: the image cannot be decoded[\s\S]*→ delete the file"):
        reader(root).read(0, Wants(labels=(0,)))
    frame.write_bytes(frame.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"001_00009\.jpg: the image cannot be decoded[\s\S]*→ delete the file"):
        reader(root).read(0, Wants())


def test_labels_that_are_no_ids_are_refused(root: Path) -> None:
    write_label(root, "001", 10, np.full(NATIVE, 32, np.uint8))
    with pytest.raises(DataError, match=r"001_00010\.png: ids \[32\] are no label ids[\s\S]*→ use the original"):
        reader(root).label(0)
    write_label(root, "001", 10, np.zeros((*NATIVE, 3), np.uint8))
    with pytest.raises(DataError, match=r"001_00010\.png: a label must have one channel[\s\S]*→ give the id image"):
        reader(root).label(0)


def test_there_is_no_test_split(root: Path) -> None:
    with pytest.raises(ConfigError, match=r"data set viper: there is no split 'test'[\s\S]*→ choose one of: train"):
        open_set(root, "viper", "test")
