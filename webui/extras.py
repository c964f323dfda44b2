"""Extras: maps of pictures, one by one, in batches or folder to folder, with raw values beside each."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from modules import script_callbacks
from modules.scripts_postprocessing import PostprocessedImage, ScriptPostprocessing
from PIL import Image, PngImagePlugin

from ..core.errors import UserError

if TYPE_CHECKING:
    from ..core.perception_map import PerceptionMap
    from .models import Choice

RAW = {"none": "", "npy": "npy", "exr": "exr32 zip", "exr, half precision": "exr16 zip"}
"""What the page calls the rows of FORMATS."""
AFTER_UPSCALING = 20_000


class PerceptionExtras(ScriptPostprocessing):
    """A script of the Extras page."""

    name = "Diffusion Perception"
    order = AFTER_UPSCALING

    def ui(self) -> dict[str, Any]:
        """What a person chooses; its names are the arguments of process()."""
        import gradio as gr
        from modules.ui_components import InputAccordion

        with InputAccordion(False, label=self.name) as enable:
            maps = gr.Dropdown(label="Maps", choices=list(offered()), value=[], multiselect=True)
            raw = gr.Dropdown(label="Raw values beside each map", choices=list(RAW), value="none")
            cut_out = gr.Checkbox(label="Cut-outs of masks and mattes", value=False)
        return {"enable": enable, "maps": maps, "raw": raw, "cut_out": cut_out}

    def process(
        self,
        pp: PostprocessedImage,
        enable: bool | None = None,
        maps: list[str] | None = None,
        raw: str | None = None,
        cut_out: bool | None = None,
    ) -> None:
        """Puts the maps beside the picture, which stays as it is. None, which programs give, is off."""
        if not enable:
            return
        known = offered()
        for label in maps or []:
            if label not in known:
                raise UserError(f"There is no map {label!r}: reload the page and choose one of {', '.join(known)}.")
            self.add(pp, known[label], raw or "none", bool(cut_out))

    def add(self, pp: PostprocessedImage, choice: Choice, raw: str, cut_out: bool) -> None:
        """One map, and its cut-out where it has one."""
        from .hosts import here, ticker
        from .work import controlnet_picture, perceive

        host = here()
        picture = np.asarray(pp.image.convert("RGB"))
        # Extras hold the lock of the queue
        map = host.in_turn(lambda: perceive(host.MODELS.perceiver(choice), picture, ticker()), locked=True)
        shown = Image.fromarray(controlnet_picture(map))
        shown.perception = Beside(map, RAW[raw])  # pyright: ignore[reportAttributeAccessIssue]
        pp.extra_images.append(pp.create_copy(shown, nametags=[nametag(choice)], disable_processing=True))
        if cut_out and _is_soft(map):
            cut = Image.fromarray(_with_alpha(picture, map))
            cut.perception = Kept(np.asarray(cut).copy())  # pyright: ignore[reportAttributeAccessIssue]
            tags = [f"{nametag(choice)}-cut-out"]
            pp.extra_images.append(pp.create_copy(cut, nametags=tags, disable_processing=True))
        pp.info["Perception"] = ", ".join(filter(None, [pp.info.get("Perception"), choice.name]))


def offered() -> dict[str, Choice]:
    """{what the page shows: what it is}"""
    from .hosts import here
    from .models import choices, labelled

    return labelled(choices(here().LIBRARY))


def nametag(choice: Choice) -> str:
    """What a file's name says of it."""
    return choice.task if choice.is_demo else f"{choice.task}-{choice.name.replace(' ', '-').replace('/', '-')}"


def _is_soft(map: PerceptionMap) -> bool:
    """Whether a map is a mask of a subject."""
    from ..core.tasks import TASKS

    return TASKS[map.task].socket == "mask"


def _with_alpha(picture: np.ndarray, map: PerceptionMap) -> np.ndarray:
    """uint8 (H, W, 3) -> (H, W, 4), straight: the colours of the subject alone, as Matte Cutout gives them."""
    import torch

    from ..core.display.matting import foreground_of
    from ..core.display.picture import ready

    _, alpha = ready(map)
    image = torch.from_numpy(picture).float()[None] / 255
    colours = foreground_of(image, alpha)
    levels = torch.cat([colours, alpha[..., None]], -1)[0].clamp(0, 1) * 255
    return levels.round().byte().numpy()


class Beside:
    """What is written when the picture of a map is saved."""

    def __init__(self, map: PerceptionMap, format: str) -> None:
        """format: a row of FORMATS; empty for nothing."""
        self.map, self.format = map, format

    def saved(self, file: Path, texts: dict[str, Any]) -> None:
        """Raw values beside it, under its name."""
        if not self.format:
            return
        from ..core.display.map_files import FORMATS, pages
        from ..core.whole_file import write_whole

        row, (page,) = FORMATS[self.format], pages(self.map)
        write_whole(file.with_suffix(row.suffix), row.encode(page, ()))


class Kept:
    """A cut-out as it was made: some hosts hide their infotext in its alpha, and JPEG has none."""

    def __init__(self, levels: np.ndarray) -> None:
        """uint8 (H, W, 4)."""
        self.levels = levels

    def saved(self, file: Path, texts: dict[str, Any]) -> None:
        """As PNG, with what the host says of it."""
        info = PngImagePlugin.PngInfo()
        for key, text in texts.items():
            info.add_text(key, str(text))
        Image.fromarray(self.levels).save(file.with_suffix(".png"), pnginfo=info)


def write_raw_beside(params: script_callbacks.ImageSaveParams) -> None:
    """When a host has saved a picture: what belongs beside it, if it is one of ours."""
    held = getattr(params.image, "perception", None)
    if isinstance(held, Beside | Kept):
        texts = {key: text for key, text in (params.pnginfo or {}).items() if isinstance(text, str)}
        held.saved(Path(params.filename), texts)
