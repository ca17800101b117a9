"""The networks, in PyTorch: StyleGAN2, e4e and CLIP."""

from styleclip_export.models.clip import CLIP
from styleclip_export.models.e4e import Encoder4Editing
from styleclip_export.models.stylegan2 import Generator

__all__ = ["CLIP", "Encoder4Editing", "Generator"]
