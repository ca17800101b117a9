"""A pickle machine that can only build data.

The opcodes are those of Python's `pickletools` documentation. A global name becomes a `Name`, and
calling one looks it up in the caller's table of handlers; nothing is imported, so there is no way
from a pickle to a function. Opcodes that none of the published files use are refused: text
protocols, the extension registry, out-of-band buffers, INST and OBJ.

Byte strings are views of the file and the memo is a dictionary, so that a length or an index that
a hostile file invents costs no memory; steps and texts have a budget for the whole file.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

MOST_TEXT = 1 << 20  # bytes of one string; NVIDIA's source texts have 40,000
MOST_IN_KEY = 1 << 31  # whole numbers beyond could be chosen so that their hashes collide


class Refused(Exception):
    """Why a file is not read, as the middle of a sentence; readers make a CheckpointError of it."""


@dataclass
class Budget:
    """What all pickles of one file may use together. steps: the largest published pickles take
    about 100,000; text: bytes."""

    steps: int = 500_000
    text: int = 16 << 20


@dataclass(frozen=True)
class Name:
    """A name that a pickle mentions; a mere text."""

    text: str  # "module.name"


class Record:
    """An object of a class that is not ours: the class's name, and its state as plain data."""

    def __init__(self, name: str, *arguments: Any) -> None:
        self.name, self.arguments = name, arguments
        self.state: dict[Any, Any] = {}

    def build(self, state: Any) -> None:
        """What BUILD gives it."""
        if not isinstance(state, dict):
            raise Refused(f"{self.name} has no dictionary of attributes")
        self.state = state

    def get(self, key: str, default: Any = None) -> Any:
        """An attribute."""
        return self.state.get(key, default)


# "module.name" → what a call of it gives; None where it may only be mentioned.
Handlers = Mapping[str, Callable[..., Any] | None]


class Machine:
    """Runs one pickle of `data`, beginning at `position`.

    Args:
        handlers: every name that the pickle may hold. A key that ends in "." stands for all names
            that begin so; its handler is given the name first.
        persistent: what a persistent id stands for; without it there may be none.
        budget: shared by the pickles of one file.

    After `run`, `position` is behind the pickle's end.
    """

    def __init__(
        self,
        data: memoryview,
        handlers: Handlers,
        *,
        position: int = 0,
        persistent: Callable[[Any], Any] | None = None,
        budget: Budget | None = None,
    ) -> None:
        self.data, self.handlers, self.position = data, handlers, position
        self.persistent, self.budget = persistent, budget or Budget()
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []  # the stacks below each MARK
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        """The value of the pickle.

        Raises:
            Refused: the pickle is damaged, or holds what is not on the list.
        """
        try:
            while self.budget.steps > 0:
                self.budget.steps -= 1
                code = self._take(1)[0]
                if code == STOP:
                    return self.stack.pop()
                operation = OPERATIONS.get(code)
                if operation is None:
                    raise Refused(f"its pickle uses opcode 0x{code:02x}, which no such file needs")
                operation(self)
        except (IndexError, KeyError, ValueError, TypeError, OverflowError) as error:
            raise Refused(f"its pickle is damaged at byte {self.position:,}") from error
        raise Refused(f"its pickle has more than {Budget.steps:,} steps")

    def _take(self, size: int) -> memoryview:
        end = self.position + size
        if size < 0 or end > len(self.data):
            raise Refused("it is truncated, or claims more bytes than it has")
        taken = self.data[self.position : end]
        self.position = end
        return taken

    def _number(self, code: str) -> Any:
        return struct.unpack(code, self._take(struct.calcsize(code)))[0]

    def _line(self) -> str:
        window = bytes(self.data[self.position : self.position + 512])
        line, newline, _ = window.partition(b"\n")
        if not newline:
            raise Refused("its pickle is damaged: a name has no end")
        self.position += len(line) + 1
        return line.decode()

    def _push(self, value: Any) -> None:
        self.stack.append(value)

    def _text(self, size: str) -> None:
        length = self._number(size)
        if length > MOST_TEXT:
            raise Refused(f"its pickle holds a text of {length:,} bytes")
        self.budget.text -= length
        if self.budget.text < 0:
            raise Refused(f"its pickle holds more than {Budget.text:,} bytes of text")
        self._push(bytes(self._take(length)).decode("utf-8", "surrogatepass"))

    def _mark(self) -> None:
        self.marks.append(self.stack)
        self.stack = []

    def _since_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.marks.pop()
        return items

    def _tuple(self, size: int) -> None:
        items = tuple(self.stack[-size:])
        if len(items) != size:
            raise IndexError
        self.stack[-size:] = [items]

    def _extend(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not list:
            raise Refused("its pickle appends to what is no list")
        target.extend(items)

    def _add(self) -> None:
        items = self._since_mark()
        target = self.stack[-1]
        if type(target) is not set:
            raise Refused("its pickle adds to what is no set")
        target.update(_key(item) for item in items)

    def _set(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not dict or len(items) % 2:
            raise Refused("its pickle sets items of what is no dictionary")
        target.update(zip(map(_key, items[::2]), items[1::2], strict=True))

    def _name(self, module: str, name: str) -> None:
        text = f"{module}.{name}"
        if self._find(text) is self:
            raise Refused(f"its pickle names {text[:80]!r}, which is not on the list of safe names")
        self._push(Name(text))

    def _find(self, text: str) -> Any:
        """The handler of a name; this machine itself where there is none."""
        if text in self.handlers:
            return self.handlers[text]
        for prefix, handler in self.handlers.items():
            if prefix.endswith(".") and text.startswith(prefix) and handler is not None:
                return lambda *arguments: handler(text, *arguments)
        return self

    def _stack_global(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if type(name) is not str or type(module) is not str:
            raise Refused("its pickle names something by other than text")
        self._name(module, name)

    def _call(self) -> None:
        arguments, name = self.stack.pop(), self.stack.pop()
        handler = self._find(name.text) if isinstance(name, Name) else None
        if handler is None or type(arguments) is not tuple:
            raise Refused(f"its pickle calls {getattr(name, 'text', 'what is no name')[:80]!r}")
        self._push(handler(*arguments))

    def _build(self) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if type(target) is dict:
            return  # the attributes of a dictionary's subclass: `_metadata` of a state_dict
        if not callable(getattr(type(target), "build", None)):
            raise Refused("its pickle sets attributes of plain data")
        target.build(state)

    def _persistent(self) -> None:
        if self.persistent is None:
            raise Refused("its pickle refers to data outside itself")
        self._push(self.persistent(self.stack.pop()))


def _key(value: Any) -> Any:
    # Other keys are never needed, and hashing deeply nested tuples overflows the C stack.
    if type(value) not in (str, int, bool):
        raise Refused(f"its pickle has a key of type {type(value).__name__}")
    if type(value) is int and abs(value) > MOST_IN_KEY:
        raise Refused("its pickle has a key beyond all measure")
    return value


def shown(value: Any) -> str:
    """A value for a message: short, and nothing of what lists hold, which may be without end."""
    if isinstance(value, Name):
        value = value.text
    if isinstance(value, str | int | float | None):
        return repr(value)[:60] if not isinstance(value, int) or abs(value) < 1 << 64 else "huge"
    return f"a {type(value).__name__}"


def _swap(machine: Machine, index: int) -> None:
    machine.memo[index] = machine.stack[-1]


def _protocol(machine: Machine) -> None:
    protocol = machine._number("<B")
    if not 2 <= protocol <= 5:
        raise Refused(f"its pickle is of protocol {protocol}, not 2 to 5")


STOP = ord(".")
_M = Machine
# Opcode → its operation; names as in `pickletools`.
OPERATIONS: dict[int, Callable[[Machine], None]] = {
    0x80: _protocol,
    0x95: lambda m: m._number("<Q"),  # FRAME: only a hint for readers of streams
    ord("("): _M._mark,
    ord("0"): lambda m: m.stack.pop(),
    ord("1"): lambda m: m._since_mark(),  # type: ignore[dict-item,return-value]
    ord("2"): lambda m: m._push(m.stack[-1]),
    ord("N"): lambda m: m._push(None),
    0x88: lambda m: m._push(True),
    0x89: lambda m: m._push(False),
    ord("J"): lambda m: m._push(m._number("<i")),
    ord("K"): lambda m: m._push(m._number("<B")),
    ord("M"): lambda m: m._push(m._number("<H")),
    0x8A: lambda m: m._push(int.from_bytes(m._take(m._number("<B")), "little", signed=True)),
    ord("G"): lambda m: m._push(m._number(">d")),
    ord("X"): lambda m: m._text("<I"),
    0x8C: lambda m: m._text("<B"),
    0x8D: lambda m: m._text("<Q"),
    ord("B"): lambda m: m._push(m._take(m._number("<I"))),
    ord("C"): lambda m: m._push(m._take(m._number("<B"))),
    0x8E: lambda m: m._push(m._take(m._number("<Q"))),
    0x96: lambda m: m._push(m._take(m._number("<Q"))),  # BYTEARRAY8
    ord(")"): lambda m: m._push(()),
    ord("t"): lambda m: m._push(tuple(m._since_mark())),
    0x85: lambda m: m._tuple(1),
    0x86: lambda m: m._tuple(2),
    0x87: lambda m: m._tuple(3),
    ord("]"): lambda m: m._push([]),
    ord("l"): lambda m: m._push(m._since_mark()),
    ord("a"): lambda m: m._extend([m.stack.pop()]),
    ord("e"): lambda m: m._extend(m._since_mark()),
    ord("}"): lambda m: m._push({}),
    ord("s"): lambda m: m._set([m.stack.pop(), m.stack.pop()][::-1]),
    ord("u"): lambda m: m._set(m._since_mark()),
    0x8F: lambda m: m._push(set()),
    0x90: _M._add,
    ord("c"): lambda m: m._name(m._line(), m._line()),
    0x93: _M._stack_global,
    ord("R"): _M._call,
    0x81: _M._call,  # NEWOBJ: a new object of a class is a call of it, too
    ord("b"): _M._build,
    ord("q"): lambda m: _swap(m, m._number("<B")),
    ord("r"): lambda m: _swap(m, m._number("<I")),
    0x94: lambda m: _swap(m, len(m.memo)),
    ord("h"): lambda m: m._push(m.memo[m._number("<B")]),
    ord("j"): lambda m: m._push(m.memo[m._number("<I")]),
    ord("Q"): _M._persistent,
}
