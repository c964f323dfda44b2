"""Rendered rooms with exact truth about every pixel; core's curves, skeletons and palettes are all it leans on."""
