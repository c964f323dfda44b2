"""Routes for programs, beside the host's own and behind its credentials; they take pictures, no path and no URL."""

from __future__ import annotations

import base64
import binascii
import io
import secrets
from typing import Any

import numpy as np
from fastapi import Body, Depends, HTTPException
from fastapi.security import HTTPBasic, HTTPBasicCredentials
from modules import call_queue, shared
from PIL import Image, UnidentifiedImageError

from ..core.display.map_files import FORMATS, pages
from ..core.errors import UserError
from .extras import RAW, offered
from .hosts import here, ticker
from .settings import chosen
from .work import controlnet_picture, perceive, pose_json

PREFIX = "/perception/v1"


def offer_api(app: Any) -> None:
    """Add the routes, where the user has switched the host's own on."""
    if not shared.cmd_opts.api:
        return
    # the host protects its own routes alone
    dependencies = [Depends(check_credentials)] if shared.cmd_opts.api_auth else []
    app.add_api_route(f"{PREFIX}/maps", maps, methods=["GET"], dependencies=dependencies)
    app.add_api_route(f"{PREFIX}/perceive", perceive_picture, methods=["POST"], dependencies=dependencies)


def check_credentials(given: HTTPBasicCredentials = Depends(HTTPBasic())) -> None:  # noqa: B008 - as FastAPI reads it
    """401 unless they are among those that the host was started with."""
    known = (pair.strip().encode() for pair in shared.cmd_opts.api_auth.split(","))
    said = f"{given.username}:{given.password}".encode()
    if not any(secrets.compare_digest(said, pair) for pair in known):
        raise HTTPException(401, "Incorrect username or password", headers={"WWW-Authenticate": "Basic"})


def maps() -> dict[str, Any]:
    """What can be asked for, and in which formats raw values come."""
    return {"maps": list(offered()), "raw": list(RAW)}


# not async: it computes for seconds
def perceive_picture(image: str = Body(), map: str = Body(), raw: str = Body("none")) -> dict[str, Any]:
    """A map of a picture. image: PNG, JPEG or WebP in base64; map, raw: as maps() lists them; map may be a task, for
    which the file answers that the user has chosen in the settings.

    The picture that a ControlNet reads is PNG in base64, and so are raw values; keypoints come as OpenPose's JSON. 422
    says in a sentence what is wrong.
    """
    try:
        return _perceived(_picture_in(image), map, raw)
    except UserError as error:
        raise HTTPException(422, str(error)) from None


def _perceived(picture: np.ndarray, label: str, raw: str) -> dict[str, Any]:
    """uint8 (H, W, 3) -> what is answered. UserError for what is not listed."""
    known = offered()
    choice = known.get(label) or chosen(label, known)
    if choice is None:
        raise UserError(f"There is no map {label!r}: ask for one of {', '.join(known)}, or for a task alone.")
    if raw not in RAW:
        raise UserError(f"Raw values do not come as {raw!r}: ask for one of {', '.join(RAW)}.")
    host = here()
    with call_queue.queue_lock:
        found = host.in_turn(lambda: perceive(host.MODELS.perceiver(choice), picture, ticker()), locked=True)
    answer: dict[str, Any] = {"image": _as_base64(png(controlnet_picture(found)))}
    if RAW[raw]:
        row, (page,) = FORMATS[RAW[raw]], pages(found)
        answer["raw"] = _as_base64(row.encode(page, ()))
    if choice.task == "keypoints":
        answer["pose"] = pose_json(found)
    return answer


def _picture_in(text: str) -> np.ndarray:
    """uint8 (H, W, 3). UserError for anything but a picture in base64."""
    try:
        data = base64.b64decode(text.partition(",")[2] if text.startswith("data:image/") else text, validate=True)
        return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    except (binascii.Error, ValueError, OSError, UnidentifiedImageError, Image.DecompressionBombError):
        raise UserError("image is no picture in base64: send a PNG, JPEG or WebP so, not a path or URL.") from None


def png(levels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(levels).save(file, "PNG")
    return file.getvalue()


def _as_base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
