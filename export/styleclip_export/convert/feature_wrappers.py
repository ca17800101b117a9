"""StyleFeatureEditor as two graphs: a photo to features, and features with an edit to an image.

In both graphs the generator's layers up to 64 px are computed with the network, so that one tensor
of features passes between them. The editor's first layer is linear in F_k and in the change
F_w(s) - F_w(s'), of which only F_w(s') depends on the edit: the first graph computes the rest of
the layer, which saves the second a third of those layers.

Where the inverter predicts no latent of its own, as in our own domains, an edit drops details
(`drop_changed_details`), for which both F_k and F_w(s) pass between the graphs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from styleclip_export.convert.wrappers import to_pixels
from styleclip_networks.sfe import (
    CONTENT_STAGE,
    POOLED_SIDE,
    FeatureFuser,
    FeatureStyleEncoder,
    Inverter,
    drop_changed_details,
    pooling_windows,
)
from styleclip_networks.stylegan2 import Generator


def average_windows(side: int) -> Tensor:
    """Return the matrix (3, side) by which adaptive average pooling averages `side` pixels."""
    matrix = torch.zeros(POOLED_SIDE, side)
    for cell, (start, end) in enumerate(pooling_windows(side)):
        matrix[cell, start:end] = 1 / (end - start)
    return matrix


def encode(encoder: FeatureStyleEncoder, face: Tensor) -> tuple[Tensor, Tensor]:
    """Compute `FeatureStyleEncoder.forward`: ONNX has no adaptive pooling of uneven windows."""
    outputs = encoder.stages(face)
    matrices = [average_windows(int(x.shape[-1])) for x in outputs]
    pooled = [matrix @ x @ matrix.T for matrix, x in zip(matrices, outputs, strict=True)]
    return encoder.heads(pooled, outputs[CONTENT_STAGE - 1])


@dataclass(frozen=True)
class FeatureFunctions:
    """The functions by which a variant computes the networks; by default their own.

    Attributes:
        encode: (encoder, faces) → the encoder's outputs.
        features: (generator, styles, resolution) → features.
        fuse: (body of a `FeatureFuser`, features) → features.
        synthesis: (generator, styles, features=) → images.
    """

    encode: Callable[[FeatureStyleEncoder, Tensor], tuple[Tensor, Tensor]] = (
        FeatureStyleEncoder.__call__
    )
    features: Callable[[Generator, Sequence[Tensor], int], Tensor] = Generator.features
    fuse: Callable[[nn.Sequential, Tensor], Tensor] = nn.Sequential.__call__
    synthesis: Callable[..., Tensor] = Generator.synthesis


REFERENCE = FeatureFunctions()


class FaceToFeatures(nn.Module):
    """FACE_CROP (N, 3, 256, 256) in [-1, 1], W_PLUS (N, L, w_dim) of e4e → latent, features.

    The latent (N, L, w_dim) is the inverter's, and the features (N, C, 64, 64) are what the
    editor's first layer gives without an edit's features. Where the inverter predicts no latent,
    it is e4e's, and the features (N, 2 C, 64, 64) are F_k and F_w.

    Args:
        w_avg: (L, w_dim) or (w_dim,).
        functions: how the networks are computed.
    """

    w_avg: Tensor

    def __init__(
        self,
        inverter: Inverter,
        editor: FeatureFuser,
        generator: Generator,
        w_avg: Tensor,
        functions: FeatureFunctions = REFERENCE,
    ) -> None:
        super().__init__()
        self.inverter, self.editor, self.generator = inverter, editor, generator
        self.functions = functions
        self.register_buffer("w_avg", w_avg)

    def forward(self, face: Tensor, w_e4e: Tensor) -> tuple[Tensor, Tensor]:
        g, fuser, functions = self.generator, self.inverter.fuser, self.functions
        if self.inverter.fs_backbone.styles:
            offset, predicted = functions.encode(self.inverter.fs_backbone, face)
            w_plus = offset + self.w_avg
        else:
            w_plus, predicted = w_e4e, self.inverter.fs_backbone.features(face)
        resolution = int(predicted.shape[-1])
        synthesized = functions.features(g, g.affine(w_plus), resolution)
        joined = fuser.conv(torch.cat([predicted, synthesized], 1))
        features = functions.fuse(fuser.body, joined)
        if w_plus is w_e4e:
            return w_plus, torch.cat([features, synthesized], 1)
        unedited = functions.features(g, g.affine(w_e4e), resolution)
        return w_plus, self.editor.conv(torch.cat([features, unedited], 1))


class FeaturesToImage(nn.Module):
    """W_PLUS of e4e, DELTA, and the outputs of `FaceToFeatures` → IMAGE (N, H, W, 3), RGB uint8.

    Args:
        functions: how the networks are computed.
        own_latent: whether the inverter's latent is another than W_PLUS. If not, it is ignored, and
            the engines compute the layers up to 64 px once; see `FaceToFeatures` for the features.
    """

    def __init__(
        self,
        editor: FeatureFuser,
        generator: Generator,
        functions: FeatureFunctions = REFERENCE,
        *,
        own_latent: bool = True,
    ) -> None:
        super().__init__()
        self.editor, self.generator = editor, generator
        self.functions, self.own_latent = functions, own_latent

    def forward(self, w_e4e: Tensor, delta: Tensor, w_plus: Tensor, features: Tensor) -> Tensor:
        g, conv = self.generator, self.editor.conv
        w_plus = w_plus if self.own_latent else w_e4e
        offsets = g.split_styles(delta)
        e4e_edited, edited = (
            [style + offset for style, offset in zip(g.affine(w), offsets, strict=True)]
            for w in (w_e4e, w_plus)
        )
        changed = self.functions.features(g, e4e_edited, int(features.shape[-1]))
        if self.own_latent:
            weight = conv.weight[:, conv.out_channels :]  # of the change of features
            joined = features - F.conv2d(changed, weight)
        else:
            photo, unedited = features[:, : conv.out_channels], features[:, conv.out_channels :]
            photo = drop_changed_details(photo, unedited, changed)
            joined = conv(torch.cat([photo, unedited - changed], 1))
        x = self.functions.fuse(self.editor.body, joined)
        return to_pixels(self.functions.synthesis(g, edited, features=x))
