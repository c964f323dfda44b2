"""What a script of the pages derives from."""

AlwaysVisible = object()


class Script:
    pass


class PostSampleArgs:
    def __init__(self, samples):
        self.samples = samples
