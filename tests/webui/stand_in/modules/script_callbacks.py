"""Callbacks, which a reload of the page forgets."""

before_ui = []


def on_before_ui(callback, *, name=None):
    before_ui.append(callback)
