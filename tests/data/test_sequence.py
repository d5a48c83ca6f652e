from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fakes import write_cityscapes, write_synthia, write_viper
from stpl.data import flow as optical_flow
from stpl.data.clip import BACKWARD, Wants
from stpl.data.fake import fake
from stpl.data.label_space import SYNTHIA_12, VIPER_15, own_classes
from stpl.data.patterns import FilePattern, FrameFiles, FrameId
from stpl.data.sequence import SequenceClips, find_flow, read_scaled
from stpl.data.sequence_set import SequenceSet, open_set
from stpl.data.sets import data_set, names
from stpl.errors import ConfigError, DataError

SIZE = (32, 64)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_viper(folder / "Viper", sequences=1)
    write_synthia(folder / "SynthiaSeq", clips=2)
    write_cityscapes(folder / "Cityscapes", splits=("train",), cities=("ulm",), snippets=1)
    fake("vps", folder, SIZE)
    return folder


@pytest.mark.parametrize("name", names())
def test_every_set_opens_under_one_root(name: str, root: Path) -> None:
    files = open_set(root, name, data_set(name).splits[0], size=SIZE)
    assert (files.name, files.folder, files.size) == (name, root / data_set(name).folder, SIZE)
    assert all(path.is_file() for index in range(len(files)) for path in files.frame_pair(index))
    clip = SequenceClips(files, SYNTHIA_12 if name == "synthia" else VIPER_15).read(0, Wants(flows=(BACKWARD,)))
    assert clip.frames.shape == (2, 3, *SIZE)
    assert clip.flows[BACKWARD].shape == (2, *SIZE)
    assert not clip.labels


def test_all_is_at_the_usual_size_if_none_is_given(root: Path) -> None:
    assert {name: open_set(root, name, "train").size for name in names()} == {
        "viper": (720, 1280), "synthia": (640, 1280), "cityscapes": (512, 1024), "vps": (512, 1024)
    }  # fmt: skip


def test_unknown_set_is_told(root: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"no data set 'kitti'[\s\S]*→ choose one of: cityscapes, synthia, viper, vps"
    ):
        open_set(root, "kitti", "train")


def test_any_set_goes_with_any_label_space(root: Path) -> None:
    classes = set(data_set("viper").table(SYNTHIA_12).tolist()) - {255}
    assert [name for i, name in enumerate(SYNTHIA_12.classes) if i not in classes] == ["pole", "rider"]


def test_a_set_without_a_class_in_common_is_refused(root: Path) -> None:
    with pytest.raises(ConfigError, match=r"'own' and data set 'viper' have no class in common[\s\S]*→ .*: road, side"):
        SequenceClips(open_set(root, "viper", "train"), own_classes(["boat", "water"]))


def test_a_reader_travels_to_worker_processes(root: Path) -> None:
    clips = SequenceClips(open_set(root, "synthia", "train", size=SIZE), SYNTHIA_12, label_size="input")
    there = pickle.loads(pickle.dumps(clips)).read(1, Wants(flows=(BACKWARD,), labels=(0,)))
    here = clips.read(1, Wants(flows=(BACKWARD,), labels=(0,)))
    assert all(tensor.equal(here.tensors()[name]) for name, tensor in there.tensors().items())


NAMES = {
    "synthia": "000012.png",
    "viper": "001/001_00012.jpg",
    "cityscapes": "ulm/ulm_000001_000012_leftImg8bit.png",
}


# A regular expression and a template that are not each other's inverse would let two names mean one frame.
@pytest.mark.parametrize("name", NAMES)
def test_names_are_read_back_and_nothing_else_is(name: str) -> None:
    pattern, good = next(iter(data_set(name).layouts.values())).frames, NAMES[name]
    fields = pattern.parse(good)
    assert fields is not None
    assert fields["number"] == 12
    assert pattern.write(fields) == good
    for bad in (
        f"./{good}",
        f"/{good}",
        f"../{good}",
        good.replace("12", "012"),
        f"{good}.bak",
        good.upper() + " ",
        "",
    ):
        assert pattern.parse(bad) is None


@pytest.fixture
def loose() -> FilePattern:
    """Numbers of any width, and something else that changes along."""
    return FilePattern(
        "", r"(?P<sequence>[a-z]+)-(?P<count>\d+)-(?P<number>\d+)\.png", "{sequence}-{count}-{number}.png"
    )


def test_frames_are_found_by_listing_the_folder_once(loose: FilePattern, tmp_path: Path, opened: list[str]) -> None:
    for name in ("b-7-2.png", "a-9-10.png", "a-3-9.png", "a-1-009.png", "a-2-9.jpg", "..-1-1.png", "notes"):
        (tmp_path / name).touch()
    opened.clear()
    files = FrameFiles.scan(loose, tmp_path)
    assert list(files) == [FrameId("a", 9), FrameId("a", 10), FrameId("b", 2)]
    assert files.path(FrameId("a", 10).before()) == tmp_path / "a-3-9.png"
    assert files.fields(FrameId("b", 2)) == {"sequence": "b", "count": "7", "number": 2}
    assert files.missing(FrameId("a", 11)) == tmp_path / "a-*-11.png"
    assert not [name for name in opened if name.startswith(str(tmp_path))]


def test_two_files_of_one_frame_are_told(loose: FilePattern, tmp_path: Path) -> None:
    for name in ("a-3-9.png", "a-4-9.png"):
        (tmp_path / name).touch()
    with pytest.raises(DataError, match=r"a-4-9\.png: two files are the same frame[\s\S]*→ keep one .*a-3-9\.png"):
        FrameFiles.scan(loose, tmp_path)


def flow_file(files: SequenceSet, folder: Path, flow: NDArray[Any] | None = None, suffix: str = ".npy") -> None:
    flow = np.zeros((2, *files.size), np.float32) if flow is None else flow
    for index in range(len(files)):
        optical_flow.write(folder / f"{Path(files.flow_name(index)).stem}{suffix}", flow)


def constant(dx: float, dy: float, size: tuple[int, int]) -> NDArray[np.float32]:
    return np.stack([np.full(size, dx), np.full(size, dy)]).astype(np.float32)


@pytest.mark.parametrize("suffix", [".npy", ".flo", ".png"])
def test_flow_files_are_scaled_to_the_frames(suffix: str, root: Path, tmp_path: Path) -> None:
    files = open_set(root, "cityscapes", "train", size=SIZE)
    flow_file(files, tmp_path, constant(4.5, -2.0, (16, 32)), suffix)
    flow = SequenceClips(files, VIPER_15, flow_folder=tmp_path).read(0, Wants(flows=(BACKWARD,))).flows[BACKWARD]
    np.testing.assert_allclose(flow[0], 9.0)
    np.testing.assert_allclose(flow[1], -4.0)


def test_flow_of_the_lineages_sizes_is_accepted(tmp_path: Path) -> None:
    path = tmp_path / "flow.npy"
    for size, made in (((720, 1280), (576, 1024)), ((640, 1280), (341, 683)), ((512, 1024), (512, 1024))):
        optical_flow.write(path, constant(1, 1, made))
        flow = read_scaled(path, size)
        assert flow.shape == (2, *size)
        np.testing.assert_allclose(flow[:, 0, 0], [size[1] / made[1], size[0] / made[0]], rtol=1e-6)


def test_flow_of_another_shape_is_refused(root: Path, tmp_path: Path) -> None:
    files = open_set(root, "cityscapes", "train", size=SIZE)
    flow_file(files, tmp_path, constant(1, 1, (64, 64)))
    with pytest.raises(DataError, match=r"int16_x10\.npy: the flow is 64×64, frames are 32×64[\s\S]*→ give the flow"):
        SequenceClips(files, VIPER_15, flow_folder=tmp_path).read(0, Wants(flows=(BACKWARD,)))


def test_a_missing_flow_file_names_the_command(root: Path, tmp_path: Path) -> None:
    files = open_set(root, "viper", "train", size=SIZE)
    flow_file(files, tmp_path)
    (tmp_path / "001_0002000019_int16_x10.npy").unlink()
    with pytest.raises(DataError, match=r"0002000019_int16_x10\.npy: there is no such flow file \(1 of 2[\s\S]*→ make "
                       r"it: stpl data flow viper --root=\S+ --split=train"):  # fmt: skip
        SequenceClips(files, VIPER_15, flow_folder=tmp_path)


@pytest.mark.parametrize(
    "place",
    [
        "Estimated_optical_flow_Cityscapes-Seq_train",
        "estimated_optical_flow_cityscapes_seq_train",
        "Cityscapes/Estimated_optical_flow_Cityscapes-Seq_train",
        "Cityscapes/estimated_optical_flow_cityscapes_seq_train",
    ],
)
def test_flow_folders_of_both_spellings_are_found(place: str, tmp_path: Path) -> None:
    write_cityscapes(tmp_path / "Cityscapes", splits=("train",), cities=("ulm",), snippets=1)
    files = open_set(tmp_path, "cityscapes", "train")
    with pytest.raises(
        DataError, match=r"Cityscapes-Seq_train: there is no folder of flow files[\s\S]*→ make it: stpl"
    ):
        find_flow(files)
    (tmp_path / place).mkdir()
    assert find_flow(files).samefile(tmp_path / place)


def test_flow_points_from_the_current_to_the_previous_frame(root: Path) -> None:
    files = open_set(root, "synthia", "train", size=(64, 128))
    clip = SequenceClips(files, SYNTHIA_12).read(0, Wants(flows=(BACKWARD,)))
    facade = clip.flows[BACKWARD][:, 20:36, 8:100]  # it pans one pixel to the left a frame
    np.testing.assert_allclose(np.median(facade.numpy(), axis=(1, 2)), [1, 0], atol=0.2)


def test_a_label_that_is_not_there_is_told(root: Path, tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text("ulm/ulm_000000_000010_leftImg8bit.png\n")
    files = open_set(root, "cityscapes", "train", frame_list=path)
    with pytest.raises(DataError, match=r"ulm_000000_000010_leftImg8bit\.png: there is no label of[\s\S]*→ unpack"):
        SequenceClips(files, VIPER_15).read(0, Wants(labels=(0,)))
