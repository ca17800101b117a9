"""The Triton model `e4e` of a domain without an encoder: rejects every request with `NoEncoder`."""

from __future__ import annotations

import triton_python_backend_utils as triton

from styleclip_contract.errors import NoEncoder
from styleclip_server.serving import parent_watch

parent_watch.die_with_triton()


class TritonPythonModel:
    def execute(self, requests):
        error = NoEncoder(
            "this domain has no encoder, so it edits no photos: edit a latent or a random seed "
            "(`styleclip sample`), or convert the domain with --encoder"
        )
        wire = triton.TritonError(error.to_wire(), triton.TritonError.INVALID_ARG)
        return [triton.InferenceResponse(error=wire) for _ in requests]
