"""CLIP features of images with one style channel changed, reusing the layers before the change."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate

import torch
from torch import Tensor
from torch.nn import functional as F

from styleclip_networks.stylegan2 import Generator

UNCHANGED_BATCH = 16  # of unchanged images, which are computed once for each block

Synthesize = Callable[[Tensor, Tensor, int], Tensor]


class Resynthesis:
    """Synthesizes changed images from the block of the changed layer on.

    Features and RGB that enter that block do not depend on the change. They are computed once and
    used for all channels of the block, so layers must be visited in execution order.

    Args:
        generator: its synthesis is run in PyTorch, or its weights on the server's kernels.
        encode_image: images (N, 3, H, W) in [-1, 1] → features (N, D).
        styles: S of the unchanged images, as of `Generator.affine`.
        batch, dtype, preview, use_kernels: see `Fs3Settings`.
    """

    def __init__(
        self,
        generator: Generator,
        encode_image: Callable[[Tensor], Tensor],
        styles: Sequence[Tensor],
        *,
        batch: int,
        dtype: torch.dtype = torch.float32,
        preview: int | None = None,
        use_kernels: bool = False,
    ) -> None:
        self.generator, self.encode_image = generator, encode_image
        self.batch, self.dtype = batch, dtype
        self.styles = generator.flatten_styles(styles)  # (images, S)
        self.images = len(self.styles)
        self.offsets = [0, *accumulate(generator.style_channels)]
        self.kernels = self._load_kernels() if use_kernels else None

        self.last_block = generator.num_blocks - 1
        self.preview_block = self.last_block
        if preview:
            blocks = {4 << i: i for i in range(1, generator.num_blocks)}
            if preview not in blocks:
                raise ValueError(f"preview must be one of {', '.join(map(str, blocks))}")
            self.preview_block = blocks[preview]
        # What the blocks above the preview add to the unchanged images, (images, 3, r, r).
        self.detail: Tensor | None = None
        if self.preview_block < self.last_block:
            (self.detail,) = self._for_unchanged(self._compute_detail)

        self.block = 0  # of the changed layer
        self.block_inputs: tuple[Tensor, ...] = ()  # from block 1 on: unchanged features and RGB
        self._encode_changed: Callable[[Tensor, Tensor], Tensor] | None = None

    def features(self, index: int, channel: int, values: tuple[float, float]) -> Tensor:
        """Features (images, 2, D) with `channel` of style `index` set to each of `values`."""
        encode_changed = self._enter(self.generator.layers[index].block)
        # Images at full size need more memory than the preview that the batch was chosen for.
        above_preview = self.preview_block < self.last_block and self.block > self.preview_block
        batch = max(1, self.batch // 4) if above_preview else self.batch
        all_values = torch.tensor(values, device=self.styles.device)
        all_values = all_values.repeat_interleave(self.images)
        all_images = torch.arange(len(all_values), device=all_values.device) % self.images
        features = []
        for images, value in zip(all_images.split(batch), all_values.split(batch), strict=True):
            styles = self.styles[images]
            styles[:, self.offsets[index] + channel] = value
            features.append(encode_changed(styles, images).clone())
        return torch.cat(features).unflatten(0, (2, self.images)).transpose(0, 1)

    def _enter(self, block: int) -> Callable[[Tensor, Tensor], Tensor]:
        """Moves on to `block`; returns (changed styles (n, S), image indices (n,)) → features."""
        if block < self.block:
            raise ValueError("layers must be visited in execution order")
        if block > self.block:
            self._encode_changed = None  # its CUDA graph refers to `block_inputs`
        while self.block < block:
            self.block_inputs = self._for_unchanged(self._compute_block)
            self.block += 1
        if self._encode_changed is None:
            self._encode_changed = self._build_encoder()
        return self._encode_changed

    def _for_unchanged(self, compute: Callable[[Tensor], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        """Applies `compute` to the indices of all unchanged images, in batches."""
        indices = torch.arange(self.images, device=self.styles.device)
        batches = [compute(part) for part in indices.split(min(self.batch, UNCHANGED_BATCH))]
        return tuple(map(torch.cat, zip(*batches, strict=True)))

    def _compute_block(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Features and RGB of unchanged images after the current block."""
        styles = self.generator.split_styles(self.styles[images])
        return self.generator.block(self.block, *self._inputs_of(images), styles)

    def _inputs_of(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Features and RGB of unchanged images that enter the current block."""
        if self.block == 0:
            return self.generator.constant_features(len(images), self.dtype), None
        x, rgb = (entering[images] for entering in self.block_inputs)
        return x, rgb

    def _compute_detail(self, images: Tensor) -> tuple[Tensor]:
        """What the blocks above the preview add to unchanged images, at the preview's size."""
        styles = self.generator.split_styles(self.styles[images])
        constant = self.generator.constant_features(len(images), self.dtype)
        x, rgb = self.generator.block(0, constant, None, styles)
        for block in range(1, self.last_block + 1):
            x, rgb = self.generator.block(block, x, rgb, styles)
            if block == self.preview_block:
                preview = rgb
        # As CLIP's preprocessing resizes.
        size = preview.shape[2:]
        return (F.interpolate(rgb, size=size, mode="bicubic", antialias=True) - preview,)

    def _build_encoder(self) -> Callable[[Tensor, Tensor], Tensor]:
        """See `_enter`. On the kernels it is a CUDA graph: Python launches them too slowly."""
        last = self.preview_block if self.block <= self.preview_block else self.last_block
        synthesize = self._synthesize if self.kernels is None else self._kernel_synthesis()

        def encode_changed(styles: Tensor, images: Tensor) -> Tensor:
            rgb = synthesize(styles, images, last)
            if self.detail is not None and last == self.preview_block:
                rgb = rgb + self.detail[images]
            # The kernels clamp RGB of another dtype themselves.
            return self.encode_image(rgb.clamp(-1, 1) if rgb.dtype == torch.float32 else rgb)

        if self.kernels is None:
            return encode_changed
        from styleclip_server.engines.cuda.cuda_graphs import Graphed

        return Graphed(encode_changed, self.styles.device)

    def _synthesize(self, flat_styles: Tensor, images: Tensor, last: int) -> Tensor:
        """RGB of changed images after block `last`, in PyTorch."""
        styles = self.generator.split_styles(flat_styles)
        x, rgb = self.generator.block(self.block, *self._inputs_of(images), styles)
        for block in range(self.block + 1, last + 1):
            x, rgb = self.generator.block(block, x, rgb, styles)
        return rgb

    def _kernel_synthesis(self) -> Synthesize:
        """`_synthesize` on the server's kernels, from the inputs of the current block."""
        assert self.kernels is not None
        kernels, block = self.kernels, self.block
        if block > 0:
            x, rgb = self.block_inputs
            inputs = x.permute(0, 2, 3, 1).contiguous(), rgb.float().contiguous()

        def synthesize(styles: Tensor, images: Tensor, last: int) -> Tensor:
            dtype = self.dtype if last == self.last_block else torch.float32
            if block == 0:
                return kernels.synthesis(styles, last=last, image_dtype=dtype)
            features, skip = (entering.index_select(0, images) for entering in inputs)
            return kernels.synthesis(
                styles, first=block, last=last, features=features, skip=skip, image_dtype=dtype
            )

        return synthesize

    def _load_kernels(self):  # type: ignore[no-untyped-def]  # the server's kernels need Triton
        from styleclip_server.engines.cuda.stylegan2 import CudaGenerator

        weights = {k: v.cpu().numpy() for k, v in self.generator.state_dict().items()}
        return CudaGenerator(weights, self.styles.device)
