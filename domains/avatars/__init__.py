"""Training, packaging and evaluation of the avatars domain; see README.md."""
