"""What is known of a regular expression before it is used: read off the tree that `re` itself parses it into."""

from __future__ import annotations

import re
import sys
from functools import lru_cache

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

LITERAL = 3
"""Characters from which on a literal is worth looking for."""
NEEDLES = 8
"""Alternatives beyond which looking for each of them does not pay."""
SPARSE = 400
"""Characters for each needle in a text from which on it pays to search only the lines that have one."""
UNBOUNDED = 1 << 31
CANDIDATES = [chr(code) for code in range(0x20, 0x7F)]
IN_CATEGORY: dict[str, Callable[[str], bool]] = {
    "DIGIT": str.isdecimal,
    "SPACE": str.isspace,
    "WORD": lambda c: c.isalnum() or c == "_",
}
CONTROLS = "\x1c\x1d\x1e\x1f"
"""White space for a str pattern, but not for one with re.ASCII."""
FOLDED = {"\u0130": "i", "\u0131": "i", "\u017f": "s", "\u212a": "k"}
"""All that is beyond ASCII and yet matches a letter within, where case is ignored."""
REPEATS = ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT")


class Traits:
    """Of one pattern.

    `needles`: of these literals every match holds one; empty: none is known. Under IGNORECASE in some case: then they
    are ASCII, and `folded` is what beyond it may stand for a letter of theirs.
    `barriers`: ASCII bytes that nothing in the pattern can match. No match, and nothing it looks at, goes across one:
    a text cut behind barriers has the matches of its pieces. Only a newline, where that is one.
    `ahead`, `back`: how many characters from a match's start all that it looks at can be away; None: unbounded.
    `ascii`: the pattern that finds the same in ASCII text, and faster; where `spaces` is true, only if the text has
    none of the characters \\x1c to \\x1f. `solid`: no match is empty. `ends`: it asks for the end of the text.
    `literal`: the pattern is these characters and nothing else, else "". `raw`: a bytes pattern that has as many
    matches in the bytes, whatever those beyond ASCII stand for, or None.
    """

    def __init__(self, pattern: re.Pattern[str]) -> None:
        parser: Any = sys.modules.get("re._parser") or sys.modules["sre_parse"]  # its name before Python 3.11
        tree = parser.parse(pattern.pattern, pattern.flags)
        found = list(atoms(tree, pattern.flags))
        cased = any(flags & re.IGNORECASE for _, _, flags in found)
        low, high = tree.getwidth()
        sides = [(arg[0], arg[1].getwidth()[1]) for name, arg, _ in found if name in ("ASSERT", "ASSERT_NOT")]
        ahead = high + sum(width for side, width in sides if side > 0) + 2
        self.ahead: int | None = int(ahead) if ahead < UNBOUNDED else None
        self.back = int(sum(width for side, width in sides if side < 0)) + 1
        self.solid = low > 0
        self.ends = any(name == "AT" and str(arg) in ("AT_END", "AT_END_STRING") and not (
            flags & re.MULTILINE and str(arg) == "AT_END") for name, arg, flags in found)  # fmt: skip
        self.spaces = any("SPACE" in str(arg) for name, arg, _ in found if name == "IN")
        self.ignore_case = bool(pattern.flags & re.IGNORECASE)
        self.needles = tuple(needles(tree, bool(self.ignore_case)))
        letters = "".join(self.needles).lower() if self.ignore_case else ""
        self.folded = tuple(char for char, letter in FOLDED.items() if letter in letters)
        self.barriers = barriers(found, cased)
        self.ascii = ascii_variant(pattern, found, cased)
        plain = all(str(name) == "LITERAL" for name, _ in tree) and not cased
        self.raw = raw_variant(pattern, tree) if not cased else None
        # `re` finds what begins with a letter of its own as fast as it is found here.
        self._slow = bool(self.needles) and (cased or next(flat(tree))[0] != "LITERAL")
        self.literal = "".join(chr(code) for _, code in tree) if plain else ""

    def suited(self, pattern: re.Pattern[str], text: str) -> re.Pattern[str]:
        """The pattern, or the one that finds the same in this text, and faster."""
        if self.ascii is None or not text.isascii() or (self.spaces and any(char in text for char in CONTROLS)):
            return pattern
        return self.ascii

    def absent(self, text: str) -> bool:
        """Whether it is plain that the text has no match."""
        if not self.needles:
            return False
        if not self.ignore_case:
            return not any(needle in text for needle in self.needles)
        if not text.isascii() and any(char in text for char in self.folded):
            return False
        lowered = text.lower()
        return not any(needle.lower() in lowered for needle in self.needles)

    def spans(self, text: str, at: int) -> Iterator[tuple[int, int]]:
        """What of a text is to be searched for matches that begin at `at` or behind it: all of it, or the lines that
        have a needle, where they are few. What does not begin with a literal costs `re` a try for each character."""
        lined = self._slow and self.barriers == b"\n" and not self.ends
        if not lined or (self.ignore_case and not text.isascii()):
            yield at, len(text)
            return
        hay = text.lower() if self.ignore_case else text
        wanted = {needle.lower() if self.ignore_case else needle: -1 for needle in self.needles}
        if sum(map(hay.count, wanted)) * SPARSE > len(text):
            yield at, len(text)
            return
        while at <= len(text):
            for needle, place in wanted.items():
                if place < at:
                    found = hay.find(needle, at)
                    wanted[needle] = found if found >= 0 else len(hay)
            place = min(wanted.values())
            if place == len(hay):
                return
            end = hay.find("\n", place)
            end = len(text) if end < 0 else end
            yield hay.rfind("\n", at, place) + 1 or at, end
            at = end + 1


@lru_cache(maxsize=256)
def traits(pattern: re.Pattern[str]) -> Traits:
    """What is known of a str pattern."""
    return Traits(pattern)


@lru_cache(maxsize=256)
def whole_lines(pattern: re.Pattern[str]) -> re.Pattern[str] | None:
    """The pattern whose matches are those of this one that are the first in their lines, with the rest of the line;
    None: there is no such."""
    known = traits(pattern)
    if known.barriers != b"\n" or not known.solid:
        return None
    source = re.sub(r"\A\(\?[aimsux]+\)", "", pattern.pattern)  # `flags` has them
    end = "\n" if pattern.flags & re.VERBOSE else ""  # behind a comment
    try:
        return re.compile(f"(?:{source}{end})[^\\n]*", pattern.flags)
    except re.error:
        return None


def atoms(tree: Any, flags: int) -> Iterator[tuple[str, Any, int]]:
    """(operator, argument, flags in force) of everything in a parsed pattern, at any depth."""
    for operator, argument in tree:
        name = str(operator)
        yield name, argument, flags
        for part, inner in parts(name, argument, flags):
            yield from atoms(part, inner)


def parts(name: str, argument: Any, flags: int) -> list[tuple[Any, int]]:
    """The sequences inside one operator, with their flags."""
    if name == "SUBPATTERN":
        _, more, fewer, part = argument
        return [(part, (flags | more) & ~fewer)]
    if name == "BRANCH":
        return [(part, flags) for part in argument[1]]
    if name in REPEATS:
        return [(argument[2], flags)]
    if name in ("ASSERT", "ASSERT_NOT"):
        return [(argument[1], flags)]
    if name == "ATOMIC_GROUP":
        return [(argument, flags)]
    if name == "GROUPREF_EXISTS":
        return [(part, flags) for part in argument[1:] if part is not None]
    return []


def matches(name: str, argument: Any, flags: int, char: str) -> bool:
    """Whether an atom matches a newline or printable ASCII character (its case aside)."""
    code = ord(char)
    if name == "LITERAL":
        return bool(argument == code)
    if name == "NOT_LITERAL":
        return bool(argument != code)
    if name == "ANY":
        return bool(flags & re.DOTALL) or char != "\n"
    if name == "IN":
        return holds(argument, char)
    return False


def holds(items: Any, char: str) -> bool:
    """Whether a character is in a set."""
    negated = found = False
    for operator, argument in items:
        name = str(operator)
        if name == "NEGATE":
            negated = True
        elif name == "LITERAL":
            found = found or argument == ord(char)
        elif name == "RANGE":
            found = found or argument[0] <= ord(char) <= argument[1]
        else:
            _, _, category = str(argument).partition("CATEGORY_")
            test = IN_CATEGORY[category.replace("NOT_", "")]
            found = found or test(char) is not category.startswith("NOT_")
    return found is not negated


def barriers(found: list[tuple[str, Any, int]], cased: bool) -> bytes:
    """See `Traits`. Where case is ignored, no letters: more than their two cases may match."""
    chars = [c for c in CANDIDATES if not (cased and c.isalpha())]
    known = [atom for atom in found if atom[0] in ("LITERAL", "NOT_LITERAL", "ANY", "IN")]
    free = [c for c in ["\n", *chars] if not any(matches(*atom, c) for atom in known)]
    return b"\n" if "\n" in free else "".join(free).encode()


def needles(tree: Any, ignore_case: bool) -> list[str]:
    """Literals of which every match of a sequence holds at least one: the choice whose shortest is the longest."""
    choices: list[list[str]] = [[""]]
    for name, argument in flat(tree):
        if name == "LITERAL" and (argument < 128 or not ignore_case):
            choices[-1][0] += chr(argument)
            continue
        if name == "BRANCH":
            branches = [needles(part, ignore_case) for part in argument[1]]
            choices.append([one for branch in branches for one in branch] if all(branches) else [""])
        elif name in REPEATS and argument[0] > 0:
            choices.append(needles(argument[2], ignore_case) or [""])
        elif name == "ATOMIC_GROUP":
            choices.append(needles(argument, ignore_case) or [""])
        choices.append([""])
    usable = [choice for choice in choices if len(choice) <= NEEDLES and min(map(len, choice)) >= LITERAL]
    return max(usable, key=lambda choice: min(map(len, choice)) - len(choice), default=[])


def flat(tree: Any) -> Iterator[tuple[str, Any]]:
    """A sequence's operators, those of its groups among them; a group that changes flags is one operator."""
    for operator, argument in tree:
        if str(operator) == "SUBPATTERN" and not argument[1] and not argument[2]:
            yield from flat(argument[3])
        else:
            yield str(operator), argument


def ascii_variant(pattern: re.Pattern[str], found: list[tuple[str, Any, int]], cased: bool) -> re.Pattern[str] | None:
    """Beyond ASCII, a character may be another case of one within."""
    if cased and any(beyond_ascii(name, argument) for name, argument, _ in found):
        return None
    try:
        return re.compile(pattern.pattern, pattern.flags & ~re.UNICODE | re.ASCII)
    except (re.error, ValueError):  # it asks for re.UNICODE itself
        return None


def raw_variant(pattern: re.Pattern[str], tree: Any) -> re.Pattern[bytes] | None:
    """ASCII text at both ends, and in between only more of it and `.*`, `.+` and the like: what these take begins and
    ends at ASCII characters, and never depends on how many others there are."""
    items = list(flat(tree))
    if not items or items[0][0] != "LITERAL" or items[-1][0] != "LITERAL":
        return None
    for name, argument in items:
        if name == "LITERAL" and argument < 128:
            continue
        if name not in REPEATS[:2] or argument[0] > 1 or argument[1] < UNBOUNDED:
            return None
        if [str(operator) for operator, _ in argument[2]] != ["ANY"]:
            return None
    try:
        return re.compile(pattern.pattern.encode("ascii"), pattern.flags & ~re.UNICODE)
    except (re.error, ValueError):  # an escape that only a str pattern has
        return None


def beyond_ascii(name: str, argument: Any) -> bool:
    if name in ("LITERAL", "NOT_LITERAL"):
        return bool(argument > 127)
    if name != "IN":
        return False
    codes = [code for operator, code in argument if str(operator) in ("LITERAL", "RANGE")]
    return any((code if isinstance(code, int) else code[1]) > 127 for code in codes)
