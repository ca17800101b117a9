"""The Triton model `features`: a face crop with its latent and an edit → image.

`stylegan2` calls it for requests with FIDELITY `features`.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from styleclip_contract import wire
from styleclip_contract.errors import InvalidCrop
from styleclip_server.engines.cpu import core_quota
from styleclip_server.engines.features import FeatureEditor
from styleclip_server.pipeline.alignment import to_face_crop
from styleclip_server.pipeline.edit_tensors import check_latent
from styleclip_server.pipeline.fidelities import decode_crop
from styleclip_server.serving import config_parameters
from styleclip_server.serving.domain_folder import find_domain_folder, load_domain
from styleclip_server.serving.metrics import Metrics
from styleclip_server.serving.step import respond

CACHE_VARIABLE = "STYLECLIP_FEATURE_CACHE_MIB"
DEFAULT_CACHE_MIB = 512  # 120 faces at 1024 px


class TritonPythonModel:
    def initialize(self, args):
        domain = load_domain(find_domain_folder(args["model_repository"]))
        self.crop_size = domain.crop_size
        parameters = json.loads(args["model_config"])["parameters"]
        engine = parameters[config_parameters.ENGINE]["string_value"]
        self.editor = FeatureEditor(
            Path(args["model_repository"], args["model_version"]),
            core_quota(),
            int(os.environ.get(CACHE_VARIABLE, DEFAULT_CACHE_MIB)) << 20,
            openvino=engine == "openvino",
        )
        self.metrics = Metrics(wire.FEATURES.name, domain.name)

    def execute(self, requests):
        return respond(wire.FEATURES, requests, self.run_row, self.metrics)

    def run_row(self, row):
        w_plus, crop, face = row["W_PLUS"], row["CROP"], row["FACE_CROP"]
        check_latent(w_plus)
        if crop is None and face is None:
            raise InvalidCrop(
                "FIDELITY is features, and CROP is missing: send the output CROP of `invert`"
            )
        # All bytes of the face are hashed: a client gets features of its own photos alone.
        content = crop[0] if face is None else face.tobytes()
        key = hashlib.sha256(w_plus.tobytes() + content).digest()

        def read_face():
            return to_face_crop(decode_crop(content, self.crop_size)) if face is None else face

        try:
            return {"IMAGE": self.editor.edit(w_plus, row["DELTA"], key, read_face)}
        finally:
            self.metrics.count_lookups({"features": self.editor.cache.cache_info()})
