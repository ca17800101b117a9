"""StyleGAN2's largest layers on NVIDIA's Hopper: a convolution and its epilogue in one kernel.

- `up_convolution`: the last upsampling convolution
- `last_convolution`: the last convolution, up to the image

The output of cuDNN's convolutions, 67 MB per image of 1024 px, is read only to be reduced: here it
stays in registers. The kernels are in Gluon, Triton's lower level, since Triton waits for each
matmul before it starts the next. Gluon may change with any release of Triton: with a release other
than the one these kernels were written for, and on other devices, `is_available` is False, and
cuDNN and `kernels.stylegan2` run these layers.
"""

from __future__ import annotations

import torch
import triton
from triton.runtime import driver

SUPPORTS_TRITON = triton.__version__.startswith("3.6.")


def is_available(device: torch.device) -> bool:
    """Return whether `device` is a Hopper GPU and Triton is the release of these kernels.

    On the device "meta" kernels are only compiled: for the target of Triton's active driver.
    """
    if not SUPPORTS_TRITON:
        return False
    if device.type == "meta":
        return bool(driver.active.get_current_target().arch == 90)
    return device.type == "cuda" and torch.cuda.get_device_capability(device) == (9, 0)
