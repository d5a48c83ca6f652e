"""What a checkpoint file is, known by its content and not by its name, and the content of those that can be read.

| format | is it read? | how damage inside it is noticed |
|---|---|---|
| `torch.save` since torch 1.6, a zip archive | yes | every member's CRC-32 is compared; `torch.load` does not do that |
| `torch.save` before, pickles in a row | yes | only where they cannot be unpickled any more |
| safetensors | yes, by its own library | only its header and its length |
| anything else | no: it is named, with the way to a file that is read | |

Nothing but tensors and plain types is ever unpickled (`weights_only=True`).
"""

import codecs
import json
import pickle
import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from stpl.errors import CheckpointError, first_line, lacking
from stpl.files import whole_file, write_atomically

_HEAD = 4096  # bytes by which a format is recognised
_TORCH_LEGACY = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19"  # the number with which torch began its files before 1.6
_FOLDER = 0x10  # a part marked as a folder: torch's reader would give memory as it is, and say nothing
_SAVE_STATE = "load it with the program that wrote it, and save its state_dict with torch.save or as safetensors"

_KNOWN = {
    b"\x1f\x8b": "a gzip file", b"BZh": "a bzip2 file", b"\xfd7zXZ\0": "an xz file", b"\x28\xb5\x2f\xfd": "a zstd file",
    b"7z\xbc\xaf": "a 7z archive", b"Rar!": "a rar archive", b"\x89HDF\r\n": "an HDF5 file, as Keras writes them",
    b"GGUF": "a GGUF file", b"\x93NUMPY": "a NumPy array", b"\x89PNG": "a PNG image", b"\xff\xd8\xff": "a JPEG image",
}  # fmt: skip
_COMPRESSED = ("gzip", "bzip2", "xz", "zstd", "7z", "rar")

_DESCRIPTION = "stpl"  # key of the metadata of our safetensors files
_MOST_HEADER = 100 * 2**20  # bytes; the format's own limit


def read(path: Path) -> Any:
    """The content of a checkpoint file: what was saved, or a safetensors file's tensors by name.

    A file of `write_safetensors` gives the tensors as `state_dict`, the description as `stpl`.

    Raises:
        CheckpointError: the file cannot be read, is damaged, holds more than tensors and plain types, or is something
            else than a checkpoint; the message says which.
    """
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except OSError as error:
        mend = "check the path and its permissions"
        raise CheckpointError(f"cannot be read ({error.strerror})", where=path, mend=mend) from error
    if head.startswith(b"PK\x03\x04"):
        return _unpickle(path, checked=_check_archive(path))
    if _TORCH_LEGACY in head[:32]:
        return _unpickle(path, checked=False)
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= _MOST_HEADER:
        return _read_safetensors(path)
    raise _other(path, head)


def write(path: Path, content: Mapping[str, Any]) -> None:
    """Write what a checkpoint holds with `torch.save`: whole or not at all; raises `StplError` if the disk refuses."""
    with whole_file(path) as file:
        torch.save(dict(content), file)


def _torn(path: Path, why: str) -> CheckpointError:
    return CheckpointError(f"the file is torn ({why})", where=path, mend="delete it and train or copy it again")


def _check_archive(path: Path) -> bool:
    """Compare the checksum of every member of a zip archive; false if it holds none (torch can leave them out)."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            _check_kind(path, [member.filename for member in members])
            checked = any(member.CRC for member in members)
            torn = next((member.filename for member in members if member.external_attr & _FOLDER), None)
            torn = archive.testzip() if checked and torn is None else torn
    except CheckpointError:
        raise
    except Exception as error:  # a damaged directory asks for whatever its bytes say: encryption, terabytes, …
        raise _torn(path, f"its archive cannot be read: {error}") from error
    if torn is not None:
        raise _torn(path, f"its part {torn} is not what was written")
    return checked


def _check_kind(path: Path, names: Sequence[str]) -> None:
    """Raise `CheckpointError` for a whole archive that `torch.save` did not write."""
    ends = {name.rpartition("/")[2] for name in names}
    if "constants.pkl" in ends:
        kind, mend = "a TorchScript archive", "save its state_dict: torch.save(torch.jit.load(FILE).state_dict(), OUT)"
    elif "data.pkl" in ends:
        return
    elif names and all(name.endswith(".npy") for name in names):
        kind, mend = "a NumPy archive (.npz)", "save its arrays as safetensors, or as tensors with torch.save"
    elif "archive_format" in ends:
        kind, mend = "an archive of torch.export", _SAVE_STATE
    else:
        shown = ", ".join(names[:3]) or "nothing"
        kind, mend = f"a zip archive that torch.save did not write (it holds {shown})", "unpack it first"
    raise CheckpointError(f"is {kind}, not a checkpoint with a state_dict", where=path, mend=mend)


def _unpickle(path: Path, checked: bool) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged pickles raise whatever their bytes ask for
        stranger = re.search(r"GLOBAL (\S+)", str(error))
        if stranger is None and not checked:
            raise _torn(path, f"{type(error).__name__} on reading it") from error
        if stranger is None and not isinstance(error, pickle.UnpicklingError):
            what = f"is whole, but torch {torch.__version__} cannot read it ({first_line(error)})"
            raise CheckpointError(what, where=path, mend=_SAVE_STATE) from error
        found = "more than tensors and plain types" if stranger is None else stranger[1]
        what = f"holds {found}; only tensors and plain types are read, all else is never unpickled here"
        raise CheckpointError(what, where=path, mend=_SAVE_STATE) from error


def _other(path: Path, head: bytes) -> CheckpointError:
    """The error for a file that is no checkpoint."""
    text = _as_text(head)
    known = next((name for magic, name in _KNOWN.items() if head.startswith(magic)), None)
    mend = _SAVE_STATE
    if not head.strip(b"\0"):
        return _torn(path, "it begins with zeros" if head else "it is empty")
    if text is not None and text.startswith("version https://git-lfs.github.com"):
        what, mend = "a pointer of Git LFS, not the file itself", "fetch the file: git lfs pull"
    elif text is not None:
        first = next((line.strip() for line in text.splitlines() if line.strip()), "")
        what, mend = f"a text file; it begins with '{first[:60]}'", "give the checkpoint itself"
    elif known is not None:
        what, mend = known, "unpack it first" if any(word in known for word in _COMPRESSED) else mend
    elif head[257:262] == b"ustar":
        what = "a tar archive, as torch wrote them before 0.2"
    elif head[0] == 0x80 and head[1:2] <= b"\x05":
        what = "a pickle that torch.save did not write, which is never unpickled here"
    elif head[0] == 0x08 and head[2:3] == b"\x12":
        what = "an ONNX file, by its look"
    else:
        what = f"no checkpoint, or one whose beginning is damaged: its first bytes are {head[:8].hex(' ')}"
        mend = "give a file that torch.save wrote, or a safetensors file; copy it again if it should be one"
    return CheckpointError(f"is {what}", where=path, mend=mend)


def _as_text(head: bytes) -> str | None:
    encoding = "utf-16" if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    decoder = codecs.getincrementaldecoder(encoding)()
    try:
        text = decoder.decode(head)  # the last letter may be cut
    except UnicodeDecodeError:
        return None
    return text if all(letter.isprintable() or letter.isspace() for letter in text) else None


def write_safetensors(path: Path, tensors: Mapping[str, Tensor], description: Mapping[str, Any]) -> None:
    """Write tensors by name, and the entry `stpl` of `weights.description` or more, as a safetensors file.

    The file is replaced as a whole; raises `CheckpointError` if it cannot be written.
    """
    copies = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    content = safetensors.torch.save(copies, {_DESCRIPTION: json.dumps(description)})
    write_atomically(path, content, kind=CheckpointError)


def _read_safetensors(path: Path) -> dict[str, Any]:
    try:
        with safetensors.safe_open(path, "pt") as file:
            names: list[str] = file.keys()
            found = {name: file.get_tensor(name).clone() for name in names}
            description = (file.metadata() or {}).get(_DESCRIPTION)
    except Exception as error:  # its own kinds of error, and those of torch for a shape that cannot be
        if lacking(error) is not None:
            raise
        raise _torn(path, f"its safetensors header cannot be read: {first_line(error)}") from error
    if description is None:
        return found
    try:
        return {"state_dict": found, _DESCRIPTION: json.loads(description)}
    except ValueError as error:
        raise _torn(path, f"its description cannot be read: {error}") from error
