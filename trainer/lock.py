"""Lock: one run at a time in a folder. The system lets go of it when a process ends, however that comes about."""

from __future__ import annotations

import errno
import logging
import os
import platform
import sys
from pathlib import Path
from typing import IO

from ..core.errors import UserError

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

log = logging.getLogger(__name__)

FILE = ".lock"
PLACE = 2**30
"""Which byte is locked: far behind what the file says, which stays readable on Windows too."""
HELD: dict[Path, IO[str]] = {}
"""What this process holds: a second lock of its own would let go of the first."""


class InUse(UserError):
    """A folder that another run is writing to."""


def hold(folder: Path) -> None:
    """Until this process lets go or ends. InUse if another process holds it."""
    path = (folder / FILE).resolve()
    if path in HELD:
        return
    file = path.open("a+", encoding="utf-8")
    try:
        _take(file)
    except OSError as error:
        said = _holder(file)
        file.close()
        if error.errno not in (errno.EACCES, errno.EAGAIN, errno.EDEADLK):
            log.warning("%s cannot be locked (%s): let no second run write to it.", folder, error.strerror)
            return
        raise InUse(f"{folder} is being trained into by {said}: wait for that run, or choose another `out`.") from None
    file.truncate(0)
    file.write(f"process {os.getpid()} on {platform.node() or 'this machine'}")
    file.flush()
    HELD[path] = file


def release(folder: Path) -> None:
    """Whatever this process held of it."""
    file = HELD.pop((folder / FILE).resolve(), None)
    if file is not None:
        file.truncate(0)
        file.close()


def _holder(file: IO[str]) -> str:
    """Who wrote into the file that they hold it."""
    try:
        file.seek(0)
        return file.read().strip() or "another process"
    except OSError:
        return "another process"


def _take(file: IO[str]) -> None:
    """OSError if another process has it."""
    if sys.platform == "win32":
        file.seek(PLACE)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        file.seek(0)
    else:
        # not flock(), whose locks are handed on to the processes that read pictures
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, PLACE)
