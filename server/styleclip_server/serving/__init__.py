"""The Triton server: configs, process, supervision, the glue of its steps, logs, metrics."""
