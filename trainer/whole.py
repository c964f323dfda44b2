"""Whole: files of a run that are complete or as they were, whatever happens while they are written."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..core.errors import UserError


class NotWritten(UserError):
    """A file that could not be written, and what is left."""


@contextmanager
def whole(path: Path, mark: str = ".partial") -> Iterator[Path]:
    """A neighbour to fill, which then takes the name of `path`; nothing is left of it if that fails.

    NotWritten, naming the file, if there is no room for it, or it cannot be written otherwise.
    """
    partial = path.with_name(f".{path.name}{mark}")
    try:
        yield partial
        partial.replace(path)
    except BaseException as error:
        reason = reason_of(error)
        partial.unlink(missing_ok=True)
        if reason is None:
            raise
        left = "the one from before was kept" if path.exists() else "there was none before"
        raise NotWritten(f"{path} could not be written ({reason}{room(path)}); {left}.") from error


REASONS = ("No space left", "File too large", "Disk quota exceeded", "Read-only file system", "Input/output error")
"""What libraries pass on of an OSError in a kind of their own."""


def reason_of(error: BaseException) -> str | None:
    """Why a disk did not take a file, in words; None for any other error."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    if error.__context__ is not None:  # torch.save() stumbles once more while it cleans up
        return reason_of(error.__context__)
    return next((reason for reason in REASONS if reason in str(error)), None)


def room(path: Path) -> str:
    """How much there is, as the end of a sentence in brackets."""
    try:
        return f", {shutil.disk_usage(path.parent).free / 2**20:.0f} MiB free"
    except OSError:
        return ""
