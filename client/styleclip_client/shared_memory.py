"""Large raw tensors in shared memory, where client and server are on one host.

Triton's system shared memory extension (docs/protocol/extension_shared_memory.md of
triton-inference-server/server): the client creates a region, the server opens it by name, and
requests name regions instead of carrying bytes. `SharedMemory.place` chooses the regions of one
request and releases them afterwards; the clients register them and send the request.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import weakref
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing import shared_memory
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from styleclip_client.protocol import InferRequest, Tensors
from styleclip_contract import wire
from styleclip_contract.errors import AccessRefused, InvalidInput, ServerError, StyleclipError

MIN_TENSOR_BYTES = 64 * 2**10  # a smaller tensor is sent faster in the request
_REGION_SIZE = 4 * 2**20  # bytes; an image of 1024 x 1024 has 3 MiB
_FOLDER = Path("/dev/shm")
_LARGE_OUTPUTS = (wire.IMAGE,)


class Region:
    """Memory that belongs to one request, then to its response, then to the next request."""

    def __init__(self, size: int) -> None:
        self.name = f"{wire.SHARED_MEMORY_PREFIX}{os.getpid()}-{secrets.token_hex(4)}"
        self.size = size
        self.registered = False
        self._memory = shared_memory.SharedMemory(self.name, create=True, size=size)
        # The lock ends with the process, however that ends: the server then closes the region.
        descriptor = os.open(_FOLDER / self.name, os.O_RDWR)
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        self._unlock = weakref.finalize(self, os.close, descriptor)

    def view(self, shape: Iterable[int], dtype: Any) -> NDArray[Any]:
        """Return an array of this shape and dtype that starts at the region's first byte."""
        array: NDArray[Any] = np.ndarray(tuple(shape), dtype, buffer=self._memory.buf)
        return array

    def destroy(self) -> None:
        """Remove the name; the memory is freed with this object."""
        # Not closed here: NumPy would not notice that the memory of an array is gone. The finalizer
        # of such an array keeps this object alive.
        self._memory.unlink()
        self._unlock()


@dataclass(frozen=True)
class Placement:
    """One request with its large tensors in regions.

    Attributes:
        request: the request with the regions of its tensors.
        regions: all of these regions.
        copies: those of inputs that were copied into shared memory.
        outputs: those of outputs, by name.
    """

    request: InferRequest
    regions: Sequence[Region]
    copies: Sequence[Region]
    outputs: Mapping[str, Region]

    def unregistered(self) -> list[Region]:
        """Return the regions that the server has not opened."""
        return [region for region in self.regions if not region.registered]

    def unregister_if_unknown(self, error: StyleclipError) -> bool:
        """Mark all regions as unregistered if `error` says that the server does not know them.

        This happens after a restart of the server. Returns whether that was the error.
        """
        unknown = "shared memory region" in str(error)
        if unknown:
            for region in self.regions:
                region.registered = False
        return unknown


class SharedMemory:
    """The regions of one client, for any number of threads."""

    def __init__(self) -> None:
        self._free: dict[int, deque[Region]] = defaultdict(deque)  # by size
        self._registered: list[Region] = []
        self._reserved: dict[int, Region] = {}  # by id of the array that is in the region

    @contextmanager
    def place(self, request: InferRequest) -> Iterator[Placement]:
        """Put the large tensors of `request` into regions, and release these at the end.

        Regions of outputs are not released after success: `reserve_outputs` gives them to
        the response.
        """
        placement = self._place(request)
        try:
            yield placement
        except BaseException as error:
            # A server that did not answer may still write into its regions: they are not reused.
            answered = isinstance(error, (InvalidInput, ServerError))
            for region in (*placement.copies, *placement.outputs.values()):
                if not region.registered:
                    self._destroy(region)
                elif answered:
                    self._release(region)
            raise
        for region in placement.copies:
            self._release(region)

    @contextmanager
    def registering(self, region: Region) -> Iterator[None]:
        """Mark `region` as registered if the body, which asks the server to open it, succeeds.

        Raises:
            AccessRefused: the server does not open it.
        """
        try:
            yield
        except (AccessRefused, InvalidInput, ServerError) as error:
            raise AccessRefused(
                f"the server takes no shared memory of this process ({error}): start it on this "
                "host, as the same user, with --allow-shared-memory"
            ) from error
        if region not in self._registered:
            self._registered.append(region)
        region.registered = True

    def reserve_outputs(self, placement: Placement, response: Tensors) -> Tensors:
        """Reserve the regions of the outputs for as long as the arrays of `response` exist."""
        for name, region in placement.outputs.items():
            array = response[name]
            self._reserved[id(array)] = region
            weakref.finalize(array, self._on_array_freed, id(array), region).atexit = False
        return response

    def pop_registered(self) -> Region | None:
        """Remove and return a region that the server may have open; None if there is none left."""
        if self._registered:
            return self._registered.pop()
        self._free.clear()  # `_registered` had all of these
        return None

    def _on_array_freed(self, array_id: int, region: Region) -> None:
        self._reserved.pop(array_id, None)
        self._release(region)

    def _place(self, request: InferRequest) -> Placement:
        inputs: dict[str, Region] = {}
        copies: list[Region] = []
        for name, array in request.tensors.items():
            if array.nbytes < MIN_TENSOR_BYTES or array.dtype == np.object_:
                continue
            region = self._region_of(array)
            if region is None:
                region = self._take(array.nbytes)
                region.view(array.shape, array.dtype)[...] = array
                copies.append(region)
            inputs[name] = region
        outputs = {
            tensor.name: self._take(_REGION_SIZE)
            for tensor in request.model.outputs
            if tensor in _LARGE_OUTPUTS
        }
        regions = {**inputs, **outputs}
        placed = replace(request, regions=regions)
        return Placement(placed, list(regions.values()), copies, outputs)

    def _region_of(self, array: NDArray[Any]) -> Region | None:
        """Return the region of an output, if `array` is that output or a view of all of it."""
        owner: Any = array
        while isinstance(owner.base, np.ndarray):
            owner = owner.base
        region = self._reserved.get(id(owner))
        same = array.ctypes.data == owner.ctypes.data and array.nbytes == owner.nbytes
        return region if same and array.flags.c_contiguous else None

    def _take(self, size: int) -> Region:
        region_size = max(_REGION_SIZE, 1 << (size - 1).bit_length())
        try:
            return self._free[region_size].pop()
        except IndexError:
            return Region(region_size)

    def _release(self, region: Region) -> None:
        self._free[region.size].append(region)

    def _destroy(self, region: Region) -> None:
        if region in self._registered:
            self._registered.remove(region)
        region.destroy()
