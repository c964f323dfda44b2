"""What Extras hand to a script."""


class PostprocessedImage:
    def __init__(self, image):
        self.image, self.info, self.extra_images, self.nametags, self.disable_processing = image, {}, [], [], False

    def create_copy(self, new_image, *, nametags=None, disable_processing=False):
        made = PostprocessedImage(new_image)
        made.nametags, made.info = self.nametags + (nametags or []), dict(self.info)
        made.disable_processing = disable_processing
        return made


class ScriptPostprocessing:
    pass
