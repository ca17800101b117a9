"""One request to the server, whatever carries it, and how one can fail.

The names of gRPC methods are tritonclient's; the paths are those of the KServe v2 protocol with
Triton's extensions (docs/protocol of triton-inference-server/server). Answers have the shape of
the HTTP protocol's JSON.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from numpy.typing import NDArray

from styleclip_contract.errors import (
    AccessRefused,
    DeadlineExceeded,
    InvalidInput,
    ServerBusy,
    ServerError,
    ServerUnavailable,
    StyleclipError,
    from_wire,
)
from styleclip_contract.wire import Model

Tensors: TypeAlias = dict[str, NDArray[Any]]  # by name, the batch dimension first


@dataclass(eq=False)
class Place:
    """A place in memory that client and server share; `array` shows an answer that is there."""

    region: str
    offset: int
    size: int
    array: Callable[[Iterable[int], Any], NDArray[Any]]


@dataclass(frozen=True)
class Infer:
    """Run `model` on `tensors`; the answer is all its outputs as `Tensors`.

    `places` are those of tensors, in or out, that need not be carried. `id` is what the server's
    log and traces call the request, the same in every attempt.
    """

    model: Model
    tensors: Tensors
    places: Mapping[str, Place] = field(default_factory=dict)
    id: str = field(default_factory=lambda: uuid.uuid4().hex)


@dataclass(frozen=True)
class Ask:
    """A question about the server; the answer is JSON, or a bool when `yes_or_no`.

    `arguments` are those of the method; over HTTP they go in the body, but for the name.
    """

    method: str
    path: str
    verb: str = "GET"
    arguments: Mapping[str, Any] = field(default_factory=dict)
    yes_or_no: bool = False


Call: TypeAlias = "Infer | Ask"

LIVE = Ask("is_server_live", "v2/health/live", yes_or_no=True)
READY = Ask("is_server_ready", "v2/health/ready", yes_or_no=True)
METADATA = Ask("get_server_metadata", "v2")
INDEX = Ask("get_model_repository_index", "v2/repository/index", "POST")
STATISTICS = Ask("get_inference_statistics", "v2/models/stats")


def config_of(model: Model) -> Ask:
    """The question for a model's configuration."""
    return Ask(
        "get_model_config",
        f"v2/models/{model.name}/config",
        arguments={"model_name": model.name},
    )


def register_memory(place: Place) -> Ask:
    """Let the server open shared memory, whose name is that of the region."""
    return Ask(
        "register_system_shared_memory",
        f"v2/systemsharedmemory/region/{place.region}/register",
        "POST",
        {"name": place.region, "key": f"/{place.region}", "byte_size": place.size},
    )


def unregister_memory(place: Place) -> Ask:
    """Let the server close it."""
    return Ask(
        "unregister_system_shared_memory",
        f"v2/systemsharedmemory/region/{place.region}/unregister",
        "POST",
        {"name": place.region},
    )


class Failed(Exception):
    """A call that failed: `code` is gRPC's name of the status, whatever carried it."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message

    @property
    def transient(self) -> bool:
        """Whether the same call may succeed a moment later: no server, or a busy one.

        Every call of this client is pure, so one that was perhaps done already can be repeated.
        """
        named = type(from_wire(self.message)) is not ServerError
        return (
            not named
            and not self._closed
            and (self.code == "UNAVAILABLE" or self.busy or self._dying or self._unloaded)
        )

    @property
    def busy(self) -> bool:
        """Whether the server works, but has enough to do: a full queue, or too long a wait."""
        # gRPC has the same code for a message over the size limit, which stays over it.
        if self.code == "RESOURCE_EXHAUSTED":
            return "larger than max" not in self.message
        return "queue size" in self.message or "timeout expired" in self.message

    @property
    def _dying(self) -> bool:
        # Triton's words once the process of a Python step is dead: it will be started anew.
        return "Stub process" in self.message and "not healthy" in self.message

    @property
    def _unloaded(self) -> bool:
        # Triton's words for a model that it knows and has not loaded yet, or any more; and gRPC's
        # for a call that a stopping server dropped: this client cancels none that it waits for.
        return "has no available versions" in self.message or self.code == "CANCELLED"

    @property
    def _closed(self) -> bool:
        # Triton's word for a call that it was told to refuse; gRPC gives it as UNAVAILABLE.
        return "protocol is restricted" in self.message or "API is restricted" in self.message

    def named(self, url: str, timeout: float) -> StyleclipError:
        """The named error behind it, for a call to `url` that had `timeout` seconds."""
        code, message = self.code, self.message
        named = from_wire(message)
        if str(named) != message:  # else the message named none
            return named
        if self._closed:
            return AccessRefused(f"{url} does not let anybody do this ({message})")
        if code == "DEADLINE_EXCEEDED":
            return DeadlineExceeded(
                f"no answer from {url} within {timeout:g} s: raise the time-out, "
                "or see with `styleclip status` whether the server is busy"
            )
        if self._dying:
            return ServerUnavailable(f"a part of {url} died and is started anew: try again later")
        if self.busy:
            return ServerBusy("the server has too many requests waiting: try again later")
        if self._unloaded:
            return ServerUnavailable(f"{url} is starting or stopping: try again later")
        if code == "NOT_FOUND" or "unknown model" in message:
            return ServerUnavailable(
                f"{url} does not serve a model that this needs ({message}): see `styleclip status`"
            )
        if code == "UNAVAILABLE":
            return ServerUnavailable(
                f"no StyleCLIP server answers at {url}: start one with `make serve`, and "
                "give its address (gRPC: localhost:8001; HTTP: http://localhost:8000)"
                # With TLS it may also be a certificate that is not trusted.
                + (f"; it was: {message}" if url.startswith(("grpcs:", "https:")) else "")
            )
        if code in ("UNAUTHENTICATED", "PERMISSION_DENIED"):
            return AccessRefused(f"{url} refuses the call ({message or code}): check the token")
        if code == "INVALID_ARGUMENT":
            return InvalidInput(message)
        return named if message else ServerError(code)


def outputs_of(model: Model, answer: Mapping[str, NDArray[Any] | None]) -> Tensors:
    """All outputs of `model` from what a transport found; ServerError when one is missing."""
    outputs: Tensors = {}
    for tensor in model.outputs:
        array = answer.get(tensor.name)
        if array is None or array.ndim == 0 or len(array) != 1:
            raise ServerError(f"{model.name} answered without {tensor.name}")
        outputs[tensor.name] = array
    return outputs
