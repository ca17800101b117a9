"""OpenVINO on a CPU: `model` is its Triton backend, `network` runs one ONNX file."""
