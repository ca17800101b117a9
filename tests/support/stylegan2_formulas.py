"""The formulas of StyleGAN2's kernels in PyTorch. Functions and arguments are named as the
launchers."""

import torch
from torch import Tensor
from torch.nn import functional as F

from styleclip_networks.constants import DEMODULATION_EPS, LEAKY_RELU_SLOPE
from styleclip_networks.resampling import Blur, Upsample
from styleclip_server.engines.cuda import stylegan2
from styleclip_server.engines.cuda.kernels.stylegan2 import modulation
from styleclip_server.engines.cuda.kernels.stylegan2.epilogue import CONV_CLAMP

LAUNCHERS = {
    modulation: ("compute_styles", "demodulate"),
    stylegan2: ("apply_epilogue_", "blur_and_apply_epilogue"),
}


def replace_kernels(monkeypatch):
    """Replace every launcher by its formula."""
    for module, names in LAUNCHERS.items():
        for name in names:
            monkeypatch.setattr(module, name, globals()[name])


def compute_styles(
    w_plus: Tensor, delta: Tensor, weight: Tensor, bias: Tensor, latent: Tensor
) -> Tensor:
    return (w_plus[:, latent.long()] * weight).sum(2) + bias + delta


def demodulate(styles: Tensor, weights, gain: float):
    normalized = torch.zeros_like(styles)
    dcoefs = torch.zeros(len(styles), weights.n_dcoefs)
    for start, cols, dcoef_start, rows, weight_start in weights.tiles.tolist():
        style = styles[:, start : start + cols]
        peak = style.abs().amax(1, keepdim=True)
        style = normalized[:, start : start + cols] = style / peak
        squares = weights.squared_weights[weight_start : weight_start + rows * cols]
        total = style.square() @ squares.view(rows, cols).T + DEMODULATION_EPS / peak**2
        dcoefs[:, dcoef_start : dcoef_start + rows] = gain / total.sqrt()
    return modulation.BatchStyles(styles, normalized, dcoefs)


def activate(x: Tensor, epilogue, dcoefs: Tensor) -> Tensor:
    channels = x.shape[3]
    start = epilogue.dcoef_start
    v = x.float() * dcoefs[:, None, None, start : start + channels] + epilogue.bias
    if epilogue.noise is not None:
        v = v + epilogue.noise.float()[:, :, None]
    return F.leaky_relu(v, LEAKY_RELU_SLOPE).clamp(-CONV_CLAMP, CONV_CLAMP)


def apply_epilogue_(
    x: Tensor, epilogue, to_rgb, dcoefs: Tensor, styles: Tensor, next_style: Tensor | None,
    skip: Tensor | None, image_dtype: torch.dtype = torch.float32,
) -> tuple[Tensor | None, Tensor]:  # fmt: skip
    channels = x.shape[3]
    v = activate(x, epilogue, dcoefs)
    weight = to_rgb.weight * styles[:, None, to_rgb.style_start :][..., :channels]
    rgb = torch.einsum("nhwc,njc->njhw", v, weight) + to_rgb.bias[:, None, None]
    rgb = rgb if skip is None else rgb + Upsample()(skip)
    if image_dtype == torch.uint8:
        rgb = ((rgb.clamp(-1, 1) + 1) * 127.5).round().permute(0, 2, 3, 1).contiguous()
    if next_style is not None:
        x.copy_(v * next_style[:, None, None, :channels])
    return None if next_style is None else x, rgb.to(image_dtype)


def blur_and_apply_epilogue(
    phases, size, epilogue, dcoefs: Tensor, next_style: Tensor, padding: bool = False
) -> Tensor:
    (height, width), (n, _, _, channels) = size, phases[0].shape
    transposed = torch.zeros(n, channels, 2 * height + 1, 2 * width + 1)
    for number, phase in enumerate(phases):
        row, column = divmod(number, 2)
        part = transposed[:, :, row::2, column::2]
        part.copy_(phase.permute(0, 3, 1, 2)[:, :, : part.shape[2], : part.shape[3]])
    x = Blur(channels)(transposed).permute(0, 2, 3, 1)
    x = activate(x, epilogue, dcoefs) * next_style[:, None, None, :channels]
    return F.pad(x, (0, 0, padding, padding)).to(phases[0].dtype).contiguous()
