"""Library: the folders in which a host's users keep checkpoints and adapters, and what was loaded out of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar
from weakref import WeakValueDictionary

from .adapter_file import is_adapter
from .adapters import first
from .checkpoint import unet_folders
from .tensors import CheckpointError, Weights

Network = TypeVar("Network")
Stamps = tuple[tuple[str, int, int], ...]
"""(path, time of the last change in ns, bytes) of each file."""


@dataclass(frozen=True)
class Library:
    """Where checkpoints and adapters are looked for."""

    folders: Callable[[], list[Path]]
    """The first one comes first; asked each time, for a host may add some."""
    place: str
    """What a person calls it, such as models/perception."""

    @property
    def nothing(self) -> str:
        """What a widget shows where there is nothing to choose."""
        return f"(none: put one into {self.place})"

    def choices(self, adapters: bool = False) -> list[str]:
        """Checkpoints, or adapters, with / between folders on every system."""
        found = [
            path.relative_to(folder).as_posix()
            for folder in self.folders()
            for path in candidates(folder)
            if _holds_adapter(path, _stamp(path)) == adapters
        ]
        return list(dict.fromkeys(sorted(found))) or [self.nothing]

    def resolve(self, name: str, adapters: bool = False) -> Path:
        """The path of a choice. CheckpointError for names that lead out of the folders, or to nothing."""
        kind = "an adapter" if adapters else "a checkpoint"
        if name == self.nothing:
            raise CheckpointError(f"{self.place} holds nothing to choose: put {kind} there and reload the page.")
        text = str(name).replace("\\", "/")  # a widget may come without its text, as null
        parts = PurePosixPath(text)
        if parts.is_absolute() or ".." in parts.parts or ":" in text:
            raise CheckpointError(f"{name!r} leads out of {self.place}: choose one of the listed names.")
        for folder in self.folders() if parts.name else ():
            if (folder / parts).exists():
                return folder / parts
        known = first(self.choices(adapters))
        raise CheckpointError(
            f"There is no {name!r} in {self.place}: put it there, or choose {kind} that is ({known})."
        )


def candidates(folder: Path) -> Iterator[Path]:
    """Files, and folders that are one checkpoint or adapter; of a repository of several UNets each of them too."""
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.suffix == ".safetensors":
            yield path
        elif path.is_dir():
            unets = unet_folders(path)
            if unets or is_adapter(path):
                yield path
                yield from (unet for unet in unets if unet != path)
            else:
                yield from candidates(path)


@lru_cache(maxsize=1024)
def _holds_adapter(path: Path, stamp: tuple) -> bool:
    """The answer is kept for as long as the file stays the same: a host asks with every look at its widgets."""
    return is_adapter(path)


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_mtime_ns, status.st_size


def stamps(files: Iterable[Path]) -> Stamps:
    """What changes when a file does."""
    return tuple((str(file), *_stamp(file)) for file in files)


def contents(path: Path) -> Stamps:
    """What changes when anything in a file or folder does."""
    return stamps(sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path])


class Shared:
    """Networks that somebody's output holds, so that the tasks of one file share them; it keeps none of them alive."""

    def __init__(self) -> None:
        self._held: WeakValueDictionary[tuple, Any] = WeakValueDictionary()

    def __len__(self) -> int:
        return len(self._held)

    def __call__(self, loader: Callable[..., Network], weights: Weights, *architecture: Any) -> Network:
        """The network of these files, loaded once for as long as anybody uses it."""
        key = (loader.__name__, stamps(weights.files), tuple(weights.names))
        network = self._held.get(key)
        if network is None:
            network = self._held[key] = loader(weights, *architecture)
        return network
