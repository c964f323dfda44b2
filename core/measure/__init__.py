"""Measure: losses, metrics, and the alignment before them."""
