"""Read files that a user names, up to a maximum size; pipes and devices are refused."""

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

_FORMATS = (
    (b"version https://git-lfs", "a Git LFS pointer in place of the file; run git lfs pull"),
    (b"PAR1", "a Parquet file"),
    (b"ARROW1", "an Arrow file"),
    (b"PK\x03\x04", "a ZIP archive or a spreadsheet"),
    (b"\x1f\x8b", "compressed with gzip"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd"),
    (b"BZh", "compressed with bzip2"),
    (b"\xfd7zXZ", "compressed with xz"),
    (b"%PDF", "a PDF file"),
    (b"SQLite format 3", "a SQLite database"),
    (b"\xff\xfe", "UTF-16 text; save it as UTF-8"),
    (b"\xfe\xff", "UTF-16 text; save it as UTF-8"),
)
_TYPES = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


class UnreadableFile(Exception):
    """A file cannot be read; the message contains its path, the reason and a remedy if known."""


def read_text(path: Path, max_bytes: int) -> str:
    """Return the UTF-8 text of a regular file, without its byte order mark.

    Each line ending becomes a line feed. Raises FileNotFoundError and UnreadableFile.
    """
    data = read_bytes(path, max_bytes)
    for start, name in _FORMATS:
        if data.startswith(start):
            raise UnreadableFile(f"cannot read {path}: it is {name}")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UnreadableFile(
            f"{path}:{line}: cannot read byte 0x{data[error.start]:02x} as UTF-8; save the file as "
            "UTF-8"
        ) from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise UnreadableFile(f"{path}:{line}: cannot read a NUL byte; save the file as UTF-8 text")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_bytes(path: Path, max_bytes: int) -> bytes:
    """Return the contents of a regular file. Opening a pipe does not block.

    Raises FileNotFoundError, and UnreadableFile for anything else that cannot be read.
    """
    with open_regular(path) as descriptor:
        chunks, size = [], 0
        if os.fstat(descriptor).st_size > max_bytes:
            raise UnreadableFile(_too_large(path, max_bytes))
        while size <= max_bytes and (chunk := os.read(descriptor, 1 << 20)):
            chunks.append(chunk)
            size += len(chunk)
    if size > max_bytes:  # the stated size of files in /proc is 0
        raise UnreadableFile(_too_large(path, max_bytes))
    return b"".join(chunks)


@contextlib.contextmanager
def open_regular(path: Path) -> Iterator[int]:
    """Open a regular file for reading, and yield its descriptor. Opening a pipe does not block.

    Raises FileNotFoundError, and UnreadableFile for anything else that cannot be opened or read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise UnreadableFile(f"cannot read {path}: {error}") from None
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            kind = next((name for test, name in _TYPES if test(mode)), "not a file")
            raise UnreadableFile(f"cannot read {path}: it is {kind}; choose a regular file")
        yield descriptor
    except OSError as error:
        raise UnreadableFile(f"cannot read {path}: {error}") from None
    finally:
        os.close(descriptor)


def _too_large(path: Path, max_bytes: int) -> str:
    return f"cannot read {path}: it is larger than {max_bytes:,} bytes, the maximum"
