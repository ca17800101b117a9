"""The networks of a domain, from files in one folder (`styleclip-export fetch`) or named one by
one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from styleclip_contract.wire import FACE_SIZE
from styleclip_export.checkpoints import clip
from styleclip_export.checkpoints.encoders import EncoderCheckpoint, read_encoder
from styleclip_export.checkpoints.feature_editors import (
    FeatureEditorCheckpoint,
    read_feature_editor,
)
from styleclip_export.checkpoints.generators import GeneratorCheckpoint, read_generator
from styleclip_export.errors import CheckpointError
from styleclip_export.file_kinds import sha256_of
from styleclip_networks.clip import CLIP
from styleclip_networks.e4e import GradualStyleEncoder
from styleclip_networks.stylegan2 import Generator

# StyleCLIP's name, and the one that hyperstyle's successors gave the same file.
_FS3_FILES, _MOMENTS_FILES = ("fs3.npy", "delta_i_c.npy"), ("S_mean_std",)
_ENCODERS = ("e4e_*.pt", "psp_*.pt")
_CLIPS = ("ViT-*.pt",)
_FEATURE_EDITORS = ("sfe_editor*.pt",)
_OTHER_GENERATOR = 0.5  # relative difference of S, above which two generators are not related


@dataclass(frozen=True)
class DomainFiles:
    """The files of a domain.

    Attributes:
        generator: None: the encoder's decoder.
        encoder: None: photos cannot be inverted.
        fs3, moments: StyleCLIP's published statistics, where there are any.
    """

    clip: Path
    generator: Path | None = None
    encoder: Path | None = None
    fs3: Path | None = None
    moments: Path | None = None

    @classmethod
    def find(
        cls,
        folder: Path,
        *,
        generator: Path | None = None,
        encoder: Path | None = None,
        clip: Path | None = None,
        statistics: Iterable[Path] = (),
    ) -> DomainFiles:
        """Find the files that are not named in `folder`.

        Raises:
            CheckpointError: there is no network to convert, or several that could be meant.
        """
        encoder = encoder or _only_file(folder, _ENCODERS)
        clip = clip or _only_file(folder, _CLIPS)
        if generator is None and encoder is None:
            raise _missing(folder, _ENCODERS[0], "e4e's checkpoint", "--generator and --encoder")
        if clip is None:
            raise _missing(folder, _CLIPS[0], "CLIP's checkpoint", "--clip")
        files = cls(clip, generator, encoder)
        published = (folder / name for name in (*reversed(_FS3_FILES), *_MOMENTS_FILES))
        for path in (*filter(Path.is_file, published), *statistics):
            files = files._with_statistics(path)
        return files

    def _with_statistics(self, path: Path) -> DomainFiles:
        if path.suffix == ".npy":
            return replace(self, fs3=path)
        return replace(self, moments=path)


@dataclass(frozen=True)
class DomainNetworks:
    """The networks that a domain is converted from.

    Attributes:
        encoder: None: photos cannot be inverted.
        w_avg: (L, w_dim) or (w_dim,), added to the encoder's output; None: nothing is added.
        w_center: (w_dim,), the average latent, towards which random latents are truncated.
        crop_size: height and width of the images that the encoder was trained on.
        feature_editor: None: the domain is edited by latents only.
        sources: file name → SHA-256.
        summary: one line for the user about each file.
    """

    generator: Generator
    encoder: GradualStyleEncoder | None
    clip: CLIP
    w_avg: Tensor | None
    w_center: Tensor
    crop_size: tuple[int, int] = (FACE_SIZE, FACE_SIZE)
    feature_editor: FeatureEditorCheckpoint | None = None
    sources: dict[str, str] = field(default_factory=dict)
    summary: list[str] = field(default_factory=list)


def read_domain(files: DomainFiles) -> DomainNetworks:
    """Read the networks of a domain.

    Raises:
        CheckpointError: a file has another format, or is damaged or hostile.
    """
    encoder = read_encoder(files.encoder) if files.encoder else None
    generator = read_generator(files.generator) if files.generator else None
    decoder = generator or (encoder.decoder if encoder else None)
    if decoder is None:
        raise CheckpointError(
            f"{files.encoder} contains an encoder without a generator: give one with --generator"
        )
    clip_checkpoint = clip.read(files.clip)
    network = decoder.network()
    paths = [path for path in (files.encoder, files.generator, files.clip) if path]
    return DomainNetworks(
        network,
        encoder.network() if encoder else None,
        clip_checkpoint.network(),
        encoder.w_avg if encoder else None,
        decoder.w_avg_or_mean(network),
        encoder.crop_size if encoder else (FACE_SIZE, FACE_SIZE),
        sources={path.name: sha256_of(path) for path in paths},
        summary=[
            *_describe_encoder(files.encoder, encoder),
            *_describe_generator(files.generator, generator),
            *_compare(encoder, generator, network),
            _describe_clip(files.clip, clip_checkpoint),
        ],
    )


def find_feature_editor(folder: Path) -> Path | None:
    """Return the checkpoint of StyleFeatureEditor in `folder`; None if there is none."""
    return _only_file(folder, _FEATURE_EDITORS)


def add_feature_editor(networks: DomainNetworks, path: Path) -> DomainNetworks:
    """Return the domain with the inverter and the feature editor in a checkpoint.

    Raises:
        CheckpointError: the file has another format, has only an inverter, or is damaged or
            hostile.
    """
    checkpoint = read_feature_editor(path)
    if checkpoint.editor is None:
        raise CheckpointError(
            f"{path} contains an inverter without a feature editor; sfe_editor_light.pt has both"
        )
    line = f"{path.name}: StyleFeatureEditor, inverter and feature editor"
    return replace(
        networks,
        feature_editor=checkpoint,
        sources={**networks.sources, path.name: sha256_of(path)},
        summary=[*networks.summary, line],
    )


def _describe_encoder(path: Path | None, encoder: EncoderCheckpoint | None) -> list[str]:
    if not (path and encoder):
        return []
    decoder = encoder.decoder
    described = f"StyleGAN2 of {decoder.sizes['resolution']} px" if decoder else "no generator"
    line = f"{path.name}: {encoder.kind} with {encoder.sizes['num_latents']} latents, {described}"
    return [line, *(f"{path.name}: {note}" for note in encoder.notes)]


def _describe_generator(path: Path | None, generator: GeneratorCheckpoint | None) -> list[str]:
    if not (path and generator):
        return []
    line = f"{path.name}: StyleGAN2 of {generator.sizes['resolution']} px ({generator.layout})"
    return [line, *(f"{path.name}: {note}" for note in generator.notes)]


def _describe_clip(path: Path, checkpoint: clip.ClipCheckpoint) -> str:
    sizes = checkpoint.sizes
    return f"{path.name}: CLIP, {sizes['image_resolution']} px, {sizes['embed_dim']} dimensions"


@torch.no_grad()
def _compare(
    encoder: EncoderCheckpoint | None, checkpoint: GeneratorCheckpoint | None, generator: Generator
) -> list[str]:
    """Describe how far the encoder's own generator and another one are apart in StyleSpace.

    Args:
        generator: the network of `checkpoint`.
    """
    if not (encoder and encoder.decoder and checkpoint):
        return []
    own = encoder.decoder.network()
    if own.style_channels != generator.style_channels or own.w_dim != generator.w_dim:
        return []  # the conversion refuses it with the numbers
    z = torch.randn(200, own.w_dim, generator=torch.Generator().manual_seed(0))
    w_plus = own.mapping(z)[:, None].expand(-1, own.num_latents, -1)
    a, b = (
        own.flatten_styles(own.affine(w_plus)),
        generator.flatten_styles(generator.affine(w_plus)),
    )
    difference = float((a - b).norm() / (a - a.mean(0)).norm())
    line = f"the generator and the encoder's own one differ by {difference:.2%} in StyleSpace"
    if difference > _OTHER_GENERATOR:
        line = (
            f"WARNING: {line}: the encoder was trained for another generator, so photos will not "
            "look like themselves"
        )
    return [line]


def _only_file(folder: Path, patterns: tuple[str, ...]) -> Path | None:
    paths = sorted(path for pattern in patterns for path in folder.glob(pattern))
    if len(paths) > 1:
        names = ", ".join(path.name for path in paths)
        raise CheckpointError(f"{folder} contains {names}: name the one to convert")
    return paths[0] if paths else None


def _missing(folder: Path, pattern: str, what: str, options: str) -> CheckpointError:
    return CheckpointError(
        f"{folder} contains no {pattern} ({what}): run `styleclip-export fetch`, or name the file "
        f"with {options}"
    )
