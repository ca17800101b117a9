"""What client and server agree on: tensors and models, named errors, limits."""
