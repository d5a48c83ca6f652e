"""What can be said of the path of footage before it is opened. Imports neither torch nor OpenCV."""

import errno
import os
import re
import stat
from pathlib import Path

from stpl.errors import DataError

_KINDS = {stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}
_ADDRESS = re.compile(r"^[a-z][a-z0-9+.-]+:/")


def check_name(path: Path) -> None:
    """Raise `DataError` for a path that is not UTF-8: OpenCV takes no other, and configurations hold none."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        shown = str(path).encode(errors="backslashreplace").decode()
        raise DataError("the name is not UTF-8", where=shown, mend="rename the file or folder") from None


def check_path(path: Path) -> None:
    """Raise `DataError` unless a path is that of a file or folder which may be read. Nothing is opened but files."""
    check_name(path)
    try:
        kind = stat.S_IFMT(path.stat().st_mode)
    except ValueError:
        raise DataError("no path holds a null character", where=repr(str(path)), mend="check the path") from None
    except OSError as error:
        raise _refused(path, error) from None
    if kind in _KINDS:
        what = f"this is {_KINDS[kind]}, not a file: frames are read more than once"
        raise DataError(what, where=path, mend="record it into a file first, and give that")
    try:
        if kind == stat.S_IFDIR:
            os.scandir(path).close()
        else:
            path.open("rb").close()
    except OSError as error:
        raise _refused(path, error) from None


def _refused(path: Path, error: OSError) -> DataError:
    if error.errno == errno.ELOOP:
        return DataError("there is no such video: the link leads to itself", where=path, mend="mend the link")
    if isinstance(error, PermissionError):
        return DataError("permission denied: the video may not be read", where=path, mend="mend its permissions")
    if not isinstance(error, FileNotFoundError | NotADirectoryError) and error.errno != errno.ENAMETOOLONG:
        return DataError(f"the video cannot be read ({error.strerror})", where=path, mend="check the path and its disk")
    if error.errno != errno.ENAMETOOLONG and path.is_symlink():
        more = f" (it is a link to {path.readlink()}, which is not there)"
        return DataError(f"there is no such video or folder{more}", where=path, mend="mend the link")
    mend = "download or record it first, and give the file" if _ADDRESS.match(str(path)) else "check the path"
    return DataError("there is no such video or folder", where=path, mend=mend)
