"""The batches of CIFAR-10's Python archive: pickles, read as data and never run.

A pickle is a program that makes objects, whatever they are. The batches need little of it:
mappings, lists, numbers, bytes, and one array, which NumPy describes by calls. This reader notes
those calls down instead of making them, and takes the array's shape, dtype and bytes from them.
"""

from __future__ import annotations

import pickletools
import reprlib
from typing import Any, NamedTuple

import numpy as np

from sbmgraph.data.reading import UnexpectedError, bad_file, refusing

PIXELS = 1024
#: A batch of 10,000 images has 31,035,704 bytes.
LARGEST_BATCH = 1 << 25
NUM_CLASSES = 10

_MARK = object()
_NUMPY = ("numpy.core.multiarray", "numpy._core.multiarray")
_RECONSTRUCT = {f"{module} _reconstruct" for module in _NUMPY}
_ALLOWED = {*_RECONSTRUCT, "numpy ndarray", "numpy dtype", "_codecs encode"}
_VALUES = {
    "BININT", "BININT1", "BININT2", "INT", "LONG", "LONG1",
    "SHORT_BINSTRING", "BINSTRING", "SHORT_BINBYTES", "BINBYTES",
    "BINUNICODE", "SHORT_BINUNICODE",
}  # fmt: skip
_EMPTY = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_TUPLE": tuple}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class _Global(NamedTuple):
    name: str


class _Call:
    """A call that a pickle asks for, and the state that it gives the result."""

    def __init__(self, function: _Global, arguments: tuple) -> None:
        self.function = function
        self.arguments = arguments
        self.state: Any = None


def read_batch(content: bytes, where: str) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of a batch.

    Args:
        content: The file.
        where: Its path, for messages.

    Returns:
        uint8 ``[N, 3072]``, the red, green and blue planes of each image, and int64 ``[N]``.

    Raises:
        ValueError: Naming the file, if it is no such batch, or a label is not from 0 to 9.
    """
    with refusing(where, "a batch of CIFAR-10 images"):
        batch = _read_pickle(content)
        absent = [name for name in ("data", "labels") if name not in _of_type(batch, dict)]
        if absent:
            raise UnexpectedError(f"expected 'data' and 'labels' in it, got no {absent[0]!r}")
        pixels, labels = _array(batch["data"]), batch["labels"]
        if len(_of_type(labels, list)) != len(pixels):
            raise UnexpectedError(f"expected {len(pixels)} labels, one an image, got {len(labels)}")
    for number, label in enumerate(labels):
        if type(label) is not int or not 0 <= label < NUM_CLASSES:
            raise bad_file(
                f"{where}, image {number}",
                f"expected a label from 0 to {NUM_CLASSES - 1}, got {reprlib.repr(label)}",
            )
    return pixels, np.array(labels, dtype=np.int64)


def _array(call: Any) -> np.ndarray:
    if not isinstance(call, _Call) or call.function.name not in _RECONSTRUCT:
        raise UnexpectedError(f"expected 'data' to be an array, got {_kind(call)}")
    _, shape, dtype, by_column, data = call.state
    data = _bytes(data)
    expected = (len(data) // (3 * PIXELS), 3 * PIXELS)
    if dtype.function.name != "numpy dtype" or _text(dtype.arguments[0]) != "u1":
        raise UnexpectedError(f"expected 'data' of uint8, got {reprlib.repr(dtype.arguments)}")
    if shape != expected or by_column or len(data) != expected[0] * expected[1]:
        order = "column by column" if by_column else "row by row"
        raise UnexpectedError(
            f"expected 'data' of shape [images, {3 * PIXELS}], row by row, got "
            f"{reprlib.repr(shape)}, {order}, in {len(data):,} bytes"
        )
    return np.frombuffer(data, dtype=np.uint8).reshape(expected)


def _read_pickle(content: bytes) -> Any:
    """The object that a pickle describes: plain values, and :class:`_Call` for every call."""
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    argument: Any
    for opcode, argument, _ in pickletools.genops(content):
        name = opcode.name
        if name in _VALUES:
            stack.append(argument)
        elif name in _EMPTY:
            stack.append(_EMPTY[name]())
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name == "MARK":
            stack.append(_MARK)
        elif name in ("BINPUT", "LONG_BINPUT", "PUT"):
            memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET", "GET"):
            stack.append(memo[argument])
        elif name in _TUPLES:
            count = _TUPLES[name]
            stack[-count:] = [tuple(stack[-count:])]
        elif name == "TUPLE":
            stack.append(tuple(_above_mark(stack)))
        elif name in ("APPEND", "APPENDS"):
            items = [stack.pop()] if name == "APPEND" else _above_mark(stack)
            _of_type(stack[-1], list).extend(items)
        elif name in ("SETITEM", "SETITEMS"):
            items = [stack.pop(-2), stack.pop()] if name == "SETITEM" else _above_mark(stack)
            keys = [_text(key) for key in items[::2]]
            _of_type(stack[-1], dict).update(zip(keys, items[1::2], strict=True))
        elif name == "GLOBAL":
            stack.append(_global(argument))
        elif name == "STACK_GLOBAL":
            stack[-2:] = [_global(" ".join(stack[-2:]))]
        elif name == "REDUCE":
            stack[-2:] = [_call(_of_type(stack[-2], _Global), _of_type(stack[-1], tuple))]
        elif name == "BUILD":
            state = stack.pop()
            _of_type(stack[-1], _Call).state = state
        elif name == "STOP":
            return stack.pop()
        elif name not in ("PROTO", "FRAME"):
            raise UnexpectedError(f"expected values, lists, mappings and an array, got {name}")
    raise UnexpectedError("expected the end of a pickle, got none")


def _above_mark(stack: list[Any]) -> list[Any]:
    place = len(stack) - 1
    while stack[place] is not _MARK:
        place -= 1
        if place < 0:
            raise UnexpectedError("expected a mark before its items, got none")
    items = stack[place + 1 :]
    del stack[place:]
    return items


def _global(name: str) -> _Global:
    if name not in _ALLOWED:
        raise UnexpectedError(f"expected no call but those of an array, got {reprlib.repr(name)}")
    return _Global(name)


def _call(function: _Global, arguments: tuple) -> Any:
    if function.name == "_codecs encode":  # how Python 3 writes bytes in the form of Python 2
        return _bytes(arguments[0])
    return _Call(function, arguments)


def _bytes(value: Any) -> bytes:
    """Bytes; Python 2's are read as text, a character a byte."""
    return value.encode("latin-1") if isinstance(value, str) else _of_type(value, bytes)


def _text(value: Any) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else _of_type(value, str)


def _of_type(value: Any, kind: type) -> Any:
    if not isinstance(value, kind):
        raise UnexpectedError(f"expected a {kind.__name__.strip('_')}, got a {_kind(value)}")
    return value


def _kind(value: Any) -> str:
    return type(value).__name__.strip("_")
