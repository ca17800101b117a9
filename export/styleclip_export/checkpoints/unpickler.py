"""A pickle reader that can only build data.

Opcodes are those documented in Python's `pickletools`. A global name is looked up in the caller's
list of allowed names and never imported, so a pickle cannot reach any other function. Opcodes that
no published file uses are refused: text protocols, the extension registry, out-of-band buffers,
INST and OBJ.

Byte strings are views of the file and the memo is a dictionary, so a length or an index invented
by a hostile file costs no memory. All pickles of one file share a budget of opcodes and text.
"""

from __future__ import annotations

import pickle  # for the opcodes' names only
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

MAX_TEXT_BYTES = 1 << 20  # of one string; the source texts in NVIDIA's files have 40,000
MAX_INT_KEY = 1 << 31  # larger dictionary keys could be chosen so that their hashes collide
_MAX_NAME_BYTES = 512  # of a module or a class in a GLOBAL opcode


class UnsupportedFile(Exception):
    """The reason why a file is not read, worded to follow "the file is refused:".

    `checkpoint_file.open_checkpoint` turns it into a CheckpointError.
    """


@dataclass
class PickleBudget:
    """What is left for the pickles of one file. The largest published ones take 100,000 opcodes."""

    opcodes: int = 500_000
    text_bytes: int = 16 << 20


@dataclass(frozen=True)
class GlobalName:
    """A "module.name" that a pickle mentions; only text."""

    text: str


class InertObject:
    """An object of a foreign class, kept as the class's name and plain data."""

    def __init__(self, class_name: str, *arguments: Any) -> None:
        self.class_name, self.arguments = class_name, arguments
        self.state: dict[Any, Any] = {}

    def build(self, state: Any) -> None:
        """Take the attributes that the BUILD opcode sets."""
        if not isinstance(state, dict):
            raise UnsupportedFile(f"the state of its {self.class_name} is not a dictionary")
        self.state = state

    def get(self, key: str, default: Any = None) -> Any:
        """Return an attribute."""
        return self.state.get(key, default)


# "module.name" → what a call of it returns; None for a name that may be mentioned but not called.
# A key that ends in "." allows every name with that prefix; its function gets the name first.
AllowedGlobals = Mapping[str, Callable[..., Any] | None]


class SafeUnpickler:
    """Reads one pickle from `data`, starting at `position`.

    Args:
        data: the file, or the part of it that contains the pickle.
        allowed: every name that the pickle may mention.
        position: offset of the pickle's first byte; after `load`, of the byte after its last.
        persistent_load: returns the object for a persistent id; None refuses such ids.
        budget: shared by the pickles of one file.
    """

    def __init__(
        self,
        data: memoryview,
        allowed: AllowedGlobals,
        *,
        position: int = 0,
        persistent_load: Callable[[Any], Any] | None = None,
        budget: PickleBudget | None = None,
    ) -> None:
        self.data, self.allowed, self.position = data, allowed, position
        self.persistent_load, self.budget = persistent_load, budget or PickleBudget()
        self.stack: list[Any] = []
        self.outer_stacks: list[list[Any]] = []  # one for each open MARK
        self.memo: dict[int, Any] = {}

    def load(self) -> Any:
        """Return the pickled value.

        Raises:
            UnsupportedFile: it is damaged, too long, or mentions a name that is not allowed.
        """
        try:
            while self.budget.opcodes > 0:
                self.budget.opcodes -= 1
                opcode = bytes(self.take(1))
                if opcode == pickle.STOP:
                    return self.stack.pop()
                operation = OPERATIONS.get(opcode)
                if operation is None:
                    raise UnsupportedFile(
                        f"its pickle uses opcode 0x{opcode.hex()}, which no such file needs"
                    )
                operation(self)
        except (IndexError, KeyError, ValueError, TypeError, OverflowError) as error:
            raise UnsupportedFile(f"its pickle is damaged at byte {self.position:,}") from error
        raise UnsupportedFile(f"its pickle has more than {PickleBudget.opcodes:,} opcodes")

    # --- Reading the arguments of an opcode

    def take(self, size: int) -> memoryview:
        end = self.position + size
        if size < 0 or end > len(self.data):
            raise UnsupportedFile("it is truncated, or claims more bytes than it has")
        taken = self.data[self.position : end]
        self.position = end
        return taken

    def number(self, layout: str) -> Any:
        return struct.unpack(layout, self.take(struct.calcsize(layout)))[0]

    def long_integer(self) -> int:
        return int.from_bytes(self.take(self.number("<B")), "little", signed=True)

    def text(self, length_layout: str) -> str:
        length = self.number(length_layout)
        if length > MAX_TEXT_BYTES:
            raise UnsupportedFile(f"its pickle contains a text of {length:,} bytes")
        self.budget.text_bytes -= length
        if self.budget.text_bytes < 0:
            raise UnsupportedFile(
                f"its pickle contains more than {PickleBudget.text_bytes:,} bytes of text"
            )
        return bytes(self.take(length)).decode("utf-8", "surrogatepass")

    def line(self) -> str:
        window = bytes(self.data[self.position : self.position + _MAX_NAME_BYTES])
        line, newline, _ = window.partition(b"\n")
        if not newline:
            raise UnsupportedFile("its pickle is damaged: a name has no end")
        self.position += len(line) + 1
        return line.decode()

    # --- The stack

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def mark(self) -> None:
        self.outer_stacks.append(self.stack)
        self.stack = []

    def pop_to_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.outer_stacks.pop()
        return items

    def memoize(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    # --- Operations

    def check_protocol(self) -> None:
        protocol = self.number("<B")
        if not 2 <= protocol <= 5:
            raise UnsupportedFile(f"its pickle is of protocol {protocol}, not 2 to 5")

    def make_tuple(self, size: int) -> None:
        items = tuple(self.stack[-size:])
        if len(items) != size:
            raise IndexError
        self.stack[-size:] = [items]

    def extend_list(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not list:
            raise UnsupportedFile("its pickle appends to something other than a list")
        target.extend(items)

    def update_set(self) -> None:
        items = self.pop_to_mark()
        target = self.stack[-1]
        if type(target) is not set:
            raise UnsupportedFile("its pickle adds to something other than a set")
        target.update(_checked_key(item) for item in items)

    def update_dict(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not dict or len(items) % 2:
            raise UnsupportedFile("its pickle sets items of something other than a dictionary")
        target.update(zip(map(_checked_key, items[::2]), items[1::2], strict=True))

    def set_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.update_dict([key, value])

    def push_global(self, module: str, name: str) -> None:
        text = f"{module}.{name}"
        self._look_up(text)
        self.push(GlobalName(text))

    def push_stack_global(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if type(name) is not str or type(module) is not str:
            raise UnsupportedFile("its pickle names a global by something other than text")
        self.push_global(module, name)

    def _look_up(self, text: str) -> Callable[..., Any] | None:
        """Return the function for an allowed name; None where it must not be called."""
        if text in self.allowed:
            return self.allowed[text]
        for prefix, function in self.allowed.items():
            if prefix.endswith(".") and text.startswith(prefix) and function is not None:
                return partial(function, text)
        raise UnsupportedFile(
            f"its pickle names {text[:80]!r}, which is not on the list of safe names"
        )

    def call(self) -> None:
        arguments, name = self.stack.pop(), self.stack.pop()
        function = self._look_up(name.text) if isinstance(name, GlobalName) else None
        if function is None or type(arguments) is not tuple:
            raise UnsupportedFile(
                f"its pickle calls {getattr(name, 'text', 'a plain value')[:80]!r}"
            )
        self.push(function(*arguments))

    def build(self) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if type(target) is dict:
            return  # attributes of a dictionary's subclass: `_metadata` of a state_dict
        if not callable(getattr(type(target), "build", None)):
            raise UnsupportedFile("its pickle sets attributes of plain data")
        target.build(state)

    def load_persistent(self) -> None:
        if self.persistent_load is None:
            raise UnsupportedFile("its pickle refers to data outside itself")
        self.push(self.persistent_load(self.stack.pop()))


def _checked_key(value: Any) -> Any:
    # No published file has other keys, and hashing deeply nested tuples overflows the C stack.
    if type(value) not in (str, int, bool):
        raise UnsupportedFile(f"its pickle has a key of type {type(value).__name__}")
    if type(value) is int and abs(value) > MAX_INT_KEY:
        raise UnsupportedFile("its pickle has a number as key that is too large")
    return value


def short_repr(value: Any) -> str:
    """Describe a value in a few characters. Lists are not entered: they can grow exponentially."""
    if isinstance(value, GlobalName):
        value = value.text
    if isinstance(value, str | int | float | None):
        return repr(value)[:60] if not isinstance(value, int) or abs(value) < 1 << 64 else "huge"
    return f"a {type(value).__name__}"


OPERATIONS: dict[bytes, Callable[[SafeUnpickler], Any]] = {
    pickle.PROTO: SafeUnpickler.check_protocol,
    pickle.FRAME: lambda u: u.number("<Q"),  # only a hint for readers of streams
    # Stack and memo
    pickle.MARK: SafeUnpickler.mark,
    pickle.POP: lambda u: u.stack.pop(),
    pickle.POP_MARK: SafeUnpickler.pop_to_mark,
    pickle.DUP: lambda u: u.push(u.stack[-1]),
    pickle.BINPUT: lambda u: u.memoize(u.number("<B")),
    pickle.LONG_BINPUT: lambda u: u.memoize(u.number("<I")),
    pickle.MEMOIZE: lambda u: u.memoize(len(u.memo)),
    pickle.BINGET: lambda u: u.push(u.memo[u.number("<B")]),
    pickle.LONG_BINGET: lambda u: u.push(u.memo[u.number("<I")]),
    # Constants, numbers, text and bytes
    pickle.NONE: lambda u: u.push(None),
    pickle.NEWTRUE: lambda u: u.push(True),
    pickle.NEWFALSE: lambda u: u.push(False),
    pickle.BININT: lambda u: u.push(u.number("<i")),
    pickle.BININT1: lambda u: u.push(u.number("<B")),
    pickle.BININT2: lambda u: u.push(u.number("<H")),
    pickle.LONG1: lambda u: u.push(u.long_integer()),
    pickle.BINFLOAT: lambda u: u.push(u.number(">d")),
    pickle.SHORT_BINUNICODE: lambda u: u.push(u.text("<B")),
    pickle.BINUNICODE: lambda u: u.push(u.text("<I")),
    pickle.BINUNICODE8: lambda u: u.push(u.text("<Q")),
    pickle.SHORT_BINBYTES: lambda u: u.push(u.take(u.number("<B"))),
    pickle.BINBYTES: lambda u: u.push(u.take(u.number("<I"))),
    pickle.BINBYTES8: lambda u: u.push(u.take(u.number("<Q"))),
    pickle.BYTEARRAY8: lambda u: u.push(u.take(u.number("<Q"))),
    # Containers
    pickle.EMPTY_TUPLE: lambda u: u.push(()),
    pickle.TUPLE: lambda u: u.push(tuple(u.pop_to_mark())),
    pickle.TUPLE1: lambda u: u.make_tuple(1),
    pickle.TUPLE2: lambda u: u.make_tuple(2),
    pickle.TUPLE3: lambda u: u.make_tuple(3),
    pickle.EMPTY_LIST: lambda u: u.push([]),
    pickle.LIST: lambda u: u.push(u.pop_to_mark()),
    pickle.APPEND: lambda u: u.extend_list([u.stack.pop()]),
    pickle.APPENDS: lambda u: u.extend_list(u.pop_to_mark()),
    pickle.EMPTY_DICT: lambda u: u.push({}),
    pickle.SETITEM: SafeUnpickler.set_item,
    pickle.SETITEMS: lambda u: u.update_dict(u.pop_to_mark()),
    pickle.EMPTY_SET: lambda u: u.push(set()),
    pickle.ADDITEMS: SafeUnpickler.update_set,
    # Names, calls and references
    pickle.GLOBAL: lambda u: u.push_global(u.line(), u.line()),
    pickle.STACK_GLOBAL: SafeUnpickler.push_stack_global,
    pickle.REDUCE: SafeUnpickler.call,
    pickle.NEWOBJ: SafeUnpickler.call,  # a new object of a class is a call of the class
    pickle.BUILD: SafeUnpickler.build,
    pickle.BINPERSID: SafeUnpickler.load_persistent,
}
