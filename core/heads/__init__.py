"""Heads: decoders that read UNet features, one a file, and their table."""
