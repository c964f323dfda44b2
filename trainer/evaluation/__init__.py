"""Evaluation: who is measured on what, what came of it, and the report."""
