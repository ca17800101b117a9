"""Triton step `direction`: texts → StyleSpace offset; see `styleclip_server.pipeline.directions`.

The offset depends on no photo, so answers are cached, here and not by Triton's response cache:
that of Triton 2.51 keeps a refusal as an empty answer and gives it as a success the next time.
"""

from functools import lru_cache

import numpy as np
import triton_python_backend_utils as triton

from styleclip_contract.errors import ServerError
from styleclip_contract.wire import CLIP_TEXT, DIRECTION
from styleclip_server.pipeline import directions
from styleclip_server.pipeline.domain_folder import find_domain_folder, load_domain
from styleclip_server.pipeline.style_statistics import load_statistics
from styleclip_server.serving.metrics import Metrics
from styleclip_server.serving.step import respond

TEXTS_KEPT = 4096  # class embeddings, 2 kB each: a slider asks for the same texts again
OFFSETS_KEPT = 512  # up to 40 kB each: many photos, the same edits


class TritonPythonModel:
    def initialize(self, args):
        folder = find_domain_folder(args["model_repository"])
        domain = load_domain(folder)
        self.statistics = load_statistics(folder, domain.style_channels)
        self.metrics = Metrics(DIRECTION.name, domain.name)
        # Refusals are exceptions, which lru_cache does not keep.
        self.embedding = lru_cache(TEXTS_KEPT)(self.class_embedding)
        self.offset = lru_cache(OFFSETS_KEPT)(self.sum_of_edits)

    def execute(self, requests):
        return respond(DIRECTION, requests, self.answer, self.metrics)

    def answer(self, row):
        directions.check_latent(row["W_PLUS"])
        edits = directions.check(row["NEUTRAL"], row["TARGET"], row["STRENGTH"], row["THRESHOLD"])
        try:
            delta, channels = self.offset(tuple(edits))
        finally:
            self.metrics.caches(
                {"texts": self.embedding.cache_info(), "offsets": self.offset.cache_info()}
            )
        self.metrics.edits(edits)
        return {"DELTA": delta, "CHANNELS": np.array(channels, np.int32)}

    def sum_of_edits(self, edits):
        return directions.delta(self.statistics, edits, self.embedding)

    def class_embedding(self, text):
        return directions.class_embeddings([text], self.encode)[0]

    def encode(self, tokens):
        """TOKENS (N, 77) → TEXT_FEATURES (N, D), by the model `clip_text`."""
        (name,) = (tensor.name for tensor in CLIP_TEXT.outputs)
        answer = triton.InferenceRequest(
            model_name=CLIP_TEXT.name,
            requested_output_names=[name],
            inputs=[triton.Tensor(CLIP_TEXT.inputs[0].name, tokens)],
        ).exec()
        if answer.has_error():
            raise ServerError(f"clip_text failed: {answer.error().message()}")
        return triton.get_output_tensor_by_name(answer, name).as_numpy()
