"""Checkpoints: what lies on disk, and what it is; predicting never looks in here."""
