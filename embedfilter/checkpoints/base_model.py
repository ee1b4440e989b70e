"""Which model another one was made of, as far as its files tell.

What they tell is a hint for people, so a file that is damaged tells nothing, and is no error.
"""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedfilter.errors import EmbedFilterError
from embedfilter.files.json_file import read_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from embedfilter.files.folder import Folder

__all__ = ["base_models", "named_base_models"]

_ADAPTER, _CONFIG, _CARD = "adapter_config.json", "config.json", "README.md"
_MAX_JSON = 16 << 20
_MAX_CARD = 4 << 20  # cards of embedding models list their scores at length before the rest
_MAX_NAME = 200
_MOST = 8

# A model on the Hub; those of its first years have no owner.
_ID = re.compile(r"(?:[A-Za-z0-9][\w.-]*/)?[A-Za-z0-9][\w.-]*", re.ASCII)
_HUB_URL = re.compile(r"https?://(?:www\.)?(?:huggingface\.co|hf\.co)/([^/?#]+/[^/?#]+)")
_CACHE = re.compile(r"models--(.+?)--(.+)")

# YAML: what follows a key or a dash, where it is one word, with quotes or without.
_COMMENT = r"(?:\s+#.*|\s*)"
_QUOTED = re.compile(rf"""(?:"([^"\\]*)"|'([^']*)'){_COMMENT}""")
_PLAIN = re.compile(rf"([\w./~][\w./@+~-]*){_COMMENT}", re.ASCII)
_KEY = re.compile(r"base_model\s*:(?:\s+(.*)|\s*)")
_ITEM = re.compile(r"\s*-\s+(.*)")
_EMPTY = re.compile(r"\s*(?:#.*)?")
_NUMBER = re.compile(r"[\d_.:-]+|0[xob][\da-f_]+|[\d_.]+e[-+]\d+")
_NO_STRINGS = frozenset({"null", "~", "true", "false", "yes", "no", "on", "off"})


def base_models(*folders: Folder) -> tuple[str, ...]:
    """Return the models that the model in these folders came from.

    An adapter's config tells it (``base_model_name_or_path``), the model card's front matter
    (``base_model``, in README.md of the folder or of one around it) and config.json
    (``_name_or_path``, where that is not the model itself). On the Hub at most one file is
    fetched for it, the card: config.json was read before.

    Parameters
    ----------
    folders
        The model's folders.

    Returns
    -------
    tuple of str
        Ids of models on the Hub, and folders that are there; those that were named by people come
        first. Empty where nothing tells.
    """
    found: list[str] = []
    for folder in folders:
        adapter = _names(_json(folder, _ADAPTER), ("base_model_name_or_path",))
        card = [] if adapter else _of_card(folder)
        keys = ("base_model_name_or_path", "_name_or_path")
        own = _own_names(folder)
        config = [
            name
            for name in _names(_json(folder, _CONFIG), keys)
            # A copy of a model names that model, wherever it lies.
            if _last(name) not in {_last(other) for other in own}
        ]
        found += [name for name in (*adapter, *card, *config) if name.lower() not in own]
    return tuple(dict.fromkeys(found))[:_MOST]


def named_base_models(strings: Mapping[str, str]) -> tuple[str, ...]:
    """Return the models that a GGUF file says it came from.

    Parameters
    ----------
    strings
        Strings of the metadata by their keys, of which those that begin with
        ``general.base_model.`` are looked at.

    Returns
    -------
    tuple of str
        Ids on the Hub where an address tells them, otherwise the owner's and the model's names.
    """
    found = []
    for number in range(_MOST):
        key = f"general.base_model.{number}"
        url = _HUB_URL.match(strings.get(f"{key}.repo_url", ""))
        owner, name = (strings.get(f"{key}.{part}", "") for part in ("organization", "name"))
        if url is not None:
            found.append(url[1])
        elif name:
            # Made for reading out of an id, so that words need not be the id's.
            found.append(f"{owner}/{name}" if owner and " " not in name else f"{owner} {name}")
    names = (name.strip() for name in found)
    return tuple(dict.fromkeys(n for n in names if n.isprintable() and 0 < len(n) <= _MAX_NAME))


# ---- what the files say ------------------------------------------------------------------------


def _json(folder: Folder, name: str) -> dict[str, Any]:
    with contextlib.suppress(EmbedFilterError, OSError, ValueError):
        if folder.has(name):
            return dict(read_json(folder.open(name), name, limit=_MAX_JSON))
    return {}


def _names(config: dict[str, Any], keys: tuple[str, ...]) -> list[str]:
    return [config[key] for key in keys if _is_model(config.get(key))]


def _is_model(name: Any) -> bool:
    if not isinstance(name, str) or not 0 < len(name) <= _MAX_NAME or not name.isprintable():
        return False
    # A path says something only on the machine that it was written on.
    return _ID.fullmatch(name) is not None or os.path.isdir(name)  # noqa: PTH112 - never raises


def _own_names(folder: Folder) -> set[str]:
    """Return what the model may call itself, in lower case."""
    names: list[str] = []
    for place in _and_around(folder):
        # Of a repository on the Hub, too, the last two parts are its id.
        parts = Path(os.path.abspath(place.path)).parts  # noqa: PTH100 - follows no links
        names += [place.path.as_posix(), parts[-1], "/".join(parts[-2:])]
        # The Hub's cache names the model further up.
        cached = (_CACHE.fullmatch(part) for part in parts)
        names += [f"{match[1]}/{match[2]}" for match in cached if match is not None]
    return {name.lower() for name in names}


def _and_around(folder: Folder) -> Iterator[Folder]:
    place: Folder | None = folder
    while place is not None:
        yield place
        place = place.outer


def _last(name: str) -> str:
    return name.rstrip("/").rpartition("/")[2].lower()


# ---- the model card ----------------------------------------------------------------------------


def _of_card(folder: Folder) -> list[str]:
    """Return the models that the nearest card names, of this folder or one around it."""
    for place in _and_around(folder):
        with contextlib.suppress(EmbedFilterError, OSError, ValueError):
            if place.has(_CARD):
                file = place.open(_CARD)
                try:
                    start = file.read(0, min(file.size, _MAX_CARD)).tobytes()
                finally:
                    file.close()
                return [name for name in _base_model_key(start) if _is_model(name)]
    return []


def _base_model_key(card: bytes) -> list[str]:
    """Return the value of ``base_model`` in a card's front matter, a string or a list of them.

    YAML is read as far as it takes: one word after the key, or a list of one word a line.
    What is written in another way is left alone.
    """
    lines = [line for line in _front_matter(card) if not _EMPTY.fullmatch(line)]
    keys = [(i, match) for i, line in enumerate(lines) if (match := _KEY.fullmatch(line))]
    if len(keys) != 1:
        return []
    ((start, key),) = keys
    value, words = (key[1] or "").strip(), []
    end = start + 1
    if value and not value.startswith("#"):
        words.append(_word(value))
    else:
        while end < len(lines) and (item := _ITEM.fullmatch(lines[end])):
            words.append(_word(item[1].strip()))
            end += 1
    # A line that is set in, or begins otherwise, goes on with what is before it.
    if end < len(lines) and not re.match(r"[^\s-]", lines[end]):
        return []
    return [word for word in words if word is not None]


def _front_matter(card: bytes) -> list[str]:
    """Return the lines between the dashes that begin a card and the next ones."""
    lines = card.decode("utf-8-sig", "replace").replace("\r\n", "\n").split("\n")
    dashes = [number for number, line in enumerate(lines) if line.rstrip() == "---"]
    return lines[1 : dashes[1]] if len(dashes) > 1 and dashes[0] == 0 else []


def _word(text: str) -> str | None:
    quoted = _QUOTED.fullmatch(text)
    if quoted is not None:
        return quoted[1] if quoted[1] is not None else quoted[2]
    plain = _PLAIN.fullmatch(text)
    if plain is None or plain[1].lower() in _NO_STRINGS or _NUMBER.fullmatch(plain[1].lower()):
        return None
    return plain[1]
