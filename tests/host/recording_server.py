"""A ComfyUI server whose websocket events are kept, run by run."""

from __future__ import annotations

import json
import struct
import threading
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import websocket
from comfyui_server import Result, Server

if TYPE_CHECKING:
    from typing_extensions import Self

Event = tuple[str, dict[str, Any]]
TEXT = 3
"""The kind of a binary event that shows a line on a node."""


@dataclass(frozen=True)
class RecordedResult(Result):
    """A result together with what the websocket told meanwhile."""

    events: list[Event] = field(default_factory=list)
    """(type, data) of each event, in order."""

    @property
    def executed(self) -> list[str]:
        """The nodes that ran, in order; cached ones are not among them."""
        return [data["node"] for kind, data in self.events if kind == "executing" and data["node"] is not None]

    def progress(self, node_id: str) -> list[tuple[int, int]]:
        """How a node's progress bar moved: (value, maximum)."""
        told = (data for kind, data in self.events if kind == "progress" and data["node"] == node_id)
        return [(data["value"], data["max"]) for data in told]


class RecordingServer(Server):
    """A server with one listener, which gets the events of all runs that this object starts."""

    def __enter__(self) -> Self:
        super().__enter__()
        self._events: dict[str, list[Event]] = defaultdict(list)
        self.said: dict[str, str] = {}
        """The line that a browser shows on each node: what came last under that id."""
        self._changed = threading.Condition()
        self._socket = websocket.create_connection(
            f"ws://127.0.0.1:{self.port}/ws?clientId={self.client_id}", http_no_proxy=["127.0.0.1"]
        )
        threading.Thread(target=self._listen, daemon=True).start()
        return self

    def stop(self) -> None:
        """Close the websocket, then end the server."""
        if hasattr(self, "_socket"):
            self._socket.close()
        super().stop()

    def submit(self, graph: Mapping[str, Mapping[str, Any]], timeout: float = 600.0) -> RecordedResult:
        """Run a graph to its end; raises GraphRejected, NodeFailed or Interrupted."""
        return self.wait(self.start(graph), timeout)

    def wait(self, prompt_id: str, timeout: float = 600.0) -> RecordedResult:
        """Wait until a queued graph has ended and its events have arrived."""
        result = super().wait(prompt_id, timeout)
        events = self.events(prompt_id, complete=True)
        return RecordedResult(result.prompt_id, result.outputs, result.messages, result.base, events)

    def events(self, prompt_id: str, complete: bool = False) -> list[Event]:
        """The events of a run so far, or, if complete, when its last has come; runs that failed have events too."""
        with self._changed:
            if complete and not self._changed.wait_for(lambda: self._has_ended(prompt_id), timeout=10):
                raise TimeoutError(f"The websocket told no end of {prompt_id}: {self._events[prompt_id]}")
            return list(self._events[prompt_id])

    def wait_for_event(self, prompt_id: str, kind: str, node_id: str | None = None, timeout: float = 60.0) -> None:
        """Wait until a run has got somewhere, for instance to interrupt it there."""

        def has_come() -> bool:
            told = (data for event, data in self._events[prompt_id] if event == kind)
            return any(node_id is None or data.get("node") == node_id for data in told)

        with self._changed:
            if not self._changed.wait_for(has_come, timeout):
                raise TimeoutError(f"No event {kind} of node {node_id} came: {self._events[prompt_id]}")

    def _has_ended(self, prompt_id: str) -> bool:
        return any(kind == "executing" and data["node"] is None for kind, data in self._events[prompt_id])

    def _listen(self) -> None:
        while True:
            try:
                message = self._socket.recv()
            except (OSError, websocket.WebSocketException):
                return
            if message == "":  # the server closes
                return
            if isinstance(message, bytes):
                self._hear(message)
                continue
            event = json.loads(message)
            with self._changed:
                self._events[event.get("data", {}).get("prompt_id", "")].append((event["type"], event["data"]))
                self._changed.notify_all()

    def _hear(self, message: bytes) -> None:
        """A line of text for a node; not a preview picture."""
        kind, length = struct.unpack_from(">II", message)
        if kind == TEXT:
            self.said[message[8 : 8 + length].decode()] = message[8 + length :].decode()
