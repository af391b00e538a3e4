"""One recorded run with everything in it: four steps, sub-calls, failures, a retry, a restart and hostile text."""

from __future__ import annotations

from collections.abc import Callable

from rlm_cli.events import (
    Bus,
    CallFinished,
    CallRetried,
    Calls,
    CallStarted,
    CodeWritten,
    Cost,
    ErrorInfo,
    Event,
    KernelRestarted,
    Listener,
    ModelPair,
    ModelText,
    Output,
    OutputText,
    PromptSet,
    Result,
    RoleUsage,
    RunFinished,
    RunStarted,
    SandboxInfo,
    SandboxReady,
    Skipped,
    SourcesFacts,
    Span,
    StepFinished,
    StepStarted,
    Timing,
    Totals,
    Usage,
    Warned,
)

RUN_ID = "20261120-153012-a1b2c3"
HOSTILE = "\x1b]52;c;cHduZWQ=\x07\x1b[2J\x9b1A \u202egnp.exe [bold red]markup[/x] :smile:\r"
FACTS = SourcesFacts(1284, 412_000_000, 103_000_000, Skipped(ignored=22, binary=9, hidden=6))

LOOK = "names = list(context)\nprint(len(names), 'documents')\nfor name in names:\n    print(name)\n"
ASK = (
    "pieces = [p for name in context.grep(r'charge') for p in chunks(context[name], 60_000)]\n"
    "answers = llm_query_batched([f'List every customer charged twice, as JSON:\\n\\n{p}' for p in pieces])\n"
    "print(sum(a.ok for a in answers), 'ok')\n"
)
SUM = "total = Counter(a.json() for a in answers)\n"
SUBMIT = "from collections import Counter\nFINAL(total)\n"


class Recorder:
    """Emits the run step by step, on a clock that moves only when it is told to."""

    def __init__(self, *listeners: Listener) -> None:
        self.now = 1_795_188_612.0
        self._bus = Bus(listeners, clock=lambda: self.now)
        self._usd = 0.0
        self._calls = Calls()
        self._usage = RoleUsage()

    def emit(self, event: Event, *, after: float = 0.0, span: Span | None = None) -> None:
        self.now += after
        self._bus.emit(event, span or Span())

    def totals(self) -> Totals:
        return Totals(self._calls, self._usage, Cost(self._usd, True, {"acme/root-1": self._usd}), 1.0)

    def start(self, **limits: float) -> None:
        self.emit(
            RunStarted(
                RUN_ID,
                "0.1.0",
                "Which customers were\ndouble-charged?" + HOSTILE,
                ModelPair("acme/root-1", "acme/sub-1"),
                FACTS,
                {"cost": 1.0, **limits},
                ("logs/",),
                skips="rlm sources logs/ --skipped",
            )
        )
        self.emit(SandboxReady(SandboxInfo("docker", "python"), 0.8, "a mapping of 1,284 documents"), after=0.8)
        self.emit(PromptSet("Be brief." + HOSTILE, "Which customers?"))

    def ask(self, step: int, words: str, code: str, *, retry: str = "") -> None:
        """The root's turn up to its code."""
        reply = f"{words}\n\n```repl\n{code}```\n"
        self.emit(StepStarted(step))
        self.emit(CallStarted(f"r{step}", "root", "acme/root-1", "", 9000, step))
        if retry:
            self.emit(CallRetried(f"r{step}", 1, 5, 2.0, retry))
        for at in range(0, len(reply), 40):
            self.emit(ModelText(step, reply[at : at + 40]), after=0.1)
        self._finish("root", f"r{step}", Usage(5000, 200, cached=3000), 0.0061, step)
        self.emit(CodeWritten(step, reply, code))

    def sub_calls(self, step: int, count: int, *, failing: tuple[int, ...] = (), retried: tuple[int, ...] = ()) -> None:
        """All start at once, as the kernel sends a batch; each takes a tenth of a second."""
        for number in range(count):
            self.emit(CallStarted(f"s{step}.{number}", "sub", "acme/sub-1", f"List\n{HOSTILE}", 60_000, step))
        for number in retried:
            self.emit(CallRetried(f"s{step}.{number}", 1, 5, 8.0, "rate limited"))
        for number in range(count):
            self.now += 0.1
            self._finish("sub", f"s{step}.{number}", Usage(780, 20), 0.0003, step, failed=number in failing)

    def _finish(self, role: str, call: str, usage: Usage, usd: float, step: int, *, failed: bool = False) -> None:
        root, sub = (usage, Usage()) if role == "root" else (Usage(), usage)
        before = self._usage
        by_model = {**before.by_model, f"acme/{role}-1": before.by_model.get(f"acme/{role}-1", Usage()) + usage}
        self._usage = RoleUsage(before.root + root, before.sub + sub, before.total + usage, by_model)
        self._calls = Calls(self._calls.root + (role == "root"), self._calls.sub + (role == "sub"), self._calls.retries)
        self._usd += usd
        error = ErrorInfo("provider_unavailable", "503" + HOSTILE) if failed else None
        model = f"acme/{role}-1"
        real = "root" if role == "root" else "sub"
        self.emit(
            CallFinished(call, real, model, usage, usd, 0.9, 1, self.totals(), "[]", error=error, step=step)  # type: ignore[arg-type]
        )

    def output(self, step: int, text: str, *, stream: str = "stdout", total: int = 0) -> None:
        which = "stderr" if stream == "stderr" else "stdout"
        for line in text.splitlines(keepends=True):
            self.emit(OutputText(step, which, line))  # type: ignore[arg-type]
        self.emit(Output(step, which, text, total or len(text.encode())), after=0.4)  # type: ignore[arg-type]

    def finish(self) -> None:
        usage, calls = self._usage, self._calls
        self.emit(
            RunFinished(
                Result(
                    RUN_ID,
                    "ok",
                    f"Acme and Globex{HOSTILE}\n",
                    "Which customers were double-charged?",
                    0,
                    "0.1.0",
                    sources=FACTS,
                    models=ModelPair("acme/root-1", "acme/sub-1"),
                    usage=usage,
                    cost=self.totals().cost,
                    calls=calls,
                    iterations=4,
                    timing=Timing(total_s=self.now - 1_795_188_612.0),
                    warnings=("2 of 40 sub-calls failed",),
                    log_dir=f"/home/user/.local/state/rlm/runs/{RUN_ID}",
                )
            ),
            after=0.2,
        )


def _look(run: Recorder) -> None:
    run.ask(1, "I will look at what is there before reading anything: names, sizes, and one head.", LOOK)
    names = "".join(f"2026/03/{n % 28 + 1:02}/billing-{n:04}.log\n" for n in range(220))
    run.output(1, f"1284 documents\n{names}")
    run.emit(StepFinished(1, "ok", 3.1, 0.4, "..."))


def _fan_out(run: Recorder) -> None:
    run.ask(2, f"I send each piece to a sub-model.\n{HOSTILE}", ASK)
    run.sub_calls(2, 40, failing=(7, 21), retried=(3, 4))
    run.output(2, "38 ok\n")
    run.emit(StepFinished(2, "ok", 9.3, 5.1, "..."))


def _trip(run: Recorder) -> None:
    run.ask(3, "Now I add them up.", SUM)
    run.output(3, HOSTILE + "x" * 700 + "\n", stream="stderr", total=5_000_000)
    trace = "Traceback (most recent call last):\n  File ...\nNameError: name 'Counter' is not defined\n"
    run.emit(StepFinished(3, "error", 1.1, 0.0, f"It failed:\n{trace}\nTurns left: 26"))
    run.emit(KernelRestarted(f"it ran out of memory (2 GiB){HOSTILE}", 3))
    run.emit(Warned(f"2 of 40 sub-calls failed; their pieces were not read{HOSTILE}"))


def _submit(run: Recorder) -> None:
    run.ask(4, "Import it and submit.", SUBMIT, retry=f"overloaded{HOSTILE}")
    run.emit(StepFinished(4, "ok", 1.4, 0.1))


def play(*listeners: Listener, after_step: Callable[[int], object] = lambda step: None) -> None:
    """Send the whole run to `listeners`; `after_step` is called after each step's records."""
    run = Recorder(*listeners)
    run.start()
    for number, part in enumerate((_look, _fan_out, _trip, _submit), 1):
        part(run)
        after_step(number)
    run.finish()
