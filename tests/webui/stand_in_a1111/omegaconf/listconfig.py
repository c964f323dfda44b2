"""The name alone."""


class ListConfig(list):
    pass
