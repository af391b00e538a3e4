"""Numbers as people write and read them: sizes, counts, durations, dollars. Pure; the one owner of their spelling.

Printing: sizes and compact counts are decimal (`412 MB`, `103 M`), with one digit after the point below ten.
Parsing: one letter is binary, as Docker and ripgrep read it (`2g` = 2 GiB), `GiB` says so, `GB` is decimal.
Parsers raise `ValueError` with a sentence that can be shown; who asked knows which option or key to name.
"""

from __future__ import annotations

import math
import re

# Bounded digits: no input overflows a float.
SIZE = re.compile(r"\s*(\d{1,20}(?:\.\d{1,20})?|\.\d{1,20})\s*(?:([kmgtp])(i?b)?|b)?\s*", re.IGNORECASE | re.ASCII)
PART = re.compile(r"\s*(\d{1,20}(?:\.\d{1,20})?|\.\d{1,20})\s*(ms|min|[wdhms])\s*", re.IGNORECASE | re.ASCII)
PLAIN = re.compile(r"\s*(?:\d{1,20}(?:\.\d{0,20})?|\.\d{1,20})\s*", re.ASCII)
SECONDS = {"w": 604800.0, "d": 86400.0, "h": 3600.0, "min": 60.0, "m": 60.0, "s": 1.0, "ms": 0.001}


def human_bytes(count: int) -> str:
    """`17 B`, `1.2 kB`, `412 MB`."""
    return _scaled(count, ("B", "kB", "MB", "GB", "TB", "PB"))


def human_count(count: int) -> str:
    """Exact, in groups of three: `1,284`."""
    return f"{count:,}"


def compact_count(count: int) -> str:
    """For estimates: `950`, `1.2 k`, `103 M`."""
    return _scaled(count, ("", "k", "M", "G", "T")).rstrip()


def _scaled(count: int, names: tuple[str, ...]) -> str:
    value, power = float(count), 0
    # 999.5 would print as 1000 of this unit: it is 1.0 of the next.
    while abs(value) >= 999.5 and power < len(names) - 1:
        value, power = value / 1000, power + 1
    digits = 1 if power and abs(value) < 9.95 else 0
    return f"{value:,.{digits}f} {names[power]}"


def human_seconds(seconds: float) -> str:
    """`85 ms`, `3.2 s`, `14 s`, `2 min 05 s`, `1 h 02 min`."""
    if seconds < 0.0995:
        return f"{round(max(seconds, 0) * 1000)} ms"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02} min"


def money(usd: float) -> str:
    """`$12.50`, `$0.0123`; an amount too small to show is `<$0.0001`, never zero."""
    if usd == 0:
        return "$0.00"
    if 0 < usd < 0.00005:
        return "<$0.0001"
    return f"${usd:,.2f}" if usd >= 0.99995 else f"${usd:.4f}"


def parse_size(text: str) -> int:
    """Bytes of `500`, `64k`, `2g`, `1.5 GiB`, `10MB`."""
    match = SIZE.fullmatch(text)
    if not match:
        raise ValueError(f"{text!r} is not a size: write bytes or a number with k, m, g or t, such as 500m or 4GiB")
    number, letter, suffix = match.groups()
    base = 1000 if (suffix or "").lower() == "b" else 1024
    power = " kmgtp".index(letter.lower()) if letter else 0
    # Whole numbers stay exact at any size.
    scale: int = base**power
    return int(number) * scale if number.isdecimal() else round(float(number) * scale)


def parse_duration(text: str) -> float:
    """Seconds of `90`, `90s`, `15m`, `1h30m`, `2 min 05 s`, `500ms`, `7d`."""
    if PLAIN.fullmatch(text):
        return float(text)
    total, at, last = 0.0, 0, math.inf
    while match := PART.match(text, at):
        unit = SECONDS[match[2].lower()]
        if unit >= last:
            break
        total, at, last = total + float(match[1]) * unit, match.end(), unit
    if at == 0 or at != len(text):
        raise ValueError(f"{text!r} is not a duration: write seconds, or something like 90s, 15m or 1h30m")
    return total


def parse_money(text: str) -> float:
    """Dollars of `1`, `0.50`, `$2.50`."""
    bare = text.strip().removeprefix("$")
    if not PLAIN.fullmatch(bare):
        raise ValueError(f"{text!r} is not an amount in dollars: write something like 0.50")
    return float(bare)
