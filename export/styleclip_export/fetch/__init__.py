"""Fetches the published files of a domain, or finds them among the user's own."""
