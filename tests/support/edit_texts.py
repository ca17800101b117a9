"""Edits of the avatars domain that several test files use."""

SAD_FACE = "a sad face"
SAD_OPTIONS = ["--target", SAD_FACE]  # of the command line
SUNGLASSES = "a face with sunglasses"
