"""What a file or a folder of images holds, as one short name: independent of where it lies and what it is called."""

from __future__ import annotations

import hashlib
from pathlib import Path


def content_id(path: Path) -> str:
    """A hash of a file's bytes, or of the names and bytes of the files in a folder."""
    digest = hashlib.blake2b(digest_size=8)
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        if file.is_file():
            digest.update(file.name.encode() if path.is_dir() else b"")
            digest.update(file.read_bytes())
    return digest.hexdigest()
