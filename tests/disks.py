"""Disks of any size for processes that fill them: tmpfs in a name space of the process, where the system lets it.

And rights of files, which root does not meet.
"""

import ctypes
import multiprocessing
import os
from contextlib import contextmanager
from pathlib import Path

import pytest

NEW_MOUNTS, NEW_USERS = 0x00020000, 0x10000000
READ_ONLY, REMOUNT, PRIVATE = 1, 32, 1 << 18 | 1 << 14  # with everything below


def mount(folder: Path, options: str) -> None:
    """Mount a disk that only this process and its children see (`ro`: empty), or resize it (`remount,…`)."""
    libc = ctypes.CDLL(None, use_errno=True)

    def done(result):
        if result:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

    again = "remount" in options
    if not again:
        user, group = os.getuid(), os.getgid()
        done(libc.unshare(NEW_MOUNTS | (NEW_USERS if user else 0)))
        if user:
            Path("/proc/self/setgroups").write_text("deny")
            Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
            Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
        done(libc.mount(None, b"/", None, PRIVATE, None))
    text = options.removeprefix("remount,").removeprefix("ro").encode()
    flags = REMOUNT * again | READ_ONLY * (options == "ro")
    done(libc.mount(b"tmpfs", str(folder).encode(), b"tmpfs", flags, text))


def may_mount(folder: Path) -> None:
    """Skip the test where processes may not mount anything."""

    def attempt():
        folder.mkdir()
        try:
            mount(folder, "size=4096")
        except OSError:
            os._exit(1)
        os._exit(0)

    process = multiprocessing.get_context("fork").Process(target=attempt)
    process.start()
    process.join()
    if process.exitcode:
        pytest.skip("this system lets nobody mount a disk of their own")


@contextmanager
def as_anybody():
    """Rights of files count for this thread, also where root runs it."""
    libc, process, before = ctypes.CDLL(None), (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    libc.capget(process, before)
    without = (ctypes.c_uint32 * 6)(*(value * (k % 3 > 0) for k, value in enumerate(before)))  # nothing in effect
    libc.capset(process, without)
    try:
        yield
    finally:
        libc.capset(process, before)
