"""CLIP features of images with one style channel changed, reusing the layers before the change.

Features and RGB that enter the block of the changed layer do not depend on the change: they are
computed once for all channels of the block, and each changed image is synthesized from there on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from styleclip_networks.stylegan2 import Generator

if TYPE_CHECKING:
    from styleclip_server.engines.cuda.stylegan2 import CudaGenerator

UNCHANGED_BATCH = 16  # of unchanged images, which are computed once for each block


@dataclass(frozen=True)
class BlockInputs:
    """What enters a synthesis block in the unchanged images.

    Attributes:
        block: its index.
        features: (images, C, r, r).
        rgb: (images, 3, r, r); None for block 0.
    """

    block: int
    features: Tensor
    rgb: Tensor | None


class Synthesizer(Protocol):
    """Synthesizes changed images from the inputs of a block."""

    def __call__(self, styles: Tensor, images: Tensor, last: int) -> Tensor:
        """Run the blocks up to `last`.

        Args:
            styles: changed S, (n, S).
            images: (n,) indices of the images that they belong to.

        Returns:
            RGB (n, 3, r, r).
        """


class TorchSynthesizer:
    """Runs the generator in PyTorch; see `Synthesizer`."""

    def __init__(self, generator: Generator, inputs: BlockInputs) -> None:
        self.generator, self.inputs = generator, inputs

    def __call__(self, styles: Tensor, images: Tensor, last: int) -> Tensor:
        _, rgb = self.run(styles, images, last)
        return rgb

    def run(self, styles: Tensor, images: Tensor, last: int) -> tuple[Tensor, Tensor]:
        """Run the blocks up to `last`; return its features (n, C, r, r) and RGB (n, 3, r, r)."""
        x, skip = self.inputs.features[images], self.inputs.rgb
        rgb = None if skip is None else skip[images]
        layer_styles = self.generator.split_styles(styles)
        for block in range(self.inputs.block, last + 1):
            x, rgb = self.generator.block(block, x, rgb, layer_styles)
        assert rgb is not None
        return x, rgb


class CudaSynthesizer:
    """Runs the generator on the server's kernels; see `Synthesizer`.

    Args:
        image_dtype: of the last block's RGB; a preview's stays float32.
    """

    def __init__(
        self, cuda_generator: CudaGenerator, inputs: BlockInputs, image_dtype: torch.dtype
    ) -> None:
        self.cuda_generator, self.block = cuda_generator, inputs.block
        self.image_dtype = image_dtype
        if inputs.rgb is not None:
            self.features = inputs.features.permute(0, 2, 3, 1).contiguous()
            self.rgb = inputs.rgb.float().contiguous()

    def __call__(self, styles: Tensor, images: Tensor, last: int) -> Tensor:
        is_last = last == len(self.cuda_generator.blocks) - 1
        dtype = self.image_dtype if is_last else torch.float32
        if self.block == 0:
            return self.cuda_generator.synthesis(styles, last=last, image_dtype=dtype)
        return self.cuda_generator.synthesis(
            styles,
            first=self.block,
            last=last,
            features=self.features.index_select(0, images),
            skip=self.rgb.index_select(0, images),
            image_dtype=dtype,
        )


class BlockEncoder:
    """Encodes images in which a style channel of one block is changed.

    Args:
        encode: (changed styles (n, S), image indices (n,)) → features (n, D).
        styles: S of the unchanged images, (images, S).
        batch: images encoded at once.
    """

    def __init__(
        self, encode: Callable[[Tensor, Tensor], Tensor], styles: Tensor, batch: int
    ) -> None:
        self._encode, self._styles, self._batch = encode, styles, batch

    def encode_changed(self, position: int, values: tuple[float, float]) -> Tensor:
        """Return features (images, 2, D) with channel `position` of S set to each of `values`."""
        num_images, device = len(self._styles), self._styles.device
        all_values = torch.tensor(values, device=device).repeat_interleave(num_images)
        all_images = torch.arange(len(all_values), device=device) % num_images
        features = []
        for images, value in zip(
            all_images.split(self._batch), all_values.split(self._batch), strict=True
        ):
            styles = self._styles[images]
            styles[:, position] = value
            features.append(self._encode(styles, images).clone())
        return torch.cat(features).unflatten(0, (2, num_images)).transpose(0, 1)


class Resynthesis:
    """Builds encoders of changed images, block by block.

    Args:
        generator: its synthesis is run in PyTorch, or its weights on the server's kernels.
        encode_image: images (N, 3, H, W) in [-1, 1] → features (N, D).
        styles: S of the unchanged images, as returned by `Generator.affine`.
        batch, dtype, preview, use_kernels: see `Fs3Settings`.

    Attributes:
        detail: what the blocks above the preview add to the unchanged images, (images, 3, r, r);
            None without a preview.

    Raises:
        ValueError: the generator has no RGB of `preview` pixels.
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
        self.cuda_generator = self._load_cuda_generator() if use_kernels else None
        self.last_block = generator.num_blocks - 1
        self.preview_block = self.last_block
        if preview:
            blocks = {4 << i: i for i in range(1, generator.num_blocks)}
            if preview not in blocks:
                raise ValueError(f"preview must be one of {', '.join(map(str, blocks))}")
            self.preview_block = blocks[preview]
        self.detail: Tensor | None = None
        if self.preview_block < self.last_block:
            self.detail = torch.cat([self._compute_detail(part) for part in self._unchanged()])

    def first_inputs(self) -> BlockInputs:
        """Return the inputs of block 0."""
        return BlockInputs(0, self.generator.constant_features(len(self.styles), self.dtype), None)

    def advance(self, inputs: BlockInputs, block: int) -> BlockInputs:
        """Compute the inputs of `block` from those of an earlier block."""
        while inputs.block < block:
            synthesizer = TorchSynthesizer(self.generator, inputs)
            outputs = [
                synthesizer.run(self.styles[part], part, inputs.block) for part in self._unchanged()
            ]
            features, rgb = map(torch.cat, zip(*outputs, strict=True))
            inputs = BlockInputs(inputs.block + 1, features, rgb)
        return inputs

    def encoder(self, inputs: BlockInputs) -> BlockEncoder:
        """Build the encoder of images that are changed in the block of `inputs`."""
        at_preview = inputs.block <= self.preview_block
        last = self.preview_block if at_preview else self.last_block
        # Images at full size need more memory than the preview that the batch was chosen for.
        batch = self.batch if at_preview else max(1, self.batch // 4)
        synthesize: Synthesizer
        if self.cuda_generator is None:
            synthesize = TorchSynthesizer(self.generator, inputs)
        else:
            synthesize = CudaSynthesizer(self.cuda_generator, inputs, self.dtype)

        def encode(styles: Tensor, images: Tensor) -> Tensor:
            rgb = synthesize(styles, images, last)
            if self.detail is not None and last == self.preview_block:
                rgb = rgb + self.detail[images]
            # The kernels clamp RGB of another dtype themselves.
            return self.encode_image(rgb.clamp(-1, 1) if rgb.dtype == torch.float32 else rgb)

        if self.cuda_generator is not None:
            from styleclip_server.engines.cuda.cuda_graphs import Graphed

            # Python launches the kernels too slowly.
            return BlockEncoder(Graphed(encode, self.styles.device), self.styles, batch)
        return BlockEncoder(encode, self.styles, batch)

    def _unchanged(self) -> Sequence[Tensor]:
        """Return the indices of all images, in batches."""
        indices = torch.arange(len(self.styles), device=self.styles.device)
        return indices.split(min(self.batch, UNCHANGED_BATCH))

    def _compute_detail(self, images: Tensor) -> Tensor:
        """Compute `detail` of some images."""
        styles = self.generator.split_styles(self.styles[images])
        constant = self.generator.constant_features(len(images), self.dtype)
        x, rgb = self.generator.block(0, constant, None, styles)
        for block in range(1, self.last_block + 1):
            x, rgb = self.generator.block(block, x, rgb, styles)
            if block == self.preview_block:
                preview = rgb
        # As CLIP's preprocessing resizes.
        size = preview.shape[2:]
        return F.interpolate(rgb, size=size, mode="bicubic", antialias=True) - preview

    def _load_cuda_generator(self) -> CudaGenerator:
        from styleclip_server.engines.cuda.stylegan2 import CudaGenerator

        weights = {k: v.cpu().numpy() for k, v in self.generator.state_dict().items()}
        return CudaGenerator(weights, self.styles.device)
