"""A look at a pickle before torch reads it: nothing is built, its steps are counted.

A tuple of two references to a tuple of two references to a tuple ... takes a few bytes a level,
and to hash it, as a key of a dictionary, takes twice the time a level: what a weights_only reader
does with a small file may last for ever. So the size that each value has when it is written out is
followed through the pickle's steps, and one that is larger than any real file's is refused.
"""

from __future__ import annotations

import pickletools
from typing import TYPE_CHECKING, Any

from embedfilter.errors import CheckpointError

if TYPE_CHECKING:
    from typing import BinaryIO

__all__ = ["refuse_expanding"]

_LARGEST = 1 << 20
_MARK = -1  # on the stack, where a value's size is 1 or more
_GETS = frozenset({"GET", "BINGET", "LONG_BINGET"})
_PUTS = frozenset({"PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"})
# Their values can be hashed only by what they are made of; a list or a dictionary cannot be.
_MADE_OF = frozenset({"TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "FROZENSET", "REDUCE", "NEWOBJ"})


def refuse_expanding(where: str, pickles: BinaryIO, count: int) -> None:
    """Raise if a value in any of `count` pickles, one after another, is too large written out.

    Parameters
    ----------
    where
        The file, for the message.
    pickles
        Open for reading, at the first pickle.
    count
        How many there are at the most. One that is damaged ends the look: its reader will tell.

    Raises
    ------
    CheckpointError
        A value of more than a million parts.
    """
    for _ in range(count):
        try:
            largest = _largest(pickles)
        except (ValueError, IndexError, KeyError):
            return
        if largest > _LARGEST:
            raise CheckpointError(
                f"{where}: expected tensors alone, found a value that refers to itself again and "
                f"again in its pickle, of more than {_LARGEST} parts"
            )


def _largest(pickle: BinaryIO) -> int:
    """Return the size of the largest value; more than `_LARGEST` is not followed further."""
    stack: list[int] = []
    memo: dict[Any, int] = {}
    largest = 1
    for opcode, argument, _ in pickletools.genops(pickle):
        name = opcode.name
        if name in _PUTS:
            memo[len(memo) if name == "MEMOIZE" else argument] = stack[-1]
        elif name in _GETS:
            stack.append(memo[argument])
        elif name == "MARK":
            stack.append(_MARK)
        elif name == "DUP":
            stack.append(stack[-1])
        else:
            taken = _take(stack, opcode)
            size = 1 + sum(taken) if name in _MADE_OF else 1
            stack.extend([size] * len(opcode.stack_after))
            largest = max(largest, size)
            if largest > _LARGEST:
                break
    return largest


def _take(stack: list[int], opcode: pickletools.OpcodeInfo) -> list[int]:
    """Take from the stack what a step takes, and return the sizes of it."""
    wanted = opcode.stack_before
    taken = []
    if pickletools.markobject in wanted:
        while (size := stack.pop()) != _MARK:
            taken.append(size)
        wanted = wanted[: wanted.index(pickletools.markobject)]
    return taken + [stack.pop() for _ in wanted]
