"""Fakes stand in for the true sets only if the true readers cannot tell: everything here goes through them."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from stpl.cli import main
from stpl.data import flow as fl
from stpl.data.clip import IGNORE, Wants
from stpl.data.fake import fake
from stpl.data.label_space import SYNTHIA_12, VIPER_15, LabelSpace
from stpl.data.sequence import SequenceClips
from stpl.data.sequence_set import open_set
from stpl.errors import ConfigError, DataError

SIZE = (64, 128)
SIZES = {"viper": SIZE, "synthia": (54, 128), "cityscapes": SIZE}  # 54 = 64 · 640/760: what SYNTHIA's crop leaves


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("fakes")
    for dataset in SIZES:
        fake(dataset, root, SIZE)
    return root


def clips(root: Path, dataset: str, split: str = "train", space: LabelSpace | None = None) -> SequenceClips:
    space = space or (SYNTHIA_12 if dataset == "synthia" else VIPER_15)
    return SequenceClips(open_set(root, dataset, split, size=SIZES[dataset]), space, label_size="input")


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("dataset", SIZES)
def test_the_reader_takes_the_fake_for_the_true_set(dataset: str, root: Path) -> None:
    reader = clips(root, dataset)
    assert len(reader) == {"viper": 4, "synthia": 6, "cityscapes": 2}[dataset]
    seen: set[int] = set()
    for index in range(len(reader)):
        clip = reader.read(index, Wants(labels=(0,)))
        assert clip.frames.shape == (2, 3, *SIZES[dataset])
        seen |= set(np.unique(clip.labels[0].numpy()).tolist())
    assert len(seen - {IGNORE}) >= 8
    assert 0 in seen  # road


@pytest.mark.parametrize("dataset", SIZES)
def test_what_moves_from_frame_to_frame_is_one_drive(dataset: str, root: Path) -> None:
    """Estimated flow explains the second frame by the first one: they are neighbours in one film."""
    earlier, later = clips(root, dataset).read(0, Wants()).frames.numpy().transpose(0, 2, 3, 1)
    flow = fl.estimate(np.ascontiguousarray(later), np.ascontiguousarray(earlier))
    y, x = np.indices(SIZES[dataset], dtype=np.float32)
    warped = cv2.remap(earlier, x + flow[0], y + flow[1], cv2.INTER_LINEAR)[8:-8, 8:-8].astype(int)
    still = np.abs(earlier[8:-8, 8:-8].astype(int) - later[8:-8, 8:-8]).mean()
    assert np.abs(warped - later[8:-8, 8:-8]).mean() < 0.9 * still


def test_viper_is_laid_out_as_the_lineage_lists_it(root: Path) -> None:
    found = names(root / "Viper")
    frames = [f"train/img/{s}/{s}_{n:05d}.jpg" for s in ("001", "002") for n in range(9, 21)]
    labels = [f"train/cls/{s}/{s}_{n:05d}.png" for s in ("001", "002") for n in (9, 10, 19, 20)]
    assert found == sorted(frames + labels)
    assert open_set(root, "viper", "train").keys() == [
        "001_00010", "001_00020", "002_00010", "002_00020"
    ]  # fmt: skip


def test_viper_shows_the_players_car_which_the_reader_takes_out(root: Path) -> None:
    ids = np.asarray(Image.open(root / "Viper/train/cls/001/001_00010.png"))
    assert ids.max() <= 31
    assert ids[-1, 64] == 24
    label = clips(root, "viper").read(0, Wants(labels=(0,))).labels[0]
    assert label is not None
    assert label[-1, 64] == IGNORE
    assert (label == IGNORE).sum() > 100


def test_synthia_labels_are_16_bit_with_class_and_instance(root: Path) -> None:
    found = names(root / "SynthiaSeq")
    assert found == sorted(f"SEQS-04-DAWN/{kind}/{n:06d}.png" for kind in ("rgb", "label") for n in range(7))
    raw = cv2.imread(str(root / "SynthiaSeq/SEQS-04-DAWN/label/000003.png"), cv2.IMREAD_UNCHANGED)
    assert raw is not None
    assert raw.dtype == np.uint16
    classes, instances = raw[..., 2], raw[..., 1]
    assert {1, 2, 3} <= set(classes.ravel().tolist()) <= {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 15}
    assert ((instances > 0) == np.isin(classes, (8, 10))).all()
    for number in range(1, int(instances.max()) + 1):  # one connected thing of one class each
        assert len(np.unique(classes[instances == number])) == 1
        assert cv2.connectedComponents((instances == number).astype(np.uint8))[0] == 2


def test_synthia_as_its_archive_unpacks(root: Path, tmp_path: Path) -> None:
    assert main(["data", "fake", "synthia", f"--root={tmp_path}", "--layout=archive", "--size=64,128"]) == 0
    view = "Stereo_Left/Omni_F"
    frames = [f"SEQS-04-DAWN/{kind}/{view}/{n:06d}.png" for kind in ("RGB", "GT/LABELS") for n in range(7)]
    assert names(tmp_path / "SynthiaSeq") == sorted(frames)
    ours, renamed = (clips(r, "synthia").read(2, Wants(labels=(0,))) for r in (tmp_path, root))
    assert ours.frames.equal(renamed.frames)
    assert ours.labels[0].equal(renamed.labels[0])


@pytest.mark.parametrize("split", ["train", "val"])
def test_cityscapes_has_snippets_of_both_kinds_of_numbers(split: str, root: Path) -> None:
    folder = root / "Cityscapes/leftImg8bit_sequence" / split
    stems = {"aachen": [f"000000_{n:06d}" for n in range(30)], "ulm": [f"000000_{n:06d}" for n in range(275, 305)]}
    assert names(folder) == [f"{city}/{city}_{s}_leftImg8bit.png" for city, all_ in stems.items() for s in all_]
    keys = open_set(root, "cityscapes", split).keys()
    assert keys == ["aachen_000000_000019", "ulm_000000_000294"]


def test_cityscapes_ids_are_its_own(root: Path) -> None:
    ids = np.concatenate([np.asarray(Image.open(p)).ravel() for p in (root / "Cityscapes/gtFine").rglob("*.png")])
    known = {1, 7, 8, 11, 13, 17, 19, 20, 21, 22, 23, 24, 26, 27, 28, 32, 33}  # no riders; own car and poles
    assert set(ids.tolist()) <= known
    assert {1, 7, 11, 17, 23, 26} <= set(ids.tolist())


def content(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in names(folder)}


def test_the_fake_is_a_function_of_its_arguments(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        fake("viper", tmp_path / name, (32, 64), clips=1, seed=seed)
    first, again, other = (content(tmp_path / name) for name in "abc")
    assert first == again
    assert first.keys() == other.keys()
    assert all(first[name] != other[name] for name in first)
    assert [name for name in first if "_00010" in name] == [
        "Viper/train/cls/001/001_00010.png", "Viper/train/img/001/001_00010.jpg"
    ]  # fmt: skip


def test_clips_fill_both_sequences_evenly(tmp_path: Path) -> None:
    fake("viper", tmp_path, (32, 64), clips=3)
    assert len(open_set(tmp_path, "viper", "train")) == 4


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    mine: NDArray[np.uint8] = np.zeros((2, 2), np.uint8)
    (tmp_path / "Viper").mkdir()
    fake("viper", tmp_path, (32, 64), clips=1)  # an empty folder is no reason to refuse
    Image.fromarray(mine).save(tmp_path / "Viper" / "mine.png")
    before = content(tmp_path)
    with pytest.raises(DataError, match=r"Viper: this is not empty[\s\S]*→ give another --root"):
        fake("viper", tmp_path, (32, 64), clips=1)
    assert content(tmp_path) == before


def test_a_failure_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, data: bytes, **_: Any) -> None:
        if path.name.endswith("_00010.png"):
            raise DataError("cannot be written (No space left on device)", where=path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    monkeypatch.setattr("stpl.data.fake.write_atomically", full)
    with pytest.raises(DataError, match="No space left"):
        fake("viper", tmp_path, (32, 64), clips=1)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("kitti",), "no data set 'kitti'[\\s\\S]*→ choose one of: cityscapes, synthia, viper, vps"),
        (("viper", "--clips=0"), "clips: 0 is not[\\s\\S]*→ choose 1 or more"),
        (("viper", "--size=8,64"), "height is 8[\\s\\S]*→ choose height ≥ 16"),
        (("viper", "--layout=old"), "viper has no layout 'old'[\\s\\S]*→ choose one of: archive"),
    ],
)
def test_wrong_options_are_told(
    arguments: tuple[str, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "fake", *arguments, f"--root={tmp_path}"]) == 2
    with pytest.raises(ConfigError, match=message):
        raise ConfigError(capsys.readouterr().err)
    assert not list(tmp_path.iterdir())
