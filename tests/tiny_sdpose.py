"""SDPose on tiny random networks: as its authors lay it out, as ComfyUI's single file, and what they compute."""

from __future__ import annotations

import math
from copy import deepcopy
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import tiny
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, UNet2DConditionModel
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

LEVELS = {17: 3, 133: 2}
"""{heatmaps: the up block that their head reads}, of Body and Wholebody."""
SIDES = {17: (0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15)}
"""What a mirror makes of the points."""
BODY = (0, None, 6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15, 2, 1, 4, 3)
"""OpenPose's joints by their numbers in COCO; the neck is none of them."""
PARTS = {
    "foot_keypoints_2d": range(17, 23),
    "face_keypoints_2d": (*range(23, 91), 2, 1),
    "hand_left_keypoints_2d": range(91, 112),
    "hand_right_keypoints_2d": range(112, 133),
}
"""Where OpenPose's lists lie in COCO-WholeBody."""


@cache
def unet(seed: int = 6, width: int = tiny.WIDTH) -> UNet2DConditionModel:
    """Lotus-D's shape, with a class embedding of four numbers, and attention heads as SD 2.x has them. Like the other
    networks here it loses nothing in half precision."""
    torch.manual_seed(seed)
    network = UNet2DConditionModel(
        block_out_channels=(32, 64, 64, 64),
        layers_per_block=1,
        attention_head_dim=[1, 1, 1, 1],  # pyright: ignore[reportArgumentType]
        cross_attention_dim=width,
        use_linear_projection=True,
        class_embed_type="projection",
        projection_class_embeddings_input_dim=4,
    )
    return network.half().float().eval().requires_grad_(False)


@cache
def vae() -> AutoencoderKL:
    return deepcopy(tiny.vae()).half().float()


@cache
def head(points: int = 17, seed: int = 7) -> dict[str, Tensor]:
    """Weights of a head, under its published names, whose heatmaps rise above the threshold of a keypoint."""
    width = {17: 32, 133: 64}.get(points, 32)
    random = torch.Generator().manual_seed(seed)

    def of(*shape: int) -> Tensor:
        return (torch.randn(shape, generator=random) * (2 / math.prod(shape[1:])) ** 0.5).half().float()

    return {
        "deconv_layers.0.weight": of(width, width, 4, 4),
        "conv_layers.0.weight": of(width, width, 1, 1),
        "conv_layers.0.bias": of(width) / 8,
        "final_layer.weight": of(points, width, 1, 1),
        "final_layer.bias": of(points) / 8,
    }


def write_folder(folder: Path, points: int = 17, pipeline: str = "SDPose_D_Pipeline") -> Path:
    """The repository in diffusers layout, its empty prompt beside it."""
    tiny.write(folder / "unet", unet())
    tiny.write(folder / "vae", vae())
    (folder / "decoder").mkdir()
    save_file(head(points), folder / "decoder" / "decoder.safetensors")
    tiny.write_json(folder / "model_index.json", {"_class_name": pipeline})
    tiny.write_context(folder)
    return folder


def write_single(path: Path, points: int = 133, dtype: torch.dtype = torch.float16, width: int = tiny.WIDTH) -> Path:
    """ComfyUI's single file: the head among the UNet's tensors, a VAE, no text encoder; the prompt lies beside it,
    unless the text is as wide as SD2's, whose empty prompt ComfyUI has."""
    inside = {f"model.diffusion_model.heatmap_head.{name}": tensor for name, tensor in head(points).items()}
    tensors = {**tiny.ldm(unet(width=width)), **inside, **tiny.ldm_vae(vae())}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.to(dtype).contiguous() for name, tensor in tensors.items()}, path)
    if width == tiny.WIDTH:
        tiny.write_context(path.parent)
    return path


# What the authors compute


@torch.no_grad()
def heatmaps(
    picture: np.ndarray, box: tuple[int, int, int, int] | None, size: tuple[int, int], points: int, flip: bool = False
) -> np.ndarray:
    """(K, H / 4, W / 4) float32 of a picture (H, W, 3) of bytes. box: two corners; size: (W, H) of the crop."""
    image = Image.fromarray(picture)
    part = image.crop(box or (0, 0, *image.size))
    # by two calls: newer versions of Pillow take the passes in another order where that is cheaper
    across = part.resize((size[0], part.size[1]), Image.Resampling.BILINEAR)
    pixels = np.asarray(across.resize(size, Image.Resampling.BILINEAR))
    crop = (torch.from_numpy(pixels.copy()).movedim(-1, 0)[None] / 255 - 0.5) / 0.5
    found = seen(crop, points)
    if flip:
        found = (found + seen(crop.flip(-1), points)[list(SIDES[points])].flip(-1)) / 2
    return found.numpy()


def seen(crop: Tensor, points: int) -> Tensor:
    """Of one crop (1, 3, H, W) in [-1, 1]."""
    latent = vae().encode(crop).latent_dist.mean * 0.18215
    labels = torch.tensor([[math.sin(1), math.sin(0), math.cos(1), math.cos(0)]])
    held: list[Tensor] = []
    block = unet().up_blocks[LEVELS[points]]
    hook = block.register_forward_hook(lambda module, inputs, output: held.append(output))
    unet()(latent, torch.tensor([999]), tiny.context(), class_labels=labels)
    hook.remove()
    weights = head(points)
    x = F.conv_transpose2d(held[0], weights["deconv_layers.0.weight"], stride=2, padding=1)
    x = F.conv2d(silu_of_normed(x), weights["conv_layers.0.weight"], weights["conv_layers.0.bias"])
    return F.conv2d(silu_of_normed(x), weights["final_layer.weight"], weights["final_layer.bias"])[0]


def silu_of_normed(x: Tensor) -> Tensor:
    """An instance norm without weights, and x * sigmoid(x)."""
    mean, variance = x.mean((2, 3), keepdim=True), x.var((2, 3), keepdim=True, unbiased=False)
    x = (x - mean) / (variance + 1e-5).sqrt()
    return x * x.sigmoid()


def refined(heatmap: np.ndarray) -> np.ndarray:
    """x, y in cells. DARK, eq. 5 to 9 (Zhang et al. 2020), with the mixed derivative of UDP (Huang et al. 2020):
    m - H^-1 d of the logarithm at the highest cell m, after an 11 x 11 Gaussian on zeros that keeps the highest value.
    """
    blurred = cv2.GaussianBlur(np.pad(heatmap, 5).astype(np.float64), (11, 11), 0)[5:-5, 5:-5]
    surface = np.log(np.clip(blurred * heatmap.max() / blurred.max(), 1e-3, 50))
    f = np.pad(surface, 1, mode="edge")
    row, column = np.unravel_index(heatmap.argmax(), heatmap.shape)
    y, x = int(row) + 1, int(column) + 1
    slope = np.array([f[y, x + 1] - f[y, x - 1], f[y + 1, x] - f[y - 1, x]]) / 2
    ahead = f[y + 1, x + 1] - f[y + 1, x] - f[y, x + 1] + f[y, x]
    behind = f[y, x] - f[y - 1, x] - f[y, x - 1] + f[y - 1, x - 1]
    mixed = (ahead + behind) / 2
    across, down = f[y, x + 1] - 2 * f[y, x] + f[y, x - 1], f[y + 1, x] - 2 * f[y, x] + f[y - 1, x]
    curved = np.array([[across, mixed], [mixed, down]]) + np.finfo(np.float32).eps * np.eye(2)
    return np.array([column, row]) - np.linalg.solve(curved, slope)


def keypoints(maps: np.ndarray, box: tuple[int, int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """(K, 2) x and y in the picture's pixels, and (K,) which a last bit does not throw: a step within the blur."""
    cells = np.stack([refined(one) for one in maps])
    sides = np.array(maps.shape[:0:-1]) - 1
    highest = np.stack([np.unravel_index(one.argmax(), one.shape)[::-1] for one in maps])
    steady = np.abs(cells - highest).max(1) <= 3
    corner, far = np.array(box[:2]), np.array(box[2:])
    return corner + cells / sides * (far - corner), steady


def openpose(frame: dict, points: int) -> list[np.ndarray]:
    """(K, 3) x, y and whether it is known, of each person in OpenPose's JSON, in COCO's order."""
    return [coco(person, points) for person in frame["people"]]


def coco(person: dict, points: int) -> np.ndarray:
    placed = np.zeros((points, 3))
    places = {"pose_keypoints_2d": BODY, **(PARTS if points == 133 else {})}
    for name, numbers in places.items():
        listed = np.array(person[name]).reshape(-1, 3)
        for number, joint in zip(numbers, listed):
            if number is not None and not placed[number].any():
                placed[number] = joint
    return placed
