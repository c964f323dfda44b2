"""Runs: one kind of training run a file."""
