"""The commands of `styleclip`, one module each; `cli` joins them."""
