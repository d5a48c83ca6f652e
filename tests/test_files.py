"""A file is written whole or not at all, and what cannot be written is told with its cause."""

from __future__ import annotations

import errno
import os
import resource
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from stpl.errors import CheckpointError, StplError, cannot_write, file_mend
from stpl.files import locked, whole_file, write_atomically


@pytest.mark.parametrize(
    ("number", "mend"),
    [
        (errno.ENOSPC, "free some space"),
        (errno.EDQUOT, "free some space"),
        (errno.EACCES, "mend the rights"),
        (errno.EPERM, "mend the rights"),
        (errno.EROFS, "mend the rights"),
        (errno.ENOTDIR, "a file stands where a folder should"),
        (errno.EEXIST, "a file stands where a folder should"),
        (errno.EISDIR, "a folder stands where a file should"),
        (errno.ENAMETOOLONG, "shorter name"),
        (errno.ELOOP, "links"),
        (errno.EFBIG, "ulimit -f"),
        (errno.EMFILE, "ulimit -n"),
        (errno.EIO, "check the disk"),
        (errno.ECONNREFUSED, "check the network"),
    ],
)
def test_each_cause_has_its_mend(number: int, mend: str) -> None:
    error = cannot_write("place", OSError(number, os.strerror(number)), then="call again")
    told = str(error)
    assert f"place: cannot be written: {os.strerror(number)}" in told
    assert mend in told.split("→")[1]
    assert told.endswith("; then call again")
    assert ("space" in told.split("→")[1]) == (number in (errno.ENOSPC, errno.EDQUOT))


def test_an_error_without_a_number_is_known_by_its_type() -> None:
    assert file_mend(PermissionError("no")).startswith("mend the rights")
    assert file_mend(OSError("odd")) == "check the disk and the path"
    assert file_mend(RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos")).startswith("free some")


def test_what_stands_in_the_way_is_told_and_nothing_is_left(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    (tmp_path / "folder" / "inner").mkdir(parents=True)
    for path, mend in (
        (tmp_path / "file" / "x", "a file stands"),
        (tmp_path / "file" / "x" / "y", "a file stands"),
        (tmp_path / "folder", "a folder stands"),
        (tmp_path / ("x" * 300), "shorter name"),
        (tmp_path / "new" / "deep" / ("x" * 300), "shorter name"),
    ):
        with pytest.raises(StplError, match=mend):
            write_atomically(path, "text")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "folder", "inner"]
    assert (tmp_path / "file").read_text() == "kept"


def test_a_failure_of_any_kind_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    write_atomically(path, b"old")

    class Full(torch.nn.Module):
        def __reduce__(self) -> str:
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(CheckpointError, match=r"net\.pt: cannot be written: No space"):  # noqa: SIM117
        with whole_file(path, kind=CheckpointError) as file:
            torch.save({"weights": torch.zeros(3), "odd": Full()}, file)
    with pytest.raises(ValueError, match="odd"), whole_file(path):
        raise ValueError("odd")
    assert [one.name for one in tmp_path.iterdir()] == ["net.pt"]
    assert path.read_bytes() == b"old"


def test_a_checkpoint_that_does_not_fit_is_told_with_its_cause(tmp_path: Path) -> None:
    """Where a write fails, torch ends the archive with an error of its own, which names no cause."""
    path = tmp_path / "net.pt"
    write_atomically(path, b"old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, before[1]))
    try:
        with pytest.raises(StplError, match=r"net\.pt: cannot be written: File too large"), whole_file(path) as file:
            torch.save({"weights": torch.zeros(200_000)}, file)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    with pytest.raises(RuntimeError, match="odd"), whole_file(path):
        raise RuntimeError("odd")
    assert [one.name for one in tmp_path.iterdir()] == ["net.pt"]
    assert path.read_bytes() == b"old"


def test_a_name_may_be_as_long_as_the_file_system_allows(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 255)
    write_atomically(path, "text")
    assert path.read_text() == "text"


def test_threads_exclude_each_other_without_locks_of_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STPL_LOCKS", "off")
    inside, most, waited = 0, 0, []

    def work(_: int) -> None:
        nonlocal inside, most
        with locked(tmp_path / ".lock", lambda: waited.append(1)):
            inside += 1
            most = max(most, inside)
            time.sleep(0.05)
            inside -= 1

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(work, range(2)))
    assert (most, waited) == (1, [1])
