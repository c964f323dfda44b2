"""LoadModel: a perception checkpoint from models/perception, ready to perceive."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar
from weakref import WeakValueDictionary

import comfy.sd
import folder_paths
from comfy_api.latest import io

from ..core.backbone import Context
from ..core.checkpoints.adapter_file import is_adapter
from ..core.checkpoints.adapters import first
from ..core.checkpoints.checkpoint import (
    Checkpoint,
    as_context,
    empty_prompt,
    open_checkpoint,
    text_weights,
    unet_folders,
)
from ..core.checkpoints.families import FAMILIES
from ..core.checkpoints.tensors import CheckpointError, Weights, read_json
from ..core.checkpoints.tiny_vae_file import FULL, LIGHT, TAESD, Held, chosen
from ..core.display.picture import choose
from ..core.halves import with_light
from ..core.pipeline import Perceiver
from ..core.recipe import Recipe
from ..core.tasks import TASKS
from ..core.tiny_vae import Role
from . import host
from .notes import shown
from .schema import ADVANCED, found_by
from .sockets import Perception

FOLDER = "perception"
AS_TRAINED = "as trained"
Network = TypeVar("Network")
PACK_WEIGHTS = Path(__file__).parent.parent / "weights"


def register_folder() -> None:
    """models/perception, what extra_model_paths.yaml adds to it, and the weights that the pack ships."""
    folder_paths.add_model_folder_path(FOLDER, os.path.join(folder_paths.models_dir, FOLDER), is_default=True)
    folder_paths.add_model_folder_path(FOLDER, str(PACK_WEIGHTS))


register_folder()


def roots() -> list[Path]:
    return [Path(root) for root in folder_paths.get_folder_paths(FOLDER)]


def choices(adapters: bool = False) -> list[str]:
    """Checkpoints, or adapters, in the model folders, with / between folders on every system."""
    found = [
        path.relative_to(root).as_posix()
        for root in roots()
        for path in candidates(root)
        if holds_adapter(path, stamp_of(path)) == adapters
    ]
    return list(dict.fromkeys(sorted(found))) or [NOTHING]


NOTHING = f"(none: put one into models/{FOLDER})"
"""What a widget shows where there is nothing to choose."""


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
def holds_adapter(path: Path, stamp: tuple) -> bool:
    """The answer is kept for as long as the file stays the same: the host asks with every look at the nodes."""
    return is_adapter(path)


def stamp_of(path: Path) -> tuple:
    status = path.stat()
    return status.st_mtime_ns, status.st_size


def resolve(name: str, adapters: bool = False) -> Path:
    """The path of a choice. CheckpointError for names that lead out of the model folders, or to nothing."""
    kind = "an adapter" if adapters else "a checkpoint"
    if name == NOTHING:
        raise CheckpointError(f"models/{FOLDER} holds nothing to choose: put {kind} there and reload the page.")
    text = str(name).replace("\\", "/")  # a widget may come without its text, as null
    parts = PurePosixPath(text)
    if parts.is_absolute() or ".." in parts.parts or ":" in text:
        raise CheckpointError(f"{name!r} leads out of models/{FOLDER}: choose one of the listed names.")
    for root in roots() if parts.name else ():
        if (root / parts).exists():
            return root / parts
    raise CheckpointError(
        f"There is no {name!r} in models/{FOLDER}: put it there, or choose {kind} that is ({first(choices(adapters))})."
    )


def context_of(checkpoint: Checkpoint) -> Context:
    """The text context: from the file, else by the text encoder beside it, else the host's own empty prompt."""
    recipe, architecture = checkpoint.recipe, checkpoint.architecture
    if checkpoint.context is not None:
        return checkpoint.context
    if checkpoint.text_encoder is not None:
        folder = checkpoint.text_encoder
        prompt = empty_prompt(folder, padded=not recipe.tokens)
        tokens = host.encode_empty_prompt(text_weights(folder), read_json(folder / "config.json"), prompt)
        return as_context(tokens, architecture, folder)
    own = host.sd2_empty_prompt() if architecture.context_dim == 1024 and recipe.tokens == 2 else None
    if own is None:
        raise CheckpointError(
            f"{checkpoint.path.name} comes without a text context ({architecture.context_dim} wide, "
            f"{recipe.tokens or 77} tokens): put its empty_text_embed.safetensors or .npy beside it."
        )
    return Context(own)


def task_input() -> io.Combo.Input:
    return io.Combo.Input(
        "task",
        options=[AS_TRAINED, *TASKS],
        default=AS_TRAINED,
        tooltip="What to predict, where the file holds several tasks or does not say.",
    )


def overrides_input() -> io.String.Input:
    return io.String.Input(
        "overrides",
        default="",
        tooltip="Advanced: recipe fields for this run, such as steps=4 ensemble_size=3 seed=7. "
        "Leave empty to run it as trained.",
        **ADVANCED,
    )


FAMILY_CHOICES = {name: name for name in ("auto", *FAMILIES)}
HALVES = (FULL, LIGHT, TAESD)
"""Which half of a VAE may be used: its own, the light one that the checkpoint brings, or TAESD's."""


def half_input(role: Role) -> io.Combo.Input:
    """The last inputs of a node: saved workflows hold widgets by their order."""
    return io.Combo.Input(
        role,
        options=list(HALVES),
        default=FULL,
        optional=True,
        tooltip=f"Advanced: the VAE's {role}. {FULL}: as trained. {LIGHT}: the small one that the checkpoint brings, "
        f"many times faster; its recipe says what that costs. {TAESD}: taesd_{role} from models/vae_approx.",
        **ADVANCED,
    )


class LoadModel(io.ComfyNode):
    """A node: checkpoint -> PERCEPTION and the VAE that came with it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="DiffusionPerceptionLoadModel",
            display_name="Load Perception Model",
            category="perception",
            **found_by(
                "marigold, genpercept, lotus, dmp, depth model, normal model, depth estimation, load depth "
                "checkpoint, perception checkpoint"
            ),
            description="Loads a checkpoint that predicts depth, normals, masks and other maps from models/perception.",
            inputs=[
                io.Combo.Input("model", options=choices(), tooltip=f"A file or folder in models/{FOLDER}."),
                io.Combo.Input(
                    "family",
                    options=list(FAMILY_CHOICES),
                    default="auto",
                    tooltip="How it was trained. auto reads it from the files; name it where they cannot tell.",
                    **ADVANCED,
                ),
                task_input(),
                overrides_input(),
                half_input("decoder"),
                half_input("encoder"),
            ],
            outputs=[
                Perception.Output(
                    "perception", display_name="perception", tooltip="A model that is ready to perceive."
                ),
                io.Vae.Output(
                    "vae",
                    display_name="vae",
                    tooltip="The VAE that came with the checkpoint; nothing if it came without one.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(
        cls, model: str = "", family: str = "", task: str = "", decoder: str = "", encoder: str = ""
    ) -> bool:
        """Leaves these choices to `execute`, whose sentence says what to do where the host would only refuse."""
        return True

    @classmethod
    def fingerprint_inputs(
        cls, model: str, family: str, task: str, overrides: str, decoder: str = FULL, encoder: str = FULL
    ) -> tuple:
        """Loaded again only when the files change."""
        return contents(resolve(model)), *taesd_stamps(decoder, encoder)

    @classmethod
    def execute(
        cls, model: str, family: str, task: str, overrides: str, decoder: str = FULL, encoder: str = FULL
    ) -> io.NodeOutput:
        checkpoint = open_checkpoint(resolve(model), choose(FAMILY_CHOICES, family, "family"), wanted_task(task))
        # before the weights are read, which takes a while: a misspelt field is told at once
        checkpoint = replace(checkpoint, recipe=checkpoint.recipe.override(overrides.split()))
        halves = (
            half("encoder", encoder, checkpoint.recipe, checkpoint.encoder, checkpoint.vae),
            half("decoder", decoder, checkpoint.recipe, checkpoint.decoder, checkpoint.vae),
        )
        perceiver, vae = load(checkpoint)
        notes = costs(checkpoint.recipe, decoder=decoder, encoder=encoder)
        return io.NodeOutput(with_light(perceiver, *halves), vae, ui=shown(notes, warning=False))


def costs(recipe: Recipe, **choices: str) -> list[str]:
    """What the light halves that are chosen cost, as far as that was measured."""
    found = {role: getattr(recipe, f"{role}_cost") for role, choice in choices.items() if choice == LIGHT}
    return [f"light {role}: {cost}" for role, cost in found.items() if cost]


def half(role: Role, choice: str, recipe: Recipe, own: Weights | None, vae: Weights | None) -> host.HostLight | None:
    """The light half of a VAE that is chosen, None for its own. CheckpointError if there is no such."""
    if choice not in HALVES:
        raise CheckpointError(f"{role}={choice!r} is not one of {', '.join(HALVES)}.")
    weights = chosen(role, str(taesd_file(role)) if choice == TAESD else choice, recipe, own, vae)
    return None if weights is None else shared(weights, host.HostLight)


def weights_of(vae: comfy.sd.VAE) -> Weights:
    """Of a VAE that is loaded, under the host's names."""
    return Held.of(vae.first_stage_model.state_dict())


def taesd_file(role: Role) -> Path:
    """Where the host keeps it for its previews. CheckpointError if the user has none."""
    held = folder_paths.get_filename_list("vae_approx")
    for name in held:
        if name.startswith(f"taesd_{role}."):
            return Path(folder_paths.get_full_path_or_raise("vae_approx", name))
    raise CheckpointError(
        f"There is no taesd_{role} in models/vae_approx: put taesd_{role}.safetensors there, or choose {FULL}."
    )


def taesd_stamps(decoder: str, encoder: str) -> tuple:
    """What changes when a file of TAESD's does that is chosen."""
    roles: dict[Role, str] = {"decoder": decoder, "encoder": encoder}
    return tuple(stamps([taesd_file(role)]) for role, choice in roles.items() if choice == TAESD)


def wanted_task(widget: str) -> str:
    """What to ask a file for: a task, or one of its recipes; "" as trained. CheckpointError where nothing is named."""
    if not isinstance(widget, str) or not widget:
        raise CheckpointError(f"There is no task {widget!r}: choose one of {', '.join((AS_TRAINED, *TASKS))}.")
    return "" if widget == AS_TRAINED else widget


def load(checkpoint: Checkpoint) -> tuple[Perceiver, comfy.sd.VAE | None]:
    """Everything that a checkpoint's recipe needs, owned by the host; and its VAE, or None."""
    context = context_of(checkpoint)
    vae = autoencoder = head = None
    if checkpoint.vae is not None and checkpoint.vae_architecture is not None:
        autoencoder = shared(checkpoint.vae, host.load_autoencoder, checkpoint.vae_architecture)
        vae = autoencoder.vae
    if checkpoint.head is not None:
        head = host.HostHead(checkpoint.recipe.head, checkpoint.head)
    backbone = shared(checkpoint.unet, host.load_backbone, checkpoint.architecture)
    return host.HostPerceiver(checkpoint.recipe, backbone, context, autoencoder, head), vae


in_use: WeakValueDictionary[tuple, Any] = WeakValueDictionary()
"""Networks that some node's output holds, so that the tasks of one file share them; it keeps none of them alive."""


def shared(weights: Weights, loader: Callable[..., Network], *architecture: Any) -> Network:
    """The network of these files, loaded once for as long as anybody uses it."""
    key = (loader.__name__, stamps(weights.files), tuple(weights.names))
    network = in_use.get(key)
    if network is None:
        network = in_use[key] = loader(weights, *architecture)
    return network


def contents(path: Path) -> tuple:
    """What changes when anything in a file or folder does."""
    return stamps(sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path])


def stamps(files: Iterable[Path]) -> tuple:
    """What changes when a file does."""
    return tuple((str(file), file.stat().st_mtime_ns, file.stat().st_size) for file in files)


NODES = [LoadModel]
