"""What a preprocessor of sd-webui-controlnet derives from, and where it is listed; a name may come only once."""

from __future__ import annotations


class PreprocessorParameter:
    def __init__(self, **given):
        self.given = given


class Preprocessor:
    all_processors: dict = {}
    all_processors_by_name: dict = {}

    def __init__(self, name):
        self.name, self.label, self.tags, self.sorting_priority = name, name, [], 0
        self.answers = {}

    @classmethod
    def add_supported_preprocessor(cls, preprocessor):
        assert preprocessor.name not in cls.all_processors
        assert preprocessor.name not in cls.all_processors_by_name
        cls.all_processors[preprocessor.label] = cls.all_processors_by_name[preprocessor.name] = preprocessor

    def __hash__(self):
        return hash(self.name)

    def __eq__(self, other):
        return hash(self) == hash(other)
