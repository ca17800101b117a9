"""KServe's protocol over HTTP and gRPC: every request is checked, then passed on to Triton."""
