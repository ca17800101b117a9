"""The people domain: rendered heads that look like photos."""
