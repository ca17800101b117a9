"""The folders of the model repository: versions of networks, committed configurations, and what
the launcher links for Triton.

`steps` contains what every domain shares (Python steps and ensembles), `<domain>` its networks
with `domain.json` and `statistics.npz` beside them. The `config.pbtxt` of each model is for
a stock Triton on a GPU. The launcher needs none of them: it builds the configurations of the
engine that it serves.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from tritonclient.grpc import model_config_pb2 as pb

from styleclip_contract import wire
from styleclip_contract.domain import DOMAIN_FILE, Domain
from styleclip_server.engines.engine import STOCK_ENGINE, Engine
from styleclip_server.engines.model_files import (
    FEATURES_FOLDER,
    MODEL_FILE,
    OPENVINO_FILE,
    PYTHON_FILE,
)
from styleclip_server.files import write_atomically
from styleclip_server.serving import configs

_log = logging.getLogger("styleclip_server")

# The Python model of a network in PyTorch.
_TORCH_MODEL = """from styleclip_server.serving.backends.torch import TritonPythonModel

__all__ = ["TritonPythonModel"]
"""

# The generator of a domain with networks that edit features, and on a CPU the model of these.
_TORCH_FEATURES_MODEL = _TORCH_MODEL.replace(".torch ", ".torch_features ")
_FEATURE_GENERATOR_MODEL = _TORCH_MODEL.replace(".torch ", ".feature_generator ")
_FEATURES_MODEL = _TORCH_MODEL.replace(".torch ", ".features ")

# The encoder of a domain that has none.
_NO_ENCODER_MODEL = """from styleclip_server.serving.backends.no_encoder import TritonPythonModel

__all__ = ["TritonPythonModel"]
"""


def domains(repository: Path) -> list[str]:
    """Return the names of the domains in `repository`."""
    return sorted(path.parent.name for path in repository.glob(f"*/{DOMAIN_FILE}"))


def link_models(
    folder: Path, steps: Path, domain: Path, engine: Engine, queue_length: int | None = None
) -> None:
    """Write each model's configuration into `folder` and link its versions beside it.

    The versions are links, so `steps` and `domain` may be on a read-only file system.

    Args:
        queue_length: requests that wait for each model; None: `configs.QUEUE_LENGTH`.
    """
    description = (domain / DOMAIN_FILE).read_text("utf-8")
    features = _find_features(domain, description, engine)
    for parent, models in ((steps, wire.STEPS), (domain, wire.NETWORKS)):
        for name, config in _configs(parent, models, engine, features is not None).items():
            if queue_length is not None:
                configs.set_queue_length(config, queue_length)
            served = _write_config(folder, config)
            python_model = ""
            if models is wire.NETWORKS:
                python_model = _python_model(name, engine, features is not None)
            for version in _versions(parent.resolve() / name):
                if python_model and (version / MODEL_FILE).is_file():
                    _link_beside(served / version.name, python_model, version)
                else:
                    (served / version.name).symlink_to(version)
    generator = _newest(folder / wire.STYLEGAN2.name)
    if features and generator and engine == "torch":
        (generator / FEATURES_FOLDER).symlink_to(features)
    elif features:
        served = _write_config(folder, configs.features_config(description, engine))
        _link_beside(served / features.name, _FEATURES_MODEL, features)


def _find_features(domain: Path, description: str, engine: Engine) -> Path | None:
    """Return the newest version of the networks that edit features; None: they are not served."""
    features = _newest(domain / wire.FEATURES.name)
    if features is None or not configs.serves_features(Domain.from_json(description), engine):
        return None
    if engine == "torch":
        # It needs the package onnx, which servers without PyTorch do not install.
        from styleclip_server.engines.feature_weights import check_feature_weights

        stylegan2 = domain / wire.STYLEGAN2.name
        try:
            newest = stylegan2 / str(newest_version(stylegan2)) / MODEL_FILE
            check_feature_weights(features, newest)
        except Exception as error:  # whatever is wrong with the files
            _log.warning("PyTorch edits faces by their latent only: %s", error)
            return None
    return features


def _write_config(folder: Path, config: pb.ModelConfig) -> Path:
    """Write config.pbtxt into the model's folder in `folder`, and return the model's folder."""
    served = folder / config.name
    served.mkdir(parents=True)
    (served / "config.pbtxt").write_text(configs.to_pbtxt(config), "utf-8")
    return served


def _python_model(network: str, engine: Engine, features: bool) -> str:
    """Return the model.py of a network; "": it needs none."""
    if features and network == wire.STYLEGAN2.name:
        return _TORCH_FEATURES_MODEL if engine == "torch" else _FEATURE_GENERATOR_MODEL
    return _TORCH_MODEL if engine == "torch" else ""


def _link_beside(folder: Path, python_model: str, version: Path) -> None:
    """Write model.py into `folder` and link the files of `version` beside it."""
    folder.mkdir()
    (folder / PYTHON_FILE).write_text(python_model, "utf-8")
    for file in version.iterdir():
        if file.name != PYTHON_FILE:
            (folder / file.name).symlink_to(file)


def config_files(
    repository: Path, domain: str | None, overlays: Sequence[Engine] = ()
) -> dict[Path, str]:
    """Return path → text of every configuration for a stock Triton.

    Args:
        domain: whose networks; None for the steps.
        overlays: engines to write to `configs/FLAVOUR.pbtxt` of each model, beside config.pbtxt.
    """
    folder = repository / (domain or "steps")
    models = wire.NETWORKS if domain else wire.STEPS
    files = {}
    for engine in (STOCK_ENGINE, *overlays):
        for name, config in _configs(folder, models, engine).items():
            file = "config.pbtxt" if engine == STOCK_ENGINE else f"configs/{engine}.pbtxt"
            files[folder / name / file] = configs.to_pbtxt(config)
    return files


def write_configs(repository: Path, domain: str | None, overlays: Sequence[Engine] = ()) -> None:
    """Write the files of `config_files`."""
    for path, content in config_files(repository, domain, overlays).items():
        write_atomically(path, content)


def _configs(
    folder: Path, models: Sequence[wire.Model], engine: Engine, features: bool = False
) -> dict[str, pb.ModelConfig]:
    """Return by name the configurations of all steps, or of the networks in the domain `folder`."""
    if models is wire.STEPS:
        return {model.name: configs.step_config(model, engine, features) for model in models}
    description = (folder / DOMAIN_FILE).read_text("utf-8")
    return {
        model.name: configs.network_config(
            model, description, engine, _newest_files(folder / model.name), features
        )
        for model in models
    }


def has_square_crops(domain: Path) -> bool:
    """Return whether the encoder of the domain in this folder takes square images."""
    crop_size = Domain.from_json((domain / DOMAIN_FILE).read_text("utf-8")).crop_size
    return crop_size[0] == crop_size[1]


def has_openvino_network(domain: Path) -> bool:
    """Return whether the domain in this folder was converted for OpenVINO too."""
    return OPENVINO_FILE in _newest_files(domain / wire.STYLEGAN2.name)


def _newest_files(network: Path) -> set[str]:
    """Return the names of the files of the network's newest version."""
    return {path.name for path in (network / str(newest_version(network))).glob("*")}


def _versions(network: Path) -> list[Path]:
    return [path for path in network.glob("*") if path.name.isdecimal()]


def _newest(network: Path) -> Path | None:
    """Return the folder of the newest version of a network; None: it has none."""
    version = newest_version(network)
    return network.resolve() / str(version) if version else None


def newest_version(network: Path) -> int:
    """Return the highest version number of the network in this folder, 0 if it has none."""
    return max((int(path.name) for path in _versions(network)), default=0)


def add_version(network: Path, files: Mapping[str, bytes | Path]) -> int:
    """Add a version to the network in this folder, atomically; older versions stay.

    Args:
        files: by name, each as its bytes or as a path on the same file system, which is moved.

    Returns:
        The number of the version, one above the highest.
    """
    network.mkdir(parents=True, exist_ok=True)
    version = newest_version(network) + 1
    partial = Path(tempfile.mkdtemp(prefix=".part-", dir=network))
    try:
        for name, data in files.items():
            if isinstance(data, Path):
                data.rename(partial / name)
            else:
                (partial / name).write_bytes(data)
        partial.chmod(0o755)
        partial.rename(network / str(version))
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return version


def add_missing_encoder(domain: Path) -> None:
    """Add a version of e4e that says that the domain in this folder has no encoder."""
    add_version(domain / wire.E4E.name, {PYTHON_FILE: _NO_ENCODER_MODEL.encode()})
