"""Adapter files: read in any spelling, write in the project's own.

The project's file is the one of core.checkpoints.checkpoint without networks. Header: `diffusion_perception.recipe` (a
JSON list of recipes) and `diffusion_perception.adapter` (a JSON object: base, fingerprint, rank, alpha, licence, data,
and the spelling that it was made from). Tensors: `adapter.<layer>.down`, `.up` and `.scale` of low-rank parts (the
weight grows by scale * up @ down; without a scale it is 1), `adapter.<layer>.weight` and `.bias` of differences,
`head.<name>.*`, `decoder.<name>.*` and `encoder.<name>.*` of light halves, and `context.<recipe>` with, for guidance,
`context.<recipe>.negative`. Layers go by their diffusers names.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from ..errors import UserError
from ..recipe import from_header, to_header
from .adapter_names import STABLE_DIFFUSION, Key, Layout, reader
from .adapters import Adapter, Delta, LowRank, Part
from .checkpoint import ADAPTER_KEY, read_metadata_if_any
from .foreign_adapter import assemble, read_foreign, refuse_unread
from .tensors import CheckpointError, find_files, header_object, read_shapes, shown
from .tiny_vae_file import Stored, named

STEMS = ("pytorch_lora_weights", "adapter_model")
MANIFEST = ("base", "fingerprint", "licence", "data")
OWN = re.compile(r"adapter\.(.+)\.(down|up|scale|weight|bias)")
"""The project's own names."""
BESIDE = ("head.", "decoder.", "encoder.", "context.")
"""What else its files hold."""


def find_adapter(path: Path) -> Path:
    """The adapter's file: `path` itself, or the one in the folder. CheckpointError if there is none."""
    if not path.is_dir():
        return path
    for name in (f"{stem}{suffix}" for stem in STEMS for suffix in (".safetensors", ".bin")):
        if (path / name).is_file():
            return path / name
    files = find_files(path / "unet") or find_files(path) or tuple(sorted(path.glob("*.safetensors")))
    if len(files) != 1:
        names = ", ".join(file.name for file in files) or "none"
        raise CheckpointError(f"{shown(path)} should hold one adapter file, and holds {names}: name the file.")
    return files[0]


def is_adapter(path: Path) -> bool:
    """Whether a file or folder holds an adapter rather than a network; also where the adapter is of no use to us."""
    try:
        names = list(read_shapes(find_adapter(path)))
    except CheckpointError:
        return False
    read_key = reader()
    keys = [read_key(name) for name in names]
    return any(OWN.fullmatch(name) for name in names) or any(key is not None and key.role != "base" for key in keys)


def read_adapter(path: Path, layout: Layout = STABLE_DIFFUSION) -> Adapter:
    """The adapter in a file or folder, in whatever spelling.

    layout: of the network it is for, where its names number the blocks as LDM does. CheckpointError says in one
    sentence what is wrong; a tensor that means nothing is wrong.
    """
    file = find_adapter(path)
    metadata = read_metadata_if_any(file)
    return read_own(file, metadata) if ADAPTER_KEY in metadata else read_foreign(file, metadata, layout)


# The project's own file


def read_own(file: Path, metadata: Mapping[str, str]) -> Adapter:
    """An adapter written by write_adapter."""
    try:
        recipes = from_header(dict(metadata), shown(file))
    except UserError as error:
        raise CheckpointError(str(error)) from None
    manifest = checked(header_object(metadata, ADAPTER_KEY, file), file)
    names = [name for name in read_shapes(file) if not name.startswith(BESIDE)]
    keys = {name: Key(match[1], match[2]) for name in names if (match := OWN.fullmatch(name))}
    refuse_unread(file, [name for name in names if name not in keys], len(names))
    adapter = Adapter(file, assemble(file, keys, lambda layer, rank: 1.0), "own", recipes=recipes)
    return replace(adapter, **{name: manifest[name] for name in MANIFEST if name in manifest})


def checked(manifest: dict[str, Any], file: Path) -> dict[str, Any]:
    """CheckpointError unless each of MANIFEST that is there is a text, and the fingerprint lists of numbers."""
    prints = manifest.get("fingerprint") or {}
    lists = prints.values() if isinstance(prints, dict) else ()
    right = isinstance(prints, dict) and all(
        isinstance(row, list) and all(isinstance(value, float | int) for value in row) for row in lists
    )
    words = [manifest.get(name, "") for name in MANIFEST if name != "fingerprint"]
    if not right or not all(isinstance(word, str) for word in words):
        raise CheckpointError(f"{shown(file)} has a damaged header ({ADAPTER_KEY}): export or download it again.")
    return manifest


def write_adapter(
    path: Path,
    adapter: Adapter,
    heads: Mapping[str, Mapping[str, Tensor]] | None = None,
    contexts: Mapping[str, Tensor] | None = None,
    metadata: Mapping[str, str] | None = None,
    light: Stored | None = None,
) -> None:
    """Write the project's file. heads, contexts, metadata and light as in checkpoint.write_checkpoint."""
    tensors: dict[str, Tensor] = {}
    for layer, part in adapter.parts.items():
        tensors |= {f"adapter.{layer}.{name}": tensor for name, tensor in named_tensors(part).items()}
    for head, weights in (heads or {}).items():
        tensors |= {f"head.{head}.{name}": tensor for name, tensor in weights.items()}
    tensors |= named(light or {})
    tensors |= {f"context.{name}": tensor for name, tensor in (contexts or {}).items()}
    manifest = {
        **{name: getattr(adapter, name) for name in MANIFEST},
        "rank": adapter.rank,
        "alpha": adapter.alpha,
        "spelling": adapter.spelling,
    }
    header = {**to_header(adapter.recipes), ADAPTER_KEY: json.dumps(manifest), "format": "pt", **(metadata or {})}
    save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, path, metadata=header)


def named_tensors(part: Part) -> dict[str, Tensor]:
    held = {"weight": part.weight} if isinstance(part, Delta) else {"down": part.down, "up": part.up}
    if isinstance(part, LowRank) and part.scale != 1:
        held["scale"] = torch.tensor(part.scale)
    return {name: tensor for name, tensor in {**held, "bias": part.bias}.items() if tensor is not None}


def describe_adapter(path: Path) -> dict[str, Any]:
    """What a person may want to know of an adapter, as plain data."""
    adapter = read_adapter(path)
    return {
        "path": path.name,
        "spelling": adapter.spelling,
        "base": adapter.base or "not said",
        "fingerprint": "of the checkpoint it was trained on" if adapter.fingerprint else "none",
        "rank": adapter.rank,
        "alpha": adapter.alpha,
        "layers": len(adapter.parts),
        "parameters": sum(tensor.numel() for part in adapter.parts.values() for tensor in named_tensors(part).values()),
        "text encoder tensors": adapter.text_encoder,
        "licence": adapter.licence or "not said",
        "data": adapter.data or "not said",
        "recipes": [{"id": recipe.id, **asdict(recipe)} for recipe in adapter.recipes],
    }
