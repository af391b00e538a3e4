"""A01-A05: something is to be found or counted, by code alone."""

from __future__ import annotations

import re
from collections.abc import Iterator

from tests.loopback import code, steps

from .case import Lab, Setup, case
from .runner import Evidence

NOISE = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."


def without_sub_calls(evidence: Evidence) -> None:
    """Code settles it: nobody is paid for reading."""
    assert not evidence.requests_of("sub")


def needle(key: str, value: object) -> str:
    return f"One of the special magic numbers for {key} is: {value}."


def word(lab: Lab, length: int = 9) -> str:
    return "".join(lab.random.choices("abcdefghijklmnopqrstuvwxyz", k=length))


GREP = """
import re
pattern = r"special magic numbers for " + re.escape({key!r}) + r" is: (\\d+)\\."
hits = grep(pattern)
values = [re.search(pattern, hit.text)[1] for hit in hits]
print(len(hits), values)
"""


@case("A01", "a needle in noise")
def needle_in_noise(lab: Lab) -> Setup:
    key, value = word(lab), str(lab.random.randrange(10**6, 10**7))
    lines = lab.hidden([NOISE] * lab.size(11_000))
    lines.insert(lab.random.randrange(len(lines)), needle(key, value))
    lab.write("noise.txt", "\n".join(lines))
    return Setup(
        f"What is the special magic number for {key}?",
        sources=("noise.txt",),
        policy=steps(code("print(len(context), context[:200])"), code(GREP.format(key=key)), code("FINAL(values[0])")),
        answer=value,
        check=without_sub_calls,
    )


def near(key: str, lab: Lab) -> set[str]:
    """Five keys that differ from this one in one letter: changed, added, left out, swapped, or in another case."""
    at = lab.random.randrange(1, len(key) - 1)
    other = "x" if key[at] != "x" else "y"
    return {
        key[:at] + other + key[at + 1 :],
        key + "s",
        key[:-1],
        other + key,
        key.capitalize(),
    } - {key}


def haystack(lab: Lab, *, absent: bool) -> Setup:
    """10 MB of lines that all look like the needle."""
    key = word(lab)
    keys = {word(lab): str(lab.random.randrange(10**6, 10**7)) for _ in range(lab.size(15_000))}
    keys |= {other: str(lab.random.randrange(10**6, 10**7)) for other in near(key, lab)}
    keys.pop(key, None)
    value = str(lab.random.randrange(10**6, 10**7))
    if not absent:
        keys[key] = value
    pad = "x" * 590
    lines = lab.shuffled(f"{needle(name, number)} {pad}" for name, number in keys.items())
    lab.write("haystack.txt", "\n".join(lab.hidden(lines)))
    return Setup(
        f"What is the special magic number for {key}, exactly? NOT FOUND if there is none.",
        sources=("haystack.txt",),
        policy=steps(
            code("print(len(context)); print(context[:300])"),
            code(GREP.format(key=key)),
            code("FINAL(values[0] if values else 'NOT FOUND')"),
        ),
        answer="NOT FOUND" if absent else value,
        check=without_sub_calls,
    )


@case("A02", "a needle among near duplicates")
def needle_among_distractors(lab: Lab) -> Setup:
    return haystack(lab, absent=False)


@case("A03", "a needle that is not there")
def needle_absent(lab: Lab) -> Setup:
    return haystack(lab, absent=True)


@case("A04", "four needles in 200 files")
def needles_in_files(lab: Lab) -> Setup:
    setup, _ = needles(lab)
    return setup


def needles(lab: Lab) -> tuple[Setup, dict[str, list[str]]]:
    """The case, and the lines of each file, for the metamorphic relations."""
    key = word(lab)
    names = [f"box/d{n % 5}/e{n % 20}/{n:03}.txt" for n in range(lab.size(200))]
    files = {name: [f"{lab.words(8)}." for _ in range(30)] for name in names}
    found = {}
    for name in lab.random.sample(names, 4):
        found[name.removeprefix("box/")] = value = str(lab.random.randrange(10**6, 10**7))
        files[name].insert(lab.random.randrange(31), needle(key, value))
        files[name].insert(0, needle(key + "s", 1))
    files[names[len(names) // 2]].append(lab.canary)
    for name, lines in files.items():
        lab.write(name, "\n".join(lines) + "\n")
    setup = Setup(
        f"What are the special magic numbers for {key}, and in which files?",
        sources=("box",),
        policy=steps(
            code("print(len(context), sorted(context)[:3])"),
            code(GREP.format(key=key)),
            code("FINAL('\\n'.join(sorted(f'{hit.document}: {value}' for hit, value in zip(hits, values))))"),
        ),
        answer="\n".join(f"{name}: {found[name]}" for name in sorted(found)),
        check=without_sub_calls,
    )
    return setup, files


@case("A05", "50 MB through a pipe")
def through_a_pipe(lab: Lab) -> Setup:
    token = word(lab)
    block = "".join(f"{n} {lab.words(12)}{f' {token}' * (not lab.random.randrange(50))}\n" for n in range(14_000))
    times, tail = lab.size(50), f"no newline at the end, {token}"
    count = times * sum(token in line for line in block.splitlines()) + 2
    secret = f"{token} the {lab.canary}\n"

    def pipe() -> Iterator[bytes]:
        data = block.encode()
        yield from (data for _ in range(times // 2))
        yield secret.encode()
        yield from (data for _ in range(times - times // 2))
        yield tail.encode()

    def all_of_it(evidence: Evidence) -> None:
        without_sub_calls(evidence)
        assert evidence.result.sources.bytes == sum(map(len, pipe())) > 45_000_000

    return Setup(
        f"How many lines hold the word {token}?",
        stdin=pipe,
        policy=steps(
            code("print(type(context), len(context))"),
            code(f"FINAL(grep_count(r'\\b{re.escape(token)}\\b'))"),
        ),
        answer=str(count),
        check=all_of_it,
    )
