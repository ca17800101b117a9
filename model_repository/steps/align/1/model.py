"""Triton step `align`: photo → aligned face crop; see `styleclip_server.pipeline.alignment`."""

import os

import numpy as np

from styleclip_contract.wire import FEATURE_ALIGN
from styleclip_server.pipeline import images
from styleclip_server.pipeline.alignment import (
    LARGEST_FACE,
    Aligner,
    crop_center,
    decode_and_detect,
    to_face_crop,
)
from styleclip_server.pipeline.fidelities import encode_crop
from styleclip_server.serving.domain_folder import find_domain_folder, load_domain
from styleclip_server.serving.metrics import Metrics
from styleclip_server.serving.step import respond, scalar


def find_faces_on_gpu(domain_folder):
    """Return what finds faces on a GPU if STYLECLIP_FACES is "cuda", else None: dlib does."""
    if os.environ.get("STYLECLIP_FACES") != "cuda":
        return None
    import torch

    from styleclip_server.engines.cuda.faces.finder import CudaFaceFinder

    return CudaFaceFinder(domain_folder, torch.device("cuda"))


class TritonPythonModel:
    def initialize(self, args):
        folder = find_domain_folder(args["model_repository"])
        domain = load_domain(folder)
        self.align, self.crop_size = domain.align, domain.crop_size
        self.aligner = Aligner(folder, find_faces_on_gpu(folder))
        if self.align:
            self.aligner.preload()
        self.metrics = Metrics(FEATURE_ALIGN.name, domain.name)

    def execute(self, requests):
        return respond(FEATURE_ALIGN, requests, self.run_row, self.metrics)

    def run_row(self, row):
        data = row["PHOTO"][0]
        if scalar(row["ALIGN"], self.align):
            index = int(scalar(row["FACE"], LARGEST_FACE))
            face, quad = self.aligner.decode_and_align(data, index, self.metrics.count_faces)
        else:
            face, quad = crop_center(images.decode(data), self.crop_size)
        return {
            "FACE_CROP": to_face_crop(face),
            "QUAD": quad,
            "FACES": lambda: decode_and_detect(data),
            "CROP": lambda: np.array([encode_crop(face)], np.object_),
        }
