"""Whole file: what is written is there to the last byte or not at all, and may be read by whom the umask lets."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

from .errors import UserError


class UnwritableError(UserError, OSError):
    """No room for a file, or no right to write it, in one sentence."""


def unwritable(path: Path, error: Exception) -> UnwritableError:
    """Why a file could not be written."""
    reason = getattr(error, "strerror", None) or " ".join(str(error).split())
    kept = "; the one from before was kept" if path.exists() else ""
    return UnwritableError(
        f"Could not write {path} ({reason}{_room(path)}){kept}: free some space or choose another folder."
    )


def _room(path: Path) -> str:
    """How much there is, as the end of a sentence in brackets; nothing where that cannot be asked."""
    try:
        return f", {shutil.disk_usage(path.parent).free / 2**20:.0f} MiB free"
    except OSError:
        return ""


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A neighbour to fill, which then takes the name: a kill, an error or a full disk leaves what was there before.

    UnwritableError if there is no room or no right.
    """
    partial = None
    try:
        partial = _neighbour(path)
        # as the umask and the folder have it; some writers make files that only their owner can read
        rights = partial.stat().st_mode & 0o777
        yield partial
        partial.chmod(rights)
        os.replace(partial, path)
    except (OSError, SafetensorError, RuntimeError) as error:
        # torch.save hides what befell it behind an error of its own
        cause = error.__context__ if isinstance(error, RuntimeError) else error
        if not isinstance(cause, OSError | SafetensorError):
            raise
        raise unwritable(path, cause) from error
    finally:
        if partial is not None:
            with suppress(OSError):
                partial.unlink()


def _neighbour(path: Path) -> Path:
    """An empty file beside another, hidden, with a name of its own and of no more than the usual length."""
    while True:
        partial = path.with_name(f".{secrets.token_hex(4)}.partial")
        with suppress(FileExistsError), partial.open("xb"):
            return partial


def write_whole(path: Path, data: bytes) -> None:
    """Write bytes so that nobody ever finds half of them. UnwritableError as of whole_file()."""
    with whole_file(path) as partial:
        partial.write_bytes(data)
