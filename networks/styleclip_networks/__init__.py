"""The reference networks in PyTorch: StyleGAN2, e4e, pSp and CLIP, written as in their papers."""

from styleclip_networks.clip import CLIP
from styleclip_networks.e4e import Encoder4Editing, GradualStyleEncoder
from styleclip_networks.stylegan2 import Generator

__all__ = ["CLIP", "Encoder4Editing", "Generator", "GradualStyleEncoder"]
