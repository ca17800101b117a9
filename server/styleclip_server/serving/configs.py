"""Each model's Triton configuration, built from the wire contract.

They differ by engine: backend, device, queues and instances.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping
from importlib.util import find_spec

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from styleclip_contract import limits, wire
from styleclip_contract.domain import Domain
from styleclip_contract.wire import Model, Tensor
from styleclip_server.engines.engine import CPU_ENGINES, Engine
from styleclip_server.engines.gpus import count_gpus
from styleclip_server.engines.model_files import (
    FLOAT16_FILE,
    MODEL_FILE,
    OPENVINO_FILE,
    PYTHON_FILE,
)
from styleclip_server.serving import config_parameters

# Maximum rows per execution. A text is 79 prompts, so two texts fit into 256.
MAX_BATCH = 8
MAX_PROMPTS = 256
# How long a request waits for a model, and how many wait; more get UNAVAILABLE at once, and clients
# retry. On a GPU a few batches wait; on a CPU the requests of four busy clients and the canary's
# (Triton counts those it has dequeued too). The API server bounds all requests together, below
# these numbers, so that what it admits is not refused.
QUEUE_SECONDS = 20
QUEUE_LENGTH = {"gpu": 4 * MAX_BATCH, "cpu": 6}
GPU_CONCURRENT_REQUESTS = MAX_BATCH  # at the start; the bound adapts to the measured latency
# On a GPU a short wait fills batches. On a CPU a batch costs as much as its images one by one, and
# the first would wait for the last.
GPU_QUEUE_DELAY_MICROSECONDS = 200
# Instances of each step on a CPU: `align` is the slowest.
INSTANCES = {wire.ALIGN_MODEL.name: 2, wire.COMPOSE.name: 2}
# For each GPU, whose requests need more of the CPU steps at once.
TORCH_INSTANCES = {wire.ALIGN_MODEL.name: 4, wire.DIRECTION.name: 2, wire.COMPOSE.name: 4}
# Of `align` on each GPU that aligns: while one process prepares or ends a batch, the other one's
# runs.
GPU_ALIGN_INSTANCES = 2
# With a single instance the batcher of Triton 2.51 may miss the end of a request and let the next
# one wait for half a second; with two that is rare.
CPU_INSTANCES = {model.name: 2 for model in wire.NETWORKS}
# An encoder of so many latents has 1 GB of weights, so it runs once: a second process would take
# 1.5 GB, 3.4 GB while it loads, and half a second matters little beside its inference.
LARGE_NUM_LATENTS = 16

# The chain of each ensemble; steps are connected by the names of their tensors.
ENSEMBLE_STEPS: dict[str, tuple[Model, ...]] = {
    wire.INVERT.name: (wire.ALIGN_MODEL, wire.E4E),
    wire.EDIT.name: (wire.DIRECTION, wire.STYLEGAN2, wire.COMPOSE),
    wire.EDIT_PHOTO.name: (
        wire.ALIGN_MODEL,
        wire.E4E,
        wire.DIRECTION,
        wire.STYLEGAN2,
        wire.COMPOSE,
    ),
}
_TYPES = {"BYTES": "TYPE_STRING"}


def concurrent_requests(engine: Engine, queue_length: int | None = None) -> tuple[int, int]:
    """Return the bound of concurrent requests at the start, and the highest that queues allow."""
    cpu = engine in CPU_ENGINES
    most = max(2, (queue_length or QUEUE_LENGTH["cpu" if cpu else "gpu"]) - 1)
    start = max(1, (os.cpu_count() or 1) // 2) if cpu else GPU_CONCURRENT_REQUESTS
    return min(start, most), most


def serves_features(domain: Domain, engine: Engine) -> bool:
    """Return whether a server with this engine serves the domain with FIDELITY `features`.

    On a CPU its models need ONNX Runtime's package, which a complete Triton may lack.
    """
    on_cpu = engine in CPU_ENGINES and find_spec("onnxruntime") is not None
    return (on_cpu or engine == "torch") and limits.FEATURES in domain.fidelities


def step_config(model: Model, engine: Engine, features: bool = False) -> pb.ModelConfig:
    """Return the configuration of a Python step or an ensemble, the same for every domain.

    Args:
        features: whether the server serves FIDELITY `features`.
    """
    model = _served_model(model, engine, features)
    config = _interface(model, {})
    if model is wire.DIRECTION and features:
        config.parameters[config_parameters.FIDELITIES].string_value = " ".join(limits.FIDELITIES)
    if model.kind == "ensemble":
        config.platform = "ensemble"
        known = {t.name for t in model.inputs}
        for part in ENSEMBLE_STEPS[model.name]:
            step = _served_model(part, engine, features)
            entry = config.ensemble_scheduling.step.add(model_name=step.name, model_version=-1)
            for tensor in step.inputs:
                if tensor.name in known:
                    entry.input_map[tensor.name] = tensor.name
            for tensor, name in _ensemble_names(step, model).items():
                entry.output_map[tensor.name] = name
                known.add(name)
        return config
    config.backend = model.kind
    kind, count = pb.ModelInstanceGroup.KIND_CPU, INSTANCES.get(model.name, 1)
    if engine == "torch":
        gpus = count_gpus()
        count = TORCH_INSTANCES.get(model.name, count) * max(1, gpus)
        faces = os.environ.get(config_parameters.FACES_VARIABLE) or config_parameters.CUDA
        on_gpu = gpus > 0 and faces in config_parameters.FACES_ON_A_GPU
        if model.name == wire.ALIGN_MODEL.name and on_gpu:
            kind, count = pb.ModelInstanceGroup.KIND_GPU, GPU_ALIGN_INSTANCES
            config.parameters[config_parameters.FACES].string_value = faces
    config.instance_group.add(kind=kind, count=count)  # of KIND_GPU: on each GPU
    _set_queue_policy(config, 0, engine)
    return config


def network_config(
    model: Model,
    description: str,
    engine: Engine,
    files: Collection[str] = (),
    features: bool = False,
) -> pb.ModelConfig:
    """Return the configuration of a network.

    Args:
        description: the text of its domain.json.
        files: names of the files in its newest version folder.
        features: whether the server serves FIDELITY `features`.
    """
    domain = Domain.from_json(description)
    dims = _dims(domain)
    config = _interface(_served_model(model, engine, features), dims)
    if PYTHON_FILE in files and MODEL_FILE not in files:  # a domain without this network
        config.backend = "python"
        config.instance_group.add(kind=pb.ModelInstanceGroup.KIND_CPU, count=1)
        _set_queue_policy(config, 0, engine)
        return config
    config.backend, config.default_model_filename = _backend_and_file(model, engine, files)
    if features and model is wire.STYLEGAN2 and engine != "torch":
        file = config.default_model_filename or MODEL_FILE
        config.parameters[config_parameters.NETWORK_FILE].string_value = file
        config.backend, config.default_model_filename = "python", ""
    if engine == "torch":
        config.parameters["FORCE_CPU_ONLY_INPUT_TENSORS"].string_value = "no"
    if model is wire.CLIP_TEXT:
        config.max_batch_size = MAX_PROMPTS
    cpu = engine in CPU_ENGINES
    kind = pb.ModelInstanceGroup.KIND_CPU if cpu else pb.ModelInstanceGroup.KIND_GPU
    config.instance_group.add(kind=kind, count=_cpu_instances(model, domain) if cpu else 1)
    _set_queue_policy(config, 0 if cpu else GPU_QUEUE_DELAY_MICROSECONDS, engine)
    if engine == "gpu" and model is wire.E4E:
        _prefer_nhwc(config)
    if engine != "torch":  # PyTorch captures its graphs before it is ready
        _add_warmup(config, model, dims)
    if model is wire.STYLEGAN2:
        config.parameters[config_parameters.DOMAIN].string_value = _domain_text(
            description, features
        )
    return config


def features_config(description: str, engine: Engine) -> pb.ModelConfig:
    """Return the configuration of `wire.FEATURES`, for the domain with this domain.json.

    It runs once, so that its process has all cached features. Its callers, the processes of
    `stylegan2`, bound its queue.
    """
    config = _interface(wire.FEATURES, _dims(Domain.from_json(description)))
    config.backend = wire.FEATURES.kind
    config.parameters[config_parameters.ENGINE].string_value = engine
    config.instance_group.add(kind=pb.ModelInstanceGroup.KIND_CPU, count=1)
    return config


def _dims(domain: Domain) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the tensors that depend on the domain."""
    return {
        "W_PLUS": (domain.num_latents, domain.w_dim),
        "DELTA": (domain.style_size,),
        "FACE_CROP": (3, *domain.crop_size),
        "IMAGE": (*domain.image_size, 3),
    }


def _domain_text(description: str, features: bool) -> str:
    """Return the text of domain.json for clients, with the fidelities that are served."""
    content = json.loads(description)
    if not features:
        content = {k: v for k, v in content.items() if k not in ("fidelities", "default_fidelity")}
    return json.dumps(content, ensure_ascii=False, sort_keys=True)


def _cpu_instances(model: Model, domain: Domain) -> int:
    """Return how many processes run a network on a CPU."""
    large = model is wire.E4E and domain.num_latents >= LARGE_NUM_LATENTS
    return 1 if large else CPU_INSTANCES.get(model.name, 1)


def _backend_and_file(model: Model, engine: Engine, files: Collection[str]) -> tuple[str, str]:
    """Return a network's Triton backend and the file that it reads; "": the backend's default."""
    if engine == "torch":
        return "python", ""
    if engine == "openvino" and OPENVINO_FILE in files:
        return "openvino", OPENVINO_FILE
    if engine == "gpu" and FLOAT16_FILE in files:
        return model.kind, FLOAT16_FILE
    return model.kind, ""


def _prefer_nhwc(config: pb.ModelConfig) -> None:
    """Let ONNX Runtime keep features channels last, which makes e4e a quarter faster.

    stylegan2 would be half as fast.
    """
    accelerators = config.optimization.execution_accelerators
    accelerator = accelerators.gpu_execution_accelerator.add(name="cuda")
    accelerator.parameters["prefer_nhwc"] = "1"


def _add_warmup(config: pb.ModelConfig, model: Model, dims: Mapping[str, tuple[int, ...]]) -> None:
    """Add a warmup request of zeros."""
    request = config.model_warmup.add(name="one", batch_size=1)
    for tensor in model.inputs:
        entry = request.inputs[tensor.name]
        entry.data_type, entry.zero_data = _type(tensor), True
        entry.dims.extend(dims.get(tensor.name, tensor.shape))


def _served_model(model: Model, engine: Engine, features: bool) -> Model:
    if engine == "torch" and model is wire.STYLEGAN2:
        return wire.TORCH_FEATURE_STYLEGAN2 if features else wire.TORCH_STYLEGAN2
    return wire.FEATURE_MODELS.get(model.name, model) if features else model


def _ensemble_names(step: Model, ensemble: Model) -> dict[Tensor, str]:
    """Return the outputs that an ensemble requests of a step, with their names in the ensemble."""
    if wire.RENDER in step.outputs:
        return {wire.RENDER: wire.IMAGE.name}
    unused = {wire.FACES, wire.CROP} - set(ensemble.outputs)
    return {tensor: tensor.name for tensor in step.outputs if tensor not in unused}


def _interface(model: Model, dims: Mapping[str, tuple[int, ...]]) -> pb.ModelConfig:
    config = pb.ModelConfig(name=model.name, max_batch_size=MAX_BATCH)
    for tensor in model.inputs:
        shape = dims.get(tensor.name, tensor.shape)
        config.input.add(name=tensor.name, data_type=_type(tensor), dims=shape,
                         optional=tensor.optional)  # fmt: skip
    for tensor in model.outputs:
        shape = dims.get(tensor.name, tensor.shape)
        config.output.add(name=tensor.name, data_type=_type(tensor), dims=shape)
    return config


def _type(tensor: Tensor) -> int:
    return int(pb.DataType.Value(_TYPES.get(tensor.datatype, f"TYPE_{tensor.datatype}")))


def _set_queue_policy(config: pb.ModelConfig, delay: int, engine: Engine) -> None:
    batching = config.dynamic_batching
    batching.max_queue_delay_microseconds = delay
    if engine in CPU_ENGINES:
        batching.preferred_batch_size.append(1)
    policy = batching.default_queue_policy
    policy.timeout_action = pb.ModelQueuePolicy.REJECT
    policy.default_timeout_microseconds = QUEUE_SECONDS * 1_000_000
    policy.max_queue_size = QUEUE_LENGTH["cpu" if engine in CPU_ENGINES else "gpu"]


def set_queue_length(config: pb.ModelConfig, length: int) -> None:
    """Set how many requests wait for a model; ensembles have no queue."""
    if config.HasField("dynamic_batching"):
        config.dynamic_batching.default_queue_policy.max_queue_size = length


def to_pbtxt(config: pb.ModelConfig) -> str:
    """Return the text of the configuration's config.pbtxt."""
    header = "# Written by `styleclip-export configs` from the wire contract: do not edit.\n"
    return header + text_format.MessageToString(config, as_utf8=True)
