"""Triton step `align`: photo → aligned face crop; see `styleclip_server.pipeline.alignment`."""

import numpy as np

from styleclip_contract.wire import ALIGN_MODEL
from styleclip_server.pipeline import images
from styleclip_server.pipeline.alignment import (
    LARGEST_FACE,
    Aligner,
    crop_center,
    detect_faces_in_file,
)
from styleclip_server.pipeline.domain_folder import find_domain_folder, load_domain
from styleclip_server.serving.metrics import Metrics
from styleclip_server.serving.step import first, respond


class TritonPythonModel:
    def initialize(self, args):
        folder = find_domain_folder(args["model_repository"])
        domain = load_domain(folder)
        self.align = domain.align
        self.aligner = Aligner(folder)
        if self.align:
            self.aligner.preload()
        self.metrics = Metrics(ALIGN_MODEL.name, domain.name)

    def execute(self, requests):
        return respond(ALIGN_MODEL, requests, self.answer, self.metrics)

    def answer(self, row):
        data = row["PHOTO"][0]
        if first(row["ALIGN"], self.align):
            index = int(first(row["FACE"], LARGEST_FACE))
            face, quad = self.aligner.align_file(data, index, self.metrics.count_faces)
        else:
            face, quad = crop_center(images.decode(data))
        crop = face.transpose(2, 0, 1).astype(np.float32) / np.float32(127.5) - np.float32(1)
        return {"FACE_CROP": crop, "QUAD": quad, "FACES": lambda: detect_faces_in_file(data)}
