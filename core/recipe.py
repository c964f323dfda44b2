"""Recipe: how one checkpoint was trained and must be run; it lives in the safetensors header."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from .codecs import CODECS, Codec
from .crops import CROPS
from .diffusion import PARADIGMS
from .errors import UserError, meant
from .heatmaps import DECODINGS
from .image import RESIZE_RULES, ResizeRule
from .perception_map import Axis, Convention, Encoding
from .plain_files import parse_json
from .skeletons import USUAL, Skeleton, skeleton_named
from .tasks import Task, task_named

KEY = "diffusion_perception.recipe"


@dataclass(frozen=True)
class Recipe:
    """Everything that two checkpoints of one task may do differently. Defaults are GenPercept's."""

    task: str
    """A row of core.tasks.TASKS."""
    name: str = ""
    """Tells recipes on the same weights apart, and names their text context in the file; the task if empty."""
    family: str = ""
    """The published family this recipe came from, a row of core.checkpoints.families.FAMILIES; for people."""
    base: str = "sd21"
    """The Stable Diffusion generation beneath: sd15, sd21, or custom for networks of other widths."""

    paradigm: str = "one-step"
    """A row of core.diffusion.PARADIGMS."""
    steps: int = 1
    timestep: int = 1
    """What a one-step network is told; 0..999."""
    beta_start: float = 1.0
    beta_end: float = 1.0
    """Ends of the scaled-linear schedule; 1..1 leaves no image signal: the sample is minus the velocity."""
    zero_snr: bool = False
    """Betas rescaled so that the last timestep holds no signal."""
    spacing: Literal["leading", "trailing"] = "leading"
    steps_offset: int = 1
    """Added to the timesteps of leading spacing."""
    final_alpha_one: bool = False
    """The step below timestep 0 has alpha-bar 1 instead of that of timestep 0."""
    prediction_type: Literal["epsilon", "v_prediction", "sample"] = "v_prediction"
    sampler: Literal["ddim", "lcm"] = "ddim"
    """How several steps are taken: as DDIM, or as latent consistency models, which add fresh noise after each."""
    original_steps: int = 50
    """LCM: the steps of the teacher, of which `steps` are taken."""
    timestep_scaling: float = 10.0
    """LCM: how steep the boundary condition is."""
    noise: Literal["gaussian", "zeros"] = "gaussian"
    """Stochastic: what stands beside the image latent at first."""
    order: Literal["image-first", "noise-first"] = "image-first"
    """Stochastic: how the two are concatenated."""
    targets: int = 1
    """How many latents the network predicts at once."""
    target: int = 0
    """Which of them is this recipe's, from 0."""
    keep_image: bool = False
    """Deterministic: put the true image latent back at every step instead of the estimated one (DMP, eq. 4)."""
    final: Literal["sample", "previous"] = "sample"
    """Decode the last step's sample, or the last step's x_{t-1}, which keeps a trace of noise or image."""
    prompt: str = ""
    """The text that the context stands for; empty is the empty prompt."""
    vector: tuple[float, ...] | None = None
    """What a network with a class embedding is told."""
    tokens: int = 0
    """How many tokens of the text context are used, from the first; 0 is all of them."""
    guidance_scale: float = 1.0
    """Classifier-free guidance between the context and a negative context; 1 is off."""
    ensemble_size: int = 1
    ensemble_edge: int = 0
    """Pixels of the longer edge at which the members of an ensemble are aligned; 0 is Marigold's 1024."""
    seed: int = 0
    """Of the initial noise; only the stochastic paradigm draws any."""

    resolution: int = 768
    """Processing resolution in pixels, of the edge that `resize` speaks of; 0 is the image's own."""
    resize: str = "genpercept"
    """A row of core.image.RESIZE_RULES."""
    filter: Literal["", "nearest", "nearest-exact", "bilinear", "bicubic"] = ""
    """Another filter for the picture than that rule's; nearest and bicubic as torch has them."""
    back_filter: Literal["", "nearest", "nearest-exact", "bilinear", "bicubic"] = ""
    """Another one for the values."""
    input_gamma: float = 1.0
    """The picture is raised to this power first: 2.2 for networks that were trained on linear light."""
    head: str = ""
    """The file's head that decodes UNet features; empty is the VAE decoder."""
    decoder: str = ""
    """The file's light decoder that it was validated with and that may be run instead of the VAE's; empty is none."""
    decoder_cost: str = ""
    """What that costs in the task's own metric, such as "abs-rel 0.0812 -> 0.0827"; for people."""
    encoder: str = ""
    """The file's light encoder, likewise."""
    encoder_cost: str = ""
    codec: str = ""
    """A row of core.codecs.CODECS; empty is the task's own."""
    channel: int = -1
    """Which of the decoded channels holds a map of one channel; -1 is the mean of all."""
    encoding: Encoding = ""
    """How values code what they measure; empty is not stated."""
    up_to_scale: bool = False
    """Values are known up to a factor of the whole picture."""
    target_scale: float = 1.0
    """Units per 1.0 of the decoded range; <= 0 means per-image min-max."""
    metric: bool = False
    """Depth in metres."""
    axes: tuple[Axis, Axis, Axis] | None = None
    """Where +x, +y and +z of a normal point."""
    palette: str = ""
    """The palette of a segmentation, as core.display.colour.palette_named reads it: a name, or colours and classes."""
    keypoints: str = ""
    """What heatmaps show: a row of core.skeletons.SKELETONS, or all names with commas; empty is coco-17."""
    limbs: str = ""
    """Which keypoints are joined, as in nose:left_eye, ...; empty is as SKELETONS says."""
    aspect: float = 0.75
    """Width to height of the crop around a person; `resolution` is its longer side."""
    crop: str = "padded"
    """How people are cut out: a row of core.crops.CROPS."""
    decoding: str = "dark"
    """How keypoints are read out of heatmaps: a row of core.heatmaps.DECODINGS."""

    licence: str = ""
    data: str = ""
    """What it was trained on; for people."""

    def __post_init__(self) -> None:
        for field, kind in KINDS.items():
            _check_kind(field, getattr(self, field), kind)
        task_named(self.task)
        for field, choices in CHOICES.items():
            _check_choice(field, getattr(self, field), choices)
        one_pass = PARADIGMS[self.paradigm].one_pass
        if one_pass and self.steps != 1:
            raise UserError(
                f"A {self.paradigm} recipe runs 1 step, not {self.steps}: set paradigm=deterministic for more."
            )
        if self.head and not one_pass:
            raise UserError(f"A head reads one pass of the network: paradigm={self.paradigm} cannot be run with one.")
        if not self.head and self.codec and CODECS[self.codec].classes:
            raise UserError(f"codec={self.codec} reads what a head predicts, and this checkpoint has none: drop it.")
        if self.target >= self.targets:
            raise UserError(f"target={self.target} is none of the {self.targets} that the network predicts, from 0.")
        for field, low, high in RANGES:
            if not low <= getattr(self, field) <= high:
                raise UserError(f"{field}={getattr(self, field)} is outside {low}..{high}.")
        numbers: Any = self.vector or ()
        if not all(isinstance(number, float | int) for number in numbers):
            raise UserError(f"vector={self.vector} is not one of numbers.")
        if self.axes is not None and (len(self.axes) != 3 or any(axis not in get_args(Axis) for axis in self.axes)):
            raise UserError(f"axes={','.join(map(str, self.axes))} is not three of {', '.join(get_args(Axis))}.")
        skeleton_named(self.keypoints or USUAL, self.limbs)

    @property
    def id(self) -> str:
        """The name, or the task's where none was given."""
        return self.name or self.task

    @property
    def row(self) -> Task:
        return task_named(self.task)

    @property
    def rule(self) -> ResizeRule:
        """With the filters that this recipe names."""
        return RESIZE_RULES[self.resize].filtered(self.filter, self.back_filter)

    @property
    def skeleton(self) -> Skeleton:
        """Of keypoints."""
        return skeleton_named(self.keypoints or USUAL, self.limbs)

    @property
    def channels(self) -> int:
        """Of the raw values."""
        return len(self.skeleton) if self.row.per == "person" else self.row.channels

    def target_codec(self) -> Codec:
        """Between values and the decoder's picture."""
        return CODECS[self.codec or self.row.codec](channels=self.channels, scale=self.target_scale)

    def convention(self) -> Convention:
        """What the values mean that this recipe predicts."""
        codec = self.target_codec()
        return Convention(
            low=codec.low, high=codec.high, near=self.row.near, metric=self.metric, axes=self.axes, unit=codec.unit,
            encoding=self.encoding, up_to_scale=self.up_to_scale, palette=self.palette or None, classes=codec.classes,
            skeleton=self.skeleton if self.row.per == "person" else None, decoding=self.decoding,
        )  # fmt: skip

    @property
    def merge(self) -> str:
        """A row of core.ensemble.MERGES: the task's, where the values are what it was made for, else the median."""
        codec = self.target_codec()
        suits = codec.unit_length if self.row.merge == "direction" else codec.high == 1 and not self.metric
        return self.row.merge if suits else "median"

    @property
    def run(self) -> Recipe:
        """What it does before anything is read from the network's answer: equal for recipes that share their passes."""
        return dataclasses.replace(self, task="depth", **{name: DEFAULTS[name] for name in READING})

    def override(self, assignments: Iterable[str]) -> Recipe:
        """This recipe with FIELD=VALUE assignments applied. UserError names the nearest right field."""
        return dataclasses.replace(self, **dict(parse_assignment(text) for text in assignments))


CHOICES: dict[str, Collection[str]] = {
    **{name: get_args(hint) for name, hint in get_type_hints(Recipe).items() if get_origin(hint) is Literal},
    "paradigm": PARADIGMS,
    "resize": RESIZE_RULES,
    "codec": ("", *CODECS),
    "crop": CROPS,
    "decoding": DECODINGS,
}
RANGES = (
    ("steps", 1, 1000),
    ("timestep", 0, 999),
    ("beta_start", 1e-6, 1.0),
    ("beta_end", 1e-6, 1.0),
    ("steps_offset", 0, 999),
    ("original_steps", 1, 1000),
    ("timestep_scaling", 1e-3, 1e3),
    ("targets", 1, 64),
    ("target", 0, 63),
    ("channel", -1, 2),
    ("input_gamma", 0.1, 10.0),
    ("tokens", 0, 77),
    ("guidance_scale", -100.0, 100.0),
    ("ensemble_size", 1, 100),
    ("ensemble_edge", 0, 16384),
    ("seed", 0, 2**63 - 1),
    ("resolution", 0, 16384),
    ("target_scale", -1e6, 1e6),
    ("aspect", 0.1, 10.0),
)


TUPLES = {
    name: get_args(part)[0]
    for name, hint in get_type_hints(Recipe).items()
    for part in get_args(hint)
    if get_origin(part) is tuple
}
"""Fields of several values, and what each of these is."""
KINDS: dict[str, tuple[type, ...]] = {
    name: {bool: (bool,), int: (int,), float: (float, int)}.get(hint, (tuple, NoneType) if name in TUPLES else (str,))
    for name, hint in get_type_hints(Recipe).items()
}
"""Of what types the values of a field are, as far as JSON tells them apart."""
FROM_FILES = ("head", "name", "decoder", "encoder")
"""Fields that name what lies in the file."""


DEFAULTS = {field.name: field.default for field in dataclasses.fields(Recipe)}
READING = (
    *("name", "target", "channel", "codec", "target_scale", "metric", "encoding", "up_to_scale", "axes", "palette"),
    *("back_filter", "decoder", "decoder_cost", "licence", "data"),
)
"""Fields that say how an answer is read, and nothing of how it is made."""


def _check_kind(field: str, value: Any, kind: tuple[type, ...]) -> None:
    """UserError for a value of another type; true and false are no numbers."""
    if not isinstance(value, kind) or (isinstance(value, bool) and bool not in kind):
        raise UserError(f"{field}={value!r}: expected a value of type {kind[0].__name__}.")


def _check_choice(field: str, value: str, choices: Collection[str]) -> None:
    """UserError that lists the choices."""
    if value not in choices:
        raise UserError(f"{field}={value!r} is not one of {', '.join(map(repr, choices))}.")


def parse_assignment(text: str) -> tuple[str, Any]:
    """'steps=4' -> ('steps', 4), typed as the field is."""
    name, equals, value = text.partition("=")
    hints = get_type_hints(Recipe)
    if not equals:
        raise UserError(f"{text!r} is not an assignment: write FIELD=VALUE, such as steps=4.")
    if name in FROM_FILES:
        raise UserError(f"{name} comes with the weights and cannot be set for a run.")
    if name not in hints:
        raise UserError(f"A recipe has no field {name!r}: {meant(name, hints, 'the fields are {known}.')}")
    try:
        return name, _parse_value(hints[name], value)
    except ValueError:
        wanted = getattr(hints[name], "__name__", str(hints[name]))
        raise UserError(f"{name}={value!r}: expected a value of type {wanted}.") from None


def _parse_value(hint: Any, text: str) -> Any:
    """A word, read as the field's type."""
    if hint is bool:
        if text.lower() not in ("true", "false"):
            raise ValueError(text)
        return text.lower() == "true"
    if hint in (int, float):
        return hint(text)
    inner = next((get_args(part)[0] for part in get_args(hint) if get_origin(part) is tuple), None)
    if inner is not None:
        return tuple(float(word) if inner is float else word for word in text.split(",")) if text else None
    return text


def to_header(recipes: Sequence[Recipe]) -> dict[str, str]:
    """The safetensors metadata that carries these recipes; fields at their default are left out."""
    rows = [{k: v for k, v in dataclasses.asdict(r).items() if v != DEFAULTS[k]} for r in recipes]
    return {KEY: json.dumps(rows)}


def from_header(metadata: dict[str, str], where: str) -> tuple[Recipe, ...]:
    """The recipes in a safetensors header. UserError, naming `where`, if they are missing or from a newer version."""
    if KEY not in metadata:
        raise UserError(
            f"{where} carries no {KEY}: name its family and task, or export it with `diffusion-perception export`."
        )
    try:
        rows = parse_json(metadata[KEY])
        if not isinstance(rows, list):
            raise UserError("it is no list of recipes")
        return tuple(map(_recipe_from, rows))
    except UserError as error:
        raise UserError(
            f"{where} has a recipe that this version cannot read ({str(error).rstrip('.')}): update the pack."
        ) from None


def _recipe_from(row: Any) -> Recipe:
    """The recipe of one JSON object. UserError for what is none, and for fields of a newer version."""
    if not isinstance(row, dict) or "task" not in row:
        raise UserError("it names no task")
    unknown = set(row) - {field.name for field in dataclasses.fields(Recipe)}
    if unknown:
        raise UserError(f"unknown fields {', '.join(sorted(unknown))}")
    given = {name: row[name] for name in TUPLES if name in row}
    several = {name: tuple(held) if isinstance(held, list) and held else held or None for name, held in given.items()}
    return Recipe(**{**row, **several})
