"""The requests of the benchmark: real photos, their latents, the edits of the domain's presets."""

from __future__ import annotations

import base64
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import tritonclient.grpc as triton

from styleclip_client import Client
from styleclip_contract import limits, wire
from styleclip_server.pipeline.tokenizer import tokenize
from tools.triton_client import infer

MODELS = ("edit", "edit_photo", "invert", "stylegan2", "e4e", "clip_text")
STRENGTHS = (2.0, 4.0, 6.0, 8.0)


def build_inputs(
    client: Client, photos: list[Path], fidelity: str | None = None
) -> dict[str, list[dict[str, Any]]]:
    """Return the entries of perf_analyzer's --input-data for each model.

    Args:
        fidelity: of edits; None is not sent, which means latent.
    """
    presets = client.domain().presets
    data: dict[str, list[dict[str, Any]]] = {name: [] for name in MODELS}
    connection = triton.InferenceServerClient(client.url)
    for i, path in enumerate(photos):
        raw = path.read_bytes()
        photo = _encode(raw)
        inverted = client.invert(path, fidelity=fidelity)
        latent = inverted.w_plus
        chosen = {"FIDELITY": {"content": [fidelity], "shape": [1]}} if fidelity else {}
        of_latent = dict(chosen)
        if fidelity == limits.FEATURES:
            of_latent["CROP"] = _encode(inverted.crop)
        w_plus = {"content": latent.ravel().tolist(), "shape": list(latent.shape)}
        crop = infer(connection, wire.ALIGN_MODEL, {"PHOTO": [[raw]]})["FACE_CROP"][0]
        data["invert"].append({"PHOTO": photo})
        data["e4e"].append({"FACE_CROP": {"content": crop.ravel().tolist()}})
        for j, preset in enumerate(presets):
            edit = replace(preset.edit, strength=STRENGTHS[(i + j) % len(STRENGTHS)])
            texts = {
                "NEUTRAL": {"content": [edit.neutral], "shape": [1]},
                "TARGET": {"content": [edit.target], "shape": [1]},
                "STRENGTH": {"content": [edit.strength], "shape": [1]},
                "THRESHOLD": {"content": [edit.threshold], "shape": [1]},
            }
            data["edit"].append({"W_PLUS": w_plus, **texts, **of_latent})
            data["edit_photo"].append({"PHOTO": photo, **texts, **chosen})
            tensors = {
                "NEUTRAL": [[edit.neutral.encode()]],
                "TARGET": [[edit.target.encode()]],
                "STRENGTH": [[edit.strength]],
                "THRESHOLD": [[edit.threshold]],
            }
            delta = infer(connection, wire.DIRECTION, tensors)["DELTA"][0]
            data["stylegan2"].append({"W_PLUS": w_plus, "DELTA": {"content": delta.tolist()}})
    for preset in presets:
        row = tokenize([preset.edit.target])[0]
        data["clip_text"].append({"TOKENS": {"content": row.tolist()}})
    connection.close()
    return data


def _encode(element: bytes) -> dict[str, str]:
    """Return an element of a BYTES tensor, which its length precedes."""
    return {"b64": base64.b64encode(struct.pack("<I", len(element)) + element).decode()}
