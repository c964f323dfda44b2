"""The editor's versions: what differs between them is here, one row a version, and nowhere else."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Frontend:
    """Where a version of ComfyUI's editor has what a test looks for: CSS selectors."""

    since: tuple[int, int]
    """The first version with these."""
    run: str
    """The button that runs the graph."""
    results: str
    """The rows of the node search, best first."""
    complaints: str
    """What opens by itself when something is wrong."""
    dismiss: str
    """What puts away a complaint that does not go by the Escape key."""
    details: str
    """What leads from a complaint to what it is about; nothing where it says that itself."""
    missing: str
    """Where the files are named that a graph needs."""
    shut_help: str
    """The button that puts the page of help away."""


FRONTENDS = (
    Frontend(
        since=(1, 32),
        run="[data-testid=queue-button] button[aria-label=Run]",
        results=".p-autocomplete-option",
        complaints="[role=dialog], .p-toast-message",
        dismiss=".p-toast-close-button",
        details="",
        missing="[role=dialog]",
        shut_help="button[aria-label^='Node Library']",
    ),
    Frontend(
        since=(1, 49),
        run="button[data-testid=queue-button]",
        results="[data-testid=result-item]",
        complaints="[role=dialog], .p-toast-message, [data-testid=error-overlay]",
        dismiss=".p-toast-close-button, [data-testid=error-overlay-dismiss]",
        details="[data-testid=error-overlay-see-errors]",
        missing="[data-testid=error-group-missing-model]",
        shut_help="button[aria-label='Toggle properties panel']",
    ),
)


def frontend(version: str) -> Frontend:
    """The newest row that is not newer than this version."""
    major, minor = (int(part) for part in version.split(".")[:2])
    return next(row for row in reversed(FRONTENDS) if row.since <= (major, minor))
