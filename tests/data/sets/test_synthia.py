from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from stpl.data.clip import IGNORE, Wants
from stpl.data.label_space import SYNTHIA_12
from stpl.data.sequence import SequenceClips
from stpl.data.sequence_set import open_set
from stpl.data.sets.synthia import read_classes
from stpl.errors import ConfigError, DataError

NATIVE, SIZE = (76, 128), (64, 128)  # a tenth of the true ones
FOLDER = "SynthiaSeq/SEQS-04-DAWN"
RENAMED, OFFICIAL = ("rgb", "label"), ("RGB/Stereo_Left/Omni_F", "GT/LABELS/Stereo_Left/Omni_F")


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png16(pixels: NDArray[np.uint16]) -> bytes:
    """A 16-bit RGB PNG, written by hand: big-endian samples, R first, no filter."""
    height, width, _ = pixels.shape
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in pixels)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(lines)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(kind, data) for kind, data in chunks)


def labelled(ids: NDArray[Any]) -> bytes:
    """A label as SYNTHIA has it: class in R, instance in G, nothing in B."""
    instance = np.arange(ids.size).reshape(ids.shape)
    return png16(np.stack([ids, instance, np.zeros_like(ids)], axis=2).astype(np.uint16))


def some_ids(number: int) -> NDArray[np.uint8]:
    return np.random.default_rng(number).integers(0, 16, NATIVE, dtype=np.uint8)


def write(root: Path, places: tuple[str, str] = RENAMED, count: int = 4, shade: int = 0) -> Path:
    frames, labels = (root / FOLDER / place for place in places)
    frames.mkdir(parents=True)
    labels.mkdir(parents=True)
    for number in range(count):
        noise = np.random.default_rng(number).integers(0, 200, (*NATIVE, 3), dtype=np.uint8) + np.uint8(shade)
        Image.fromarray(noise).save(frames / f"{number:06d}.png")
        (labels / f"{number:06d}.png").write_bytes(labelled(some_ids(number)))
    return root


def reader(root: Path, *, frame_list: Path | None = None, **options: Any) -> SequenceClips:
    return SequenceClips(open_set(root, "synthia", "train", size=SIZE, frame_list=frame_list), SYNTHIA_12, **options)


def keys(dataset: SequenceClips) -> list[str]:
    return [dataset.key(index) for index in range(len(dataset))]


def train_ids(ids: NDArray[Any]) -> NDArray[np.int64]:
    names = {3: "road", 4: "sidewalk", 2: "building", 5: "fence", 7: "pole", 15: "light", 9: "sign", 6: "vegetation",
             1: "sky", 10: "person", 11: "rider", 8: "car"}  # fmt: skip
    table = [SYNTHIA_12.classes.index(names[i]) if i in names else IGNORE for i in range(16)]
    return np.asarray(np.take(table, ids), np.int64)


@pytest.mark.parametrize("places", [RENAMED, OFFICIAL], ids=["renamed", "official"])
def test_both_layouts_give_the_same_clips(places: tuple[str, str], tmp_path: Path) -> None:
    dataset = reader(write(tmp_path, places))
    assert keys(dataset) == ["000001", "000002", "000003"]  # 000000 is only a previous frame
    clip = dataset.read(1, Wants(labels=(0,)))
    for frame, number in zip(clip.frames.numpy(), (1, 2), strict=True):
        noise = np.random.default_rng(number).integers(0, 200, (*NATIVE, 3), dtype=np.uint8)
        np.testing.assert_array_equal(frame.transpose(1, 2, 0), noise[:64])
    np.testing.assert_array_equal(clip.labels[0].numpy(), train_ids(some_ids(2)[:64]))


def test_the_renamed_layout_wins(tmp_path: Path) -> None:
    write(tmp_path, OFFICIAL)
    write(tmp_path, RENAMED, shade=50)
    frame = reader(tmp_path).read(0, Wants()).frames[1].permute(1, 2, 0).numpy()
    noise = np.random.default_rng(1).integers(0, 200, (*NATIVE, 3), dtype=np.uint8)
    np.testing.assert_array_equal(frame, noise[:64] + 50)


def test_the_crop_follows_the_resize(tmp_path: Path) -> None:
    files = open_set(write(tmp_path), "synthia", "train", size=(32, 64))
    clip = SequenceClips(files, SYNTHIA_12, label_size="input").read(0, Wants(labels=(0,)))
    image = Image.open(tmp_path / FOLDER / "rgb" / "000001.png")
    wanted = np.asarray(image.resize((64, 38), Image.Resampling.BICUBIC))[:32]
    np.testing.assert_array_equal(clip.frames[1].permute(1, 2, 0).numpy(), wanted)
    ids = np.asarray(Image.fromarray(some_ids(1)).resize((64, 38), Image.Resampling.NEAREST))[:32]
    np.testing.assert_array_equal(clip.labels[0].numpy(), train_ids(ids))


def test_the_true_sizes(tmp_path: Path) -> None:
    files = open_set(write(tmp_path), "synthia", "train")
    assert files.read_frame(files.frame_path(0, -1)).shape == (640, 1280, 3)
    assert files._resized == (760, 1280)
    assert files.flow_name(0) == "000001_int16_x10.npy"
    assert files.flow_folder == "Estimated_optical_flow_SynthiaSeq_train"


def test_twelve_classes_are_trained_and_eleven_reported() -> None:
    assert SYNTHIA_12.num_classes == 12
    assert [name for i, name in enumerate(SYNTHIA_12.classes) if i not in SYNTHIA_12.reported] == ["fence"]


def test_class_is_the_first_of_three_16_bit_channels(tmp_path: Path) -> None:
    pixels = np.zeros((2, 3, 3), np.uint16)
    pixels[..., 0] = [[1, 2, 3], [4, 5, 300]]
    pixels[..., 1], pixels[..., 2] = 7777, 9
    path = tmp_path / "label.png"
    path.write_bytes(png16(pixels))
    assert read_classes(path).tolist() == [[1, 2, 3], [4, 5, 300]]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_single_channel_labels_are_read(dtype: type, tmp_path: Path) -> None:
    write(tmp_path)
    Image.fromarray(some_ids(1).astype(dtype)).save(tmp_path / FOLDER / "label" / "000001.png")
    np.testing.assert_array_equal(reader(tmp_path).label(0).numpy(), train_ids(some_ids(1)[:64]))


def test_a_coloured_label_is_refused(tmp_path: Path) -> None:
    write(tmp_path)
    Image.fromarray(np.zeros((*NATIVE, 3), np.uint8)).save(tmp_path / FOLDER / "label" / "000001.png")
    with pytest.raises(
        DataError, match=r"label/000001\.png: a label must be a 16-bit image[\s\S]*→ give the images of"
    ):
        reader(tmp_path).label(0)


@pytest.mark.parametrize("keep", [0, 20, 600, -5])
def test_a_torn_label_is_named(keep: int, tmp_path: Path) -> None:
    path = write(tmp_path) / FOLDER / "label" / "000001.png"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"label/000001\.png: the image cannot be decoded[\s\S]*→ delete the file"):
        reader(tmp_path).label(0)


def test_a_flipped_byte_in_a_label_is_noticed(tmp_path: Path) -> None:
    path = write(tmp_path) / FOLDER / "label" / "000001.png"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(bytes(data))
    with pytest.raises(DataError, match=r"label/000001\.png: the image cannot be decoded[\s\S]*→ delete the file"):
        reader(tmp_path).label(0)


def test_an_unknown_id_is_named(tmp_path: Path) -> None:
    path = write(tmp_path) / FOLDER / "label" / "000001.png"
    ids = some_ids(1).astype(np.uint16)
    ids[0, 0], ids[70, 0] = 16, 65535  # the lower one lies in the rows that are cut off
    path.write_bytes(labelled(ids))
    with pytest.raises(DataError, match=r"000001\.png: ids \[16, 65535\] are no label ids[\s\S]*→ use the original"):
        reader(tmp_path).label(0)


def test_a_missing_frame_is_named(tmp_path: Path) -> None:
    (write(tmp_path) / FOLDER / "rgb" / "000002.png").unlink()
    with pytest.raises(DataError, match=r"rgb/000002\.png: there is no such frame\n[\s\S]*→ unpack SYNTHIA"):
        reader(tmp_path)
    with pytest.raises(DataError, match=r"rgb: there are no frames[\s\S]*→ unpack SYNTHIA-SEQS-04-DAWN"):
        reader(tmp_path / "elsewhere")


def test_a_list_of_the_lineage_chooses_frames(tmp_path: Path) -> None:
    path = write(tmp_path) / "list.txt"
    path.write_text("000003.png\n000001.png\n")
    assert keys(reader(tmp_path, frame_list=path)) == ["000003", "000001"]
    for line in ("../000001.png", "1.png", "rgb/000001.png", "000001"):
        path.write_text(f"000003.png\n{line}\n")
        with pytest.raises(DataError, match=r"list\.txt: line 2 is no frame[\s\S]*→ .*000000\.png"):
            reader(tmp_path, frame_list=path)


def test_the_one_split_is_train(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data set synthia: there is no split 'val'[\s\S]*→ choose one of: train"):
        open_set(tmp_path, "synthia", "val")
