"""Kinds of values: how each is read from text or TOML, shown again, and described in JSON Schema."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar
from urllib.parse import urlsplit

from .. import units

T = TypeVar("T")


@dataclass(frozen=True)
class Kind(Generic[T]):
    """How one sort of value is read and shown.

    `parse` takes text (from a flag, a variable or --set) or a TOML value and raises `ValueError` with a sentence;
    `show` gives text that `parse` reads back; `schema` is JSON Schema for the TOML value.
    """

    parse: Callable[[object], T]
    schema: Mapping[str, Any]
    show: Callable[[T], str] = str


def _plain(value: object) -> str:
    """A scalar as the text that a person would have typed."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"{value!r} is not a single value")
    return str(value).strip()


def _text(value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{value!r} is not text")
    return value.strip()


def _url(value: object) -> str:
    """Of a server. What is wrong is not quoted: it may hold a password."""
    text = _text(value)
    try:
        parts = urlsplit(text)
        whole = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is none
        whole = False
    if not whole or re.search(r"\s", text):
        raise ValueError("not a URL: write it whole, such as http://localhost:8000/v1")
    return text


def _boolean(value: object) -> bool:
    words = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}
    known = words.get(str(value).strip().lower())
    if known is None:
        raise ValueError(f"{value!r} is neither true nor false")
    return known


def _texts(value: object) -> tuple[str, ...]:
    entries = value.split(",") if isinstance(value, str) else value
    if not isinstance(entries, list | tuple):
        raise ValueError(f"{value!r} is not a list of texts")
    return tuple(_text(entry) for entry in entries if entry != "")


def _usd(value: object) -> float:
    amount = units.parse_money(_plain(value))
    if not math.isfinite(amount):
        raise ValueError(f"{value!r} is not an amount in dollars")
    return amount


def count(minimum: int, maximum: int = 10**15) -> Kind[int]:
    def parse(value: object) -> int:
        text = _plain(value).replace("_", "").replace(",", "")
        if not re.fullmatch(r"\d{1,18}", text) or not minimum <= int(text) <= maximum:
            bound = f"{minimum} or more" if maximum == 10**15 else f"from {minimum} to {maximum}"
            raise ValueError(f"{value!r} is not a whole number, {bound}")
        return int(text)

    return Kind(parse, {"type": "integer", "minimum": minimum, "maximum": maximum})


def _positive(value: object) -> float:
    text = _plain(value)
    if not re.fullmatch(r"\d{1,9}(\.\d{1,9})?", text) or float(text) <= 0:
        raise ValueError(f"{value!r} is not a number above 0")
    return float(text)


def _duration(value: object) -> float:
    seconds = units.parse_duration(_plain(value))
    if not 0 < seconds <= 366 * 86400:
        raise ValueError(f"{value!r} is not a duration between 0 and a year")
    return seconds


def _show_duration(seconds: float) -> str:
    for unit, size in (("h", 3600), ("m", 60)):
        if seconds % size == 0:
            return f"{seconds / size:.0f}{unit}"
    return f"{seconds:g}s"


def _show_size(size: int) -> str:
    for unit, power in (("TiB", 4), ("GiB", 3), ("MiB", 2), ("KiB", 1)):
        if size and size % 1024**power == 0:
            return f"{size // 1024**power}{unit}"
    return str(size)


def size(minimum: int = 0) -> Kind[int]:
    """Bytes."""

    def parse(value: object) -> int:
        found = units.parse_size(_plain(value))
        if found < minimum:
            raise ValueError(f"{value!r} is too little: {_show_size(minimum)} or more")
        return found

    return Kind(parse, {"type": ["integer", "string"]}, _show_size)


def choice(*names: str) -> Kind[Any]:
    def parse(value: object) -> str:
        text = _plain(value).lower() if isinstance(value, str) else ""
        if text not in names:
            raise ValueError(f"{value!r} is not one of {', '.join(names)}")
        return text

    return Kind(parse, {"enum": list(names)})


_RUNTIMES = choice("auto", "docker", "podman", "process")


def _runtime(value: object) -> Any:
    """Who expects to run the code without any walls is told what there is."""
    if isinstance(value, str) and value.strip().lower() == "local":
        raise ValueError("model code runs in a container; where there can be none: --sandbox process")
    return _RUNTIMES.parse(value)


def or_none(kind: Kind[T]) -> Kind[T | None]:
    """A cap that the word `none` lifts."""

    def parse(value: object) -> T | None:
        return None if isinstance(value, str) and value.strip().lower() == "none" else kind.parse(value)

    def show(value: T | None) -> str:
        return "none" if value is None else kind.show(value)

    return Kind(parse, {"anyOf": [dict(kind.schema), {"const": "none"}]}, show)


@dataclass(frozen=True)
class Price:
    """US dollars for a million tokens. `cached` None: as `input`."""

    input: float
    output: float
    cached: float | None = None


def _price(value: object) -> Price:
    """`{input = 1.25, output = 10}` or `"1.25,10"` or `"1.25,10,0.125"`."""
    if isinstance(value, Mapping):
        unknown = set(value) - {"input", "output", "cached"}
        if unknown or not {"input", "output"} <= set(value):
            raise ValueError(f"{dict(value)!r} is not a price: it takes input, output and perhaps cached")
        return Price(*(_usd(value[name]) for name in ("input", "output", "cached") if name in value))
    parts = str(value).split(",")
    if len(parts) not in (2, 3):
        raise ValueError(f"{value!r} is not a price: write IN,OUT in dollars for a million tokens, such as 1.25,10")
    return Price(*(_usd(part) for part in parts))


def _show_price(price: Price) -> str:
    amounts = (price.input, price.output) if price.cached is None else (price.input, price.output, price.cached)
    return ",".join(f"{amount:g}" for amount in amounts)


def _scalar(value: object) -> str | int | float | bool:
    """An option for the model's own API: text is read as a number or a boolean where it is one."""
    if isinstance(value, bool | int | float):
        return value
    text = _text(value)
    if text in ("true", "false"):
        return text == "true"
    for convert in (int, float):
        try:
            return convert(text)
        except ValueError:
            continue
    return text


_AMOUNT = {"type": "number", "minimum": 0}
TEXT: Kind[str] = Kind(_text, {"type": "string", "minLength": 1})
OPTIONAL_TEXT: Kind[str | None] = Kind(_text, TEXT.schema, lambda value: value or "")
OPTIONAL_URL: Kind[str | None] = Kind(_url, TEXT.schema, lambda value: value or "")
TEXTS: Kind[tuple[str, ...]] = Kind(_texts, {"type": "array", "items": {"type": "string"}}, ",".join)
BOOLEAN: Kind[bool] = Kind(_boolean, {"type": "boolean"}, lambda value: str(value).lower())
USD: Kind[float] = Kind(_usd, _AMOUNT, lambda value: f"{value:.2f}" if round(value, 2) == value else f"{value:g}")
DURATION: Kind[float] = Kind(_duration, {"type": ["number", "string"]}, _show_duration)
SIZE: Kind[int] = size()
NUMBER: Kind[float] = Kind(_positive, {"type": "number", "exclusiveMinimum": 0}, lambda value: f"{value:g}")
SCALAR: Kind[str | int | float | bool] = Kind(
    _scalar,
    {"type": ["string", "number", "boolean"]},
    lambda value: str(value).lower() if isinstance(value, bool) else str(value),
)
_PRICE_FIELDS = dict.fromkeys(("input", "output", "cached"), _AMOUNT)
PRICE: Kind[Price] = Kind(
    _price,
    {"type": "object", "properties": _PRICE_FIELDS, "required": ["input", "output"], "additionalProperties": False},
    _show_price,
)
OPTIONAL_PRICE: Kind[Price | None] = Kind(_price, PRICE.schema, lambda value: _show_price(value) if value else "")
RUNTIME: Kind[Any] = Kind(_runtime, _RUNTIMES.schema)
