"""The engines that run the networks: the values of `--networks`."""

from typing import Literal

Engine = Literal[
    "gpu",  # ONNX Runtime on a GPU
    "torch",  # PyTorch and this project's kernels on a GPU
    "cpu",  # ONNX Runtime on a CPU
    "openvino",  # OpenVINO on a CPU with bfloat16 instructions
]
ENGINES: tuple[Engine, ...] = ("gpu", "torch", "cpu", "openvino")
CPU_ENGINES: tuple[Engine, ...] = ("cpu", "openvino")
# What a Triton started by hand can run: by each model's config.pbtxt, and by the overlays that
# --model-config-name selects.
STOCK_ENGINE: Engine = "gpu"
OVERLAY_ENGINES: tuple[Engine, ...] = ("cpu", "openvino")
