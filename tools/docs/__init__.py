"""Generates the images of the documents."""
