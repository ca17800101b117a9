"""What client and server agree on: models, tensors, errors, edits, domains and limits."""
