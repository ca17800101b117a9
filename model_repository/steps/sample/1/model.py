"""Triton step `sample`: seed → random latent; see `styleclip_server.pipeline.random_latents`."""

from styleclip_contract import limits
from styleclip_contract.wire import SAMPLE
from styleclip_server.pipeline.random_latents import load_mapping
from styleclip_server.serving.domain_folder import find_domain_folder, load_domain
from styleclip_server.serving.metrics import Metrics
from styleclip_server.serving.step import respond, scalar


class TritonPythonModel:
    def initialize(self, args):
        folder = find_domain_folder(args["model_repository"])
        self.domain = load_domain(folder)
        self.mapping = load_mapping(folder)
        self.metrics = Metrics(SAMPLE.name, self.domain.name)

    def execute(self, requests):
        return respond(SAMPLE, requests, self.run_row, self.metrics)

    def run_row(self, row):
        truncation = float(scalar(row["TRUNCATION"], limits.DEFAULT_TRUNCATION))
        w_plus = self.mapping.sample(int(row["SEED"][0]), truncation, self.domain.num_latents)
        return {"W_PLUS": w_plus}
