"""Recipes of the domains that this project trains."""
