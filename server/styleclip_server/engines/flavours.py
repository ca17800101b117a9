"""The ways of running the networks, and the files in a network's version folder that they read."""

from typing import Literal

Flavour = Literal["gpu", "torch", "cpu", "openvino"]
# ONNX Runtime on a GPU; PyTorch on a GPU, the fastest; ONNX Runtime on a CPU; OpenVINO on a CPU,
# the fastest on one with bfloat16 instructions, for the networks that were converted to its form.
FLAVOURS: tuple[Flavour, ...] = ("gpu", "torch", "cpu", "openvino")
ON_CPU: tuple[Flavour, ...] = ("cpu", "openvino")
# What a Triton that was not started by our launcher can run: by each model's config.pbtxt, and by
# the overlays that --model-config-name names.
STOCK: Flavour = "gpu"
OVERLAYS: tuple[Flavour, ...] = ("cpu", "openvino")

MODEL_FILE = "model.onnx"  # float32
FLOAT16_FILE = "model.fp16.onnx"  # run by "gpu" in place of MODEL_FILE, where there is one
OPENVINO_FILE = "model.openvino.onnx"  # run by "openvino"; its weights lie in MODEL_FILE
