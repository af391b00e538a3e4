"""What `rlm_query` tells the host about its context, and what it makes of the reply; the real kernel in a process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlm_cli.sandbox import Answer, Passed, Reference, SubCall, SubReply, Value, frames
from rlm_cli.sandbox.kernel import passing
from rlm_cli.sandbox.kernel.context import Entry
from rlm_cli.sandbox.kernel.decoding import decode

from .local import FakeHost, kernel, run

LIMIT = 1000
"""Bytes up to which a document is a str in these tests."""


class Recorder(FakeHost):
    """Answers children with `answer`."""

    def __init__(self, answer: Answer | None = None) -> None:
        super().__init__()
        self.value = answer

    async def answer(self, call: SubCall, deliver: Callable[[int, SubReply], None]) -> None:
        self.calls.append(call)
        await asyncio.sleep(0)
        for index in range(len(call.prompts)):
            deliver(index, SubReply(True, "fine", self.value))


def passed(code: str, documents: Mapping[str, bytes], encoding: str = "auto") -> Passed:
    """What one rlm_query of a cell hands over."""
    host = Recorder()

    async def main() -> None:
        async with kernel(documents, host=host, text_limit=LIMIT, encoding=encoding) as started:
            await started.out(code)

    run(main)
    (call,) = host.calls
    assert (call.kind, len(call.contexts)) == ("rlm", 1)
    return call.contexts[0]


LARGE = "".join(f"zeile {number} ä\n" for number in range(500)).encode()
TWO = {"a": b"alpha\n", "b": b"beta\n", "big": LARGE}


@pytest.mark.parametrize("code", ["rlm_query('Q')", "rlm_query('Q', context)", "rlm_query('Q', None)"])
@pytest.mark.parametrize("documents", [TWO, {"one": b"text"}, {"big": LARGE}])
def test_all_of_it(code: str, documents: Mapping[str, bytes]) -> None:
    assert passed(code, documents) is None


def test_a_part_of_a_text_goes_by_its_bytes() -> None:
    """A slice that is itself a Text, and the same of a document among others."""
    part = passed("rlm_query('Q', context[100:4000])", {"big": LARGE})
    text = LARGE.decode()
    start = len(text[:100].encode())
    assert part == (Reference("big", 0, start, len(text[100:4000].encode()), "utf-8"),)
    part = passed("rlm_query('Q', context['big'][100:4000])", TWO)
    assert part == (Reference("big", 2, start, len(text[100:4000].encode()), "utf-8"),)
    assert passed("rlm_query('Q', context['big'])", TWO) == (Reference("big", 2),)


def test_a_mark_is_counted() -> None:
    """Behind a byte order mark, bytes begin three later."""
    part = passed("rlm_query('Q', context[7:4000])", {"big": b"\xef\xbb\xbf" + LARGE})
    text = LARGE.decode()
    size = len(text[7:4000].encode())
    assert part == (Reference("big", 0, 3 + len(text[:7].encode()), size, "utf-8"),)


def test_names_and_dicts_are_documents() -> None:
    both = (Reference("a", 0), Reference("big", 2))
    assert passed("rlm_query('Q', ['a', 'big'])", TWO) == both
    assert passed("rlm_query('Q', context.names('*a*') + ['big'])", TWO) == both
    assert passed("rlm_query('Q', {n: context[n] for n in ('a', 'big')})", TWO) == both
    assert passed("rlm_query('Q', 'a')", TWO) == (Reference("a", 0),)
    assert passed("rlm_query('Q', {'mine': 'words', 'a': 'other'})", TWO) == (
        Value("mine", "words"),
        Value("a", "other"),
    )


def test_any_other_text_is_copied() -> None:
    assert passed("rlm_query('Q', 'my own \\U0001f600')", {"one": b"x"}) == (Value("text", "my own \U0001f600"),)
    assert passed("rlm_query('Q', chunks(context, 3)[1])", TWO) is not None


def test_a_long_slice_of_a_str_is_found_in_its_document() -> None:
    """Of more characters than are copied without a look: by reference, from a str too."""
    data = "".join(f"zeile {number} ü\n" for number in range(20_000)).encode()
    host = Recorder()

    async def main() -> None:
        async with kernel({"one": data}, host=host) as started:
            await started.out("rlm_query('Q', context[5:200_005])")

    run(main)
    text = data.decode()
    expected = Reference("one", 0, len(text[:5].encode()), len(text[5:200_005].encode()), "utf-8")
    assert host.calls[0].contexts == ((expected,),)


def test_what_cannot_be_passed_says_what_can() -> None:
    """A wrong name, wrong types, and too much to copy are errors in the cell; nothing is sent."""
    host = Recorder()

    async def main() -> None:
        async with kernel(TWO, host=host) as started:
            for code, said in (
                ("rlm_query('Q', ['nope'])", "no document is named"),
                ("rlm_query('Q', b'x')", "not bytes"),
                ("rlm_query('Q', 5)", "not int"),
                ("rlm_query('Q', {'a': 5})", "texts, not int"),
                ("rlm_query('Q', 'x' * 10_000_000)", "passed without copying"),
                ("rlm_query_batched(['a', 'b'], ['c'])", "2 prompts but 1 contexts"),
            ):
                result = await started.run(code)
                assert said in result.error, code

    run(main)
    assert host.calls == []


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        (Answer("json", b'{"n": [1, 2.5, null]}'), {"n": [1, 2.5, None]}),
        (Answer("bytes", b"\x00\xff"), b"\x00\xff"),
        (Answer("text", "häh".encode()), "häh"),
        (None, "fine"),
    ],
)
def test_an_answer_is_the_value_that_it_was(answer: Answer | None, value: object) -> None:
    async def main() -> str:
        async with kernel(host=Recorder(answer)) as started:
            return await started.out("print(ascii(rlm_query('Q')))")

    assert run(main) == f"{value!a}\n"


def test_an_answer_too_large_to_hand_back_is_a_failed_call() -> None:
    async def main() -> str:
        async with kernel(host=Recorder(Answer("bytes", b"x" * (33 << 20)))) as started:
            return await started.out("print(rlm_query_batched(['Q'])[0].error)")

    assert "at most 33,554,432" in run(main)


@settings(max_examples=300, deadline=None)
@given(
    text=st.text(st.sampled_from("aä€😀\n\ufeff")),
    mark=st.booleans(),
    codec=st.sampled_from(["auto", "utf-8", "utf-8-sig", "latin-1", "cp1252", "utf-16", "shift_jis"]),
    ends=st.tuples(st.integers(0, 60), st.integers(0, 60)),
)
def test_the_bytes_of_a_slice_decode_to_it(text: str, mark: bool, codec: str, ends: tuple[int, int]) -> None:
    """Whatever the encoding: where bytes are named at all, they are the right ones."""
    data = (b"\xef\xbb\xbf" if mark else b"") + text.encode("utf-8" if codec == "auto" else codec, "replace")
    document, _ = decode(data, codec)
    first, last = sorted(min(end, len(document)) for end in ends)
    found = passing.bytes_of(document, Entry("d", "f", 0, len(data), codec), 7, first, last)
    if found is not None:
        number, start, size, encoding = found
        assert number == 7
        part = data[start : start + size]
        if not part.startswith((b"\xef\xbb\xbf", b"\xff\xfe")):
            assert decode(part, encoding)[0] == document[first:last]


def test_bad_contexts_are_violations() -> None:
    """Whatever the kernel sends: checked, never believed."""
    for bad in (b"{", b"{}", b"5", b"[5]", b'["a"]', b'[["a", 1]]', b'[["a", 1, 2, 3]]', b'[["a", true, 0, 1, ""]]'):
        with pytest.raises(frames.Violation):
            frames._passed(bad)
