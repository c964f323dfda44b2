"""LoadModel: a perception checkpoint from models/perception, ready to perceive."""

from __future__ import annotations

from pathlib import Path

from comfy_api.latest import io

from ..core.checkpoints.assemble import assemble
from ..core.checkpoints.checkpoint import Checkpoint, open_all, open_checkpoint
from ..core.checkpoints.families import FAMILIES
from ..core.checkpoints.tensors import CheckpointError
from ..core.checkpoints.tiny_vae_file import FULL, LIGHT, TAESD
from ..core.display.picture import choose
from ..core.halves import full_of
from ..core.recipe import Recipe
from ..core.tasks import TASKS
from ..core.tiny_vae import Role
from . import host
from .library import HALVES, LIBRARY, changed, half
from .notes import note, shown, telling
from .schema import ADVANCED, found_by
from .sockets import Perception

AS_TRAINED = "as trained"
FIRST = "depth"
"""What is taken of a file that was trained for several tasks, if it has it."""


def task_input() -> io.Combo.Input:
    return io.Combo.Input(
        "task",
        options=[AS_TRAINED, *TASKS],
        default=AS_TRAINED,
        tooltip=f"What to predict, where the file holds several tasks or does not say. {AS_TRAINED}: the task of the "
        f"file; of several {FIRST}, else the first, and the node says which there are.",
    )


def overrides_input() -> io.String.Input:
    return io.String.Input(
        "overrides",
        default="",
        tooltip="Advanced: recipe fields for this run, such as resolution=768. Models that sample (Marigold) also know "
        "steps=4 ensemble_size=3 seed=7. Leave empty to run it as trained.",
        **ADVANCED,
    )


FAMILY_CHOICES = {name: name for name in ("auto", *FAMILIES)}


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
                io.Combo.Input(
                    "model",
                    options=LIBRARY.choices(),
                    default=LIBRARY.runnable(),
                    tooltip=f"A file or folder in {LIBRARY.place}.",
                ),
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
    ) -> str:
        """Loaded again only when the files change."""
        return changed(LIBRARY.resolve(model), decoder, encoder)

    @classmethod
    @telling
    def execute(
        cls, model: str, family: str, task: str, overrides: str, decoder: str = FULL, encoder: str = FULL
    ) -> io.NodeOutput:
        path = LIBRARY.resolve(model)
        checkpoint, taken = opened(path, choose(FAMILY_CHOICES, family, "family"), wanted_task(task))
        # before the weights are read, which takes a while: a misspelt field is told at once
        checkpoint = checkpoint.overridden(overrides.split())
        halves = half("encoder", encoder), half("decoder", decoder)
        perceiver = assemble(checkpoint, host.ComfyHost(), encoder=halves[0], decoder=halves[1])
        full = full_of(perceiver.autoencoder)
        vae = full.vae if isinstance(full, host.HostAutoencoder) else None
        note(taken, *costs(checkpoint.recipe, decoder=decoder, encoder=encoder), warning=False)
        return io.NodeOutput(perceiver, vae, ui=shown())


def opened(path: Path, family: str, task: str) -> tuple[Checkpoint, str]:
    """open_checkpoint(); but as trained of several tasks is FIRST, else the first, and words say so."""
    held = [] if task else open_all(path, family)
    if len({checkpoint.recipe.id for checkpoint in held}) < 2 or held[0].siblings:
        return (held[0] if held else open_checkpoint(path, family, task)), ""
    taken = next((checkpoint for checkpoint in held if checkpoint.recipe.task == FIRST), held[0])
    others = ", ".join(checkpoint.recipe.id for checkpoint in held if checkpoint is not taken)
    # what matters first: an editor may show the beginning alone
    return taken, f"Takes {taken.recipe.id}. Choose in task for {others}: {path.name} holds them too."


def costs(recipe: Recipe, **choices: str) -> list[str]:
    """What the light halves that are chosen cost, as far as that was measured."""
    found = {role: getattr(recipe, f"{role}_cost") for role, choice in choices.items() if choice == LIGHT}
    return [f"light {role}: {cost}" for role, cost in found.items() if cost]


def wanted_task(widget: str) -> str:
    """What to ask a file for: a task, or one of its recipes; "" as trained. CheckpointError where nothing is named."""
    if not isinstance(widget, str) or not widget:
        raise CheckpointError(f"There is no task {widget!r}: choose one of {', '.join((AS_TRAINED, *TASKS))}.")
    return "" if widget == AS_TRAINED else widget


NODES = [LoadModel]
