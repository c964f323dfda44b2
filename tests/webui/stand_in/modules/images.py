"""Pictures are saved under numbers; scripts are told of each."""

from pathlib import Path

from modules import script_callbacks


def save_image(image, path, basename, seed=None, prompt=None, extension="png", p=None, suffix=""):
    number = len([file for file in Path(path).iterdir() if file.suffix == ".png"])
    file = Path(path) / f"{number:05}-{seed}{suffix}.{extension}"
    image.save(file)
    for callback in script_callbacks.image_saved:
        callback(script_callbacks.ImageSaveParams(image, p, str(file), {}))
