"""The Triton server of StyleCLIP: its Python steps and its launcher."""
