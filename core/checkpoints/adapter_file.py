"""Adapter files: read in any spelling, write in the project's own.

The project's file is own_file's, without networks. Its manifest: base, fingerprint, rank, alpha, licence, data, and the
spelling that it was made from. Tensors: `adapter.<layer>.down`, `.up` and `.scale` of low-rank parts (the weight grows
by scale * up @ down; without a scale it is 1), `adapter.<layer>.weight` and `.bias` of differences. Layers go by their
diffusers names.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..generations import LATENT
from .adapter_names import STABLE_DIFFUSION, Key, Layout, adapts
from .adapters import Adapter, Delta, LowRank, Part, first
from .architecture import UNetArchitecture
from .clues import Clues
from .families import family_title, recognise
from .fingerprint import is_fingerprint
from .foreign_adapter import assembled_parts, read_foreign, refuse_unread
from .own_file import OwnFile, Stored, read_own, write_own
from .published import describe_licence
from .tensors import CheckpointError, find_files, read_metadata, read_shapes, shown

STEMS = ("pytorch_lora_weights", "adapter_model")
MANIFEST: dict[str, Callable[[Any], bool]] = {
    "base": lambda value: isinstance(value, str),
    "fingerprint": is_fingerprint,
    "licence": lambda value: isinstance(value, str),
    "data": lambda value: isinstance(value, str),
}
"""What the header says of an adapter besides its recipes, and whether a value can be that."""
OWN = re.compile(r"adapter\.(.+)\.(down|up|scale|weight|bias)")
"""The project's own names."""
BESIDE = ("head.", "decoder.", "encoder.", "context.")
"""What else its files hold."""


def find_adapter(path: Path) -> Path:
    """The adapter's file: `path` itself, or the one in the folder. CheckpointError if there is none."""
    if not os.path.isdir(path):
        return path
    for name in (f"{stem}{suffix}" for stem in STEMS for suffix in (".safetensors", ".bin")):
        if os.path.isfile(path / name):
            return path / name
    alone = (file for file in sorted(path.glob("*.safetensors")) if os.path.isfile(file))
    files = find_files(path / "unet") or find_files(path) or tuple(alone)
    if len(files) != 1:
        names = ", ".join(file.name for file in files) or "none"
        raise CheckpointError(f"{shown(path)} should hold one adapter file, and holds {names}: name the file.")
    return files[0]


def is_adapter(path: Path) -> bool:
    """Whether a file or folder holds an adapter rather than a network; also where the adapter is of no use to us."""
    try:
        names = list(read_shapes(find_adapter(path)))
    except (CheckpointError, OSError):
        return False
    return any(OWN.fullmatch(name) for name in names) or adapts(names)


def read_adapter(path: Path, layout: Layout = STABLE_DIFFUSION) -> Adapter:
    """The adapter in a file or folder, in whatever spelling.

    layout: of the network it is for, where its names number the blocks as LDM does. CheckpointError says in one
    sentence what is wrong; a tensor that means nothing is wrong.
    """
    file = find_adapter(path)
    own = read_own(file)
    return _own_adapter(own) if own and own.says("adapter") else read_foreign(file, read_metadata(file), layout)


# The project's own file


def _own_adapter(own: OwnFile) -> Adapter:
    """An adapter written by write_adapter."""
    file, recipes, manifest = own.path, own.recipes, own.field("adapter")
    wrong = [name for name in MANIFEST if name in manifest and not MANIFEST[name](manifest[name])]
    if wrong:
        raise CheckpointError(f"{shown(file)} has a damaged header ({first(wrong)}): export or download it again.")
    names = [name for name in own.shapes if not name.startswith(BESIDE)]
    keys = {name: Key(match[1], match[2]) for name in names if (match := OWN.fullmatch(name))}
    refuse_unread(file, [name for name in names if name not in keys], len(names))
    adapter = Adapter(file, assembled_parts(file, keys, lambda layer, rank: 1.0), "own", recipes=recipes)
    return replace(adapter, **{name: manifest[name] for name in MANIFEST if name in manifest})


def write_adapter(
    path: Path,
    adapter: Adapter,
    heads: Mapping[str, Mapping[str, Tensor]] | None = None,
    contexts: Mapping[str, Tensor] | None = None,
    metadata: Mapping[str, str] | None = None,
    light: Stored | None = None,
) -> None:
    """Write the project's file. heads, contexts, metadata and light as of write_own()."""
    tensors = {
        f"{layer}.{name}": tensor
        for layer, part in adapter.parts.items()
        for name, tensor in _named_tensors(part).items()
    }
    manifest = {
        **{name: getattr(adapter, name) for name in MANIFEST},
        "rank": adapter.rank,
        "alpha": adapter.alpha,
        "spelling": adapter.spelling,
    }
    write_own(
        path,
        adapter.recipes,
        adapter=(manifest, tensors),
        heads=heads,
        light=light,
        contexts=contexts,
        metadata=metadata,
    )


def _named_tensors(part: Part) -> dict[str, Tensor]:
    held = {"weight": part.weight} if isinstance(part, Delta) else {"down": part.down, "up": part.up}
    if isinstance(part, LowRank) and part.scale != 1:
        held["scale"] = torch.tensor(part.scale)
    return {name: tensor for name, tensor in {**held, "bias": part.bias}.items() if tensor is not None}


def clues_of(adapter: Adapter, architecture: UNetArchitecture) -> Clues:
    """What its names tell; those that stand in every repository tell nothing."""
    telling, *rest = shown(adapter.path).split("/")
    folder = adapter.path.parents[len(rest)]
    network = replace(architecture, in_channels=adapter.in_channels or architecture.in_channels)
    name = telling if rest else adapter.path.stem
    return Clues(network, name, folder.name, adapter=adapter.spelling, rank=adapter.rank)


PLAIN = UNetArchitecture(LATENT, LATENT, (), 0, (), (), 0, False)
"""Of the network that an adapter is for, as much as its family is told by."""


def describe_adapter(path: Path) -> dict[str, Any]:
    """What a person may want to know of an adapter, as plain data."""
    adapter = read_adapter(path)
    clues = clues_of(adapter, PLAIN)
    row = recognise(clues)
    family = adapter.recipes[0].family if adapter.recipes else row.name if row else ""
    return {
        "path": path.name,
        "family": family_title(family),
        "spelling": adapter.spelling,
        "base": adapter.base or "not said",
        "fingerprint": "of the checkpoint it was trained on" if adapter.fingerprint else "none",
        "rank": adapter.rank,
        "alpha": adapter.alpha,
        "layers": len(adapter.parts),
        "parameters": sum(
            tensor.numel() for part in adapter.parts.values() for tensor in _named_tensors(part).values()
        ),
        "text encoder tensors": adapter.text_encoder,
        **describe_licence(adapter.licence or (row.licence(clues) if row else ""), family),
        "data": adapter.data or "not said",
        "recipes": [{"id": recipe.id, **asdict(recipe)} for recipe in adapter.recipes],
    }
