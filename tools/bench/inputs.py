"""The requests of the benchmark: real photos, their latents, the edits of the domain's presets."""

from __future__ import annotations

import base64
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import tritonclient.grpc as triton

from styleclip_client import Client
from styleclip_contract import wire
from styleclip_server.pipeline.tokenizer import tokenize
from tools.triton_client import infer

MODELS = ("edit", "edit_photo", "invert", "stylegan2", "e4e", "clip_text")
STRENGTHS = (2.0, 4.0, 6.0, 8.0)


def build_inputs(client: Client, photos: list[Path]) -> dict[str, list[dict[str, Any]]]:
    """Return the entries of perf_analyzer's --input-data for each model."""
    presets = client.domain().presets
    data: dict[str, list[dict[str, Any]]] = {name: [] for name in MODELS}
    connection = triton.InferenceServerClient(client.url)
    for i, path in enumerate(photos):
        raw = path.read_bytes()  # on the wire, a BYTES element is preceded by its length
        photo = {"b64": base64.b64encode(struct.pack("<I", len(raw)) + raw).decode()}
        latent = client.invert(path).w_plus
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
            data["edit"].append({"W_PLUS": w_plus, **texts})
            data["edit_photo"].append({"PHOTO": photo, **texts})
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
