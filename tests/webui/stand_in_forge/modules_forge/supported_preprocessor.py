"""What a preprocessor derives from."""


class PreprocessorParameter:
    def __init__(self, **given):
        self.given = given


class Preprocessor:
    def __init__(self):
        self.name, self.tags, self.model_filename_filters, self.sorting_priority = "", [], [], 0
