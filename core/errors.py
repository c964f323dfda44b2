"""The one kind of error whose sentence is meant for the person who works with the pack."""


class UserError(ValueError):
    """Something that a person can mend: what came, what was expected, what to do. Hosts and commands show its sentence
    alone; any other error is a fault of the program and shows its traceback."""
