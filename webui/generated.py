"""Maps of what was just sampled, from its latents without an encode: a script that txt2img and img2img always show."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from modules import images, scripts
from PIL import Image

from ..core.errors import UserError
from .extras import RAW, Beside, nametag, offered

if TYPE_CHECKING:
    from torch import Tensor

    from ..core.perception_map import PerceptionMap
    from .models import Choice

log = logging.getLogger(__name__)


class PerceptionGenerated(scripts.Script):
    """A script of both pages."""

    def title(self) -> str:
        return "Diffusion Perception"

    def show(self, is_img2img: bool) -> Any:
        return scripts.AlwaysVisible

    def ui(self, is_img2img: bool) -> list[Any]:
        """What a person chooses, in the order of the arguments of post_sample()."""
        import gradio as gr
        from modules.ui_components import InputAccordion

        with InputAccordion(False, label=self.title()) as enable:
            labels = [label for label, choice in offered().items() if _sees_whole_pictures(choice)]
            maps = gr.Dropdown(label="Maps of what is generated", choices=labels, value=[], multiselect=True)
            raw = gr.Dropdown(label="Raw values beside each map", choices=list(RAW), value="none")
        return [enable, maps, raw]

    def post_sample(
        self, p: Any, ps: scripts.PostSampleArgs, enable: bool = False, maps: list[str] | None = None, raw: str = "none"
    ) -> None:
        """Perceives the batch that was sampled; a map that cannot be is told below the pictures, which come anyway."""
        if not enable:
            return
        known = offered()
        for label in maps or []:
            try:
                if label not in known:
                    raise UserError(f"There is no map {label!r}: reload the page and choose one that is.")
                perceived = list(_maps_of(p, ps.samples, known[label]))
            except UserError as error:
                log.warning("%s: %s", label, error)
                p.comment(f"{self.title()}, {label}: {error}")
                continue
            keep(p, perceived, known[label], RAW.get(raw, ""))

    def postprocess(self, p: Any, processed: Any, *chosen: Any) -> None:
        """They come behind the pictures."""
        processed.images.extend(vars(p).pop(KEPT, []))


KEPT = "perception_maps"
"""What a generation's maps are called in it until it ends."""


def _sees_whole_pictures(choice: Choice) -> bool:
    """Whether a latent is what it perceives; a person is cut out of a picture."""
    from ..core.tasks import TASKS

    return TASKS[choice.task].per == "image"


def _maps_of(p: Any, samples: Iterable[Tensor], choice: Choice) -> Iterable[PerceptionMap]:
    """A map of each item of a batch. samples: latents (B, 4, h, w), or pictures (3, H, W) in [-1, 1] that the host has
    decoded already. UserError if it cannot be."""
    from .hosts import here, ticker
    from .work import perceive_latent, perceive_tensor

    host = here()
    decoded = getattr(samples, "already_decoded", False)
    if not decoded:
        _check_latents(host.scaling_factor(p.sd_model))

    def work() -> list[PerceptionMap]:
        perceiver, tick = host.MODELS.perceiver(choice, p.sd_model), ticker()
        if decoded:
            return [perceive_tensor(perceiver, (one[None].float() + 1).clamp(0, 2) / 2, tick) for one in samples]
        return [perceive_latent(perceiver, one[None], tick) for one in samples]

    return host.in_turn(work, locked=True)


def _check_latents(scaling_factor: float) -> None:
    """UserError for those of another generation."""
    from ..core.generations import SD_LATENTS

    if abs(scaling_factor - SD_LATENTS.scaling_factor) > 1e-4:
        raise UserError(
            f"The loaded model does not make the latents of {SD_LATENTS.title}, which the map is of: perceive the "
            "finished picture on the Extras page."
        )


def keep(p: Any, perceived: list[PerceptionMap], choice: Choice, raw: str) -> None:
    """Until the generation ends, and saved where its pictures are; raw values beside each."""
    from .work import controlnet_picture

    for number, map in enumerate(perceived):
        shown = Image.fromarray(controlnet_picture(map))
        shown.perception = Beside(map, raw)  # pyright: ignore[reportAttributeAccessIssue]
        vars(p).setdefault(KEPT, []).append(shown)
        if p.save_samples():
            told = {"seed": p.seeds[number], "prompt": p.prompts[number], "p": p}
            images.save_image(shown, p.outpath_samples, "", suffix=f"-{nametag(choice)}", **told)
