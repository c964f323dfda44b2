"""Display: a map for people and for ControlNet, and as a file."""
