"""Stop: Ctrl-C and SIGTERM end a run between two steps, with everything saved; a second one ends it at once."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TypeVar

Answer = TypeVar("Answer")

SIGNALS = (signal.SIGINT, signal.SIGTERM)
ONE_WISH_S = 1.0
"""Signals that come within this time are one wish."""
GRACE_S = 20
"""How long a process that reads pictures outlives a SIGTERM."""
SOON = b"\ndiffusion-perception: stopping after this step and saving; once more stops at once\n"


class Stopped(KeyboardInterrupt):
    """A run that was asked to end and did, saved; in one sentence."""

    def __init__(self, sentence: str, number: int) -> None:
        """number: of the signal."""
        super().__init__(sentence)
        self.number = number


class CutOff(Exception):
    """What may be left out, such as a validation, when a run is to end."""


class Wish:
    """Whether someone wants the run to end."""

    def __init__(self) -> None:
        self.number = 0
        """Of the signal that said so."""
        self.since = 0.0
        self.breaking = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Signals are taken down while this lasts, where Python lets them be: in a process's main thread."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.hear) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def hear(self, number: int, frame: FrameType | None) -> None:
        if self.number:
            # a launcher passes on what the terminal has sent to all processes already
            if time.monotonic() - self.since > ONE_WISH_S:
                raise KeyboardInterrupt
            return
        self.number, self.since = number, time.monotonic()
        os.write(2, SOON)  # print() might be in the middle of a line of its own
        if self.breaking:
            raise CutOff

    def unless_asked(self, call: Callable[[], Answer], instead: Answer) -> Answer:
        """What is called gives; `instead` where the wish comes meanwhile, or has come."""
        if self.number:
            return instead
        try:
            self.breaking = True
            try:
                return call()
            finally:
                self.breaking = False
        except CutOff:
            return instead


def deaf(worker: int) -> None:
    """What a process that reads pictures does of signals: a terminal sends them to all, and the run needs its pictures
    until it is saved. It ends with the run."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform != "win32":
        # whoever ends it so, and means it, does not wait for ever
        signal.signal(signal.SIGTERM, lambda *_: signal.alarm(GRACE_S))
