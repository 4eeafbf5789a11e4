"""Recipes: an ordered list of commands, each on what the one before made, that can be killed and resumed anywhere."""
