"""The networks with the inputs and outputs of the server's models (`styleclip_contract.wire`).

A wrapper adds what only serving needs: uint8 pixels, the average latent, trimmed texts. It takes
the function that computes the network, so that the variant is chosen where a wrapper is created.
Parameters keep the names of the network's below the wrapper's attribute, by which they are read
back from the exported file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from styleclip_networks.clip import CLIP, trim_tokens
from styleclip_networks.e4e import Encoder4Editing, GradualStyleEncoder
from styleclip_networks.stylegan2 import Generator


class FaceToLatent(nn.Module):
    """FACE_CROP (N, 3, H, W), RGB in [-1, 1] → W_PLUS (N, L, w_dim).

    Args:
        encoder: gives W+ - w_avg.
        w_avg: (L, w_dim), added to the encoder's output; None means zero.
        encode: (encoder, faces) → the encoder's output.
    """

    w_avg: Tensor | None

    def __init__(
        self,
        encoder: GradualStyleEncoder,
        w_avg: Tensor | None = None,
        encode: Callable[[GradualStyleEncoder, Tensor], Tensor] = GradualStyleEncoder.__call__,
    ) -> None:
        super().__init__()
        # The CUDA engine reads only the parameters: their names say which encoder it is.
        self.name = "encoder" if isinstance(encoder, Encoder4Editing) else "psp"
        self.add_module(self.name, encoder)
        self.encode = encode
        self.register_buffer("w_avg", w_avg)

    def forward(self, face: Tensor) -> Tensor:
        w_plus = self.encode(self.get_submodule(self.name), face)  # type: ignore[arg-type]
        return w_plus if self.w_avg is None else w_plus + self.w_avg


class LatentToImage(nn.Module):
    """W_PLUS (N, L, w_dim), DELTA (N, S) → IMAGE (N, H, W, 3), RGB uint8.

    [-1, 1] is scaled to 0 to 255 and rounded, as the official code writes images.

    Args:
        generator: the affine layers are always computed in its own dtype.
        synthesize: (generator, styles) → image (N, 3, r, r) in about [-1, 1].
        image_size: height and width of the middle of the image that is IMAGE; None: all of it.
    """

    def __init__(
        self,
        generator: Generator,
        synthesize: Callable[[Generator, Sequence[Tensor]], Tensor] = Generator.synthesis,
        image_size: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        self.generator = generator
        self.synthesize = synthesize
        self.image_size = image_size

    def forward(self, w_plus: Tensor, delta: Tensor) -> Tensor:
        g = self.generator
        styles = [s + d for s, d in zip(g.affine(w_plus), g.split_styles(delta), strict=True)]
        return to_pixels(self._middle(self.synthesize(g, styles)))

    def _middle(self, image: Tensor) -> Tensor:
        side = self.generator.resolution
        height, width = self.image_size or (side, side)
        if (height, width) == (side, side):
            return image
        top, left = (side - height) // 2, (side - width) // 2
        return image[:, :, top : top + height, left : left + width]


def to_pixels(image: Tensor) -> Tensor:
    """Scale (N, 3, H, W) from [-1, 1] to RGB uint8 (N, H, W, 3), rounded as official images are."""
    return ((image.clamp(-1, 1) + 1) * 127.5).permute(0, 2, 3, 1).round().to(torch.uint8)


def encode_trimmed_text(clip: CLIP, tokens: Tensor) -> Tensor:
    """Compute `CLIP.encode_text` up to the end of the longest text, as float32."""
    return clip.encode_text(trim_tokens(tokens)).float()


class TokensToFeatures(nn.Module):
    """TOKENS (N, 77) int32 → TEXT_FEATURES (N, D) float32, not normalized.

    Args:
        clip: only its text encoder is used.
        table: (49408,) maps CLIP's token ids to the rows of a smaller token embedding, in the
            same order, so that the end of a text stays its largest id; None means CLIP's own.
        encode_text: (clip, tokens) → features.
    """

    table: Tensor | None

    def __init__(
        self,
        clip: CLIP,
        table: np.ndarray | None = None,
        encode_text: Callable[[CLIP, Tensor], Tensor] = encode_trimmed_text,
    ) -> None:
        super().__init__()
        self.clip = clip
        self.encode_text = encode_text
        rows = None if table is None else torch.from_numpy(table.astype(np.int32))
        self.register_buffer("table", rows)

    def forward(self, tokens: Tensor) -> Tensor:
        if self.table is not None:
            tokens = self.table[tokens.long()]
        return self.encode_text(self.clip, tokens.long())
