"""Cases D07 and D08: a cell cannot choose a provider, a model or a URL, and a wrong argument is a typed error."""

from __future__ import annotations

from .local import FakeHost, kernel, run

PROBES = {
    "llm_query('x', model='m', api_base='http://evil.example')": "TypeError",
    "llm_query('x', base_url='http://evil.example')": "TypeError",
    "llm_query('x', headers={'a': 'b'})": "TypeError",
    "llm_query_batched(['x'], api_key='k')": "TypeError",
    "rlm_query('x', model='openai/x', api_base='http://evil.example')": "TypeError",
    "llm_query('x', model=['openai/x'])": "TypeError",
    "llm_query('x', model='m' * 10_000)": "TypeError",
    "llm_query(None)": "TypeError",
    "llm_query(b'bytes')": "TypeError",
    "llm_query(['a', 'b'])": "TypeError",
    "llm_query({'role': 'user'})": "TypeError",
    "llm_query_batched('one text')": "TypeError",
    "llm_query_batched(7)": "TypeError",
    "llm_query_batched(['x', 3])": "TypeError",
    "llm_query('x' * (1 << 28))": "SubcallError",
}
"""Code, and the error that it must get without a call."""

PLAIN = ["a\\ud800b", "nul\\0", "\\x1b]52;c;x\\x07"]


def test_d07_d08_arguments_are_checked_before_any_call() -> None:
    """No request leaves the kernel for any of them, and it lives on; odd text is sent as text. Positive control: the
    same call without the odd argument."""
    host = FakeHost(lambda prompt: f"<{prompt}>")
    probes = "".join(
        f"try:\n    {code}\nexcept Exception as e:\n    print(type(e).__name__)\nelse:\n    print('accepted')\n"
        for code in PROBES
    )

    async def main() -> tuple[str, int, str]:
        async with kernel(host=host) as k:
            said = await k.out(probes)
            before = len(host.calls)
            texts = ", ".join(f"'{text}'" for text in PLAIN)
            return said, before, await k.out(f"print([llm_query(p) for p in ({texts})])")

    said, before, plain = run(main)
    assert (dict(zip(PROBES, said.split(), strict=True)), before) == (PROBES, 0)
    assert plain == "['<a?b>', '<nul\\x00>', '<\\x1b]52;c;x\\x07>']\n"
    assert [call.model for call in host.calls] == ["", "", ""]
