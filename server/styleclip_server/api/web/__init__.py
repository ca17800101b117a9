"""The web API (docs/api.md): its endpoints, and how their requests and responses are written."""
