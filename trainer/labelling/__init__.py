"""Labels for pictures that have none, in the order in which they are made."""
