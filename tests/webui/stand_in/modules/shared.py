"""What a user asked for."""

from types import SimpleNamespace

state = SimpleNamespace(interrupted=False, skipped=False)
