"""Triton step `align`: photo → aligned face crop; see `styleclip_server.pipeline.alignment`."""

import json
import os
from concurrent.futures import ThreadPoolExecutor

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


def find_faces_on_gpu(domain_folder, threads):
    """Return what finds faces on a GPU, for so many threads."""
    import torch

    from styleclip_server.engines.cuda.faces.finder import CudaFaceFinder

    return CudaFaceFinder(domain_folder, torch.device("cuda"), threads)


class TritonPythonModel:
    def initialize(self, args):
        folder = find_domain_folder(args["model_repository"])
        domain = load_domain(folder)
        self.align, self.crop_size = domain.align, domain.crop_size
        finder, self.threads = None, None
        if os.environ.get("STYLECLIP_FACES") == "cuda":  # else dlib finds them, in all cores
            count = json.loads(args["model_config"])["max_batch_size"]
            finder, self.threads = find_faces_on_gpu(folder, count), ThreadPoolExecutor(count)
        self.aligner = Aligner(folder, finder)
        if self.align:
            self.aligner.preload()
        self.metrics = Metrics(FEATURE_ALIGN.name, domain.name)

    def execute(self, requests):
        return respond(FEATURE_ALIGN, requests, self.run_row, self.metrics, self.threads)

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
