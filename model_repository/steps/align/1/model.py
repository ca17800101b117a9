"""Triton step `align`: photo → aligned face crop; see `styleclip_server.pipeline.alignment`.

Beside networks in PyTorch a GPU aligns the photos of a batch at once, unless STYLECLIP_FACES is
dlib; dlib and Pillow, in all cores, take those that it leaves.
"""

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from styleclip_contract.errors import StyleclipError
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
from styleclip_server.serving import config_parameters
from styleclip_server.serving.domain_folder import find_domain_folder, load_domain
from styleclip_server.serving.metrics import Metrics
from styleclip_server.serving.step import respond, scalar

ALIGNED = "aligned"  # what the GPU adds to a row


class TritonPythonModel:
    def initialize(self, args):
        folder, config = (
            find_domain_folder(args["model_repository"]),
            json.loads(args["model_config"]),
        )
        domain = load_domain(folder)
        self.align, self.crop_size = domain.align, domain.crop_size
        self.aligner = Aligner(folder)
        if self.align:
            self.aligner.preload()
        self.on_gpu = self.threads = None
        faces = config["parameters"].get(config_parameters.FACES)
        if self.align and faces:
            nvjpeg = faces["string_value"] == config_parameters.NVJPEG
            device = args["model_instance_device_id"]
            self.on_gpu = load_gpu_aligner(folder, device, config["max_batch_size"], nvjpeg)
            self.threads = ThreadPoolExecutor(config["max_batch_size"])
        self.metrics = Metrics(FEATURE_ALIGN.name, domain.name)

    def execute(self, requests):
        prepare = self.align_on_gpu if self.on_gpu else None
        return respond(FEATURE_ALIGN, requests, self.run_row, self.metrics, self.threads, prepare)

    def align_on_gpu(self, rows):
        rows = [row for row in rows if scalar(row["ALIGN"], self.align)]
        files = [row["PHOTO"][0] for row in rows]
        indices = [face_index(row) for row in rows]
        for row, outcome in zip(rows, self.on_gpu.align(files, indices), strict=True):
            row[ALIGNED] = outcome

    def run_row(self, row):
        data = row["PHOTO"][0]
        if scalar(row["ALIGN"], self.align):
            face, quad = self.align_row(row)
        else:
            face, quad = crop_center(images.decode(data), self.crop_size)
        return {
            "FACE_CROP": to_face_crop(face),
            "QUAD": quad,
            "FACES": lambda: decode_and_detect(data),
            "CROP": lambda: np.array([encode_crop(face)], np.object_),
        }

    def align_row(self, row):
        outcome = row.get(ALIGNED)
        if outcome is None:
            data = row["PHOTO"][0]
            return self.aligner.decode_and_align(data, face_index(row), self.metrics.count_faces)
        if isinstance(outcome, StyleclipError):
            raise outcome
        self.metrics.count_faces(outcome.detected)
        return outcome.face


def face_index(row):
    return int(scalar(row["FACE"], LARGEST_FACE))


def load_gpu_aligner(domain_folder, device, max_batch, nvjpeg):
    """Return what aligns faces on the GPU with the number `device`, or None where it cannot."""
    import torch

    from styleclip_server.engines.cuda.faces.aligner import load_aligner

    return load_aligner(domain_folder, torch.device("cuda", int(device)), max_batch, nvjpeg)
