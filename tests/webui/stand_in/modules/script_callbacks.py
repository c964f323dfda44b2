"""Callbacks, which a reload of the page forgets."""

before_ui = []
image_saved = []
ui_settings = []
app_started = []


class ImageSaveParams:
    def __init__(self, image, p, filename, pnginfo):
        self.image, self.p, self.filename, self.pnginfo = image, p, filename, pnginfo


def on_before_ui(callback, *, name=None):
    before_ui.append(callback)


def on_image_saved(callback, *, name=None):
    image_saved.append(callback)


def on_ui_settings(callback, *, name=None):
    ui_settings.append(callback)


def on_app_started(callback, *, name=None):
    app_started.append(callback)
