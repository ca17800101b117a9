"""The engines that run the networks. Options and file names call them networks or engines."""

from typing import Literal

Engine = Literal["gpu", "torch", "cpu", "openvino"]
# ONNX Runtime on a GPU; PyTorch on a GPU, the fastest; ONNX Runtime on a CPU; OpenVINO on a CPU,
# the fastest on one with bfloat16 instructions, for the networks that were converted for it.
ENGINES: tuple[Engine, ...] = ("gpu", "torch", "cpu", "openvino")
CPU_ENGINES: tuple[Engine, ...] = ("cpu", "openvino")
# What a Triton that was not started by our launcher can run: by each model's config.pbtxt, and by
# the overlays that --model-config-name names.
STOCK_ENGINE: Engine = "gpu"
OVERLAY_ENGINES: tuple[Engine, ...] = ("cpu", "openvino")
