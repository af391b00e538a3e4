"""The bugs: what is replaced by what, and the tests that notice it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutant:
    """One bug. `old` stands in `file` (below rlm_cli/) exactly once. `tests`: what is run, as pytest is told it."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


def habit(*policies: str) -> tuple[str, ...]:
    """What roots of these habits make of it."""
    return tuple(f"tests/test_policies.py::test_roots_of_every_habit[{policy}]" for policy in policies)


OF_THE_METHOD = (
    Mutant(
        "the replies of a batch come back in another order",
        "sandbox/kernel/calls.py",
        "part.batch.take(part.offset + index, reply)",
        "part.batch.take(part.offset + len(part.left), reply)",
        habit("long_output"),
    ),
    Mutant(
        "the last reply of a batch is lost",
        "sandbox/kernel/calls.py",
        "return self._wait(self._start(kind, [(prompt,) for prompt in prompts], model))",
        "return self._wait(self._start(kind, [(prompt,) for prompt in prompts], model))[: max(1, len(prompts) - 1)]",
        habit("chunk_map"),
    ),
    Mutant(
        "a tenth of the input is cut off",
        "sandbox/kernel/decoding.py",
        'return data.decode("utf-8"), False',
        'return data[: len(data) * 9 // 10].decode("utf-8", "ignore"), False',
        habit("lazy"),
    ),
    Mutant(
        "newlines get lost",
        "sandbox/kernel/decoding.py",
        'return data.decode("utf-8"), False',
        'return data.decode("utf-8").replace("\\n", " "), False',
        habit("chunk_map"),
    ),
    Mutant(
        "variables do not survive their turn",
        "sandbox/kernel/cells.py",
        "value = _eval(code, self.namespace)",
        "value = _eval(code, dict(self.namespace))",
        habit("state_user"),
    ),
    Mutant(
        "a later block than the first is run",
        "prompts/fences.py",
        "    for block in _blocks(text[start:]):",
        '    start = max(start, text.rfind("```repl"))\n    for block in _blocks(text[start:]):',
        habit("two_blocks"),
    ),
    Mutant(
        "an exception in the code ends the kernel",
        "sandbox/kernel/cells.py",
        "except BaseException as error:",
        "except KeyboardInterrupt as error:",
        habit("error_recovery"),
    ),
    Mutant(
        "a long answer is cut at 2,000 characters",
        "sandbox/kernel/answer_pieces.py",
        "return text_pieces(value)",
        "return text_pieces(value[:2_000])",
        habit("long_output"),
    ),
    Mutant(
        "FINAL counts wherever a reply mentions it",
        "prompts/fences.py",
        "    block = _first_code(text, start)\n    if block is not None and block.closed",
        '    if found := re.search(r"FINAL\\((.*?)\\)", text):\n'
        "        return Reply(text, final=found[1])\n"
        "    block = _first_code(text, start)\n    if block is not None and block.closed",
        habit("final_mention"),
    ),
    Mutant(
        "what the code prints has no cap",
        "prompts/texts.py",
        "OUTPUT_CHARS = 8_000",
        "OUTPUT_CHARS = 8_000_000",
        habit("big_print"),
    ),
    Mutant(
        "the root is not shown what its code printed",
        "prompts/texts.py",
        '_stream("stdout", result.stdout, OUTPUT_CHARS),',
        '"stdout: not shown",',
        habit("reactive"),
    ),
)
"""The eleven of the acceptance cases, in their section 3, by our rules."""

OF_OURS = (
    Mutant(
        "an answer that is built on refused calls counts as whole",
        "engine.py",
        "if self.desk.limit is not None:\n            self.emit(LimitReached",
        "if False:\n            self.emit(LimitReached",
        ("tests/test_engine.py::test_an_answer_built_on_refused_calls_is_partial",),
    ),
    Mutant(
        "the turns that are left never get fewer",
        "engine.py",
        "return Remaining(self.taken + limits.iterations - self.step,",
        "return Remaining(limits.iterations,",
        ("tests/test_engine.py::test_the_root_is_told_what_is_left",),
    ),
    Mutant(
        "what a cell printed before its key was rejected is lost",
        "engine.py",
        "            self.keep(result, FAILED)\n",
        "",
        ("tests/test_engine.py::test_what_a_cell_printed_before_its_key_was_rejected_is_kept",),
    ),
    Mutant(
        "the call that could not answer takes a turn of the code",
        "engine.py",
        "while self.step < self.taken + most:",
        "while self.step < most:",
        ("tests/test_direct.py::test_the_turns_are_for_what_goes_on_by_code",),
    ),
    Mutant(
        "a failed sub-call is a reply like any other",
        "desk.py",
        "return SubReply(False, error.message)\n        self.cut_short",
        "return SubReply(True, error.message)\n        self.cut_short",
        ("tests/test_engine.py::test_sub_calls_keep_order_and_one_failure_loses_nothing",),
    ),
    Mutant(
        "a reply that comes twice is passed on twice",
        "sandbox/client.py",
        "        if index not in missing:\n            return\n        missing.discard(index)",
        "        missing.discard(index)",
        ("tests/test_client.py::test_replies_go_back_by_index",),
    ),
    Mutant(
        "a dead worker's replies go to the next one",
        "sandbox/client.py",
        "        if generation != self._generation:\n            return\n        ok, kind, body",
        "        ok, kind, body",
        ("tests/test_client.py::test_replies_never_reach_the_successor_of_who_asked",),
    ),
    Mutant(
        "time spent waiting for sub-calls is counted as computing",
        "sandbox/client.py",
        "        cell.pause()\n",
        "",
        ("tests/kernel/test_kernel.py::test_waiting_for_sub_calls_does_not_count",),
    ),
    Mutant(
        "output that was not kept is not counted",
        "sandbox/kernel/capture.py",
        "        self.total += len(data)\n",
        "        self.total += min(len(data), self._keep)\n",
        ("tests/kernel/test_pure.py::test_capture_counts_every_byte",),
    ),
    Mutant(
        "lines are numbered from 0",
        "sandbox/kernel/search.py",
        "self.line = lines + 1",
        "self.line = lines",
        ("tests/kernel/test_pure.py::test_grep_finds_the_lines_a_loop_finds",),
    ),
    Mutant(
        "what is in flight does not count against the cap",
        "models/ledger.py",
        "elif self._passes(head.need, self._in_flight()) is None:",
        "elif self._passes(head.need, Need(0.0, 0)) is None:",
        ("tests/models/test_ledger.py::test_calls_wait_for_reservations_in_their_way",),
    ),
    Mutant(
        "retries are not in the books",
        "models/ledger.py",
        "retries = old.retries + spent.attempts - 1",
        "retries = old.retries",
        ("tests/models/test_ledger.py::test_roots_subs_and_retries_are_counted_apart",),
    ),
    Mutant(
        "an unknown price is $0",
        "models/ledger.py",
        "books.known = books.known and cost is not None",
        "books.known = True",
        ("tests/models/test_ledger.py::test_an_unknown_price_is_not_zero",),
    ),
    Mutant(
        "a reply that breaks off costs nothing",
        "models/provider.py",
        "worked = reply.text or reply.usage or late or reply_began(error)",
        "worked = reply.text or reply.usage or late",
        ("tests/models/test_provider.py::test_a_whole_reply_that_breaks_off_may_be_billed",),
    ),
    Mutant(
        "one call more than allowed is in flight",
        "models/limited.py",
        "while self.in_flight < self._most:",
        "while self.in_flight <= self._most:",
        ("tests/models/test_fan_out.py::test_whatever_happens_the_window_is_kept_and_empties",),
    ),
    Mutant(
        "a reply of one model answers another",
        "models/cached.py",
        "told = [request.model, messages,",
        "told = [messages,",
        ("tests/models/test_fan_out.py::test_root_calls_and_other_models_are_never_mixed_up",),
    ),
    Mutant(
        "a stream is cut at a fence in a string that is still open",
        "prompts/fences.py",
        " and block.closed and block.certain else None",
        " and block.closed else None",
        ("tests/test_prompts.py::test_a_prompt_with_a_fence_is_not_cut_inside",),
    ),
    Mutant(
        "a draft in thinking that the prompt opened is run",
        "prompts/fences.py",
        "self._settled = self._closed + self._patience + _LONGEST if waits else 0",
        "self._settled = 0",
        ("tests/test_prompts.py::test_a_draft_is_not_run_and_code_is_not_lost",),
    ),
    Mutant(
        "what two sources share is read twice",
        "sources/gather.py",
        "found = list({item.path: item for item in reversed(walk.found)}.values())[::-1]",
        "found = list(walk.found)",
        ("tests/sources/test_gather.py::test_what_is_walked_and_named_is_read_once",),
    ),
    Mutant(
        "UTF-32 is taken for UTF-16",
        "sources/encoding.py",
        '    (codecs.BOM_UTF32_LE, "utf-32"),\n',
        "",
        ("tests/sources/test_encoding.py::test_sniffing",),
    ),
    Mutant(
        "of an ignore file the first pattern that matches decides",
        "sources/rules.py",
        "return Patterns(tuple(reversed(found)))",
        "return Patterns(tuple(found))",
        ("tests/sources/test_rules.py::test_our_matcher_agrees_with_git",),
    ),
)
"""Of engine, client, kernel, ledger, provider and sources."""

MUTANTS = (*OF_THE_METHOD, *OF_OURS)
