"""Triton step `compose`: face → encoded picture; see `styleclip_server.composition`."""

import numpy as np
from styleclip_client.contract import COMPOSE
from styleclip_server import composition, images
from styleclip_server.domain import domain_folder, load_domain
from styleclip_server.metrics import Metrics
from styleclip_server.step import first, respond


class TritonPythonModel:
    def initialize(self, args):
        self.model = load_domain(domain_folder(args["model_repository"])).name
        self.metrics = Metrics(COMPOSE.name, self.model)

    def execute(self, requests):
        return respond(COMPOSE, requests, self.answer, self.metrics)

    def answer(self, row):
        paste = bool(first(row["PASTE"], False))
        format = first(row["FORMAT"], b"JPEG").decode("utf-8", "replace")
        picture = composition.compose(
            row["IMAGE"],
            images.decode(row["PHOTO"][0]) if paste and row["PHOTO"] is not None else None,
            row["QUAD"],
            paste=paste,
            format=format,
            quality=int(first(row["QUALITY"], 95)),
            model=self.model,
        )
        self.metrics.picture(format)
        return {"PICTURE": np.array([picture], np.object_)}
