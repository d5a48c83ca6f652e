"""Every fault that `stpl data check` promises to find is planted here, and must be named."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from fakes import MovingShapes, write_cityscapes
from stpl.cli import main
from stpl.commands.data import SplitOptions
from stpl.commands.data import data_flow as flow
from stpl.data import flow as fl
from stpl.data.check import inspect
from stpl.data.fake import fake
from stpl.data.flow.flow_check import ALTERNATIVES, GIVEN, STILL, flow_verdict, warp_errors
from stpl.data.label_space import VIPER_15, LabelSpace
from stpl.data.sequence_set import open_set
from stpl.data.sets import data_set

SIZE = (64, 128)
FLOW = "Estimated_optical_flow_Viper_train"
FIRST = f"{FLOW}/001_0001000009_int16_x10.npy"
LABEL = "Viper/train/cls/001/001_00010.png"
FRAME = "Viper/train/img/001/001_00010.jpg"


@pytest.fixture(scope="module")
def master(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("viper")
    fake("viper", root, SIZE)
    flow(SplitOptions("viper", root, size=SIZE))
    return root


@pytest.fixture
def root(master: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(master, tmp_path / "data"))


Check = Callable[..., tuple[int, str, str]]


@pytest.fixture
def check(root: Path, capsys: pytest.CaptureFixture[str]) -> Check:
    def run(*options: str) -> tuple[int, str, str]:
        code = main(["data", "check", "viper", f"--root={root}", "--size=64,128", *options])
        return code, *capsys.readouterr()

    return run


def test_a_sound_split_passes_and_is_counted(check: Check, root: Path, tmp_path: Path) -> None:
    code, said, _ = check(f"--json={tmp_path / 'report.json'}")
    assert code == 0
    assert "viper train: 4 clips (published work has 13367), 8 frames, 4 labels" in said
    assert "4 of 4 flow files" in said
    assert "flow is right: error " in said
    assert said.endswith("all is well\n")
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert report["problems"] == []
    assert report["sizes"] == {"frames": {"64×128": 8}, "labels": {"64×128": 4}, "flow files": {"64×128": 4}}
    assert report["verdict"]["errors"][GIVEN] < 0.9 * report["verdict"]["errors"][STILL]


def test_shares_of_classes_are_those_of_the_files(root: Path) -> None:
    """Against a count by hand, with the own car (id 24 at the bottom centre) out of the cars, as in training."""
    report = inspect(open_set(root, "viper", "train", size=SIZE), VIPER_15, None)
    ids = dict(zip((3, 4, 9, 11, 13, 14, 7, 6, 2, 20, 24, 27, 26, 23, 22), range(15), strict=True)) | {8: 6}
    pixels = dict.fromkeys(VIPER_15.classes, 0)
    ignored, total = {0: 0}, 0
    for number in ("001/001_00010", "001/001_00020", "002/002_00010", "002/002_00020"):
        label = np.array(Image.open(root / f"Viper/train/cls/{number}.png"))
        own = cv2.floodFill(label.copy(), None, (64, 63), (99,), flags=8)[1] == 99
        for value, count in zip(*np.unique(np.where(own, 0, label), return_counts=True), strict=True):
            train_id = ids.get(int(value))
            if train_id is None:
                ignored[int(value)] = ignored.get(int(value), 0) + int(count)
            else:
                pixels[VIPER_15.classes[train_id]] += int(count)
        total += label.size
    known = sum(pixels.values())
    assert report.classes == pytest.approx({name: 100 * count / known for name, count in pixels.items()})
    assert report.ignored == pytest.approx({value: 100 * count / total for value, count in ignored.items()})
    assert sum(report.classes.values()) == pytest.approx(100)
    assert report.ignored[10] > 0  # poles


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def relabel(change: Callable[[NDArray[Any]], NDArray[Any]]) -> Callable[[Path], None]:
    return lambda path: Image.fromarray(change(np.array(Image.open(path)))).save(path)


def reflow(change: Callable[[fl.Flow], fl.Flow]) -> Callable[[Path], None]:
    def all_of(first: Path) -> None:
        for path in first.parent.iterdir():
            fl.write(path, np.ascontiguousarray(change(fl.read(path))))

    return all_of


def halved_but_not_scaled(flow_2HW: fl.Flow) -> fl.Flow:
    return flow_2HW[:, ::2, ::2]


@pytest.mark.parametrize(
    ("file", "fault", "message"),
    [
        (FRAME, Path.unlink, "001_00010.jpg: there is no such frame"),
        (FRAME, cut, "001_00010.jpg: the image cannot be decoded"),
        (FRAME, relabel(lambda frame: frame[:32, :64]), "001_00010.jpg: 32×64, most others are 64×128"),
        (LABEL, cut, "001_00010.png: the image cannot be decoded"),
        (LABEL, relabel(lambda ids: ids[:32]), "001_00010.png: the label is 32×128 (after the crop), its frame 64×128"),
        (LABEL, relabel(lambda ids: np.where(ids == 3, np.uint8(77), ids)), "001_00010.png: ids [77] are no label ids"),
        (LABEL, relabel(lambda ids: np.dstack([ids] * 3)), "001_00010.png: a label must have one channel of ids"),
        (FIRST, Path.unlink, "001_0001000009_int16_x10.npy: there is no such flow file"),
        (FIRST, cut, "001_0001000009_int16_x10.npy: the flow file is missing, torn or no .npy file"),
        (FIRST, lambda path: fl.write(path, np.zeros((2, 9, 9), np.float32)), "x10.npy: 9×9, most others are 64×128"),
        (FIRST, lambda path: np.save(path, np.zeros((*SIZE, 2), np.float32)), "expected int16 [H,W,2], found float32"),
        (FIRST, reflow(np.negative), "flow looks reversed: it points from t-1 to t"),
        (FIRST, reflow(lambda f: f[::-1]), "flow looks swapped: dy comes before dx"),
        (FIRST, reflow(lambda f: -f[::-1]), "flow looks swapped and reversed"),
        (FIRST, reflow(lambda f: f / np.float32(10)), "flow looks ten times too small"),
        (FIRST, reflow(lambda f: f * 10), "flow looks ten times too large"),
        (FIRST, reflow(halved_but_not_scaled), "flow looks twice too large"),
        (FIRST, reflow(lambda f: f / np.float32(2)), "flow looks twice too small"),
        (FIRST, reflow(lambda f: np.roll(f, 31, 2)[:, ::-1]), "flow looks unrelated to the frames"),
    ],
)
def test_a_planted_fault_is_named(
    file: str, fault: Callable[[Path], Any], message: str, check: Check, root: Path
) -> None:
    fault(root / file)
    code, _, said = check()
    assert code == 2
    assert message in said
    assert "→" in said


def relabel_all(root: Path, change: Callable[[NDArray[Any]], NDArray[Any]], first: int = 0) -> None:
    for path in sorted((root / "Viper").rglob("cls/*/*.png"))[first:]:
        relabel(change)(path)


def train_ids(space: LabelSpace, dataset: str) -> NDArray[np.uint8]:
    return data_set(dataset).table(space)[:256]


def test_train_ids_in_the_place_of_label_ids_are_seen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The official 19 train ids, and those of our label space."""
    fake("cityscapes", tmp_path, SIZE)
    official = np.full(256, 255, np.uint8)
    official[[7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]] = np.arange(19)
    labels = sorted(tmp_path.rglob("train/*/*labelIds.png"))
    sound = [path.read_bytes() for path in labels]
    command = ["data", "check", "cityscapes", f"--root={tmp_path}", "--size=64,128", "--flow=none"]
    for table in (official, train_ids(VIPER_15, "cityscapes")):
        for path, data in zip(labels, sound, strict=True):
            path.write_bytes(data)
            relabel(lambda ids, table=table: table[ids])(path)  # type: ignore[misc]
        assert main(command) == 2
        said = capsys.readouterr()
        assert f"{labels[0]}: 2 of 2 labels hold no id above 18 but 255" in said.err
        assert "train ids" in said.err
        assert "classes are absent" in said.out
        assert "all is well" not in said.out
    labels[0].write_bytes(sound[0])
    assert main(command) == 0
    assert f"warning: {labels[1]}: 1 of 2 labels hold no id above 18" in capsys.readouterr().out


def test_train_ids_where_no_class_must_occur_are_a_warning(check: Check, root: Path) -> None:
    table = train_ids(VIPER_15, "viper")
    relabel_all(root, lambda ids: np.where(table[ids] == 255, np.uint8(0), table[ids]))
    code, said, _ = check()
    assert code == 0
    assert "001_00010.png: 4 of 4 labels hold no id above 14 but 255; viper's label ids go on (person 20," in said
    assert said.endswith("1 warning\n")


def test_a_lossy_label_under_the_name_of_a_png_is_named(check: Check, root: Path) -> None:
    image = Image.open(root / LABEL)
    image.load()
    image.save(root / LABEL, "JPEG")
    code, _, said = check()
    assert code == 2
    assert "001_00010.png: this label is a JPEG file, whatever its name: a lossy format" in said


def test_one_class_over_most_pixels_is_a_warning_with_numbers(check: Check, root: Path) -> None:
    relabel_all(root, lambda ids: np.where(np.arange(len(ids))[:, None] < 55, np.uint8(4), ids))
    code, said, _ = check()
    assert code == 0
    share = float(said.split("warning: sidewalk covers ")[1].split(" %")[0])
    assert share > 75
    assert "classes are absent: are the ids of another scheme" in said
    assert said.endswith("1 warning\n")


def test_pixels_that_are_mostly_ignored_are_a_warning(check: Check, root: Path) -> None:
    relabel_all(root, lambda ids: np.where(np.arange(len(ids))[:, None] < 45, np.uint8(10), ids))
    assert "% of the pixels are ignored (by id, 10: " in check()[1]


def test_a_label_of_one_id_is_a_warning(check: Check, root: Path) -> None:
    relabel(lambda ids: np.full_like(ids, 2))(root / LABEL)
    code, said, _ = check()
    assert code == 0
    assert "001_00010.png: 1 of 4 labels hold one id nearly everywhere (this one 100.0 % of id 2)" in said


def test_unknown_flow_is_counted_over_the_whole_set(check: Check, root: Path, tmp_path: Path) -> None:
    files = sorted((root / FLOW).iterdir())
    for index, path in enumerate(files):
        field = fl.read(path).transpose(1, 2, 0).copy()
        field[:index, 0] = np.nan if index % 2 else 2e9
        data = np.array([202021.25], "<f4").tobytes() + np.array(field.shape[1::-1], "<i4").tobytes()
        path.with_suffix(".flo").write_bytes(data + field.astype("<f4").tobytes())
        path.unlink()
    code, said, _ = check(f"--json={tmp_path / 'report.json'}", "--sample=1")
    assert code == 0
    assert "warning: the flow of 6 pixels is unknown (0.018 % of all, in 3 of 4 files" in said
    assert len(json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))["warnings"]) == 1


@pytest.mark.parametrize("option", ["--workers=-1", "--sample=-1"])
def test_negative_counts_are_refused(option: str, check: Check) -> None:
    code, _, said = check(option)
    assert code == 2
    assert "-1 is not " in said


def test_a_frame_list_of_windows_is_read(check: Check, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_bytes("\ufeff001/001_00010.jpg\r\n002/002_00010.jpg\r\n".encode())
    assert "viper train: 2 clips" in check(f"--frame_list={tmp_path / 'list.txt'}")[1]


def test_the_report_is_printed_and_written_whatever_is_wrong(check: Check, root: Path, tmp_path: Path) -> None:
    for path in (root / "Viper").rglob("*.png"):
        cut(path)
    for path in (root / FLOW).iterdir():
        path.unlink()
    code, said, complaint = check(f"--json={tmp_path / 'report.json'}")
    assert code == 2
    assert "viper train: 4 clips" in said
    assert "8 problems" in said
    assert "8 problems:" in complaint
    assert "… and 3 more" in complaint
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert len(report["problems"]) == 8
    assert report["verdict"] is None


def test_flow_may_lie_elsewhere_or_be_left_out(check: Check, root: Path) -> None:
    (root / FLOW).rename(root / "mine")
    assert "no flow files" in check()[1]
    code, said, _ = check(f"--flow={root / 'mine'}", "--sample=2")
    assert code == 0
    assert "(2 pairs)" in said
    for path in (root / "mine").iterdir():
        cut(path)
    assert check(f"--flow={root / 'mine'}")[0] == 2
    assert check("--flow=none")[0] == 0
    code, _, said = check("--flow=nowhere")
    assert code == 2
    assert "there is no folder 'nowhere'" in said


def test_a_flow_made_by_the_opposite_call_is_seen_to_be_reversed(root: Path) -> None:
    """The usual mistake is not a sign but an estimate from t-1 to t, whose vectors lie on the other frame's grid."""
    files = open_set(root, "viper", "train", size=SIZE)
    errors = []
    for index in range(len(files)):
        earlier, later = (files.read_frame(path) for path in files.frame_pair(index))
        errors.append(warp_errors(later, earlier, fl.estimate(earlier, later)))
    verdict = flow_verdict(errors)
    assert not verdict.right
    assert "reversed: it points from t-1 to t" in verdict.words


def test_an_unlabelled_split_is_checked_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "Cityscapes"
    write_cityscapes(folder, splits=("train",), cities=("ulm",), snippets=1, size=(32, 64), labels=False)
    assert main(["data", "check", "cityscapes", f"--root={tmp_path}", "--label_space=synthia12"]) == 0
    said = capsys.readouterr().out
    assert "1 clip (published work has 2975), 2 frames, 0 labels" in said
    assert "no labels" in said
    assert main(["data", "check", "cityscapes", f"--root={tmp_path}", "--split=val"]) == 2
    assert "there are no frames" in capsys.readouterr().err
    assert main(["data", "check", "viper", f"--root={tmp_path}", "--label_space=synthia12"]) == 2


def test_frames_that_hardly_move_allow_no_verdict() -> None:
    frame = MovingShapes(3, SIZE).frame(0)
    verdict = flow_verdict([warp_errors(frame, frame, np.zeros((2, *SIZE), np.float32))])
    assert verdict.right
    assert "cannot be judged" in verdict.words


@pytest.mark.parametrize("shift", [(3, 0), (0, -2), (-4, 1)])
def test_the_error_of_a_known_shift(shift: tuple[int, int]) -> None:
    """Against the definition: only the given reading is zero where the shift stays inside the image."""
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 1), dtype=np.uint8).repeat(3, axis=2)
    dx, dy = shift
    later, earlier = noise[8:-8, 8:-8], noise[8 - dy : 32 - dy, 8 - dx : 52 - dx]
    constant = np.broadcast_to(np.array(shift, np.float32)[:, None, None], (2, 24, 44))
    errors = warp_errors(np.ascontiguousarray(later), np.ascontiguousarray(earlier), constant)
    assert set(errors) == {GIVEN, *ALTERNATIVES}
    assert min(errors, key=lambda name: errors[name]) == GIVEN
    grey = later[..., 0].astype(int), earlier[..., 0].astype(int)
    assert errors[STILL] == pytest.approx(np.abs(grey[0] - grey[1]).mean())
    y, x = np.indices((24, 44))
    warped = grey[1][np.clip(y + dy, 0, 23), np.clip(x + dx, 0, 43)]
    assert errors[GIVEN] == pytest.approx(np.abs(grey[0] - warped).mean(), abs=1e-4)
