"""StyleGAN2's largest layers on NVIDIA's Hopper, convolution and all that follows it in one kernel.

What cuDNN's convolutions write, 67 MB for each picture of 1024 px, is read only to be reduced: here
it stays in registers. Written in Gluon, Triton's lower level, because Triton itself waits for each
product of matrices before it begins the next. Gluon may change with any release of Triton: with
another than this was written for its modules are not imported. There, and on other devices,
`is_available` says no, and cuDNN and `stylegan2_kernels` do the work.
"""

from __future__ import annotations

import torch
import triton

_OF_THIS_TRITON = triton.__version__.startswith("3.6.")
if _OF_THIS_TRITON:
    from styleclip_server.engines.cuda.kernels.hopper import last_convolution as last_convolution
    from styleclip_server.engines.cuda.kernels.hopper import up_convolution as up_convolution


def is_available(device: torch.device) -> bool:
    """Whether `device` is a Hopper and Triton the release that the kernels were written for."""
    if device.type != "cuda" or not _OF_THIS_TRITON:
        return False
    return torch.cuda.get_device_capability(device) == (9, 0)
