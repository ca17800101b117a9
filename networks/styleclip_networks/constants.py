"""Constants of StyleGAN2 and of StyleCLIP's latent mapper, for code that runs without PyTorch."""

from __future__ import annotations

import math

DEMODULATION_EPS = 1e-8
PIXEL_NORM_EPS = 1e-8
LEAKY_RELU_SLOPE = 0.2
LEAKY_RELU_GAIN = math.sqrt(2.0)  # keeps unit variance

MAPPER_LAYERS = 4
# Rows of W+ of each group of a latent mapper: StyleCLIP's three levels, or all rows in one.
MAPPER_LEVELS = {"coarse": slice(0, 4), "medium": slice(4, 8), "fine": slice(8, None)}
MAPPER_GROUPS = MAPPER_LEVELS | {"single": slice(0, None)}
