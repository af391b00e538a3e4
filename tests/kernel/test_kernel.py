"""The real kernel in a subprocess, driven through the real client: cells, output, faults, calls, answers, context."""

from __future__ import annotations

import asyncio
import hashlib
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from rlm_cli.errors import InputError, SandboxError
from rlm_cli.sandbox import Answer, ContextFacts, StepResult, Value, client
from rlm_cli.sandbox.client import KernelClient, Patience
from rlm_cli.sandbox.kernel import wire
from rlm_cli.sandbox.spool import Spooled

from .local import FakeHost, PipeChannel, kernel, run, write_index

QUICK = Patience(interrupt=0.2)


def cells(*codes: str, **options: Any) -> list[StepResult]:
    """The results of several cells in one kernel."""

    async def main() -> list[StepResult]:
        async with kernel(**options) as k:
            return [await k.run(code) for code in codes]

    return run(main)


def shown(result: StepResult) -> str:
    return result.stdout.head + result.stdout.tail


# -- cells


@pytest.mark.parametrize(
    ("code", "output"),
    [
        ("1 + 1", "2\n"),
        ("None", ""),
        ("x = 5", ""),
        ("print('a', 'b')\n'c'", "a b\n'c'\n"),
        ("FINAL(7)", ""),
        ("import asyncio\nawait asyncio.sleep(0)\nawait asyncio.sleep(0, 'slept')", "'slept'\n"),
        ("import os; _ = os.system('echo from a child')", "from a child\n"),
        ("import ctypes; _ = ctypes.CDLL(None).puts(b'from C')", "from C\n"),
        ("import sys; sys.stdout.buffer.write(b'raw\\n'); print(sys.stdout.isatty())", "raw\nFalse\n"),
        ("print('\\ud800 é')", "\\ud800 é\n"),
        ("__name__", "'__main__'\n"),
        (
            "import multiprocessing as m\ndef f(n): return n * n\nwith m.Pool(2) as p: r = p.map(f, [1, 2])\nr",
            "[1, 4]\n",
        ),
    ],
)
def test_what_a_cell_shows(code: str, output: str) -> None:
    """Printed text, children's and C's output, and the repr of a last expression."""
    (result,) = cells(code)
    assert (result.status, shown(result), result.error) == ("ok", output, "")


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("x = 1\n1 / 0", 'File "<cell 1>", line 2, in <module>\n    1 / 0'),
        ("x =", "SyntaxError: invalid syntax"),
        ("a\0b", "null bytes"),
        ("exit(3)", "SystemExit: 3"),
        ("input()", "EOFError"),
        ("def f(n): return f(n + 1)\nf(0)", "RecursionError"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("class E(Exception):\n  def __str__(self): 1/0\nraise E", "E: <exception str() failed>"),
        ("llm_query(3)", "TypeError: llm_query: a prompt must be a str, not int"),
        ("llm_query_batched('one')", "takes a list of prompts"),
        ("FINAL_VAR('nowhere')", "NameError: FINAL_VAR: no variable is named 'nowhere'"),
    ],
)
def test_errors_are_data(code: str, error: str) -> None:
    """The traceback shows the cell's lines and no frame of the kernel; the kernel lives on."""
    failed, after = cells(code, "6 * 7")
    assert failed.status == "error"
    assert error in failed.error
    assert "<kernel/" not in failed.error
    assert (after.status, shown(after), after.restarted) == ("ok", "42\n", "")


def test_exit_ends_the_cell_only() -> None:
    """sys.exit() keeps the variables."""
    first, second = cells("x = 1\nimport sys; sys.exit()\nx = 2", "x")
    assert (first.status, second.status, shown(second)) == ("ok", "ok", "1\n")
    assert "exit()" in first.stderr.head


def test_variables_persist_and_are_listed() -> None:
    """Name, type and size, without our own names and without modules."""
    _, listed = cells("import os\nchunks = 3\nx = 'abc'\ny = [1, 2]\ndef f(): pass\n_z = 1", "SHOW_VARS()")
    assert listed.variables == ("chunks: int, 3", "x: str, 3 characters", "y: list, 2 items", "f: function")
    assert shown(listed) == "\n".join(listed.variables) + "\n"


@pytest.mark.parametrize(
    "poison",
    [
        "import sys; sys.stdout = sys.stderr = None",
        "import sys; sys.stdout.close(); print('still')",
        "import builtins\nfor n in ('len', 'print', 'isinstance', 'exec', 'open'): setattr(builtins, n, None)",
        "import json, os; json.dumps = os.write = os.read = os.getpid = None",
        "import os; os.close(1); os.close(2)",
        "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)",
        "import sys; sys.modules.clear()",
        "globals().clear()",
        "import os; os.closerange(0, 1000)",
        "import threading, queue; threading.Lock = queue.SimpleQueue = None",
    ],
)
def test_a_poisoned_kernel_recovers(poison: str) -> None:
    """Whatever a cell breaks in its own process, the next cell works (perhaps in a new one, which is said)."""
    broken, after = cells(poison, "'fine'")
    assert (after.status, shown(after)) == ("ok", "'fine'\n"), (broken, after)


# -- output


def test_output_is_cut_in_the_container_with_true_counts() -> None:
    """64 MB and a marker at each end: head, tail and exact totals."""
    (result,) = cells("print('START' + 'é' * (32 << 20) + 'END')")
    assert result.stdout.total == 5 + (64 << 20) + 3 + 1
    assert result.stdout.head.startswith("STARTé")
    assert result.stdout.tail.endswith("éEND\n")
    assert "�" not in result.stdout.head + result.stdout.tail
    kept = len((result.stdout.head + result.stdout.tail).encode())
    assert kept + result.stdout.dropped == result.stdout.total
    assert kept <= 2 * wire.KEEP


def test_output_streams_and_is_never_overtaken() -> None:
    """Listeners hear all of it, in order; a hundred cells each get their own output."""

    async def main() -> tuple[list[tuple[str, str]], list[str]]:
        heard: list[tuple[str, str]] = []
        async with kernel() as k:
            code = "import sys; print('out'); _ = sys.stderr.write('err')"
            await k.run(code, on_output=lambda stream, text: heard.append((stream, text)))
            return sorted(heard), [await k.out(f"import os; os.write(1, b'{n}') and None") for n in range(100)]

    heard, outputs = run(main)
    assert heard == [("stderr", "err"), ("stdout", "out\n")]
    assert outputs == [str(n) for n in range(100)]


def test_late_output_is_labelled() -> None:
    """What a thread prints between two cells belongs to neither."""
    go = "import threading\ndef late():\n  done.wait()\n  print('late')\n  gone.set()\n"
    start = go + "done, gone = threading.Event(), threading.Event()\nt = threading.Thread(target=late); t.start()"
    # The timer fires after this cell is over; the next one only starts when the host has heard the late line.

    async def main() -> tuple[StepResult, StepResult]:
        async with kernel() as k:
            await k.run(start)
            await k.run("threading.Timer(0.2, done.set).start()")
            while not k.client._late:  # what arrived is the only signal there is
                await asyncio.sleep(0.01)
            return await k.run("print('mine')"), await k.run("1")

    mine, after = run(main)
    assert (shown(mine), mine.late, after.late) == ("mine\n", "late\n", "")


# -- dying and being stopped


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import os; print('last words'); os._exit(7)", "ended with exit code 7"),
        ("import os; print('last words'); os.closerange(3, 1000)", "it closed file descriptors that the kernel needs"),
        ("import os; print('last words'); os.abort()", "killed by SIGABRT"),
        ("import os; print('last words'); os.kill(os.getpid(), 9)", "killed by SIGKILL"),
        ("import ctypes; print('last words'); ctypes.string_at(0)", "killed by SIGSEGV"),
    ],
)
def test_a_dead_worker_is_replaced(code: str, reason: str) -> None:
    """Its output is kept, the cause is named, context and helpers are back, variables are not."""
    _, dead, after, gone = cells("x = 1", code, "context[:4], llm_query('hi')", "x")
    assert (dead.status, shown(dead)) == ("died", "last words\n")
    assert reason in dead.restarted
    assert "every variable is gone" in dead.restarted
    assert (shown(after), after.restarted) == ("('line', 'HI')\n", "")
    assert "NameError" in gone.error


def test_an_answer_survives_the_death_of_its_cell() -> None:
    """FINAL is sent at once."""
    (dead,) = cells("import os\nFINAL('kept')\nos._exit(0)")
    assert (dead.status, dead.answer) == ("died", Answer("text", b"kept"))


def test_fork_in_a_cell_answers_once() -> None:
    """The child comes back from the cell too; only its parent is the kernel."""
    first, second = cells("import os\npid = os.fork()\nif pid: os.waitpid(pid, 0)\nprint('here')", "pid > 0")
    assert (shown(first), shown(second)) == ("here\nhere\n", "True\n")


def test_the_deadline_interrupts_and_keeps_variables() -> None:
    """SIGINT, not a restart."""

    async def main() -> tuple[StepResult, str]:
        async with kernel() as k:
            return await k.run("x = 1\nwhile True: x += 1", timeout=0.2), await k.out("x > 1")

    stopped, after = run(main)
    assert (stopped.status, stopped.restarted, after) == ("timeout", "", "True\n")
    assert "KeyboardInterrupt" in stopped.error


@pytest.mark.parametrize(
    "code",
    [
        "import time\nwhile True:\n  try: time.sleep(0.01)\n  except BaseException: pass",
        "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: pass",
        "sum(range(10**12))",
    ],
)
def test_a_cell_that_does_not_stop_is_killed(code: str) -> None:
    """The second rung: a new process, and the model is told."""

    async def main() -> tuple[StepResult, str]:
        async with kernel(patience=QUICK) as k:
            return await k.run(code, timeout=0.2), await k.out("context[:4]")

    killed, after = run(main)
    assert (killed.status, after) == ("timeout", "'line'\n")
    assert "longer than 0.2 s and was interrupted; it did not stop" in killed.restarted


@pytest.mark.parametrize("code", ["while True: pass", "llm_query('never')", "sum(range(10**12))"])
def test_cancelling_interrupts_and_leaves_the_client_usable(code: str) -> None:
    """In a loop, while waiting for a sub-call, and where only killing helps."""

    class Never(FakeHost):
        async def answer(self, call: Any, deliver: Any) -> None:
            self.calls.append(call)
            await asyncio.Event().wait()

    async def main() -> str:
        async with kernel(patience=QUICK, host=Never()) as k:
            seen = asyncio.Event()
            cell = asyncio.create_task(k.run("print('started', flush=True)\n" + code, on_output=lambda *_: seen.set()))
            await seen.wait()
            cell.cancel()
            with pytest.raises(asyncio.CancelledError):
                await cell
            return shown(await k.run("2 + 2"))

    assert run(main) == "4\n"


@pytest.mark.parametrize(
    ("code", "kept"), [("while True: pass", True), ("llm_query('never')", True), ("sum(range(10**12))", False)]
)
def test_an_interrupted_cell_hands_over_what_it_did(code: str, kept: bool) -> None:
    """Output and answer so far, also when only killing helped; calls are given up and none is made any more."""

    class Never(FakeHost):
        async def answer(self, call: Any, deliver: Any) -> None:
            self.calls.append(call)
            await asyncio.Event().wait()

    host = Never()
    before = "x = 5\nFINAL('so far')\nprint('started', flush=True)\n"

    async def main() -> tuple[StepResult, StepResult]:
        async with kernel(patience=QUICK, host=host) as k:
            seen = asyncio.Event()
            cell = asyncio.create_task(k.run(before + code, on_output=lambda *_: seen.set()))
            await seen.wait()
            k.client.interrupt()
            return await cell, await k.run("x")

    result, following = run(main)
    assert (result.status, result.answer, shown(result)) == ("interrupted", Answer("text", b"so far"), "started\n")
    assert (bool(result.restarted), following.status) == (not kept, "ok" if kept else "error")
    assert len(host.calls) <= 1


class Absent(FakeHost):
    """Never answers "never"; a call for another prompt is answered once such a one has come. `left`: those in hand."""

    def __init__(self) -> None:
        super().__init__(gather=2)
        self.left = 0

    async def answer(self, call: Any, deliver: Any) -> None:
        if call.prompts != ("never",):
            return await super().answer(call, deliver)
        self.calls.append(call)
        self.left += 1
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)  # what a call has to put in order when it is cancelled
            self.left -= 1


LEAVES = """\
import threading
def ask():
    try:
        llm_query("never")
    except Exception as error:
        print("failed:", error)
threading.Thread(target=ask).start()
llm_query("is it there?")
"""


def test_calls_that_nobody_waits_for_end_with_the_cell() -> None:
    """A thread asks, and the cell returns, submits or raises: nothing waits for ever, the host has finished with the
    call when the result is there, the result counts it, and the thread is told. A cell that waits loses nothing."""
    host = Absent()

    async def main() -> list[StepResult]:
        async with kernel(patience=QUICK, host=host) as k:
            results = []
            for ending in ("", "FINAL('early')", "1 / 0"):
                host.calls.clear()
                host._gathered.clear()
                results.append(await k.run(LEAVES + ending))
                assert host.left == 0
            waits = "t = threading.Thread(target=lambda: print(llm_query('x')))\nt.start()\nt.join()"
            return [*results, await k.run(waits)]

    *left, waited = run(main)
    assert [(result.status, result.given_up, bool(result.restarted)) for result in left] == [
        ("ok", 1, False),
        ("ok", 1, False),
        ("error", 1, False),
    ]
    assert left[1].answer == Answer("text", b"early")
    # A thread of the cell before may say that it failed while this one runs already.
    assert ("X\n" in shown(waited), waited.given_up) == (True, 0)
    assert "failed: " in "".join(result.late + shown(result) for result in (*left, waited))


def test_waiting_for_sub_calls_does_not_count() -> None:
    """The clock stands while the host works, however long it takes."""

    class Slow(FakeHost):
        async def answer(self, call: Any, deliver: Any) -> None:
            await asyncio.sleep(0.6)
            await super().answer(call, deliver)

    async def main() -> StepResult:
        async with kernel(host=Slow()) as k:
            return await k.run("llm_query('a')", timeout=0.3)

    assert run(main).status == "ok"


def test_a_bug_of_the_host_ends_the_cell_and_is_raised() -> None:
    """An exception in Host.answer is not swallowed by the model's own try/except."""

    class Broken(FakeHost):
        async def answer(self, call: Any, deliver: Any) -> None:
            raise ZeroDivisionError("a bug")

    async def main() -> str:
        async with kernel(host=Broken()) as k:
            with pytest.raises(ZeroDivisionError, match="a bug"):
                await k.run("try: llm_query('x')\nexcept Exception: pass\nwhile True: pass")
            return await k.out("'alive'")

    assert run(main) == "'alive'\n"


@pytest.mark.parametrize(
    "frame",
    [
        r"b'w\xff\xff\xff\xff'",
        "b'w' + (16 * 2**20 + 2**16 + 5).to_bytes(4, 'big')",
        r"b'z\x00\x00\x00\x00'",
        r"b'w\x00\x00\x00\x04\xff\xff\xff\xff'",
        r"b'w\x00\x00\x00\x06\x00\x00\x00\x02{}'",
        r"b'd\x00\x00\x00\x06\x00\x00\x00\x02[]'",
        "frame(b'[' * 50000)",
        "frame(b'{\"op\":' + b'9' * 5000 + b'}')",
        'frame(b\'{"op":"call","id":1,"cell":1,"kind":"llm","model":"","count":9007199254740991}\')',
    ],
)
def test_forged_frames_cost_the_worker_only(frame: str) -> None:
    """A cell writes to the kernel's own pipe: its process is replaced, and the run goes on."""
    code = (
        "import os, time\n"
        "def frame(h): return b'w' + (len(h) + 4).to_bytes(4, 'big') + len(h).to_bytes(4, 'big') + h\n"
        f"os.write(201, {frame})\ntime.sleep(30)"
    )
    bad, after = cells(code, "'next'")
    assert (bad.status, shown(after)) == ("died", "'next'\n")
    assert "every variable is gone" in bad.restarted


def test_an_order_to_kill_a_worker_does_not_reach_the_next_one(tmp_path: Path) -> None:
    """Host and supervisor find a bad frame each at the same time: one worker dies of it, and the run goes on."""
    gone = threading.Event()

    class Late(PipeChannel):
        """Has an order to kill arrive only when another worker is there."""

        def read(self) -> bytes:
            data = super().read()
            if b'"status":-9' in data:
                gone.set()
            return data

        def write(self, data: bytes) -> None:
            if data.startswith(b"K"):
                assert gone.wait(30)
            super().write(data)

    async def main() -> tuple[StepResult, StepResult]:
        client = KernelClient(Late())
        try:
            await client.start()
            await client.attach(write_index(tmp_path, {"doc": b"x"}), None, 1 << 26, FakeHost())
            bad = r"b'w\x00\x00\x00\x06\x00\x00\x00\x02[]' + b'garbage'"
            first = await client.execute(f"import os, time\nos.write(201, {bad})\ntime.sleep(30)", timeout=60)
            return first, await client.execute("'next'", timeout=60)
        finally:
            await client.close()

    died, after = run(main)
    assert (died.status, after.status, after.restarted, shown(after)) == ("died", "ok", "", "'next'\n")
    assert gone.is_set()


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs /proc")
def test_the_supervisor_holds_the_largest_frame_once() -> None:
    """PID 1 shares the container's memory with the code: 16 MiB of prompts in one call, which it passes on."""
    host = FakeHost(lambda prompt: str(len(prompt)))

    async def main() -> tuple[int, str]:
        async with kernel(host=host) as k:
            status = Path(f"/proc/{k.channel.process.pid}/status")
            before = peak_kib(status)
            said = await k.out(f"print(llm_query('x' * ({wire.PROMPTS_MAX} - 4)))")
            return peak_kib(status) - before, said

    grown, said = run(main)
    assert said == f"{wire.PROMPTS_MAX - 4}\n"
    # Once, more or less: what was in use before may have been larger than what is in use beside it.
    assert wire.PROMPTS_MAX / 2 < grown * 1024 < 1.5 * wire.PROMPTS_MAX


def peak_kib(status: Path) -> int:
    return int(status.read_text().partition("VmHWM:")[2].split()[0])


FLOOD = """
import json, os, signal, time
def frame(fields):
    head = json.dumps(fields).encode()
    body = len(head).to_bytes(4, 'big') + head
    return b'w' + len(body).to_bytes(4, 'big') + body
questions = b''.join(frame({'op': 'budget', 'id': number}) for number in range(1000))
worker = os.getpid()
if not os.fork():
    os.kill(worker, signal.SIGSTOP)
    while True:
        rest = memoryview(questions)
        while rest:
            rest = rest[os.write(201, rest) :]
time.sleep(600)
"""


@pytest.mark.parametrize("most", [client.UNREAD_MAX, 1000], ids=["until the deadline", "until too much waits"])
def test_g08_questions_whose_replies_nobody_reads(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process stops its worker and asks for ever: replies would pile up in the host's memory, and the order to kill
    the worker would wait behind them. It costs the worker, and the next cell works."""
    monkeypatch.setattr(client, "UNREAD_MAX", most)

    async def main() -> tuple[StepResult, str]:
        async with kernel(patience=QUICK) as k:
            return await k.run(FLOOD, timeout=0.5 if most > 1000 else 30), await k.out("'next'")

    flooded, after = run(main)
    assert (flooded.status, after) == ("timeout" if most > 1000 else "died", "'next'\n")
    assert ("asks without reading" in flooded.restarted) == (most == 1000)


# -- sub-calls


def test_batches_keep_their_order_and_lose_nothing() -> None:
    """Replies arrive in reverse; one fails; the rest are in their places."""

    def reply(prompt: str) -> str:
        if prompt == "p3":
            raise ValueError("too hard")
        return prompt.upper()

    code = (
        "r = llm_query_batched([f'p{i}' for i in range(6)])\n"
        "print(r)\nprint([x for x in r if x], r[3].error, isinstance(r[3], FailedCall))"
    )
    (result,) = cells(code, host=FakeHost(reply))
    good = "['P0', 'P1', 'P2', 'P4', 'P5']"
    assert shown(result) == f"['P0', 'P1', 'P2', FailedCall('too hard'), 'P4', 'P5']\n{good} too hard True\n"


def test_one_failed_query_raises() -> None:
    """And the exception can be caught by name."""

    def reply(prompt: str) -> str:
        raise ValueError("no")

    (result,) = cells("try: llm_query('x')\nexcept SubcallError as e: print('caught', e)", host=FakeHost(reply))
    assert shown(result) == "caught no\n"


def test_threads_and_asyncio_call_too() -> None:
    """A pool of 40 threads stays within 16 frames at once, and uses more than one; coroutines await side by side."""
    host = FakeHost(gather=2)
    threads, coroutines = cells(
        "from concurrent.futures import ThreadPoolExecutor\n"
        "with ThreadPoolExecutor(40) as pool: r = list(pool.map(llm_query, map(str, range(200))))\n"
        "r == list(map(str, range(200)))",
        "import asyncio\nr = await asyncio.gather(*[allm_query(c) for c in 'abc'], asyncio.to_thread(llm_query, 'd'))\n"
        "r, await allm_query_batched(['x', 'y'])",
        host=host,
    )
    assert (shown(threads), shown(coroutines)) == ("True\n", "(['A', 'B', 'C', 'D'], ['X', 'Y'])\n")
    assert len(host.calls) == 205
    assert 1 < host.most_at_once <= wire.CALLS_MAX


def test_big_batches_are_split() -> None:
    """40 MB of prompts travel in several frames and come back in order; a prompt beyond reason fails by itself."""
    host = FakeHost(lambda prompt: str(len(prompt)))
    (result,) = cells(
        "r = llm_query_batched(['x' * 1000000] * 40 + [''] + ['y' * (17 << 20)])\n"
        "print(set(r[:40]), repr(r[40]), bool(r[41]))",
        "llm_query_batched([])",
        host=host,
    )[:1]
    assert shown(result) == "{'1000000'} '0' False\n"


def test_prompts_with_lone_surrogates_are_sent() -> None:
    """UTF-8 cannot carry them: they become question marks."""
    host = FakeHost()
    (result,) = cells("llm_query('a\\ud800b', model='small')", host=host)
    assert (shown(result), host.calls[0].model) == ("'A?B'\n", "small")


def test_calls_from_another_process_are_refused() -> None:
    """A forked child has nobody who reads replies."""
    (result,) = cells(
        "import multiprocessing\ndef f(n):\n  try: return llm_query('x')\n  except SubcallError as e: return str(e)\n"
        "with multiprocessing.Pool(1) as p: r = p.map(f, [1])\nr"
    )
    assert "use threads" in shown(result)


def test_recursive_calls_carry_their_context() -> None:
    """What each is to work on travels beside its prompt (see test_passing)."""
    host = FakeHost()
    cells("rlm_query('Q', context='text')\nrlm_query_batched(['a', 'b'], ['1', None])", host=host)
    assert [(call.kind, call.prompts, call.contexts) for call in host.calls] == [
        ("rlm", ("Q",), ((Value("text", "text"),),)),
        ("rlm", ("a", "b"), ((Value("text", "1"),), None)),
    ]


# -- answers


@pytest.mark.parametrize(
    ("code", "answer"),
    [
        ("FINAL('first'); FINAL('last')", Answer("text", b"last")),
        ("FINAL('kept'); 1 / 0", Answer("text", b"kept")),
        ("v = {'a': 1}\nFINAL_VAR('v')", Answer("json", b'{\n  "a": 1\n}')),
        ("FINAL_VAR('two words')", Answer("text", b"two words")),
        ("SUBMIT(answer='x')", Answer("json", b'{\n  "answer": "x"\n}')),
        ("answer['content'] = 'A'; answer['ready'] = True", Answer("text", b"A")),
        ("answer = {'content': 'B', 'ready': True}", Answer("text", b"B")),
        ("answer['content'] = 'not yet'", None),
        ("FINAL('')", Answer("text", b"")),
        ("FINAL(b'\\x00\\xff')", Answer("bytes", b"\0\xff")),
        ("FINAL('x' * (5 << 20))", Answer("text", b"x" * (5 << 20))),
    ],
)
def test_ways_to_answer(code: str, answer: Answer | None) -> None:
    """Every spelling in circulation, and a big one byte for byte."""
    (result,) = cells(code)
    assert whole(result) == answer


@pytest.mark.parametrize("code", ["FINAL = 'forty'", "del FINAL", "import sys; sys.stderr.close(); FINAL = None"])
def test_the_way_to_answer_cannot_be_lost(code: str) -> None:
    """`FINAL = value` submits nothing; the cell is told, and the next one can. A function of a cell's own stays."""
    lost, after = cells(code, "FINAL('next')")
    assert (lost.status, lost.answer, after.answer) == ("ok", None, Answer("text", b"next"))
    if "close" not in code:
        assert "FINAL is a function, to be called: FINAL(value). It was put back." in lost.stderr.head
    own, after = cells("was = FINAL\ndef FINAL(v): was(v * 2)", "FINAL('ab')")
    assert (own.stderr.total, after.answer) == (0, Answer("text", b"abab"))


def whole(result: StepResult) -> Answer | None:
    """The answer in memory, however large."""
    return result.answer and Answer(result.answer.kind, result.answer.whole())


BIG = "import itertools\nlines = (f'{n:07}\\n' for n in range(1_000_000))\n"


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("FINAL([*range(1_000_000), float('nan')])", "ValueError: Out of range float values"),
        ("v = ['x' * 100] * 20_000\nv.append(v)\nFINAL(v)", "ValueError: Circular reference detected"),
        (BIG + "FINAL(itertools.chain(lines, [object], lines, map(int, 'x')))", "ValueError: invalid literal"),
        (BIG + "def broken():\n    yield from lines\n    1 / 0\nFINAL(broken())", "ZeroDivisionError"),
        (BIG + "def twice():\n    yield from lines\n    FINAL('inner')\nFINAL(twice())", "RuntimeError: FINAL was"),
        (BIG + "def mixed():\n    yield from lines\n    yield 1\nFINAL(mixed())", "TypeError: a generator of text"),
        ("import pathlib\nFINAL(pathlib.Path('/tmp/no such file'))", "FileNotFoundError"),
    ],
)  # fmt: skip
def test_nothing_of_an_answer_that_fails_counts(code: str, error: str) -> None:
    """The cell says what was wrong; the answer before it stands, and the next one can be sent."""
    failed, after = cells("FINAL('kept')\n" + code, "FINAL('next')")
    assert (failed.status, failed.answer, after.answer) == ("error", Answer("text", b"kept"), Answer("text", b"next"))
    assert error in failed.error.splitlines()[-1]


def test_a_large_answer_is_whole() -> None:
    """From memory, a generator and a file: exactly, in a private file whose hash is known."""
    first, second, third = cells(
        BIG + "text = ''.join(lines)\nFINAL(text)",
        "FINAL(line for line in text.splitlines(True))",
        "import tempfile\nwith tempfile.NamedTemporaryFile() as f:\n    f.write(text.encode())\n    FINAL(f)",
    )
    expected = "".join(f"{n:07}\n" for n in range(1_000_000)).encode()
    for result in (first, second, third):
        assert result.answer is not None
        assert isinstance(result.answer.data, Spooled)
        assert whole(result) == Answer("text", expected)
        assert result.answer.data.sha256 == hashlib.sha256(expected).hexdigest()
        assert result.answer.data.path.stat().st_mode & 0o777 == 0o600


# -- context


def test_one_document_is_a_str() -> None:
    """Decoded, with its line ends, and measured."""

    async def main() -> tuple[ContextFacts, str]:
        async with kernel({"a.txt": b"a\r\nb\nc"}) as k:
            return k.facts, await k.out("type(context).__name__, context")

    assert run(main) == (ContextFacts("str", 1, 6, 6, 3, True, 0), "('str', 'a\\r\\nb\\nc')\n")


def test_documents_are_a_read_only_mapping() -> None:
    """The mapping's whole face, and its errors in words."""
    documents = {"b/two.log": b"beta\nerror 2\n", "a/one.log": b"alpha\nerror 1\n", "odd.txt": b"caf\xe9"}
    probes = {
        "context": "<Documents: 3 documents, 31 bytes; keys() are names>",
        "list(context), len(context)": "(['b/two.log', 'a/one.log', 'odd.txt'], 3)",
        "context['odd.txt'], 'a/one.log' in context, context.get('x', 0)": "('café', True, 0)",
        "[len(t) for t in context.values()], context.size('odd.txt')": "([13, 14, 4], 4)",
        "context.names('*.log')": "['b/two.log', 'a/one.log']",
        "context.grep('error')": "<2 matching lines>\nb/two.log:2: error 2\na/one.log:2: error 1",
        "chunks(size=8)[:2]": "['beta\\n', 'error 2\\n']",
    }
    errors = {
        "context['one.log']": "Near: 'a/one.log'",
        "context[0]": "context is a mapping from document name",
        "context['x'] = ''": "context is read-only",
    }

    async def main() -> tuple[ContextFacts, list[str], list[str]]:
        async with kernel(documents) as k:
            outputs = [await k.out(code) for code in probes]
            return k.facts, outputs, [(await k.run(code)).error for code in errors]

    facts, outputs, failures = run(main)
    assert facts == ContextFacts("documents", 3, 31, 31, 5, True, 1)
    assert outputs == [text + "\n" for text in probes.values()]
    assert all(text in failure for text, failure in zip(errors.values(), failures, strict=True))


def test_a_rebound_context_comes_back_with_a_new_worker() -> None:
    """A cell may rebind the name; a respawn has the original."""
    results = cells("context = 1", "context", "import os; os._exit(0)", "context[:4]")
    assert [shown(result) for result in results] == ["", "1\n", "", "'line'\n"]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"encoding": "klingon"}, InputError, "unknown encoding: klingon"),
        ({"encoding": "utf-7", "text_limit": 5}, InputError, "cannot be read as utf-7; convert it to UTF-8"),
    ],
)
def test_a_corpus_that_cannot_be_opened(options: dict[str, Any], error: type[Exception], message: str) -> None:
    """Said in words, at once."""
    with pytest.raises(error, match=message):
        cells("1", **options)


def test_a_missing_file_and_an_index_file(tmp_path: Path) -> None:
    """The index may be a file; a document that is not where it says is the sandbox's failure."""

    async def attach(index: bytes) -> tuple[ContextFacts, Any]:
        (tmp_path / "index").write_bytes(index)
        client = KernelClient(PipeChannel())
        try:
            await client.start()
            return await client.attach(None, str(tmp_path / "index"), 1000, FakeHost())
        finally:
            await client.close()

    facts, proof = run(lambda: attach(write_index(tmp_path, {"a": b"1", "b": b"22"})))
    with (tmp_path / "pack").open("rb") as pack:
        assert proof == ((str(tmp_path / "pack"), *wire.proof(pack.fileno(), 3)),)
    assert (facts.documents, facts.bytes) == (2, 3)
    with pytest.raises(SandboxError, match="No such file"):
        run(lambda: attach(b'["a", "/nowhere/at/all", 0, 1, "auto"]'))


# -- start and end


def test_an_interpreter_that_cannot_start_says_why() -> None:
    """The text that came instead of the boot frame is in the error."""

    async def main() -> None:
        client = KernelClient(PipeChannel(["sh", "-c", "echo 'exec: python3: not found'; exit 127"]))
        try:
            await client.start()
        finally:
            await client.close()

    with pytest.raises(SandboxError, match="before the kernel started; it said: exec: python3: not found"):
        run(main)


def test_the_kernel_ends_with_its_host() -> None:
    """At Q, and at end-of-file: nothing of it is left."""

    async def main() -> list[int]:
        codes = []
        for close in (True, False):
            channel = PipeChannel()
            client = KernelClient(channel)
            await client.start()
            if not close:
                channel._in.close()
                await asyncio.to_thread(channel.process.wait, 10)
            await client.close()
            codes.append(channel.process.returncode)
        return codes

    assert run(main) == [0, 0]


def test_a_killed_supervisor_is_an_error() -> None:
    """The place itself failed: execute says so, and so does every later call."""

    async def main() -> None:
        async with kernel() as k:
            up = asyncio.Event()
            cell = asyncio.create_task(
                k.run("print('up', flush=True)\nwhile True: pass", on_output=lambda *_: up.set())
            )
            await up.wait()
            pid = int((await asyncio.to_thread(children, k.channel.process.pid))[0])
            k.channel.process.send_signal(signal.SIGKILL)
            try:
                with pytest.raises(SandboxError, match="stopped or removed from outside"):
                    await cell
                with pytest.raises(SandboxError, match="stopped or removed from outside"):
                    await k.run("1")
            finally:
                import os

                os.kill(pid, signal.SIGKILL)

    def children(pid: int) -> list[str]:
        return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()

    run(main)
