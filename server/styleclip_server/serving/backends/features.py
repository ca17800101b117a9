"""The Triton model `features`: a face crop with its latent and an edit → image.

`stylegan2` calls it for requests with FIDELITY `features`.
"""

from __future__ import annotations

import json
from pathlib import Path

from styleclip_contract import wire
from styleclip_server.engines.cpu import core_quota
from styleclip_server.engines.features import FeatureEditor
from styleclip_server.pipeline.fidelities import find_face
from styleclip_server.serving import config_parameters
from styleclip_server.serving.backends import feature_requests
from styleclip_server.serving.domain_folder import find_domain_folder, load_domain
from styleclip_server.serving.metrics import Metrics
from styleclip_server.serving.step import respond


class TritonPythonModel:
    def initialize(self, args):
        domain = load_domain(find_domain_folder(args["model_repository"]))
        self.crop_size = domain.crop_size
        parameters = json.loads(args["model_config"])["parameters"]
        engine = parameters[config_parameters.ENGINE]["string_value"]
        self.editor = FeatureEditor(
            Path(args["model_repository"], args["model_version"]),
            core_quota(),
            feature_requests.cache_bytes(),
            openvino=engine == "openvino",
        )
        self.metrics = Metrics(wire.FEATURES.name, domain.name)

    def execute(self, requests):
        return respond(wire.FEATURES, requests, self.run_row, self.metrics)

    def run_row(self, row):
        crop = None if row["CROP"] is None else row["CROP"][0]
        face = find_face(row["W_PLUS"], crop, row["FACE_CROP"], self.crop_size)
        try:
            image = self.editor.edit(row["W_PLUS"], row["DELTA"], face.key, face.read)
            return {"IMAGE": image}
        finally:
            self.metrics.count_lookups({"features": self.editor.cache.cache_info()})
