"""Published weights: where they are, what of them to get, how much that is, under which licence, and where it goes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

HUB = "https://huggingface.co"
DRIVE = "https://drive.google.com/drive/folders"
UNSAID = "not said"
WITHIN_LIMITS = "yes, with use restrictions"

LICENCES: dict[str, str] = {
    "Apache-2.0": "yes",
    "MIT": "yes",
    "CC0-1.0": "yes",
    "RAIL++-M": WITHIN_LIMITS,
    "CreativeML Open RAIL-M": WITHIN_LIMITS,
    "BSD-2-Clause, non-commercial": "no",
    "Adobe Research License": "no",
    # what was trained from other weights is no freer than they are
    "Adobe Research License, as RGB-X's": "no",
    # its weights lie beside no licence
    "Apache-2.0, of the code": UNSAID,
}
"""{licence: whether it allows commercial use}"""


@dataclass(frozen=True)
class Published:
    """A row: weights that are got and licensed alike."""

    families: tuple[str, ...]
    """Rows of core.checkpoints.families that run them, the usual one first."""
    what: str
    """For people."""
    places: Mapping[str, str]
    """{folder or file in the host's folder of models: its address}"""
    get: str
    """Which files at that address, as patterns of their names where there are many."""
    size: str
    """Of these files, for one place."""
    licence: str
    """A row of LICENCES."""

    @property
    def commercial(self) -> str:
        return LICENCES[self.licence]


def hub(owner: str, *repositories: str) -> dict[str, str]:
    """Places called after their repositories: where the files cannot tell what they are, the folder's name does."""
    return {name: f"{HUB}/{owner}/{name}" for name in repositories}


HALF = "*.fp16.safetensors *.json *.txt"
ALL = "*.safetensors *.json *.txt"
FILE, EVERYTHING = "the file", "everything"
OLBEDO = f"{HUB}/GDAOSU/olbedo/tree/main"

PUBLISHED: tuple[Published, ...] = (
    Published(
        ("lotus-d",), "Lotus-D: depth", hub("jingheya", "lotus-depth-d-v1-1"), ALL, "UNet 1.7 GB", "Apache-2.0"
    ),
    Published(
        ("lotus-d",), "the same without a VAE: connect Stable Diffusion's",
        {"lotus-depth-d-v1-1.safetensors": f"{HUB}/Comfy-Org/lotus/resolve/main/lotus-depth-d-v1-1.safetensors"},
        FILE, "1.7 GB", "Apache-2.0",
    ),
    Published(
        ("lotus-d",), "Lotus-D: depth, disparity, normals",
        hub(
            "jingheya", "lotus-depth-d-v1-0", "lotus-depth-d-v2-0-disparity", "lotus-normal-d-v1-0",
            "lotus-normal-d-v1-1",
        ),
        ALL, "UNet 3.5 GB", "Apache-2.0",
    ),
    Published(
        ("lotus-g",), "Lotus-G, from noise: depth, disparity, normals",
        hub(
            "jingheya", "lotus-depth-g-v1-0", "lotus-depth-g-v2-1-disparity", "lotus-normal-g-v1-0",
            "lotus-normal-g-v1-1",
        ),
        ALL, "UNet 3.5 GB", "Apache-2.0",
    ),
    Published(
        ("e2e-ft",), "E2E-FT: depth, normals",
        hub(
            "GonzaloMG", "marigold-e2e-ft-depth", "marigold-e2e-ft-normals", "stable-diffusion-e2e-ft-depth",
            "stable-diffusion-e2e-ft-normals",
        ),
        ALL, "5.2 GB", "Apache-2.0",
    ),
    Published(
        ("depthmaster",), "DepthMaster: disparity", hub("zysong212", "DepthMaster"), EVERYTHING, "5.5 GB",
        "Apache-2.0",
    ),
    Published(
        ("sdpose",), "SDPose: 17 keypoints of a body, or 133 with hands and face",
        hub("teemosliang", "SDPose-Body", "SDPose-Wholebody"), EVERYTHING, UNSAID, "MIT",
    ),
    Published(
        ("sdpose",), "the second of these in one file",
        {
            "sdpose_wholebody_fp16.safetensors":
            f"{HUB}/Comfy-Org/SDPose/resolve/main/checkpoints/sdpose_wholebody_fp16.safetensors"
        },
        FILE, "1.9 GB", "MIT",
    ),
    Published(
        ("marigold",), "Marigold, first release: depth", hub("prs-eth", "marigold-depth-v1-0"), HALF, "2.6 GB",
        "Apache-2.0",
    ),
    Published(
        ("marigold",), "Marigold LCM: depth, normals",
        hub("prs-eth", "marigold-depth-lcm-v1-0", "marigold-normals-lcm-v0-1"), HALF, "2.6 GB", "Apache-2.0",
    ),
    Published(
        ("marigold",), "Marigold: depth, normals", hub("prs-eth", "marigold-depth-v1-1", "marigold-normals-v1-1"),
        HALF, "2.6 GB", "RAIL++-M",
    ),
    Published(
        ("marigold-intrinsics",), "Marigold: albedo, roughness and metallicity; albedo, shading and residual",
        hub("prs-eth", "marigold-iid-appearance-v1-1", "marigold-iid-lighting-v1-1"), HALF, "about 2.6 GB",
        "RAIL++-M",
    ),
    Published(
        ("marigold-intrinsics",), "Olbedo: the same from the air",
        {f"olbedo-{kind}": f"{OLBEDO}/marigold_{kind}/finetuned" for kind in ("appearance", "lighting")},
        EVERYTHING, UNSAID, "RAIL++-M",
    ),
    Published(
        ("intrinsic-lora",), "Intrinsic-LoRA, adapters on SD 1.5: depth, normals, albedo, shading",
        {
            f"intrinsic-lora-{task}": f"{DRIVE}/1BV2IQp6itGIi6QQS7Vgug4G7slJ3yDTG"
            for task in ("depth", "normal", "albedo", "shading")
        },
        "sd_single_<task>_pytorch_model.bin, renamed pytorch_model.bin", "some MB", "CreativeML Open RAIL-M",
    ),
    Published(
        ("dmp",), "DMP, adapters on SD 1.4: depth, normals",
        dict.fromkeys(
            ("depth-hypersim-notext", "normal-scene100-notext"), f"{DRIVE}/1R7H2x3ETkxs5bRx9gzKo4ngxtFJfGPAv"
        ),
        "the folder of that name", "some MB", "Apache-2.0, of the code",
    ),
    Published(
        ("genpercept", "genpercept-v1", "genpercept-dpt"),
        "GenPercept, all tasks or one: depth, disparity, normals, masks, mattes, segmentation",
        hub(
            "guangkaixu", "genpercept-models", "genpercept-depth", "genpercept-disparity",
            "genpercept-disparity-dpt-head", "genpercept-normal", "genpercept-dis", "genpercept-matting",
            "genpercept-seg",
        ),
        ALL, "167 MB, and 3.5 GB a task", "BSD-2-Clause, non-commercial",
    ),
    Published(
        ("rgb-x",), "RGB-X: albedo, normals, roughness, metallicity, irradiance", hub("zheng95z", "rgb-to-x"),
        EVERYTHING, "5.2 GB", "Adobe Research License",
    ),
    Published(
        ("rgb-x",), "Olbedo: albedo from the air", {"olbedo-rgbx": f"{OLBEDO}/rgbx/finetuned"},
        EVERYTHING, UNSAID, "Adobe Research License",
    ),
    Published(
        ("rgb-x",), "Ouroboros: RGB-X in one step", {"ouroboros": f"{HUB}/Y-Research-Group/Ouroboros"},
        "unet_1/ (its other parts are those of rgb-to-x)", UNSAID, "Adobe Research License, as RGB-X's",
    ),
)  # fmt: skip
"""What this version runs and somebody has published, the freest first."""


PLACES = {place.lower(): (place, row) for row in PUBLISHED for place in row.places}
"""{name in lower case: (name, its row)}"""


def where(name: str, folder: str) -> str:
    """How to get what a person calls by this name, "" if nobody publishes such; folder: that of models.

    name: of a file or folder in any case, or a path through one.
    """
    known = [PLACES[part] for part in PurePosixPath(name.lower()).parts if part in PLACES]
    if not known:
        return ""
    place, row = known[-1]
    what, into = ("it", folder) if row.get == FILE else (row.get, f"{folder}/{place}")
    return f"get {what} from {row.places[place]} into {into}"


def licence_of(*names: str) -> str:
    """Of the published weights that bear one of these names, "" if nobody's do; files may lack their ending."""
    asked = [f"{name.lower()}{end}" for name in names for end in ("", ".safetensors")]
    return next((PLACES[name][1].licence for name in asked if name in PLACES), "")


def _commercial_use(licence: str) -> str:
    """Whether a licence allows it, as far as that is known."""
    known = {name.lower(): allowed for name, allowed in LICENCES.items()}
    return known.get(licence.lower(), UNSAID)


def describe_licence(licence: str, family: str) -> dict[str, str]:
    """What `info` says of a licence; where none is given, under which others of its family have been published."""
    usual = " or ".join(dict.fromkeys(row.licence for row in PUBLISHED if family in row.families))
    told = licence or (f"{UNSAID}; others of this family: {usual}" if usual else UNSAID)
    return {"licence": told, "commercial use": _commercial_use(licence)}
