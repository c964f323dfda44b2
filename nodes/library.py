"""Where ComfyUI keeps what the nodes load: models/perception, and TAESD among its previews' models."""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from pathlib import Path

import folder_paths

from ..core.checkpoints.library import Library, Stamps, contents, stamps
from ..core.checkpoints.tensors import CheckpointError
from ..core.checkpoints.tiny_vae_file import FULL, LIGHT, TAESD
from ..core.tiny_vae import Role

FOLDER = "perception"
PACK_WEIGHTS = Path(__file__).parent.parent / "weights"
HALVES = (FULL, LIGHT, TAESD)
"""Which half of a VAE may be used: its own, the light one that the checkpoint brings, or TAESD's."""


def _register_folder() -> None:
    """models/perception, what extra_model_paths.yaml adds to it, and the weights that the pack ships."""
    own = os.path.join(folder_paths.models_dir, FOLDER)
    # so that people find it; where models may not be written to, it works without
    with suppress(OSError):
        os.makedirs(own, exist_ok=True)
    folder_paths.add_model_folder_path(FOLDER, own, is_default=True)
    folder_paths.add_model_folder_path(FOLDER, str(PACK_WEIGHTS))


_register_folder()

LIBRARY = Library(lambda: [Path(root) for root in folder_paths.get_folder_paths(FOLDER)], f"models/{FOLDER}")


def half(role: Role, choice: str) -> str:
    """A widget's choice as core knows it: full, light, or a file. CheckpointError if it is none of HALVES."""
    if choice not in HALVES:
        raise CheckpointError(f"{role}={choice!r} is not one of {', '.join(HALVES)}.")
    return str(_taesd_file(role)) if choice == TAESD else choice


def _taesd_file(role: Role) -> Path:
    """Where the host keeps it for its previews. CheckpointError if the user has none."""
    held = folder_paths.get_filename_list("vae_approx")
    for name in held:
        path = folder_paths.get_full_path("vae_approx", name) if name.startswith(f"taesd_{role}.") else None
        if path and os.path.isfile(path):  # it may be gone since the host listed it, or lead nowhere
            return Path(path)
    raise CheckpointError(
        f"There is no taesd_{role} in models/vae_approx: put taesd_{role}.safetensors there, or choose {FULL}."
    )


def changed(path: Path, decoder: str, encoder: str) -> str:
    """What changes when the files of a choice do.

    It is a digest: the host writes it into pictures, with their workflow, and folders of this machine do not belong
    there.
    """
    held = (contents(path), _taesd_stamps(decoder, encoder))
    return hashlib.sha256(repr(held).encode()).hexdigest()


def _taesd_stamps(decoder: str, encoder: str) -> tuple[Stamps, ...]:
    """What changes when a file of TAESD's does that is chosen."""
    roles: dict[Role, str] = {"decoder": decoder, "encoder": encoder}
    return tuple(stamps([_taesd_file(role)]) for role, choice in roles.items() if choice == TAESD)
