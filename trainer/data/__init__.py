"""Data: datasets, read, augmented and drawn in batches."""
