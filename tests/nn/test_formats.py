"""Checkpoint files of every kind: damage is noticed, and what is whole is read or called what it is."""

from __future__ import annotations

import io
import json
import pickle
import random
import struct
import tarfile
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from foreign import advent_state, resnet_state
from stpl.cli import main
from stpl.errors import CheckpointError, RecordError
from stpl.nn import weights
from stpl.nn.convert import understand
from stpl.runs.artifacts import read_evaluation, write_arrays

STATE = {"conv.weight": torch.arange(64.0).reshape(4, 16), "conv.bias": torch.ones(3, dtype=torch.float64)}


def saved(content: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, **options)
    return file.getvalue()


def safetensors(header: dict[str, Any], data: bytes) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def flip(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 0x10]) + data[place + 1 :]


def outcome(path: Path, data: bytes) -> dict[str, Tensor] | None:
    """The tensors of a file with this content; `None` if it is refused. Anything but a refusal is a defect."""
    path.write_bytes(data)
    try:
        return weights.tensors(weights.read(path))
    except CheckpointError:
        return None


def same(found: dict[str, Tensor] | None) -> bool:
    return found is not None and found.keys() == STATE.keys() and all(found[k].equal(STATE[k]) for k in STATE)


def test_no_damage_inside_a_checkpoint_goes_unnoticed(tmp_path: Path) -> None:
    """A flipped bit, a block of zeros, a lost end: anywhere in the file. What is still read is what was written."""
    data, path = saved({"state_dict": STATE, "epoch": 3}), tmp_path / "a.ckpt"
    assert same(outcome(path, data))
    places = random.Random(0).sample(range(len(data)), 250)
    found = [outcome(path, flip(data, place)) for place in places]
    found += [outcome(path, data[:place] + bytes(64) + data[place + 64 :]) for place in places[:100]]
    found += [outcome(path, data[:place]) for place in places[:100]]
    assert all(tensors is None or same(tensors) for tensors in found)
    assert sum(tensors is None for tensors in found) > 200
    inside = data.index(STATE["conv.weight"].numpy().tobytes())
    path.write_bytes(flip(data, inside + 10))
    with pytest.raises(CheckpointError, match=r"the file is torn \(its part .*data/0 is not what was written\)"):
        weights.read(path)


def test_a_checkpoint_whose_writer_left_checksums_out_is_read(tmp_path: Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        data = saved({"state_dict": STATE})
    finally:
        torch.serialization.set_crc32_options(True)
    assert same(outcome(tmp_path / "a.pth", data))


def test_whatever_a_file_begins_with_one_line_tells_it(tmp_path: Path) -> None:
    """Texts, pickles and noise with every first byte, and the old format with damage anywhere."""
    noise = random.Random(0).randbytes(200)
    old = saved({"state_dict": STATE}, _use_new_zipfile_serialization=False)
    plain = pickle.dumps({"a": [1, 2.5, "x"], "b": b"123"}, protocol=2)
    assert same(outcome(tmp_path / "a.pth", old))
    for first in range(256):
        for rest in (b"ello, not a checkpoint: 5\n", noise, b""):
            assert outcome(tmp_path / "a.pth", bytes([first]) + rest) is None
    for place in random.Random(0).sample(range(len(old)), 150):
        outcome(tmp_path / "a.pth", flip(old, place))
    for place in range(len(plain)):
        assert outcome(tmp_path / "a.pth", flip(plain, place)) is None
        assert outcome(tmp_path / "a.pth", plain[:place]) is None


def test_safetensors_are_read(tmp_path: Path) -> None:
    half = torch.tensor([1.0, -2.5, 3.25], dtype=torch.bfloat16)
    parts = {"F32": STATE["conv.weight"], "F64": STATE["conv.bias"], "BF16": half, "I64": torch.tensor(7),
             "BOOL": torch.tensor([True, False]), "F16": torch.zeros(0, 3, dtype=torch.float16)}  # fmt: skip
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    data = b""
    for kind, tensor in parts.items():
        raw = tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes()
        header[f"a.{kind}"] = {
            "dtype": kind,
            "shape": list(tensor.shape),
            "data_offsets": [len(data), len(data) + len(raw)],
        }
        data += raw
    found = outcome(tmp_path / "a.safetensors", safetensors(header, data))
    assert found is not None
    assert found.keys() == {f"a.{kind}" for kind in parts}
    for kind, tensor in parts.items():
        assert found[f"a.{kind}"].dtype == tensor.dtype
        assert found[f"a.{kind}"].shape == tensor.shape
        assert found[f"a.{kind}"].equal(tensor)


@pytest.mark.parametrize(
    "told",
    [{"dtype": "F32", "shape": [4], "data_offsets": [0, 8]}, {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]},
     {"dtype": "F32", "shape": [2], "data_offsets": [0, 1 << 60]},
     {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]},
     {"dtype": "F99", "shape": [2], "data_offsets": [0, 8]}, {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
     {"dtype": "F32", "shape": [2.0], "data_offsets": [0, 8]}, {"dtype": "F32", "shape": [2]}, 5, None],
)  # fmt: skip
def test_safetensors_that_lie_are_refused(told: Any, tmp_path: Path) -> None:
    sound = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    assert outcome(tmp_path / "a.safetensors", safetensors({"a": sound}, bytes(8))) is not None
    assert outcome(tmp_path / "a.safetensors", safetensors({"a": told}, bytes(8))) is None


def script(path: Path) -> None:
    with pytest.warns(DeprecationWarning, match="torch.jit"):
        torch.jit.save(torch.jit.script(nn.Conv2d(3, 3, 1)), path)


def tar(path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo("pickle"))


def arrays(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, a=np.zeros(3))


@pytest.mark.parametrize(
    ("write", "name"),
    [
        (script, "a TorchScript archive"),
        (tar, "a tar archive, as torch wrote them before"),
        (arrays, r"a NumPy archive \(.npz\)"),
        (lambda path: path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid 1\n"), "a pointer of Git LFS"),
        (lambda path: path.write_text("\n<!DOCTYPE html>\n<html>"), "a text file; it begins with '<!DOCTYPE html>'"),
        (lambda path: path.write_bytes(b"\x1f\x8b\x08" + bytes(20)), "a gzip file[\\s\\S]*→ unpack it first"),
        (lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(20)), "an HDF5 file"),
        (lambda path: path.write_bytes(pickle.dumps({"a": 1})), "a pickle that torch.save did not write"),
        (lambda path: path.write_bytes(b"\x08\x07\x12\x07pytorch\x1a\x05"), "an ONNX file"),
        (lambda path: path.write_bytes(b"\x93\x01\x02 unheard of"), "no checkpoint, or one whose beginning is damaged"),
        (Path.mkdir, "a folder, not a checkpoint"),
    ],
)  # fmt: skip
def test_what_is_whole_is_named_and_not_called_torn(write: Callable[[Path], Any], name: str, tmp_path: Path) -> None:
    write(tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=f"is {name}") as caught:
        weights.read(tmp_path / "a.pt")
    assert "torn" not in str(caught.value)
    assert "delete" not in str(caught.value)


def test_the_class_that_is_not_unpickled_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.pth").write_bytes(saved({"model": STATE, "args": Namespace(lr=1)}))
    with pytest.raises(CheckpointError, match=r"holds argparse\.Namespace; only tensors.*\n.*save its state_dict"):
        weights.read(tmp_path / "a.pth")


def nested(*keys: str) -> dict[str, Any]:
    content: dict[str, Any] = dict(resnet_state(18, 4))
    for key in reversed(keys):
        content = {key: content, "epoch": 3}
    return content


@pytest.mark.parametrize(
    "content",
    [nested("model"), nested("model_state_dict"), nested("net"), nested("ema"), nested("checkpoint", "ema", "shadow"),
     {**nested("weights"), "loss": torch.tensor(0.5), "rng_state": torch.zeros(9, dtype=torch.uint8)},
     {**nested("net"), "optimizer": {"state": {0: {"exp_avg": torch.zeros(2)}, 1: {"exp_avg": torch.zeros(2)}}}},
     {**nested("student"), "optimizer": {"momentum": {"conv1.weight": torch.zeros(2)}}},
     {**nested("state_dict"), "state_dict_ema": resnet_state(18, 4, seed=9)}],
)  # fmt: skip
def test_a_state_dict_is_found_under_any_key(content: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "a.pth").write_bytes(saved(content))
    found = understand(tmp_path / "a.pth").tensors
    assert found.keys() == resnet_state(18, 4).keys()
    assert all(found[key].equal(value) for key, value in resnet_state(18, 4).items())


def test_of_several_state_dicts_one_is_chosen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    student, teacher = advent_state(50, 4, 15), resnet_state(18, 8)
    path = tmp_path / "a.pth"
    path.write_bytes(saved({"student": student, "teacher": {"net": teacher}}))
    with pytest.raises(CheckpointError, match=r"several state_dicts: student \(\d+ tensors\), teacher.net \(\d+ tens"):
        understand(path)
    with pytest.raises(CheckpointError, match=r"no state_dict 'ema', but student"):
        understand(path, key="ema")
    assert main(["weights", "inspect", str(path), "--key=teacher.net"]) == 0
    said = capsys.readouterr().out
    assert "ResNet-18, width 8" in said
    assert "state_dict     teacher.net (there is also student: --key)" in said
    assert main(["weights", "convert", str(path), "--key=student", f"--out={tmp_path / 'b.ckpt'}"]) == 0
    assert weights.describe(tmp_path / "b.ckpt").architecture.to_dict()["init_args"]["depth"] == 50


def test_without_a_state_dict_the_keys_that_there_are_are_shown(tmp_path: Path) -> None:
    (tmp_path / "a.pth").write_bytes(saved({"epoch": 3, "model": {"weights": [1.0, 2.0]}}))
    with pytest.raises(CheckpointError, match="holds no state_dict; its keys are epoch, model"):
        understand(tmp_path / "a.pth")


@pytest.mark.parametrize(
    "prefix",
    ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "module.module._orig_mod.module.",
     "_orig_mod.network.", "network._orig_mod.module.", "module.network._orig_mod.", "_fsdp_wrapped_module."],
)  # fmt: skip
def test_wrappers_are_taken_off_in_any_order(prefix: str) -> None:
    extra = {"projection.weight": torch.zeros(1)} if "network." in prefix else {"n_averaged": torch.zeros(1)}
    wrapped = {f"{prefix}{key}": value for key, value in STATE.items()}
    assert same(weights.tensors({"state_dict": {**wrapped, **extra}}))
    assert same(
        weights.tensors({"conv._orig_mod.weight": STATE["conv.weight"], "conv.module.bias": STATE["conv.bias"]})
    )


def test_a_name_with_and_without_its_wrapper_is_refused() -> None:
    with pytest.raises(CheckpointError, match="one name twice"):
        weights.tensors({"a._orig_mod.weight": torch.zeros(1), "a.weight": torch.ones(1)})


def test_no_damage_of_the_arrays_beside_a_record_goes_unnoticed(tmp_path: Path) -> None:
    confusions = np.arange(2 * 9).reshape(2, 3, 3)
    write_arrays(tmp_path / "evaluation.npz", {"keys": np.array(["a", "b"]), "confusions": confusions})
    whole, refused = (tmp_path / "evaluation.npz").read_bytes(), 0
    for place in range(len(whole)):
        (tmp_path / "evaluation.npz").write_bytes(flip(whole, place))
        try:
            found = read_evaluation(tmp_path)
        except RecordError:
            refused += 1
        else:
            assert found is not None
            assert found.keys == ("a", "b")
            assert np.array_equal(found.confusions, confusions)
    assert refused > len(whole) // 2
