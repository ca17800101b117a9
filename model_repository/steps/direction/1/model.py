"""Triton step `direction`: edits → StyleSpace offset; see `styleclip_server.pipeline.directions`.

Except for latent mappers the offset does not depend on the photo, so it is cached. Triton's
response cache is no substitute: version 2.51 caches an error as an empty response and returns it as
a success the next time.
"""

import json
from functools import lru_cache

import numpy as np
import triton_python_backend_utils as triton

from styleclip_contract.errors import ServerError
from styleclip_contract.limits import DEFAULT_FIDELITY
from styleclip_contract.wire import CLIP_TEXT, DIRECTION, EDIT_INPUTS
from styleclip_server.pipeline import directions, edit_tensors, named_directions
from styleclip_server.pipeline.fidelities import parse_fidelity
from styleclip_server.pipeline.style_statistics import load_statistics
from styleclip_server.serving import config_parameters
from styleclip_server.serving.domain_folder import find_domain_folder, load_domain
from styleclip_server.serving.metrics import Metrics
from styleclip_server.serving.step import respond, scalar

CACHED_EMBEDDINGS = 4096  # 2 kB each: a slider repeats the same texts
CACHED_OFFSETS = 512  # up to 40 kB each: a batch repeats the same edits


class TritonPythonModel:
    def initialize(self, args):
        folder = find_domain_folder(args["model_repository"])
        self.domain = load_domain(folder)
        self.statistics = load_statistics(folder, self.domain.style_channels)
        self.named = named_directions.load_directions(folder, self.domain)
        served = json.loads(args["model_config"])["parameters"].get(config_parameters.FIDELITIES)
        self.fidelities = served["string_value"].split() if served else [DEFAULT_FIDELITY]
        self.metrics = Metrics(DIRECTION.name, self.domain.name)
        # Errors are exceptions, which lru_cache does not cache.
        self.embedding = lru_cache(CACHED_EMBEDDINGS)(self.class_embedding)
        self.constant_offset = lru_cache(CACHED_OFFSETS)(self.style_offset)

    def execute(self, requests):
        return respond(DIRECTION, requests, self.run_row, self.metrics)

    def run_row(self, row):
        parse_fidelity(scalar(row["FIDELITY"], None), self.fidelities, self.domain.name)
        edit_tensors.check_latent(row["W_PLUS"])
        edits = edit_tensors.parse_edits(*(row[tensor.name] for tensor in EDIT_INPUTS))
        edits = named_directions.resolve(self.domain, edits)
        try:
            delta, channels = directions.edit_offset(
                edits, self.named, row["W_PLUS"], self.constant_offset
            )
        finally:
            self.metrics.count_lookups(
                {"texts": self.embedding.cache_info(), "offsets": self.constant_offset.cache_info()}
            )
        self.metrics.count_edits(edits)
        return {"DELTA": delta, "CHANNELS": np.array(channels, np.int32)}

    def style_offset(self, edits):
        return directions.style_offset(self.statistics, edits, self.embedding, self.named)

    def class_embedding(self, text):
        return directions.class_embeddings([text], self.encode)[0]

    def encode(self, tokens):
        """Encode TOKENS (N, 77) to TEXT_FEATURES (N, D) with the model `clip_text`."""
        (name,) = (tensor.name for tensor in CLIP_TEXT.outputs)
        response = triton.InferenceRequest(
            model_name=CLIP_TEXT.name,
            requested_output_names=[name],
            inputs=[triton.Tensor(CLIP_TEXT.inputs[0].name, tokens)],
        ).exec()
        if response.has_error():
            raise ServerError(f"clip_text failed: {response.error().message()}")
        return triton.get_output_tensor_by_name(response, name).as_numpy()
