"""F: money."""

from __future__ import annotations

from .rows import Case, Step, probe, tested

LEDGER = "tests/models/test_ledger.py::"
CHAIN = "tests/models/test_chain.py::"

FORGE_COST = """
import json
def frame(fields):
    header = json.dumps(fields).encode()
    return b"w" + (len(header) + 4).to_bytes(4, "big") + len(header).to_bytes(4, "big") + header
os.write(201, frame({"op": "settle", "usd": 0, "tokens": 0}))
while True:
    pass
"""
REMAINS = "print(f\"subcalls: {budget()['subcalls']}\")"

CASES = (
    Case(
        "F01",
        "loop over sub-calls",
        "refused at the cap, before it is passed; the cell gets an error, the run ends",
        (
            tested(
                LEDGER + "test_every_cap_refuses_by_its_name",
                LEDGER + "test_the_cap_holds_under_any_fan_out",
                "tests/test_engine.py::test_a_cap_reached_by_sub_calls_ends_the_run_after_the_cell",
                "tests/ask/test_ask.py::test_the_cost_cap_holds",
            ),
        ),
    ),
    Case(
        "F02",
        "thousands of calls from many threads",
        "a bounded number in flight, the others wait, order is kept",
        (
            tested(
                CHAIN + "test_sub_calls_share_the_slots_and_roots_take_none",
                CHAIN + "test_a_small_cap_holds_under_fifty_parallel_calls",
                "tests/models/test_fan_out.py::test_whatever_happens_the_window_is_kept_and_empties",
                "tests/kernel/test_kernel.py::test_threads_and_asyncio_call_too",
                "tests/kernel/test_kernel.py::test_batches_keep_their_order_and_lose_nothing",
            ),
        ),
    ),
    Case(
        "F03",
        "kill the worker, to begin with a new budget",
        "the budget is the host's: nothing comes back",
        (tested("tests/sandbox/catalogue/test_budget.py::test_a_new_worker_has_no_new_budget"),),
    ),
    Case(
        "F04",
        "a prompt above the model's window or the budget",
        "refused before it is sent",
        (
            tested(
                LEDGER + "test_a_call_that_cannot_fit_is_refused_before_it_is_sent",
                CHAIN + "test_a_wish_that_is_too_long_ends_the_call",
            ),
        ),
    ),
    Case(
        "F05",
        "a provider that reports no usage, a model without a price",
        "an estimate from above, never zero",
        (
            tested(
                LEDGER + "test_a_reply_without_usage_is_never_free",
                LEDGER + "test_an_unknown_price_is_not_zero",
                LEDGER + "test_an_unknown_price_under_the_default_cap_caps_tokens_instead",
                "tests/models/test_provider.py::test_a_reply_without_usage_is_estimated",
            ),
        ),
    ),
    Case(
        "F06",
        "a provider that fails for ever",
        "bounded attempts, each one counted",
        (
            tested(
                CHAIN + "test_after_the_last_attempt_the_error_says_what_it_cost",
                CHAIN + "test_patience_has_bounds",
                CHAIN + "test_what_broken_attempts_cost_is_in_the_usage",
                "tests/models/test_fan_out.py::test_a_dead_provider_is_left_alone",
                "tests/ask/test_ask.py::test_retries_are_visible_bounded_and_counted",
            ),
        ),
    ),
    Case(
        "F07",
        "swallow the refusal and loop",
        "the cell is stopped, the run ends",
        (tested("tests/test_engine.py::test_a_cell_that_ignores_every_refusal_is_stopped"),),
    ),
    Case(
        "F08",
        "write frames about cost or budget into the kernel's pipe",
        "no such message exists: the worker is killed, the budget is what it was",
        (
            probe(
                "forge",
                FORGE_COST,
                {},
                status="died",
                restarted="bad messages",
                then=(Step(REMAINS, {"subcalls": "\\d+"}),),
                why="that the frame arrived is why the worker was killed",
            ),
        ),
    ),
)
