"""Large raw tensors by shared memory, where client and server are on one host.

Triton's system shared memory extension (docs/protocol/extension_shared_memory.md of
triton-inference-server/server): the client makes a region, the server opens it by name, and
requests name places in it instead of carrying bytes. `SharedMemory.through` does that to any plan:
answers are arrays that lie in a region, and an answer that goes into the next call stays there.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import weakref
from collections import defaultdict, deque
from collections.abc import Callable, Generator, Iterable
from dataclasses import replace
from functools import partial
from multiprocessing.shared_memory import SharedMemory as Memory
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from styleclip_client import protocol
from styleclip_client.protocol import Call, Infer, Place
from styleclip_client.requests import Plan
from styleclip_contract import wire
from styleclip_contract.errors import AccessRefused, InvalidInput, ServerError, StyleclipError

PREFIX = "styleclip-client-"  # of the names in /dev/shm
SMALLEST = 64 * 2**10  # bytes; a smaller tensor is quicker on the way of the others
_ROOM = 4 * 2**20  # bytes; a picture of 1024 x 1024 has 3 MiB
_RAW = (wire.IMAGE,)  # outputs that are worth it

T = TypeVar("T")


class _Region(Place):
    """A piece of memory that belongs to one call, then to its answer, then to the next call."""

    def __init__(self, size: int) -> None:
        name = f"{PREFIX}{os.getpid()}-{secrets.token_hex(4)}"
        self.memory = Memory(name, create=True, size=size)
        self.registered = False
        super().__init__(name, 0, size, self.view)

    def view(self, shape: Iterable[int], dtype: Any) -> NDArray[Any]:
        array: NDArray[Any] = np.ndarray(tuple(shape), dtype, buffer=self.memory.buf)
        return array

    def destroy(self) -> None:
        # Not closed here: an array may lie there, and NumPy would not notice. It is closed when
        # the last that knows this region, be it such an array's finalizer, is gone.
        self.memory.unlink()


class SharedMemory:
    """The regions of one client; any thread may use it."""

    def __init__(self) -> None:
        self._free: dict[int, deque[_Region]] = defaultdict(deque)
        self._known: list[_Region] = []  # to the server
        self._holding: dict[int, _Region] = {}  # regions by the arrays that lie in them

    def through(self, plan: Plan[T]) -> Plan[T]:
        """`plan` with its large tensors in shared memory.

        Raises:
            AccessRefused: the server takes none, or is on another host.
        """
        step: Callable[[], Call] = partial(next, plan)
        while True:
            try:
                call = step()
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]
            try:
                answer = yield from self._carried(call)
            except StyleclipError as error:
                step = partial(plan.throw, error)
            else:
                step = partial(plan.send, answer)
                del answer  # or its region could not be used again while the next call runs

    def forget(self) -> Plan[None]:
        """Give all regions up; the server lets go of them, if it is there."""
        while self._known:
            region = self._known.pop()
            with contextlib.suppress(StyleclipError):
                yield protocol.unregister_memory(region)
            region.destroy()
        self._free.clear()

    def _carried(self, call: Call) -> Generator[Call, Any, Any]:
        if not isinstance(call, Infer):
            return (yield call)
        inputs, copied, outputs = self._laid_out(call)
        mine = [*copied, *outputs.values()]
        places = {**inputs, **outputs}
        placed = replace(call, places=places)
        try:
            answer = yield from self._sent(placed, places.values())
        except BaseException as error:
            self._given_up(mine, error)
            raise
        self._give_back(copied)
        for name, region in outputs.items():
            self._lend(region, answer[name])
        return answer

    def _given_up(self, regions: Iterable[_Region], error: BaseException) -> None:
        """What becomes of a failed call's regions: a server that did not answer may still write
        into them, so they stay aside until `forget`."""
        for region in regions:
            if not region.registered:
                region.destroy()
            elif isinstance(error, (InvalidInput, ServerError)):  # an answer
                self._give_back([region])

    def _sent(self, placed: Infer, places: Iterable[Any]) -> Generator[Call, Any, Any]:
        regions: list[_Region] = list(places)
        for last in (False, True):
            for region in regions:
                if not region.registered:
                    yield from self._register(region)
            try:
                return (yield placed)
            except StyleclipError as error:
                # A server that was started anew knows no regions.
                if last or "shared memory region" not in str(error):
                    raise
                for region in regions:
                    region.registered = False

    def _register(self, region: _Region) -> Generator[Call, Any, None]:
        try:
            yield protocol.register_memory(region)
        except (AccessRefused, InvalidInput, ServerError) as error:
            raise AccessRefused(
                f"the server takes no shared memory of this process ({error}): start it on this "
                "host, by the same user, with --allow-shared-memory"
            ) from error
        if region not in self._known:
            self._known.append(region)
        region.registered = True

    def _laid_out(
        self, call: Infer
    ) -> tuple[dict[str, _Region], list[_Region], dict[str, _Region]]:
        """Regions of the inputs, those of them that hold a copy, and regions of the outputs."""
        inputs: dict[str, _Region] = {}
        copied: list[_Region] = []
        for name, array in call.tensors.items():
            if array.nbytes < SMALLEST or array.dtype == np.object_:
                continue
            region = self._region_of(array)
            if region is None:
                region = self._take(array.nbytes)
                region.view(array.shape, array.dtype)[...] = array
                copied.append(region)
            inputs[name] = region
        outputs = {t.name: self._take(_ROOM) for t in call.model.outputs if t in _RAW}
        return inputs, copied, outputs

    def _region_of(self, array: NDArray[Any]) -> _Region | None:
        """The region in which an answer lies that `array` is, or shows as a whole."""
        owner: Any = array
        while isinstance(owner.base, np.ndarray):
            owner = owner.base
        region = self._holding.get(id(owner))
        same = array.ctypes.data == owner.ctypes.data and array.nbytes == owner.nbytes
        return region if same and array.flags.c_contiguous else None

    def _take(self, size: int) -> _Region:
        room = max(_ROOM, 1 << (size - 1).bit_length())
        try:
            return self._free[room].pop()
        except IndexError:
            return _Region(room)

    def _lend(self, region: _Region, array: NDArray[Any]) -> None:
        """Keep `region` from others until the answer in it is gone."""
        self._holding[id(array)] = region
        weakref.finalize(array, self._ended, id(array), region).atexit = False

    def _ended(self, number: int, region: _Region) -> None:
        self._holding.pop(number, None)
        self._give_back([region])

    def _give_back(self, regions: Iterable[_Region]) -> None:
        for region in regions:
            self._free[region.size].append(region)
