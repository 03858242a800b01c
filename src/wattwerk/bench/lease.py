"""Who runs a sweep: a lock on a file that the system itself lets go when its process ends, however it ends."""

from __future__ import annotations

import errno
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import IO, Final, Self

from wattwerk.errors import StoreError

#: what a lock that somebody else holds looks like on Linux, macOS and Windows
_HELD: Final = {errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES, errno.EDEADLK}


class Lease:
    """The right to run a sweep; as a context it ends with the block.

    Made by ``take``. Children do not inherit it, since Python's files are closed in them.
    """

    def __init__(self, path: Path, file: IO[bytes]) -> None:
        self._path = path
        self._file = file

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        """Let go; nothing happens the second time."""
        if self._file.closed:
            return
        with suppress(OSError):  # Windows removes no file that is open; it stays, empty
            self._path.unlink()
        self._file.close()


def take(store: Path, sweep: str) -> Lease | None:
    """Take a sweep for this process; None where another one runs it now.

    Args:
        store: The store's file; the lock's file goes into a folder beside it.
        sweep: The sweep's id.

    Raises:
        StoreError: The lock's file cannot be made.
    """
    path = store.parent / "running" / f"{sweep}.lock"
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = path.open("ab")
        except OSError as error:
            raise StoreError(f"cannot write {path} ({error.strerror})", "make its folder writable") from error
        if not _lock(file):
            file.close()
            return None
        if _still_there(path, file):
            return Lease(path, file)
        file.close()  # its holder removed the file between opening and locking: another process may lock a new one


def _lock(file: IO[bytes]) -> bool:
    """Lock a file without waiting; where the file system has no locks at all, there is nothing to be respected."""
    try:
        if sys.platform == "win32":
            import msvcrt

            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in _HELD
    return True


def _still_there(path: Path, file: IO[bytes]) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except OSError:
        return False
