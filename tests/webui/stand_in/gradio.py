"""What a page is made of."""


class Dropdown:
    def __init__(self, **given):
        self.given = given


class Checkbox(Dropdown):
    pass
