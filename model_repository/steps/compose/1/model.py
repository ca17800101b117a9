"""Triton step `compose`: face → encoded image; see `styleclip_server.pipeline.composition`."""

import numpy as np

from styleclip_contract.limits import DEFAULT_FORMAT, DEFAULT_QUALITY
from styleclip_contract.wire import COMPOSE, EDIT_INPUTS
from styleclip_server.pipeline import composition, edit_tensors, images
from styleclip_server.serving.domain_folder import find_domain_folder, load_domain
from styleclip_server.serving.metrics import Metrics
from styleclip_server.serving.signing import load_signer
from styleclip_server.serving.step import respond, scalar


class TritonPythonModel:
    def initialize(self, args):
        self.domain = load_domain(find_domain_folder(args["model_repository"])).name
        self.signer = load_signer()
        self.metrics = Metrics(COMPOSE.name, self.domain)

    def execute(self, requests):
        return respond(COMPOSE, requests, self.run_row, self.metrics)

    def run_row(self, row):
        photo, values = None, [row[tensor.name] for tensor in EDIT_INPUTS]
        paste = bool(scalar(row["PASTE"], False))
        format = scalar(row["FORMAT"], DEFAULT_FORMAT.encode()).decode("utf-8", "replace")
        if paste and row["PHOTO"] is not None:
            photo = images.decode(row["PHOTO"][0], keep_gps=bool(scalar(row["KEEP_GPS"], False)))
        has_edits = all(
            tensor.optional or value is not None
            for tensor, value in zip(EDIT_INPUTS, values, strict=True)
        )
        edits = edit_tensors.parse_edits(*values) if has_edits else []
        data = composition.compose(
            row["IMAGE"],
            photo,
            row["QUAD"],
            paste=paste,
            format=format,
            quality=int(scalar(row["QUALITY"], DEFAULT_QUALITY)),
            domain=self.domain,
            texts="; ".join(map(str, edits)),
            marked=bool(scalar(row["MARK"], True)),
            signer=self.signer,
        )
        self.metrics.count_image(format)
        return {"PICTURE": np.array([data], np.object_)}
