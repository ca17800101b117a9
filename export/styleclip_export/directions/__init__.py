"""Named directions of a domain: read from files, fitted to labeled latents, kept in its folder."""
