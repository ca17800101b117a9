"""Triton step `compose`: face → encoded image; see `styleclip_server.pipeline.composition`."""

import numpy as np

from styleclip_contract.wire import COMPOSE, TEXTS
from styleclip_server.pipeline import composition, directions, images
from styleclip_server.pipeline.credentials import Signer
from styleclip_server.pipeline.domain_folder import find_domain_folder, load_domain
from styleclip_server.serving.metrics import Metrics
from styleclip_server.serving.step import first, respond


class TritonPythonModel:
    def initialize(self, args):
        self.model = load_domain(find_domain_folder(args["model_repository"])).name
        self.signer = Signer.from_environment()
        self.metrics = Metrics(COMPOSE.name, self.model)

    def execute(self, requests):
        return respond(COMPOSE, requests, self.answer, self.metrics)

    def answer(self, row):
        photo, texts = None, [row[tensor.name] for tensor in TEXTS]
        paste = bool(first(row["PASTE"], False))
        format = first(row["FORMAT"], b"JPEG").decode("utf-8", "replace")
        if paste and row["PHOTO"] is not None:
            photo = images.decode(row["PHOTO"][0], keep_gps=bool(first(row["KEEP_GPS"], False)))
        edits = [] if any(text is None for text in texts) else directions.parse_edits(*texts)
        data = composition.compose(
            row["IMAGE"],
            photo,
            row["QUAD"],
            paste=paste,
            format=format,
            quality=int(first(row["QUALITY"], 95)),
            model=self.model,
            texts="; ".join(map(str, edits)),
            marked=bool(first(row["MARK"], True)),
            signer=self.signer,
        )
        self.metrics.count_image(format)
        return {"PICTURE": np.array([data], np.object_)}
