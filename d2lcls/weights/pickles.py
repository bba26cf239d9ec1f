"""Read the pickles in PyTorch's files without running the code that they may contain.

A pickle is a small program that builds objects and can call any function. This reader supports only the few
instructions that a file of weights needs, builds dicts and descriptions of tensors, and refuses everything else.

A pickle can also be written to fill the memory or to take hours. Here every instruction takes time and memory in
proportion to its length in the file: dicts stay lists of pairs, whose keys are neither hashed nor compared; nothing is
copied; and tensors are only described until the whole pickle is read.
"""

import math
import pickletools
from collections.abc import Iterator
from types import FunctionType
from typing import Any, BinaryIO, NamedTuple

import numpy as np

STORAGES = {
    "FloatStorage": "f4",
    "DoubleStorage": "f8",
    "HalfStorage": "f2",
    "BFloat16Storage": "u2",
    "LongStorage": "i8",
    "IntStorage": "i4",
    "ShortStorage": "i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
}
MAX_INSTRUCTIONS = 1_000_000  # a tensor takes about 40; each object takes about 100 bytes of memory, even an empty list

# Instructions that push their argument.
_ARGUMENTS = frozenset(
    (
        "BININT",
        "BININT1",
        "BININT2",
        "LONG1",
        "BINFLOAT",
        "BINUNICODE",
        "SHORT_BINUNICODE",
        "BINBYTES",
        "SHORT_BINBYTES",
    )
)
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class Storage(NamedTuple):
    """The description of a flat array in a file; tensors are views of it."""

    key: str
    kind: str
    length: int


class Tensor(NamedTuple):
    """The description of a tensor in a file, not yet checked. Offset and stride are counted in elements."""

    storage: Any
    offset: Any
    size: Any
    stride: Any

    def check(self) -> None:
        """Raise ValueError unless this is a view of its storage."""
        storage, offset, size, stride = self
        if (
            not type(size) is type(stride) is tuple
            or len(size) != len(stride)
            or len(size) > 32
            or not isinstance(storage, Storage)
            or not all(type(n) is int and 0 <= n < 2**48 for n in (*size, *stride, offset))
        ):
            raise ValueError("a tensor with an invalid shape")
        last = offset + sum((n - 1) * step for n, step in zip(size, stride))
        if math.prod(size) > storage.length or 0 not in size and last >= storage.length:
            raise ValueError("a tensor larger than its data")

    def array(self, values: np.ndarray) -> np.ndarray:
        """Return a copy of its part of the storage's values, as float32 if they are bfloat16."""
        view = np.lib.stride_tricks.as_strided(
            values[self.offset :], self.size, [step * values.itemsize for step in self.stride]
        )
        return from_bfloat16(view) if self.storage.kind == "BFloat16Storage" else view.copy()


class Dict:
    """A dict or OrderedDict in a file: its pairs, in order."""

    __slots__ = ("pairs",)

    def __init__(self) -> None:
        self.pairs: list[Any] = []

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        for pair in self.pairs:
            if type(pair) not in (tuple, list) or len(pair) != 2:
                raise ValueError("it has a dict made of something other than pairs")
            yield pair[0], pair[1]

    def get(self, key: str) -> Any:
        """Return the value of the first such key, or None."""
        return next((value for name, value in self if type(name) is str and name == key), None)


def _dict(pairs: Any = None) -> Dict:
    result = Dict()
    if type(pairs) is list:  # as Python 2 wrote them; not copied, because a short file can ask for it many times
        result.pairs = pairs
    return result


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> Tensor:
    return Tensor(storage, offset, size, stride)


def _parameter(tensor: Any, *_: Any) -> Any:
    return tensor


_FUNCTIONS = {
    ("collections", "OrderedDict"): _dict,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
}
_ARGUMENT_COUNTS: dict[Any, range] = {_dict: range(2), _tensor: range(4, 10), _parameter: range(1, 10)}


class Unpickler:
    """Builds dicts, lists, plain values and descriptions of tensors; every other global is refused by name.

    Args:
        size: the file's size in bytes; no storage can be larger.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.storages: dict[str, Storage] = {}
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: list[Any] = []

    def load(self, file: BinaryIO) -> Any:
        """Return the object of the pickle that begins at the file's position, and stop behind it.

        Raises:
            ValueError: it is damaged, or has an instruction or a function that no file of weights needs.
        """
        try:
            for count, (instruction, argument, _) in enumerate(pickletools.genops(file)):
                if count == MAX_INSTRUCTIONS:
                    raise ValueError(f"it has more than {count:,} instructions; save model.state_dict() alone")
                if instruction.name == "STOP":
                    return self.stack.pop()
                self._execute(instruction.name, argument)
        except IndexError:
            raise ValueError("an instruction lacks its operands") from None
        raise ValueError("it ends without the instruction STOP")

    def _execute(self, name: str, argument: Any) -> None:
        stack = self.stack
        if name in _ARGUMENTS:
            stack.append(argument)
        elif name in ("BINPUT", "LONG_BINPUT", "MEMOIZE"):
            self._memoize(len(self.memo) if argument is None else argument)
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(self.memo[argument])
        elif name == "MARK":
            self.marks.append(len(stack))
        elif name == "TUPLE":
            stack.append(tuple(self._since_mark()))
        elif name in _TUPLES:
            stack.append(tuple(self._pop(_TUPLES[name])))
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name == "REDUCE":
            stack.append(_call(*self._pop(2)))
        elif name == "BINPERSID":
            stack.append(self._storage(stack.pop()))
        elif name == "GLOBAL":
            stack.append(_global(*argument.split(" ", 1)))
        elif name == "STACK_GLOBAL":
            stack.append(_global(*self._pop(2)))
        elif name == "EMPTY_DICT":
            stack.append(Dict())
        elif name in ("SETITEM", "SETITEMS"):
            items = self._pop(2) if name == "SETITEM" else self._since_mark()
            if len(items) % 2:
                raise ValueError("a dict has a key without a value")
            self._top(Dict).pairs.extend(zip(items[::2], items[1::2]))
        elif name == "EMPTY_LIST":
            stack.append([])
        elif name in ("APPEND", "APPENDS"):
            items = self._pop(1) if name == "APPEND" else self._since_mark()
            self._top(list).extend(items)
        elif name == "BUILD":
            stack.pop()  # a state dict's `_metadata`: the versions of its modules
            self._top(Dict)
        elif name in ("BINSTRING", "SHORT_BINSTRING"):
            stack.append(argument.encode("latin-1").decode("utf-8"))
        elif name not in ("PROTO", "FRAME"):
            raise ValueError(f"it has the instruction {name}, unknown in a file of weights")

    def _memoize(self, index: int) -> None:
        # Python numbers the objects from 0, Python 2 from 1. The memo is a list because the file chooses the numbers:
        # in a dict, they could be chosen to have colliding hashes.
        if index > len(self.memo) + 1:
            raise ValueError(f"it numbers object {len(self.memo)} as {index}")
        self.memo += [None] * (index + 1 - len(self.memo))
        self.memo[index] = self.stack[-1]

    def _pop(self, count: int) -> list[Any]:
        if len(self.stack) < count:
            raise IndexError
        return self._cut(len(self.stack) - count)

    def _since_mark(self) -> list[Any]:
        return self._cut(self.marks.pop())

    def _cut(self, begin: int) -> list[Any]:
        items = self.stack[begin:]
        del self.stack[begin:]
        return items

    def _top(self, kind: type) -> Any:
        if type(self.stack[-1]) is not kind:
            raise ValueError("it changes an object that cannot be changed")
        return self.stack[-1]

    def _storage(self, reference: Any) -> Storage:
        if type(reference) is not tuple or len(reference) < 5:
            raise ValueError("it refers to something other than a storage")
        word, kind, key, _, length = reference[:5]
        if (
            # Long texts would be slow to compare, again and again.
            not all(type(text) is str and len(text) < 1000 for text in (word, kind, key))
            or word != "storage"
            or kind not in STORAGES
            or type(length) is not int
            or length < 0
        ):
            raise ValueError("it refers to something other than a storage")
        if length * np.dtype(STORAGES[kind]).itemsize > self.size:
            raise ValueError("it is truncated, or a storage does not have its declared length")
        storage: Storage = self.storages.setdefault(key, Storage(key, kind, length))
        if (storage.kind, storage.length) != (kind, length):
            raise ValueError("it describes one storage in two ways")
        return storage


def _global(module: Any, name: Any) -> Any:
    """Return the function that a pickle names, or the name itself for a kind of storage."""
    if type(module) is not str or type(name) is not str:
        raise ValueError("it calls something without a name")
    if module == "torch" and name in STORAGES:
        return name
    if (module, name) not in _FUNCTIONS:
        raise ValueError(f"it calls {ascii(f'{module}.{name}')[1:-1][:100]}, which no file of weights needs")
    return _FUNCTIONS[module, name]


def _call(function: Any, arguments: Any) -> Any:
    if (
        type(function) is not FunctionType
        or type(arguments) is not tuple
        or len(arguments) not in _ARGUMENT_COUNTS[function]
    ):
        raise ValueError("it calls a function with other arguments than a file of weights does")
    return function(*arguments)


def from_bfloat16(bits: np.ndarray) -> np.ndarray:
    """Return bfloat16 numbers, given by their bits as a uint16 array of any shape, as float32."""
    return np.asarray(np.left_shift(bits, 16, dtype=np.uint32)).view(np.float32)
