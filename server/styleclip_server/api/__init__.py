"""The API server: the web API, and KServe's protocol with every request checked."""
