"""JSON from files that are not trusted."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from embedfilter.errors import CheckpointError
from embedfilter.files.messages import shown

if TYPE_CHECKING:
    from pathlib import PurePath

    from embedfilter.files.input_file import InputFile

__all__ = ["parse_json", "read_json"]


def read_json(
    file: InputFile, what: str, *, limit: int, unique: bool = False, kind: type = dict
) -> Any:
    """Read and close a JSON file that is not trusted.

    Parameters
    ----------
    file
        The open file.
    what
        What it is, for messages.
    limit
        The most bytes that it may have.
    unique, kind
        As in `parse_json`.

    Returns
    -------
    dict or list
        What the file holds.
    """
    try:
        if file.size > limit:
            raise CheckpointError(
                f"{file.path}: {what}: expected at most {limit} bytes, found {file.size}"
            )
        text = file.read(0, file.size).tobytes()
    finally:
        file.close()
    return parse_json(text, file.path, what, unique=unique, kind=kind)


def parse_json(
    text: bytes, path: PurePath, what: str, *, unique: bool = True, kind: type = dict
) -> Any:
    """Parse JSON from a file that is not trusted.

    Parameters
    ----------
    text
        The JSON text.
    path
        The file it came from, for messages.
    what
        What the text is, for messages.
    unique
        Refuse an object, at any depth, that has the same key twice, or halves of characters.
    kind
        What the text must hold: dict or list.

    Returns
    -------
    dict or list
        What the text holds.
    """
    try:
        parsed = json.loads(
            text.decode("utf-8"),
            object_pairs_hook=_unique_pairs if unique else None,
            parse_int=_integer,
        )
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path}: {what} is not UTF-8: {error}") from error
    except ValueError as error:
        raise CheckpointError(f"{path}: {what} is not valid JSON: {error}") from error
    except RecursionError as error:
        raise CheckpointError(f"{path}: {what} is nested too deeply") from error
    if not isinstance(parsed, kind):
        expected = "object" if kind is dict else "array"
        raise CheckpointError(
            f"{path}: {what}: expected a JSON {expected}, found a {type(parsed).__name__}"
        )
    return parsed


def _unique_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise ValueError(f"the key {shown(key)} occurs twice")
        result[key] = value
        # An escape such as \ud800 alone is no character; Python lets it pass.
        (key + value if isinstance(value, str) else key).encode()
    return result


def _integer(digits: str) -> int:
    # Reading a number takes time that grows with the square of its length.
    if len(digits) > 20:
        raise ValueError(f"a number of {len(digits)} digits")
    if digits == "-0":
        raise ValueError("-0, a number that is not an integer elsewhere")
    return int(digits)
