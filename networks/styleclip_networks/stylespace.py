"""The layout of StyleSpace S: which layers are modulated, in which order, and by which latent.

Source: Wu et al. 2021, "StyleSpace Analysis", section 3: S is every modulation vector of the
generator, those of toRGB included.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class StyleLayer:
    """One modulated convolution, and the style (N, channels) that modulates it.

    Attributes:
        name: the module in `Generator`, such as "convs.3".
        styleclip_name: the name in StyleCLIP's official code, such as "conv1_resolution_16".
        resolution: side of the layer's output in pixels.
        channels: input channels, which are the channels of the style.
        to_rgb: whether this is a toRGB layer.
        latent: the row of W+ that its affine layer reads. A toRGB shares its row with the
            convolution that follows it.
    """

    name: str
    styleclip_name: str
    resolution: int
    channels: int
    to_rgb: bool
    latent: int

    @property
    def block(self) -> int:
        """Index of the layer's synthesis block, whose resolution is 4 * 2^block."""
        return self.resolution.bit_length() - 3


def is_to_rgb(index: int) -> bool:
    """Return whether style `index` is that of a toRGB layer.

    The order is conv1, toRGB at 4 px, then conv, conv, toRGB at each resolution.
    """
    return index % 3 == 1


def latent_row(index: int) -> int:
    """Return the row of W+ that modulation `index` reads; a toRGB shares the next layer's row."""
    block, part = divmod(index + 1, 3)
    return 2 * block + part - 1


def style_layers(channels: Mapping[int, int]) -> tuple[StyleLayer, ...]:
    """List the modulated layers of a generator in execution order.

    Args:
        channels: feature channels by resolution: 4, 8, 16, … up to the image's.
    """
    layers = [
        StyleLayer("conv1", "conv1_resolution_4", 4, channels[4], to_rgb=False, latent=0),
        StyleLayer("to_rgb1", "toRGB_resolution_4", 4, channels[4], to_rgb=True, latent=1),
    ]
    for i, r in enumerate(sorted(channels)[1:]):
        up, conv, rgb, latent = f"convs.{2 * i}", f"convs.{2 * i + 1}", f"to_rgbs.{i}", 2 * i + 1
        layers += [
            StyleLayer(up, f"conv0_resolution_{r}", r, channels[r // 2], False, latent),
            StyleLayer(conv, f"conv1_resolution_{r}", r, channels[r], False, latent + 1),
            StyleLayer(rgb, f"toRGB_resolution_{r}", r, channels[r], True, latent + 2),
        ]
    return tuple(layers)
