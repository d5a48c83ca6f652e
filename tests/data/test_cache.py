from __future__ import annotations

import pickle
import shutil
import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from fakes import write_synthia
from stpl.cli import main
from stpl.data import sequence_set
from stpl.data.clip import BACKWARD, Clip, Wants
from stpl.data.flow import FlowCache
from stpl.data.image import read_rgb
from stpl.data.label_space import SYNTHIA_12
from stpl.data.sequence import SequenceClips, cache_folder, open_cache
from stpl.data.sequence_set import SequenceSet, open_set
from stpl.errors import DataError

SIZE, CLIPS = (32, 64), 5
ALL = Wants(flows=(BACKWARD,), labels=(0,))


@pytest.fixture(scope="module")
def master(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_synthia(folder / "SynthiaSeq", clips=CLIPS)
    return folder


@pytest.fixture
def root(master: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(master, tmp_path / "data"))


class Decoded(Counter[str]):
    """Counts decoded frames by name; raises after `limit`, as Ctrl-C would."""

    limit = 10**9

    def __call__(self, path: Path) -> NDArray[np.uint8]:
        if self.total() >= self.limit:
            raise KeyboardInterrupt
        self[path.name] += 1
        return read_rgb(path)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> Decoded:
    counter = Decoded()
    monkeypatch.setattr(sequence_set, "read_rgb", counter)
    return counter


def files(root: Path, frame_list: Path | None = None) -> SequenceSet:
    return open_set(root, "synthia", "train", size=SIZE, frame_list=frame_list)


def plain(root: Path) -> SequenceClips:
    return SequenceClips(files(root), SYNTHIA_12, label_size="input", flow=FlowCache(root / "flow"))


def cached(root: Path, *, flow: bool = True) -> SequenceClips:
    kept = open_cache(files(root), "dis" if flow else None, workers=2)
    return SequenceClips(kept.files, SYNTHIA_12, label_size="input", flow=FlowCache(root / "flow"), cache=kept)


def equal(left: Clip, right: Clip) -> bool:
    ours, others = left.tensors(), right.tensors()
    same = all(a.equal(others[name]) and a.dtype == others[name].dtype for name, a in ours.items())
    return left.key == right.key and ours.keys() == others.keys() and same


@pytest.mark.parametrize("flow", [True, False])
def test_cached_clips_are_the_very_same(flow: bool, root: Path) -> None:
    clips, reference = cached(root, flow=flow), plain(root)
    assert len(clips) == len(reference) == CLIPS
    assert all(equal(clips.read(i, ALL), reference.read(i, ALL)) for i in range(CLIPS))
    bare = clips.read(0, Wants())
    assert not bare.flows
    assert not bare.labels


def test_every_frame_is_decoded_once(root: Path, decoded: Decoded) -> None:
    clips = cached(root)
    for index in range(CLIPS):
        clips.read(index, ALL)
    assert decoded == {f"{number:06d}.png": 1 for number in range(CLIPS + 1)}
    clips = cached(root)
    clips.read(0, ALL)
    assert decoded.total() == CLIPS + 1


def test_labels_are_neither_kept_nor_opened(root: Path) -> None:
    shutil.rmtree(root / "flow", ignore_errors=True)
    for path in (root / "SynthiaSeq" / "SEQS-04-DAWN" / "label").iterdir():
        path.write_bytes(b"")  # reading any of them would fail
    clips = cached(root)
    clips.read(0, Wants(flows=(BACKWARD,)))
    kept = sorted(path.name for path in cache_folder(files(root)).iterdir())
    assert kept == [".lock", "flow_dis", "frames"]
    assert np.load(cache_folder(files(root)) / "frames/frames.npy", mmap_mode="r").shape == (CLIPS + 1, 3, *SIZE)
    assert np.load(cache_folder(files(root)) / "flow_dis/flow.npy", mmap_mode="r").shape == (CLIPS, 2, *SIZE)


def test_a_stopped_call_goes_on(root: Path, decoded: Decoded) -> None:
    decoded.limit = 3
    with pytest.raises(KeyboardInterrupt):
        open_cache(files(root), workers=1)
    folder = cache_folder(files(root))
    assert not (folder / "frames").exists()
    with next(folder.glob("frames.partial/journal-*")).open("a") as journal:
        journal.write("[5, [12")  # half a line, as a power cut leaves it
    decoded.limit = 100
    clips = cached(root)
    assert decoded == {f"{number:06d}.png": 1 for number in range(CLIPS + 1)}
    assert all(equal(clips.read(i, ALL), plain(root).read(i, ALL)) for i in range(CLIPS))
    assert not list(folder.glob("**/journal*"))
    assert not list(folder.glob("*.partial"))


def test_what_was_begun_for_other_frames_is_not_gone_on_with(root: Path, decoded: Decoded, tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text("000005.png\n000003.png\n")
    decoded.limit = 2
    with pytest.raises(KeyboardInterrupt):
        open_cache(files(root, path), workers=1)
    decoded.limit = 100
    clips = cached(root)
    assert all(equal(clips.read(i, ALL), plain(root).read(i, ALL)) for i in range(CLIPS))


def test_a_journal_without_its_array_is_not_believed(root: Path, decoded: Decoded) -> None:
    decoded.limit = 3
    with pytest.raises(KeyboardInterrupt):
        open_cache(files(root), workers=1)
    (cache_folder(files(root)) / "frames.partial/frames.npy").unlink()
    decoded.limit = 100
    assert equal(cached(root).read(0, ALL), plain(root).read(0, ALL))


@pytest.mark.slow
def test_two_processes_do_not_make_it_twice(root: Path, decoded: Decoded) -> None:
    threads = [threading.Thread(target=open_cache, args=(files(root),), kwargs={"workers": 1}) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert decoded.total() == CLIPS + 1


def test_a_whole_cache_is_opened_without_writing(root: Path) -> None:
    cached(root)
    folder = cache_folder(files(root))
    before = {path.name: path.stat().st_mtime_ns for path in folder.rglob("*") if path.name != ".lock"}
    (folder / ".lock").unlink()
    cached(root).read(0, ALL)
    assert {path.name: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_another_frame_list_makes_it_stale(root: Path, tmp_path: Path) -> None:
    cached(root)
    path = tmp_path / "list.txt"
    for lines in ("000003.png\n", "\n".join(f"{number:06d}.png" for number in (2, 1, 3, 4, 5))):
        path.write_text(lines)
        with pytest.raises(
            DataError, match=r"frames: the cache was made from something else[\s\S]*→ delete the folder"
        ):
            open_cache(files(root, path))


def test_a_new_source_file_makes_it_stale(root: Path) -> None:
    cached(root)
    for kind in ("rgb", "label"):
        folder = root / "SynthiaSeq" / "SEQS-04-DAWN" / kind
        shutil.copy(folder / "000005.png", folder / "000006.png")
    with pytest.raises(
        DataError, match=r"it holds .*\[6, 3, 32, 64\].*, wanted are .*\[7, 3, 32, 64\].*[\s\S]*→ delete"
    ):
        open_cache(files(root))


def test_another_size_is_another_cache(root: Path) -> None:
    cached(root)
    other = open_set(root, "synthia", "train", size=(64, 128))
    open_cache(other, None)
    assert {path.name for path in (root / "SynthiaSeq").glob("cache_*")} == {"cache_32x64", "cache_64x128"}


@pytest.mark.parametrize("keep", [0, 20, 500, -1])
def test_a_cut_array_is_named(keep: int, root: Path) -> None:
    cached(root)
    path = cache_folder(files(root)) / "flow_dis/flow.npy"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(
        DataError, match=r"flow\.npy: the cache is torn \(\d+ bytes, \d+ were[\s\S]*→ delete the folder"
    ):
        open_cache(files(root))


def test_a_flipped_byte_is_named_when_it_is_read(root: Path) -> None:
    cached(root)
    path = cache_folder(files(root)) / "frames/frames.npy"
    data = bytearray(path.read_bytes())
    data[-1] ^= 0xFF
    path.write_bytes(bytes(data))
    clips = cached(root)
    clips.read(0, ALL)
    with pytest.raises(DataError, match=r"frames\.npy: the cache is torn \(row 5 is not what was[\s\S]*→ delete"):
        clips.read(CLIPS - 1, ALL)


def test_a_header_that_is_not_what_was_written_is_named(root: Path) -> None:
    """A changed digit of its shape would map other rows, or rows that are not there."""
    cached(root)
    path = cache_folder(files(root)) / "flow_dis/flow.npy"
    whole = path.read_bytes()
    for place in range(8, 128):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(DataError, match=r"flow\.npy: the cache is torn \(its header is not what was written"):
            cached(root).read(0, ALL)


@pytest.mark.parametrize("text", [None, "", "{", "[]", '{"checksums": 3}'])
def test_a_torn_manifest_is_named(text: str | None, root: Path) -> None:
    cached(root)
    path = cache_folder(files(root)) / "frames/manifest.json"
    path.unlink()
    if text is not None:
        path.write_text(text)
    with pytest.raises(DataError, match=r"manifest\.json: the cache is torn[\s\S]*→ delete the folder"):
        open_cache(files(root))


def test_a_full_disk_is_told_before_the_work(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 10, 0))
    with pytest.raises(DataError, match=r"train: cannot be written: 0 MB are needed[\s\S]*→ free some space"):
        open_cache(files(root))


def test_a_torn_frame_is_named_and_the_rest_is_kept(root: Path) -> None:
    path = root / "SynthiaSeq" / "SEQS-04-DAWN" / "rgb" / "000005.png"
    whole = path.read_bytes()
    path.write_bytes(whole[:200])
    with pytest.raises(DataError, match=r"000005\.png: the image cannot be decoded[\s\S]*→ delete the file"):
        open_cache(files(root), workers=1)
    path.write_bytes(whole)
    assert equal(cached(root).read(4, ALL), plain(root).read(4, ALL))


def test_a_reader_takes_no_array_along_to_workers(root: Path) -> None:
    clips = cached(root)
    unused = len(pickle.dumps(clips))
    clips.read(0, ALL)
    sent = pickle.dumps(clips)
    assert len(sent) == unused
    assert equal(pickle.loads(sent).read(2, ALL), clips.read(2, ALL))


def test_command_line(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["data", "cache", "synthia", f"--root={root}", "--size=[32,64]", "--workers=2"]
    assert main(arguments) == 0
    captured = capsys.readouterr()
    assert captured.out == f"5 clips are kept in {root}/SynthiaSeq/cache_32x64/train\n"
    assert "synthia train: keeping frames: 100 %" in captured.err
    assert main(arguments) == 0
    assert capsys.readouterr().err == ""
    assert main([*arguments, "--split=val"]) == 2
    assert "there is no split 'val'" in capsys.readouterr().err


def test_what_an_array_holds_does_not_depend_on_what_was_wanted_before(tmp_path: Path) -> None:
    write_synthia(tmp_path / "SynthiaSeq", clips=8)
    whole = files(tmp_path)
    inner = replace(whole, current=whole.current[1:-1:3])  # the frame after one is two before the next
    first = open_cache(inner, None)
    first.require((-2, -1, 0, 1))
    again = open_cache(inner, None)
    again.require((-1, 0, 1))
    assert again.frame(0, 1).tobytes() == first.frame(0, 1).tobytes()
