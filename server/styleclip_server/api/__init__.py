"""The API server: a web API, and KServe's protocol with every request checked."""
