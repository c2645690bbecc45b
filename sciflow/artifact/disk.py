"""Every operation that must survive a kill or a power cut goes through these few functions."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from sciflow.errors import Failed, Invalid, nearest

Durability = Literal["fsync", "rename", "none"]
DURABILITIES: tuple[str, ...] = get_args(Durability)

MAX_BUFFERS = 1000
"""Buffers handed to one system call; Linux takes 1024."""

_NO_LINK = (errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.ENOSYS)


@dataclass(frozen=True)
class Disk:
    """How much is asked of the file system.

    Attributes
    ----------
    durability : {"fsync", "rename", "none"}
        ``fsync``: what was committed survives a power cut. ``rename``: it survives a killed
        process. ``none``: likewise, but a member that was interrupted starts over, because no
        restart points are written.

    Raises
    ------
    Invalid
        If `durability` has a value that it cannot have.
    """

    durability: Durability = "fsync"

    def __post_init__(self) -> None:
        if self.durability not in DURABILITIES:
            raise Invalid(f"durability {self.durability!r}. {nearest(self.durability, DURABILITIES)}")

    def sync(self, handle: int) -> None:
        """Make the content of an open file survive a power cut."""
        if self.durability == "fsync":
            os.fsync(handle)

    def sync_data(self, handle: int) -> None:
        """Likewise, for a file that only grew: sizes yes, times no."""
        if self.durability == "fsync":
            os.fdatasync(handle)

    def sync_path(self, path: Path) -> None:
        """Make a file's content, or the names in a directory, survive a power cut."""
        if self.durability != "fsync":
            return
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def make_folder(self, path: Path) -> None:
        """Create a directory and those above it, each with a lasting name."""
        if path.is_dir():
            return
        self.make_folder(path.parent)
        with contextlib.suppress(FileExistsError):
            os.mkdir(path)  # noqa: PTH102 - the calls of this module are recorded by name in tests
        self.sync_path(path.parent)

    def replace(self, path: Path, data: bytes, *, sync: bool = True) -> None:
        """Write a file so that a reader sees the old content or the new, nothing between.

        Parameters
        ----------
        path : Path
            The file; its directory is created.
        data : bytes
            The content.
        sync : bool
            False leaves it to a later `sync_path`.
        """
        self.make_folder(path.parent)
        # Threads of one process may write the same file, with the same content (a numbering).
        temporary = path.with_name(f"{path.name}.{os.getpid()}-{os.urandom(4).hex()}.partial")
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        try:
            write_at(handle, [data], 0)
            if sync:
                self.sync(handle)
        except BaseException:
            os.close(handle)
            temporary.unlink(missing_ok=True)
            raise
        os.close(handle)
        os.replace(temporary, path)  # noqa: PTH105
        if sync:
            self.sync_path(path.parent)

    def publish(self, part: Path, final: Path) -> bool:
        """Give a finished file its final name unless that is taken; the first one wins.

        Parameters
        ----------
        part, final : Path
            On the same file system. `part` keeps its name beside the new one where the file
            system has hard links.

        Returns
        -------
        bool
            False if `final` existed. The directory of `final` is not synced.
        """
        try:
            os.link(part, final)
            return True
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in _NO_LINK:
                raise
        # No hard links here: an empty file takes the name for us, then the content replaces it.
        try:
            os.close(os.open(final, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644))
        except FileExistsError:
            return False
        os.replace(part, final)  # noqa: PTH105
        return True

    def rename(self, old: Path, new: Path) -> None:
        """Rename within a file system, lasting."""
        os.rename(old, new)  # noqa: PTH104
        self.sync_path(new.parent)
        if new.parent != old.parent:
            self.sync_path(old.parent)


def write_at(handle: int, buffers: Sequence[Any], offset: int) -> int:
    """Write buffers one after the other from `offset` on, all of them.

    Returns
    -------
    int
        The offset behind them.
    """
    for first in range(0, len(buffers), MAX_BUFFERS):
        group = [memoryview(b).cast("B") for b in buffers[first : first + MAX_BUFFERS] if len(b)]
        while group:
            done = os.pwritev(handle, group, offset)
            offset += done
            while group and done >= len(group[0]):
                done -= len(group.pop(0))
            if done:
                group[0] = group[0][done:]
    return offset


def remove_folder(path: Path) -> None:
    """Delete a directory of files, as far as it is there."""
    with contextlib.suppress(FileNotFoundError):
        for entry in list(path.iterdir()):
            entry.unlink(missing_ok=True)
        path.rmdir()


def explain_os_error(error: OSError, path: Path, kept: str) -> Failed:
    """A full disk or a vanished directory in words a user can act on.

    Parameters
    ----------
    error : OSError
        What the system said.
    path : Path
        What was being written.
    kept : str
        What is safe, for example ``"17 members are kept"``.
    """
    reasons = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the quota is used up"}
    reason = reasons.get(error.errno or 0, error.strerror or str(error))
    todo = "free some space and run again" if error.errno in reasons else "run again when it is mended"
    return Failed(f"cannot write {path}: {reason}; {kept}; {todo}")
