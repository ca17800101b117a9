"""Triton step `align`: photo → aligned face crop; see `styleclip_server.pipeline.alignment`."""

import numpy as np

from styleclip_contract.wire import ALIGN_MODEL
from styleclip_server.pipeline import alignment, images
from styleclip_server.pipeline.domain import domain_folder, load_domain
from styleclip_server.serving.metrics import Metrics
from styleclip_server.serving.step import first, respond


class TritonPythonModel:
    def initialize(self, args):
        folder = domain_folder(args["model_repository"])
        alignment.look_in(folder)
        domain = load_domain(folder)
        self.align = domain.align
        if self.align:
            alignment.prepare()
        self.metrics = Metrics(ALIGN_MODEL.name, domain.name)

    def execute(self, requests):
        return respond(ALIGN_MODEL, requests, self.answer, self.metrics)

    def answer(self, row):
        data = row["PHOTO"][0]
        if first(row["ALIGN"], self.align):
            face, quad = alignment.align_file(data, int(first(row["FACE"], -1)), self.metrics.faces)
        else:
            face, quad = alignment.whole_picture(images.decode(data))
        crop = face.transpose(2, 0, 1).astype(np.float32) / np.float32(127.5) - np.float32(1)
        return {"FACE_CROP": crop, "QUAD": quad, "FACES": lambda: alignment.faces_of_file(data)}
