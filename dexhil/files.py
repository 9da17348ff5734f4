"""Small files written whole: a reader sees the old one or the new one, never a part. Standard library only."""

import os
from pathlib import Path


def sync_directory(path: Path) -> None:
    """Makes renames and new files in `path` durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_durably(path: Path, content: bytes) -> Path:
    """Writes a small file whole, through a temporary name, and syncs it. Returns `path`."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    return path
