"""Recipes: whose published training runs a file; what is not as published is said in docs/recipes.md."""
