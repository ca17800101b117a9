"""Measures the avatars as they are served: picture → e4e → edit → picture, read by classifiers.

    python domains/avatars/quality.py            # the report, on a CPU
    python domains/avatars/quality.py --choose   # first choose α and β, on other avatars

The networks are the ONNX files of the model repository and the directions the server's own code.
The judge was trained on renders only and never used in training anything else. An attribute counts
only where it can be seen: eyes under sunglasses cannot, nor hair under a hijab.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import onnxruntime
import torch
from attributes import ATTRIBUTES, NAMES, SIZES
from classifier import Classifier, predict
from renders import Composer, build_layers, render, sample_labels
from torch import Tensor
from training import load

from styleclip_server.pipeline import directions
from styleclip_server.pipeline.directions import Edit
from styleclip_server.pipeline.domain import load_domain, load_statistics

HERE = Path(__file__).parent
DOMAIN = HERE.parent.parent / "model_repository" / "avatars"
LAYERS = Path("build/avatars/layers.npz")
HELD_OUT_SEED, CHOICE_SEED = 20_261, 20_262
BATCH = 16
SEEN_PIXELS = 10  # of 64 x 64 that another value must change for an attribute to count as seen


@dataclass(frozen=True)
class Pair:
    """A text pair and the values of an attribute that its target means."""

    target: str
    attribute: str
    values: tuple[str, ...]
    neutral: str = "a face"
    in_captions: bool = True  # False: this wording is in no training caption

    @property
    def column(self) -> int:
        return NAMES.index(self.attribute)

    @property
    def wanted(self) -> list[int]:
        attribute = ATTRIBUTES[self.column]
        return [attribute.index(value) for value in self.values]


PAIRS = (
    Pair("a face with round glasses", "accessories", ("round glasses",)),
    Pair("a face with sunglasses", "accessories", ("sunglasses",)),
    Pair("a face with an eyepatch", "accessories", ("eyepatch",)),
    Pair("a smiling face", "mouth", ("smile",)),
    Pair("a sad face", "mouth", ("sad",)),
    Pair("a screaming face", "mouth", ("screaming",)),
    Pair("a face with a beard", "facial_hair", ("short beard", "long beard")),
    Pair("a face with a moustache", "facial_hair", ("moustache",)),
    Pair("a face with closed eyes", "eyes", ("closed",)),
    Pair("a surprised face", "eyes", ("surprised",)),
    Pair("an angry face", "eyebrows", ("angry",)),
    Pair("a face with red hair", "hair_colour", ("red",)),
    Pair("a face with blond hair", "hair_colour", ("blonde",)),
    Pair("a face with black hair", "hair_colour", ("black",)),
    Pair("a face with an afro", "top", ("afro",)),
    Pair("a face with a hat", "top", ("hat", "winter hat")),
    Pair("the eyes of this person are shut", "eyes", ("closed",), "a person", False),
    Pair("a man whose hair is golden", "hair_colour", ("blonde",), "a man", False),
    Pair("glasses that are dark on the face", "accessories", ("sunglasses",), "the face", False),
    Pair("cheerful is how this one looks", "mouth", ("smile",), "this one", False),
    Pair(
        "a woman with glasses which are round", "accessories", ("round glasses",), "a woman", False
    ),
)


class Chain:
    """The served networks, in this process."""

    def __init__(self, folder: Path = DOMAIN) -> None:
        def session(name: str) -> onnxruntime.InferenceSession:
            return onnxruntime.InferenceSession(
                str(folder / name / "1" / "model.onnx"), providers=["CPUExecutionProvider"]
            )

        self._e4e, self._clip = session("e4e"), session("clip_text")
        self._stylegan2 = session("stylegan2")
        self.statistics = load_statistics(folder, load_domain(folder).style_channels)
        self._texts: dict[str, np.ndarray] = {}

    def invert(self, pictures: np.ndarray) -> np.ndarray:
        """Pictures (N, 256, 256, 3) uint8 → W+ (N, L, 512)."""
        faces = pictures.transpose(0, 3, 1, 2).astype(np.float32) / np.float32(127.5) - 1
        parts = [self._e4e.run(None, {"FACE_CROP": part})[0] for part in _batches(faces)]
        return np.concatenate(parts)

    def embedding(self, text: str) -> np.ndarray:
        """The class embedding of a text."""
        if text not in self._texts:
            (self._texts[text],) = directions.class_embeddings(
                [text], lambda tokens: self._clip.run(None, {"TOKENS": tokens})[0]
            )
        return self._texts[text]

    def edit(self, w_plus: np.ndarray, pair: Pair | None, strength: float, threshold: float
             ) -> np.ndarray:  # fmt: skip
        """W+ (N, L, 512) → pictures (N, 256, 256, 3) uint8; without a pair the inversion."""
        delta = np.zeros_like(self.statistics.style_std)
        if pair is not None:
            edit = Edit(pair.neutral, pair.target, strength, threshold)
            delta, _ = directions.delta(self.statistics, [edit], self.embedding)
        parts = []
        for part in _batches(w_plus):
            feed = {"W_PLUS": part, "DELTA": np.repeat(delta[None], len(part), 0)}
            parts.append(self._stylegan2.run(None, feed)[0])
        return np.concatenate(parts)


class Judge:
    """The classifiers, the true renders and what can be seen in them."""

    def __init__(self, layers: Path) -> None:
        if not layers.exists():
            print("rendering the layers (once, some minutes) ...", flush=True)
            build_layers(layers)
        self.model = Classifier().eval()
        if not load(self.model, HERE / "classifier.pt"):
            raise click.ClickException("domains/avatars/classifier.pt is missing")
        self.model.float()
        self.composer = Composer(layers, "cpu")
        self.small = Composer(layers, "cpu", 64)

    @torch.no_grad()
    def read(self, pictures: np.ndarray) -> Tensor:
        """Pictures (N, 256, 256, 3) uint8 → labels (N, attributes)."""
        return torch.cat([predict(self.model(part)) for part in _tensor(pictures).split(BATCH)])

    def seen(self, labels: Tensor) -> Tensor:
        """Whether each attribute can be seen (N, attributes) bool: whether the picture would
        differ with any other value."""
        seen = torch.zeros(labels.shape, dtype=torch.bool)
        for rows in torch.arange(len(labels)).split(64):
            here = self.small(labels[rows])
            for a, size in enumerate(SIZES):
                fewest = torch.full((len(rows),), 10**9)
                for value in range(size):
                    other = labels[rows].clone()
                    other[:, a] = value
                    differs = (self.small(other) - here).abs().amax(1) > 0.2
                    changed = differs.flatten(1).sum(1)
                    same = other[:, a] == labels[rows, a]
                    fewest = torch.where(same, fewest, torch.minimum(fewest, changed))
                seen[rows, a] = fewest >= SEEN_PIXELS
        return seen

    def nearest(self, pictures: np.ndarray, labels: Tensor) -> np.ndarray:
        """PSNR (N,) in dB to the nearest true render: from what the classifiers read, each
        attribute in turn takes the value that comes closest."""
        true = _tensor(pictures)
        small = torch.nn.functional.interpolate(true, size=(64, 64), mode="area")
        best = labels.clone()
        error = (self.small(best) - small).square().mean((1, 2, 3))
        for a, size in enumerate(SIZES):
            for value in range(size):
                other = best.clone()
                other[:, a] = value
                new = (self.small(other) - small).square().mean((1, 2, 3))
                better = new < error - 1e-7
                best[better], error[better] = other[better], new[better]
        parts = [
            (self.composer(b) - t).square().mean((1, 2, 3))
            for b, t in zip(best.split(BATCH), true.split(BATCH), strict=True)
        ]
        return (10 * torch.log10(4 / torch.cat(parts).clamp(min=1e-9))).numpy()


def _batches(array: np.ndarray) -> Iterable[np.ndarray]:
    return (array[start : start + BATCH] for start in range(0, len(array), BATCH))


def _tensor(pictures: np.ndarray) -> Tensor:
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1


def avatars(count: int, seed: int) -> tuple[np.ndarray, Tensor]:
    """Held-out avatars, drawn whole by the renderer: pictures (N, 256, 256, 3) uint8, labels."""
    labels = sample_labels(count, torch.Generator().manual_seed(seed))
    return np.stack([np.asarray(render(row)) for row in labels.numpy()]), labels


def has(labels: Tensor, pair: Pair) -> Tensor:
    """Which rows have one of the pair's values."""
    return torch.isin(labels[:, pair.column], torch.tensor(pair.wanted))


def measure(chain: Chain, judge: Judge, latents: np.ndarray, labels: Tensor, seen: Tensor,
            pair: Pair, strength: float, threshold: float, clean: bool = True
            ) -> dict[str, float]:  # fmt: skip
    """One pair: `hit`, `kept` (mean of the other attributes), `worst` of them, `clean` (PSNR)."""
    rows = ~has(labels, pair) & seen[:, pair.column]
    edited = chain.edit(latents[rows.numpy()], pair, strength, threshold)
    read = judge.read(edited)
    # What the edit itself covers does not count: eyes under new sunglasses.
    after = labels[rows].clone()
    after[:, pair.column] = torch.where(
        has(read, pair), read[:, pair.column], labels[rows, pair.column]
    )
    both = seen[rows] & judge.seen(after)
    right = read == labels[rows]
    others = [a for a in range(len(NAMES)) if a != pair.column]
    rates = [right[both[:, a], a].float().mean().item() for a in others if both[:, a].any()]
    result = {
        "hit": has(read, pair).float().mean().item(),
        "kept": float(np.mean(rates)),
        "worst": min(rates),
        "avatars": int(rows.sum()),
    }
    if clean:
        psnr = judge.nearest(edited, read)
        result["clean"] = float(np.median(psnr))
        result["clean10"] = float(np.quantile(psnr, 0.1))
        owners = latents[has(labels, pair).numpy()]
        shown = has(judge.read(chain.edit(owners, pair, 0, threshold)), pair)
        gone = ~has(judge.read(chain.edit(owners, pair, -strength, threshold)), pair)
        result["removed"] = gone[shown].float().mean().item()
    return result


def choose(chain: Chain, judge: Judge, count: int) -> tuple[float, float]:
    """α and β for which most pairs reach their goals, on avatars of another seed."""
    pictures, labels = avatars(count, CHOICE_SEED)
    latents, seen = chain.invert(pictures), judge.seen(labels)
    best = (-1.0, 0.0, 0.0)
    for threshold in (0.1, 0.15, 0.2):
        for strength in (4.0, 5.0, 6.0, 7.0):
            found = [measure(chain, judge, latents, labels, seen, pair, strength, threshold, False)
                     for pair in PAIRS if pair.in_captions]  # fmt: skip
            reached = sum(f["hit"] >= 0.85 and f["kept"] >= 0.9 for f in found)
            short = sum(min(f["hit"], 0.95) + min(f["kept"], 0.97) for f in found) / len(found)
            print(
                f"α {strength:g}, β {threshold:g}: {reached} of {len(found)} pairs reach both; "
                f"hit {np.mean([f['hit'] for f in found]):.3f}, "
                f"kept {np.mean([f['kept'] for f in found]):.3f}",
                flush=True,
            )
            best = max(best, (reached + short, strength, threshold))
    return best[1], best[2]


def inversion(chain: Chain, judge: Judge, pictures: np.ndarray, latents: np.ndarray,
              labels: Tensor, seen: Tensor) -> dict[str, object]:  # fmt: skip
    """What the inversion keeps, by attribute, and its PSNR."""
    made = chain.edit(latents, None, 0, 0)
    right = judge.read(made) == labels
    by_attribute = {
        name: right[seen[:, a], a].float().mean().item() for a, name in enumerate(NAMES)
    }
    error = ((made.astype(np.float32) - pictures) ** 2).mean((1, 2, 3))
    psnr = 10 * np.log10(255**2 / error)
    return {
        "kept": float(np.mean(list(by_attribute.values()))),
        "by_attribute": by_attribute,
        "psnr": {
            "mean": float(psnr.mean()),
            "median": float(np.median(psnr)),
            "10%": float(np.quantile(psnr, 0.1)),
        },
        "clean": float(np.median(judge.nearest(made, judge.read(made)))),
    }


@click.command()
@click.option("--choose", "choosing", is_flag=True, help="Choose α and β, then stop.")
@click.option("--count", default=500, show_default=True, help="Held-out avatars.")
@click.option("--out", type=click.Path(path_type=Path), default=DOMAIN / "quality.json")
def main(choosing: bool, count: int, out: Path) -> None:
    """Write the quality report of the served avatars."""
    from quality_report import write_card, write_grids

    torch.manual_seed(0)
    chain, judge = Chain(), Judge(LAYERS)
    if choosing:
        strength, threshold = choose(chain, judge, min(count, 24))
        print(f"chosen: α {strength:g}, β {threshold:g}; put them into presets.py")
        return
    start = time.monotonic()
    domain = load_domain(DOMAIN)
    strength, threshold = domain.strength, domain.threshold
    pictures, labels = avatars(count, HELD_OUT_SEED)
    latents, seen = chain.invert(pictures), judge.seen(labels)
    report: dict[str, object] = {
        "avatars": count,
        "strength": strength,
        "threshold": threshold,
        "inversion": inversion(chain, judge, pictures, latents, labels, seen),
    }
    print(json.dumps(report["inversion"], indent=1), flush=True)
    rows = []
    for pair in PAIRS:
        found = measure(chain, judge, latents, labels, seen, pair, strength, threshold)
        rows.append({"neutral": pair.neutral, "target": pair.target,
                     "in_captions": pair.in_captions, **found})  # fmt: skip
        print(
            f"{time.monotonic() - start:6.0f} s  {pair.target:40s} hit {found['hit']:.3f} "
            f"kept {found['kept']:.3f} worst {found['worst']:.3f} clean {found['clean']:.1f} dB "
            f"removed {found['removed']:.3f}",
            flush=True,
        )
    report["pairs"] = rows
    out.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", "utf-8")
    write_card(report)
    write_grids(chain, pictures, latents, PAIRS, strength, threshold)
    print(f"{out} written after {time.monotonic() - start:.0f} s", flush=True)


if __name__ == "__main__":
    sys.exit(main())
