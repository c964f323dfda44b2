"""Library: the folders in which a host's users keep checkpoints and adapters, and what was loaded out of them."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, Literal, TypeVar
from weakref import WeakValueDictionary

from ..errors import UserError
from .adapter_file import find_adapter, is_adapter
from .adapters import first
from .checkpoint import open_all
from .context import CONTEXT_FILES
from .families import FAMILIES
from .networks import unet_folders
from .published import where
from .strangers import claims_to_perceive
from .tensors import STEMS, CheckpointError, Weights, find_files, pick_unet, quantised, read_shapes

Network = TypeVar("Network")
Stamp = tuple[int, ...]
"""Times of the last changes in ns, bytes and number of a file, whatever links lead to it; () if it cannot be told."""
Stamps = tuple[tuple[str, Stamp], ...]
"""(path, stamp) of each file."""
Kind = Literal["checkpoint", "adapter", ""]
"""What a person would call a file or folder, "" if it is no model."""
MOST_FOLDERS = 2000
"""More than these are not looked into, so that a link to a whole disk does not hang the host."""
BESIDE = (
    *("vae", "text_encoder", "tokenizer", "scheduler", "model_index.json"),
    *CONTEXT_FILES,
    *(name for family in FAMILIES.values() for name in (*family.beside.heads, *family.beside.decoder)),
)
"""What of a checkpoint may lie beside its file or its UNet's folder."""


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
        """Checkpoints, or adapters, with / between folders on every system. Nothing that lies there makes it raise."""
        wanted = "adapter" if adapters else "checkpoint"
        found = [
            path.relative_to(folder).as_posix()
            for folder in self.folders()
            for path, kind in _candidates(folder)
            if kind == wanted
        ]
        return list(dict.fromkeys(sorted(found))) or [self.nothing]

    def runnable(self) -> str:
        """The first checkpoint that says what it perceives, for a widget to begin with; else the first choice."""
        names = self.choices()
        return next((name for name in names if name != self.nothing and self._opens(name)), names[0])

    def _opens(self, name: str) -> bool:
        try:
            path = self.resolve(name)
        except CheckpointError:  # it may be taken away at any time
            return False
        return _opens(path, contents(path))

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
            if os.path.exists(folder / parts):  # without raising where folders are closed or names too long
                return folder / parts
        known, how = first(self.choices(adapters)), where(text, self.place) or "put it there"
        raise CheckpointError(f"There is no {name!r} in {self.place}: {how}, or choose {kind} that is ({known}).")


class Walk:
    """The folders from one on: each real one once, those that are links after all others, shallow ones first."""

    def __init__(self, folder: Path) -> None:
        self._real, self._links, self._seen = deque([folder]), deque[Path](), set[str]()

    def __iter__(self) -> Iterator[Path]:
        while (self._real or self._links) and len(self._seen) < MOST_FOLDERS:
            folder = (self._real or self._links).popleft()
            place = os.path.realpath(folder)
            if place not in self._seen:
                self._seen.add(place)
                yield folder

    def add(self, folders: Iterable[Path]) -> None:
        """To be looked into as well."""
        for folder in folders:
            (self._links if folder.is_symlink() else self._real).append(folder)


def _folder_entries(folder: Path) -> list[Path]:
    """What lies in a folder and is not hidden; nothing where it cannot be looked into."""
    try:
        return [folder / name for name in sorted(os.listdir(folder)) if not name.startswith(".")]
    except OSError:
        return []


def _candidates(root: Path) -> Iterator[tuple[Path, Kind]]:
    """Files, and folders that are one checkpoint or adapter, each with its kind; of several UNets each of them too."""
    walk = Walk(root)
    for folder in walk:
        held = _folder_entries(folder)
        unets = [] if folder == root else _unets_in(folder)
        repository = bool(unets) and unets != [folder]
        kind: Kind = "" if folder == root else _kind_of_folder(folder, unets)
        if kind:
            yield folder, kind
        if repository:
            kinds: list[tuple[Path, Kind]] = [(unet, _kind_of_folder(unet, [unet])) for unet in unets]
            yield from kinds if kinds != [(unets[0], kind)] else ()  # the only one is what the folder is
        else:
            walk.add(path for path in held if os.path.isdir(path))
        for path in held:
            if _is_apart(path, whole=bool(kind)):
                yield path, _kind_of_file(path)


def _is_apart(path: Path, whole: bool) -> bool:
    """Whether a path is a file of tensors that may be a model by itself. whole: its folder is one already."""
    part = whole and (path.name.startswith(tuple(STEMS)) or path == _adapter_in(path.parent))
    return path.suffix.lower() == ".safetensors" and os.path.isfile(path) and not part


def _unets_in(folder: Path) -> list[Path]:
    """unet_folders() of those that hold weights, readable or not."""
    try:
        return [unet for unet in unet_folders(folder) if _weights_in(unet) != ()]
    except CheckpointError:
        return []


def _weights_in(folder: Path) -> tuple[Path, ...] | None:
    """find_files(), None where an index is damaged."""
    try:
        return find_files(folder)
    except CheckpointError:
        return None


def _adapter_in(folder: Path) -> Path | None:
    """find_adapter(), None where there is none."""
    try:
        return find_adapter(folder)
    except (CheckpointError, OSError):
        return None


def _kind_of_folder(folder: Path, unets: list[Path]) -> Kind:
    """unets: unets_in() it, perhaps itself."""
    adapter = _adapter_in(folder)
    if adapter is not None and _kind_of_file(adapter) == "adapter":
        return "adapter"
    if unets != [folder]:
        return "checkpoint" if unets else ""
    files = _weights_in(folder)
    return "checkpoint" if files is None else _kind(files, stamps(files))


def _kind_of_file(file: Path) -> Kind:
    return _kind((file,), stamps([file]))


@lru_cache(maxsize=4096)
def _kind(files: tuple[Path, ...], stamps: Stamps) -> Kind:
    """The answer is kept for as long as the files stay the same: a host asks with every look at its widgets.

    What cannot be read is taken for a checkpoint: whoever chooses it is told what is wrong with it.
    """
    if len(files) == 1 and is_adapter(files[0]):
        return "adapter"
    try:
        names = [name for file in files for name in read_shapes(file)]
        return "checkpoint" if pick_unet(names) or quantised(names) or claims_to_perceive(names) else ""
    except CheckpointError:
        return "checkpoint"


@lru_cache(maxsize=4096)
def _opens(path: Path, contents: Stamps) -> bool:
    """Whether it can be opened as it is; nothing of its weights is read. Kept as _kind() is."""
    try:
        return bool(open_all(path))
    except UserError:
        return False


def _stamp(path: Path) -> Stamp:
    try:
        status = path.stat()
    except OSError:
        return ()
    return status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino


def stamps(files: Iterable[Path]) -> Stamps:
    """What changes when a file does, or is gone, or is another behind its link."""
    return tuple((str(file), _stamp(file)) for file in files)


def contents(path: Path) -> Stamps:
    """What changes when anything in a file or folder does, or in what belongs to it and lies beside it."""
    beside = (path.parent / name for name in BESIDE)
    return stamps(file for place in (path, *filter(os.path.exists, beside)) for file in files_in(place))


def files_in(path: Path) -> Iterator[Path]:
    """The files of a folder, through links too; of a file itself."""
    if not os.path.isdir(path):
        yield path
        return
    walk = Walk(path)
    for folder in walk:
        held = _folder_entries(folder)
        walk.add(path for path in held if os.path.isdir(path))
        yield from (path for path in held if not os.path.isdir(path))


class Shared:
    """Networks that somebody's output holds, so that the tasks of one file share them; it keeps none of them alive."""

    def __init__(self) -> None:
        self._held: WeakValueDictionary[tuple[Any, ...], Any] = WeakValueDictionary()

    def __len__(self) -> int:
        return len(self._held)

    def __call__(self, loader: Callable[..., Network], weights: Weights, *architecture: Any) -> Network:
        """The network of these files, loaded once for as long as anybody uses it."""
        key = (loader.__name__, stamps(weights.files), tuple(weights.names))
        network = self._held.get(key)
        if network is None:
            network = self._held[key] = loader(weights, *architecture)
        return network
