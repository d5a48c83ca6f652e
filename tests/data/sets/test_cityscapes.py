import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from fakes import write_cityscapes
from stpl.data.clip import BACKWARD, IGNORE, ClipReader, Wants, collate
from stpl.data.flow import FlowCache
from stpl.data.label_space import SYNTHIA_12, VIPER_15, LabelSpace
from stpl.data.sequence import SequenceClips
from stpl.data.sequence_set import open_set
from stpl.errors import ConfigError, DataError

FRAMES, LABELS = "Cityscapes/leftImg8bit_sequence/val", "Cityscapes/gtFine/val"
SIZE = (32, 64)


@pytest.fixture(scope="module")
def master(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_cityscapes(folder / "Cityscapes", splits=("val",))
    return folder


@pytest.fixture
def root(master: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(master, tmp_path / "data"))


@pytest.fixture
def unlabelled(root: Path) -> Path:
    shutil.rmtree(root / "Cityscapes" / "gtFine")
    return root


def reader(
    root: Path,
    *,
    space: LabelSpace = VIPER_15,
    size: tuple[int, int] = SIZE,
    frame_list: Path | None = None,
    **options: Any,
) -> SequenceClips:
    files = open_set(root, "cityscapes", "val", size=size, frame_list=frame_list)
    return SequenceClips(files, space, **options)


def keys(dataset: SequenceClips) -> list[str]:
    return [str(dataset.read(i, Wants()).key) for i in range(len(dataset))]


def pixels(path: Path) -> NDArray[np.uint8]:
    return np.asarray(cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB), np.uint8)  # type: ignore[arg-type]


ALL_KEYS = [
    "aachen_000000_000019",
    "aachen_000001_000019",
    "ulm_000000_000294",
    "ulm_000000_000425",
]


def test_labelled_frames_are_found_by_their_numbers(root: Path) -> None:
    dataset: ClipReader = reader(root)
    assert len(dataset) == 4
    assert keys(reader(root)) == ALL_KEYS


def test_frames_are_previous_then_current_in_rgb(root: Path) -> None:
    clip = reader(root, size=(64, 128)).read(2, Wants())
    assert clip.frames.shape == (2, 3, 64, 128)
    for frame, number in zip(clip.frames.numpy(), ("000293", "000294"), strict=True):
        wanted = pixels(root / FRAMES / "ulm" / f"ulm_000000_{number}_leftImg8bit.png")
        np.testing.assert_array_equal(frame.transpose(1, 2, 0), wanted)
    assert not clip.flows
    assert not clip.labels
    assert clip.augmented is None


def test_previous_is_counted_in_frames(root: Path) -> None:
    near, far = (reader(root).read(0, Wants(frames=(offset, 0))) for offset in (-1, -3))
    name = root / FRAMES / "aachen" / "aachen_000000_000016_leftImg8bit.png"
    wanted = np.asarray(Image.open(name).resize((64, 32), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(far.frames[0].permute(1, 2, 0).numpy(), wanted)
    assert near.frames[1].equal(far.frames[1])
    assert not near.frames[0].equal(far.frames[0])


@pytest.mark.parametrize("space", [VIPER_15, SYNTHIA_12], ids=lambda space: str(space.name))
def test_label_is_native_and_mapped(root: Path, space: Any) -> None:
    label = reader(root, space=space).read(0, Wants(labels=(0,))).labels[0]
    ids = np.asarray(Image.open(root / LABELS / "aachen" / "aachen_000000_000019_gtFine_labelIds.png"))
    names = {7: "road", 8: "sidewalk", 11: "building", 23: "sky", 24: "person", 26: "car"}
    remap = {value: space.classes.index(name) for value, name in names.items()}
    wanted = [[remap.get(int(value), IGNORE) for value in row] for row in ids]
    assert label.tolist() == wanted
    assert label.shape == (64, 128)


def test_label_at_input_size_holds_no_new_value(root: Path) -> None:
    native = reader(root).read(1, Wants(labels=(0,))).labels[0]
    small = reader(root, label_size="input").read(1, Wants(labels=(0,))).labels[0]
    assert small.shape == SIZE
    assert small.dtype == native.dtype
    assert np.isin(small.numpy(), native.numpy()).all()
    corners = [native[y::2, x::2] for y in (0, 1) for x in (0, 1)]
    assert any(small.equal(corner) for corner in corners)  # nearest: each value is one of its four pixels


def test_flow_points_from_the_current_to_the_previous_frame(root: Path) -> None:
    clip = reader(root, size=(64, 128)).read(0, Wants(flows=(BACKWARD,), labels=(0,)))
    assert clip.flows[BACKWARD].shape == (2, 64, 128)
    building = clip.flows[BACKWARD][:, clip.labels[0] == 2]
    np.testing.assert_allclose(building.median(dim=1).values.numpy(), [1, 0], atol=0.2)


def test_flow_cache_is_filled_once_and_keyed_by_size_and_distance(root: Path, tmp_path: Path) -> None:
    cache = FlowCache(tmp_path / "flow")
    first = reader(root, flow=cache).read(2, Wants(flows=(BACKWARD,))).flows[BACKWARD]
    second = reader(root, flow=cache).read(2, Wants(flows=(BACKWARD,))).flows[BACKWARD]
    assert first.equal(second)
    reader(root, flow=cache).flow(2, 0, -2)
    reader(root, size=(64, 128), flow=cache).read(2, Wants(flows=(BACKWARD,)))
    names = sorted(path.name for path in (tmp_path / "flow").rglob("*.npy"))
    assert names == [
        "ulm_000000_000294_0_-1_32x64.npy",
        "ulm_000000_000294_0_-1_64x128.npy",
        "ulm_000000_000294_0_-2_32x64.npy",
    ]


def test_clips_collate(root: Path) -> None:
    dataset = reader(root)
    batch = collate([dataset.read(i, Wants(flows=(BACKWARD,), labels=(0,))) for i in range(3)])
    assert batch.frames.shape == (3, 2, 3, *SIZE)
    assert batch.key == tuple(ALL_KEYS[:3])


def test_no_label_is_opened_unless_wanted(root: Path, opened: list[str]) -> None:
    dataset = reader(root)
    for index in range(len(dataset)):
        dataset.read(index, Wants(flows=(BACKWARD,)))
    assert sum(name.endswith("_leftImg8bit.png") for name in opened) == 8
    assert not [name for name in opened if "gtFine" in name]
    dataset.read(0, Wants(labels=(0,)))
    assert [name for name in opened if "gtFine" in name]


def test_no_flow_is_estimated_unless_wanted(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any) -> None:
        raise AssertionError("estimated")

    monkeypatch.setattr("stpl.data.flow.estimators.estimate", never)
    reader(root).read(0, Wants(labels=(0,)))


def test_unlabelled_frames_are_the_twentieth_of_each_snippet(unlabelled: Path) -> None:
    assert keys(reader(unlabelled)) == ALL_KEYS
    with pytest.raises(DataError, match=r"000019_leftImg8bit\.png: there is no label of this frame[\s\S]*→ unpack"):
        reader(unlabelled).read(0, Wants(labels=(0,)))


def test_adjoining_snippets_are_cut_every_thirty_frames(tmp_path: Path) -> None:
    folder = tmp_path / FRAMES / "bochum"
    folder.mkdir(parents=True)
    for number in (*range(100, 160), *range(300, 330)):
        (folder / f"bochum_000000_{number:06d}_leftImg8bit.png").touch()
    found = open_set(tmp_path, "cityscapes", "val").keys()
    assert found == ["bochum_000000_000119", "bochum_000000_000149", "bochum_000000_000319"]


def test_incomplete_snippet_is_named(unlabelled: Path) -> None:
    (unlabelled / FRAMES / "ulm" / "ulm_000000_000275_leftImg8bit.png").unlink()
    with pytest.raises(DataError, match=r"ulm_000000_000276 … 000304 has 29 of 30 frames[\s\S]*→ .*frame list"):
        reader(unlabelled)


def frame_list(folder: Path, *lines: str) -> Path:
    path = folder / "list.txt"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_frame_list_chooses_the_frames_in_its_order(root: Path, tmp_path: Path) -> None:
    names = ["ulm/ulm_000000_000300_leftImg8bit.png", "", "aachen/aachen_000001_000007_leftImg8bit.png"]
    dataset = reader(root, frame_list=frame_list(tmp_path, *names))
    assert keys(dataset) == ["ulm_000000_000300", "aachen_000001_000007"]


@pytest.mark.parametrize(
    "line",
    [
        "../../etc/ulm_000000_000300_leftImg8bit.png",
        "/ulm/ulm_000000_000300_leftImg8bit.png",
        "../.._000000_000300_leftImg8bit.png",
        "ulm/../ulm/ulm_000000_000300_leftImg8bit.png",
        "aachen/ulm_000000_000300_leftImg8bit.png",
        "ulm/ulm_000000_000300.png",
        "ulm_000000_000300_leftImg8bit.png",
    ],
)
def test_frame_list_cannot_leave_the_data_set(line: str, root: Path, tmp_path: Path) -> None:
    path = frame_list(tmp_path, "ulm/ulm_000000_000300_leftImg8bit.png", line)
    with pytest.raises(
        DataError, match=r"list\.txt: line 2 is no frame[\s\S]*→ write one frame a line, such as aachen/"
    ):
        reader(root, frame_list=path)


def test_listed_frame_that_is_missing_is_named(root: Path, tmp_path: Path) -> None:
    path = frame_list(tmp_path, "ulm/ulm_000000_999999_leftImg8bit.png")
    with pytest.raises(DataError, match=r"ulm_000000_999999_leftImg8bit\.png: there is no such frame[\s\S]*→"):
        reader(root, frame_list=path)


@pytest.mark.parametrize("content", [None, ""])
def test_missing_or_empty_frame_list_is_named(content: str | None, root: Path, tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    if content is not None:
        path.write_text(content)
    with pytest.raises(DataError, match=r"list\.txt: the frame list [\s\S]*→"):
        reader(root, frame_list=path)


def test_missing_previous_frame_is_named_at_construction(root: Path) -> None:
    (root / FRAMES / "ulm" / "ulm_000000_000293_leftImg8bit.png").unlink()
    with pytest.raises(DataError, match=r"ulm_000000_000293_leftImg8bit\.png: there is no such frame[\s\S]*→ unpack"):
        reader(root)


def test_empty_root_names_the_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"leftImg8bit_sequence/val: there are no[\s\S]*→ unpack leftImg8bit_sequence"):
        reader(tmp_path)


@pytest.mark.parametrize("keep", [0, 40, 1500])
def test_torn_frame_is_named(keep: int, root: Path) -> None:
    path = root / FRAMES / "aachen" / "aachen_000000_000018_leftImg8bit.png"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(
        DataError, match=r"000018_leftImg8bit\.png: the image cannot be decoded[\s\S]*→ delete the file"
    ):
        reader(root).read(0, Wants())


def test_flipped_byte_in_a_frame_is_noticed(root: Path) -> None:
    path = root / FRAMES / "aachen" / "aachen_000000_000018_leftImg8bit.png"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(bytes(data))
    with pytest.raises(DataError, match=r"000018_leftImg8bit\.png: the image cannot be decoded[\s\S]*→"):
        reader(root).read(0, Wants())


def overwrite_label(root: Path, label: NDArray[Any]) -> None:
    Image.fromarray(label).save(root / LABELS / "aachen" / "aachen_000000_000019_gtFine_labelIds.png")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_unknown_label_id_is_named(dtype: type, root: Path) -> None:
    label: NDArray[Any] = np.full((64, 128), 7, dtype)
    label[3, 4], label[5, 6] = 34, 255
    overwrite_label(root, label)
    with pytest.raises(DataError, match=r"000019_gtFine_labelIds\.png: ids \[34\] are no label ids[\s\S]*→ use the"):
        reader(root).read(0, Wants(labels=(0,)))


def test_licence_plate_is_ignored(root: Path) -> None:
    overwrite_label(root, np.full((64, 128), 255, np.uint8))
    label = reader(root).read(0, Wants(labels=(0,))).labels[0]
    assert (label == IGNORE).all()


def test_coloured_label_is_refused(root: Path) -> None:
    overwrite_label(root, np.zeros((64, 128, 3), np.uint8))
    with pytest.raises(DataError, match=r"labelIds\.png: a label must have one channel[\s\S]*→ give the id image"):
        reader(root).read(0, Wants(labels=(0,)))


@pytest.mark.parametrize("option", [{"size": (0, 64)}, {"label_size": "tiny"}])
def test_unfit_option_is_told(option: dict[str, Any], root: Path) -> None:
    with pytest.raises(ConfigError, match=r"data set cityscapes: [\s\S]*→"):
        reader(root, **option)
