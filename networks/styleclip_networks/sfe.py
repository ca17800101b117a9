"""StyleFeatureEditor: inversion to a feature map that keeps details, and edits of that map.

Source: Bobkov et al. 2024, "The Devil is in the Details: StyleFeatureEditor for Detail-Rich
StyleGAN Inversion and High Quality Image Editing", section 3. The backbone is Yao et al. 2022,
"Feature-Style Encoder", on ArcFace's IResNet-50. Layout and parameter names are those of
AIRI-Institute/StyleFeatureEditor (`models/psp/encoders/psp_encoders.py`, `models/methods.py`), so
that the parts `inverter.` and `encoder.` (the feature editor) of an official checkpoint load with
``strict=True``.

Both networks work at one resolution of the generator, a quarter of the face's side: 64 px. There
F_k, the features of the photo, replace the generator's own, F_w.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from styleclip_contract.wire import W_DIM
from styleclip_networks.stylegan2 import Generator

IRESNET50_WIDTHS = (64, 128, 256, 512)
IRESNET50_DEPTHS = (3, 4, 14, 3)
STRIDES = (2, 2, 1, 2)  # of the stages; ArcFace's third has 2
CONTENT_STAGE = 3  # whose output, a quarter of the face's side, becomes the feature map
POOLED_SIDE = 3  # of each stage's output, from which the latent is predicted
FUSER_UNITS = 5
# Change of the features at a place, relative to the root mean square of all: where a photo's
# details begin to give way to an edit, and where none is left.
CHANGE_BEGINS, CHANGE_ENDS = 0.12, 0.45
CHANGE_MARGIN = 3  # pixels, odd
FUSER_WIDTH = 512  # channels of the published generators' features of 64 px


def residual_branch(in_channels: int, out_channels: int) -> nn.Sequential:
    """Build two 3x3 convolutions with normalizations: (N, in, H, W) → (N, out, H, W)."""
    return nn.Sequential(
        nn.BatchNorm2d(in_channels),
        nn.Conv2d(in_channels, out_channels, 3, 1, 1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.PReLU(out_channels),
        nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False),
        nn.BatchNorm2d(out_channels),
    )


class IResNetUnit(nn.Module):
    """Residual unit of IResNet: (N, in, H, W) → (N, out, H / stride, W / stride).

    Args:
        first: whether it is the first of its stage, whose shortcut is a convolution.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, first: bool) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.prelu = nn.PReLU(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, stride, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.downsample: nn.Module = nn.Identity()
        if first:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False),
                nn.BatchNorm2d(out_channels),
            )

    def forward(self, x: Tensor) -> Tensor:
        y = self.prelu(self.bn2(self.conv1(self.bn1(x))))
        return self.bn3(self.conv2(y)) + self.downsample(x)


class FeatureStyleEncoder(nn.Module):
    """Predicts a latent and a feature map (the paper's I_fse).

    Args:
        num_latents: rows of W+ (18 for 1024 px, 14 for 256 px); 0: only features are predicted.
        widths, depths: channels and units of the four stages; of three, if only features are.
        feature_channels: of the generator's features that are predicted.
        w_dim: width of W.
    """

    def __init__(
        self,
        num_latents: int = 18,
        widths: Sequence[int] = IRESNET50_WIDTHS,
        depths: Sequence[int] = IRESNET50_DEPTHS,
        feature_channels: int = FUSER_WIDTH,
        w_dim: int = W_DIM,
    ) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(3, widths[0], 3, 1, 1, bias=False),
            nn.BatchNorm2d(widths[0]),
            nn.PReLU(widths[0]),
        )
        channels = widths[0]
        self.num_stages = len(STRIDES) if num_latents else CONTENT_STAGE
        stages = zip(widths, depths, STRIDES[: self.num_stages], strict=True)
        for number, (width, depth, stride) in enumerate(stages, 1):
            units = [IResNetUnit(channels, width, stride, first=True)]
            units += [IResNetUnit(width, width, 1, first=False) for _ in range(depth - 1)]
            self.add_module(f"block_{number}", nn.Sequential(*units))
            channels = width
        self.content_layer = residual_branch(widths[CONTENT_STAGE - 1], feature_channels)
        pooled = sum(widths) * POOLED_SIDE**2
        self.styles = nn.ModuleList(nn.Linear(pooled, w_dim) for _ in range(num_latents))

    def forward(self, face: Tensor) -> tuple[Tensor, Tensor]:
        """Encode aligned faces, RGB in [-1, 1].

        Args:
            face: (N, 3, 4 r, 4 r), 256 px for features of 64 px.

        Returns:
            W+ - w_avg (N, num_latents, w_dim), and F_pred (N, feature_channels, r, r).
        """
        outputs = self.stages(face)
        pooled = [F.adaptive_avg_pool2d(x, POOLED_SIDE) for x in outputs]
        return self.heads(pooled, outputs[CONTENT_STAGE - 1])

    def features(self, face: Tensor) -> Tensor:
        """Return F_pred (N, feature_channels, r, r) of faces (N, 3, 4 r, 4 r)."""
        content: Tensor = self.content_layer(self.stages(face)[CONTENT_STAGE - 1])
        return content

    def stages(self, face: Tensor) -> list[Tensor]:
        """Return the outputs of the stages."""
        x = self.conv(face)
        outputs = []
        for number in range(1, self.num_stages + 1):
            x = self.get_submodule(f"block_{number}")(x)
            outputs.append(x)
        return outputs

    def heads(self, pooled: Sequence[Tensor], content: Tensor) -> tuple[Tensor, Tensor]:
        """Return what `forward` does, from the stages' outputs.

        Args:
            pooled: all of them, averaged to (N, C, 3, 3).
            content: that of the third stage, (N, C, r, r).
        """
        x = torch.cat(list(pooled), 1).flatten(1)
        return torch.stack([style(x) for style in self.styles], 1), self.content_layer(content)


def pooling_windows(side: int) -> list[tuple[int, int]]:
    """Return the first pixel of each window of adaptive pooling, and the one after its last."""
    return [
        (i * side // POOLED_SIDE, -(-(i + 1) * side // POOLED_SIDE)) for i in range(POOLED_SIDE)
    ]


class FeatureFuserUnit(nn.Module):
    """Residual unit of `FeatureFuser`: (N, C, H, W) → (N, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = residual_branch(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class FeatureFuser(nn.Module):
    """Computes one feature map from two (`ContentLayerDeepFast`).

    In the paper it is the fuser I_fus, of the predicted and the synthesized features, and the
    feature editor H, of a photo's features and the change that an edit makes.
    """

    def __init__(self, channels: int = FUSER_WIDTH, units: int = FUSER_UNITS) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2 * channels, channels, 1)
        self.body = nn.Sequential(*(FeatureFuserUnit(channels) for _ in range(units)))

    def forward(self, features: Tensor, others: Tensor) -> Tensor:
        """features, others (N, C, H, W) → (N, C, H, W)."""
        return self.body(self.conv(torch.cat([features, others], 1)))

    @torch.no_grad()
    def set_weighted_sum(self, first: float, second: float) -> None:
        """Let it return the sum of its inputs with these weights, until it is trained."""
        identity = torch.eye(self.conv.out_channels)
        weight = torch.cat([first * identity, second * identity], 1)
        self.conv.weight.copy_(weight[:, :, None, None])
        nn.init.zeros_(self.conv.bias)  # type: ignore[arg-type]
        for unit in self.body:
            assert isinstance(unit, FeatureFuserUnit)
            nn.init.zeros_(unit.body[-1].weight)  # type: ignore[arg-type]


class Inverter(nn.Module):
    """Inverts a photo to a latent and the features F_k, from which it can be synthesized.

    Without latents of its own, it continues from e4e's (`fuse`).

    Args:
        num_latents, widths, depths, feature_channels, w_dim: see `FeatureStyleEncoder`.
        fuser_units: see `FeatureFuser`.
    """

    def __init__(
        self,
        num_latents: int = 18,
        widths: Sequence[int] = IRESNET50_WIDTHS,
        depths: Sequence[int] = IRESNET50_DEPTHS,
        feature_channels: int = FUSER_WIDTH,
        fuser_units: int = FUSER_UNITS,
        w_dim: int = W_DIM,
    ) -> None:
        super().__init__()
        self.fs_backbone = FeatureStyleEncoder(num_latents, widths, depths, feature_channels, w_dim)
        self.fuser = FeatureFuser(feature_channels, fuser_units)

    def forward(self, face: Tensor, generator: Generator, w_avg: Tensor) -> tuple[Tensor, Tensor]:
        """Invert aligned faces, RGB in [-1, 1].

        Args:
            face: (N, 3, 4 r, 4 r).
            w_avg: (w_dim,) or (L, w_dim).

        Returns:
            W+ (N, L, w_dim), and F_k (N, C, r, r).
        """
        offset, predicted = self.fs_backbone(face)
        return self.fuse(offset + w_avg, predicted, generator)

    def fuse(
        self, w_plus: Tensor, predicted: Tensor, generator: Generator
    ) -> tuple[Tensor, Tensor]:
        """Fuse predicted features with those that the latent gives; return what `forward` does."""
        synthesized = generator.features(generator.affine(w_plus), predicted.shape[-1])
        return w_plus, self.fuser(predicted, synthesized)


def feature_change(
    generator: Generator, styles: Sequence[Tensor], edited: Sequence[Tensor], resolution: int
) -> Tensor:
    """Compute the change of features that an edit of styles makes, with the paper's sign.

    Args:
        styles, edited: S of e4e's latent, which responds to edits better than the inverter's.
        resolution: of the features.

    Returns:
        Delta = F_w(styles) - F_w(edited), (N, C, resolution, resolution).
    """
    return generator.features(styles, resolution) - generator.features(edited, resolution)


def drop_changed_details(features: Tensor, synthesized: Tensor, edited: Tensor) -> Tensor:
    """Replace a photo's features by the generator's where an edit changes these strongly.

    Otherwise the photo's hair stays visible under an edited one. Not in the paper; for networks of
    our own training.

    Args:
        features: F_k (N, C, r, r) of the inverter.
        synthesized, edited: F_w before and after the edit, (N, C, r, r).

    Returns:
        (N, C, r, r), F_k where nothing changes, F_w before the edit where much does.
    """
    scale = synthesized.square().mean((1, 2, 3), keepdim=True).sqrt()
    change = (synthesized - edited).square().mean(1, keepdim=True).sqrt() / scale
    share = ((change - CHANGE_BEGINS) / (CHANGE_ENDS - CHANGE_BEGINS)).clamp(0, 1)
    padding = CHANGE_MARGIN // 2
    share = F.max_pool2d(share, CHANGE_MARGIN, 1, padding)
    share = F.avg_pool2d(share, CHANGE_MARGIN, 1, padding, count_include_pad=False)
    return features + share * (synthesized - features)


def edit_features(
    editor: FeatureFuser,
    generator: Generator,
    features: Tensor,
    styles: Sequence[Tensor],
    edited: Sequence[Tensor],
) -> Tensor:
    """Edit the features F_k of photos; `Generator.synthesis` continues with the result.

    Args:
        features: (N, C, r, r) of the inverter.
        styles, edited: see `feature_change`. Equal ones give the inversion.

    Returns:
        (N, C, r, r).
    """
    delta = feature_change(generator, styles, edited, features.shape[-1])
    return editor(features, delta)
