"""The API server: `web` has the web API, `kserve` KServe's protocol with every request checked.

The modules beside them serve both: connections, who may call, bounds, refusals and errors.
"""
