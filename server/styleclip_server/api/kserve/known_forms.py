"""Forms of requests that passed the checks, so that others of the same form need not be parsed.

The form of a message of gRPC is all of it except for the id and the raw contents of tensors: the
model, and the names, types and shapes of inputs and outputs. A slider, a benchmark and most clients
repeat one form. Comparing it takes a fraction of the time of parsing and checking all fields.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from tritonclient.grpc.service_pb2 import ModelInferRequest

from styleclip_server.api.kserve import tensors
from styleclip_server.api.kserve.inference import ID_CHARACTERS, ModelInterface, WireForm

_FORMS = 256  # the newest that are known


@dataclass(frozen=True)
class KnownForm:
    """A form that passed the checks of `interface`.

    Attributes:
        sizes: the bytes of each raw content; None: texts.
        texts: of each raw content with texts: its position, the tensor's name, how many there are.
    """

    model: str
    interface: ModelInterface
    rows: int
    sizes: tuple[int | None, ...]
    texts: tuple[tuple[int, str, int], ...]

    def check(self, message: bytes, form: WireForm) -> bool:
        """Return whether a message of this form passes the checks; if not, they say why."""
        if len(form.contents) != len(self.sizes) or len(form.id) > ID_CHARACTERS:
            return False
        for (start, end), size in zip(form.contents, self.sizes, strict=True):
            if size is not None and end - start != size:
                return False
        try:
            form.id.decode()
        except UnicodeDecodeError:
            return False
        for position, name, count in self.texts:
            start, end = form.contents[position]
            tensors.check_content(name, "BYTES", count, message[start:end])
        return True


class KnownForms:
    """The forms that were seen, for any thread."""

    def __init__(self) -> None:
        self._forms: dict[bytes, KnownForm] = {}

    def find(
        self, message: bytes, form: WireForm, interface: Callable[[str], ModelInterface | None]
    ) -> KnownForm | None:
        """Return the known form of a message that passes the checks; None: they have to be made.

        Args:
            interface: returns a model's present interface.

        Raises:
            Refused: the contents of a tensor of texts are not what its shape states.
        """
        known = self._forms.get(form.structure)
        if known is None or known.interface is not interface(known.model):
            return None
        return known if known.check(message, form) else None

    def remember(
        self,
        message: bytes,
        form: WireForm,
        request: ModelInferRequest,
        interface: ModelInterface,
        rows: int,
    ) -> None:
        """Remember the form of a message that passed the checks.

        Not one with parameters, typed contents, or fields that the protocol lacks: such a message
        is not passed on as it came.

        Args:
            request: the message, parsed and checked.
            rows: of its batch.
        """
        if not form.structure or not _is_plain(request, message):
            return
        counts = [math.prod(tensor.shape) for tensor in request.inputs]
        known = KnownForm(
            request.model_name,
            interface,
            rows,
            tuple(map(tensors.byte_size, (t.datatype for t in request.inputs), counts)),
            tuple(
                (i, tensor.name, count)
                for i, (tensor, count) in enumerate(zip(request.inputs, counts, strict=True))
                if tensor.datatype == "BYTES"
            ),
        )
        if len(self._forms) >= _FORMS:
            self._forms.pop(next(iter(self._forms)), None)
        self._forms[form.structure] = known


def _is_plain(request: ModelInferRequest, message: bytes) -> bool:
    """Return whether `request` is what `message` says and nothing was removed or added."""
    return (
        len(request.raw_input_contents) == len(request.inputs)
        and not any(part.parameters for part in (request, *request.inputs, *request.outputs))
        and request.SerializeToString() == message
    )
