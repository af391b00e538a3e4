"""The functions a cell can call. Each name here is promised to the model by the system prompt."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from . import search
from .answers import Answer, Answers
from .calls import FailedCall, SubcallError, check_prompt
from .display import variables
from .wire import SCHEMA_CHARS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any, NoReturn

    from .calls import Calls
    from .context import Index
    from .evidence import Quote
    from .linenumbers import LineNumbering
    from .pieces import Piece
    from .readers import CsvRows, JsonRows


class Helpers:
    """Their state: who sends calls, who sends answers, and the namespace they are in."""

    def __init__(self, calls: Calls, answers: Answers, namespace: dict[str, Any]) -> None:
        self._calls = calls
        self._answers = answers
        self._namespace = namespace
        self._context: Any = ""
        self._originals: dict[str, Any] = {}
        self._line_numbering: LineNumbering | None = None
        self._index: Index | None = None

    def install(self, context: Any, index: Index | None = None) -> None:
        """Put everything into the namespace."""
        self._context = context
        self._index = index
        functions = [getattr(self, name) for name in FUNCTIONS]
        self._originals = {function.__name__: function for function in functions}
        self._originals.update(
            context=context, answer=Answer(self._answers), SubcallError=SubcallError, FailedCall=FailedCall, exit=leave,
            quit=leave,
        )  # fmt: skip
        self._namespace.update(self._originals)

    def variables(self) -> list[str]:
        return variables(self._namespace, self._originals)

    def put_back(self) -> None:
        """`FINAL = value` submits nothing, and would leave a run without a way to answer. A function of a cell's own
        under these names stays."""
        for name in ANSWERS:
            if not callable(self._namespace.get(name)):
                self._namespace[name] = self._originals[name]
                try:
                    sys.stderr.write(f"[kernel] {name} is a function, to be called: {name}(value). It was put back.\n")
                except Exception:  # a cell may have closed or replaced it
                    pass

    def submit_plain_answer(self) -> None:
        """`answer = {"content": ..., "ready": True}` replaces our object; it is meant all the same."""
        answer = self._namespace.get("answer")
        if type(answer) is dict and answer.get("ready") is True and "content" in answer:
            self._answers.submit(answer["content"])

    def __reduce__(self) -> NoReturn:
        raise TypeError("this function works only in the cell's own process; use threads (ThreadPoolExecutor)")

    # -- asking models

    def llm_query(self, prompt: str, model: str | None = None, schema: Any = None) -> Any:
        """Ask a sub-model. Returns its reply; raises SubcallError when the call fails.

        `schema`: what the reply must be: a JSON Schema (dict), or Python types such as list[str], dict[str, int],
        typing.Literal["yes", "no"], {"name": str, "year": int}. Then it returns the parsed value; a reply that does not
        satisfy it is asked for again, at most twice, with the reason; then the error has the last `.reply`.

            llm_query("Which people does this name?\\n" + passage, schema=list[str])
            llm_query(question, schema={"type": "object", "properties": {"year": {"type": "integer", "minimum": 1900}}})
        """
        return only(self._answered([check_prompt(prompt, name="llm_query")], model, schema))

    def llm_query_batched(self, prompts: Iterable[str], model: str | None = None, schema: Any = None) -> list[Any]:
        """Ask a sub-model many prompts at once, concurrently. Returns the replies in the same order.

        A call that failed leaves a `FailedCall` in its place: it is false, and `.error` says why. Good ones only:
        `[r for r in replies if r]`. `schema`: as in llm_query, for each reply; a parsed 0, [] or {} is false too, so
        then `[r for r in replies if not isinstance(r, FailedCall)]`.

            found = llm_query_batched([question + p for p in chunks(context, 50_000)], schema=list[str])
        """
        return self._answered(check_prompts(prompts, name="llm_query_batched"), model, schema)

    async def allm_query(self, prompt: str, model: str | None = None, schema: Any = None) -> Any:
        """llm_query for `await`."""
        return only(await self._answered_async([check_prompt(prompt, name="allm_query")], model, schema))

    async def allm_query_batched(
        self, prompts: Iterable[str], model: str | None = None, schema: Any = None
    ) -> list[Any]:
        """llm_query_batched for `await`."""
        return await self._answered_async(check_prompts(prompts, name="allm_query_batched"), model, schema)

    def _answered(self, prompts: list[str], model: str | None, schema: Any) -> list[Any]:
        if schema is None:
            return self._calls.ask("llm", prompts, model)
        from .json_replies import ask_for_values

        asking = ask_for_values(prompts, schema)
        try:
            asked = next(asking)
            while True:
                asked = asking.send(self._calls.ask("llm", asked, model))
        except StopIteration as done:
            values: list[Any] = done.value
            return values

    async def _answered_async(self, prompts: list[str], model: str | None, schema: Any) -> list[Any]:
        if schema is None:
            return await self._calls.ask_async("llm", prompts, model)
        from .json_replies import ask_for_values

        asking = ask_for_values(prompts, schema)
        try:
            asked = next(asking)
            while True:
                asked = asking.send(await self._calls.ask_async("llm", asked, model))
        except StopIteration as done:
            values: list[Any] = done.value
            return values

    def map_query(
        self, items: Iterable[Any], instruction: str, schema: Any = None, *, model: str | None = None, until: Any = None
    ) -> list[Any]:
        """Ask a sub-model the same about every item, many items to a prompt. Returns a list: a value for each item.

        `items`: any iterable of str, pieces of `chunks`, hits of `grep`, dicts (anything JSON) or (name, item); or a
        mapping. A generator is read as prompts go out and never held. Items that are the same are asked once.
        `instruction`: what to do with one item. `schema`: what its value must be, as in llm_query; else any JSON.
        `until`: a function of a value; when it is true for one, no more is asked.

        An item whose reply is missing or wrong is asked again, in smaller packs and at last alone, at most 5 times in
        all. Where that fails, or the budget ends, is a `FailedCall` with `.error` and `.reply`; so is an item too large
        for a prompt, and one that was not asked. A list is answered whole; a generator up to the item read last. One
        line says how many values, failures and calls there are, and the price.

        Where it ends in an error (of `until`, of a generator, an interrupt), the list so far is in `map_query_partial`.

            labels = map_query(lines, "The mood of this review?", {"enum": ["good", "bad", "mixed"]})
            good = [line for line, label in zip(lines, labels) if label == "good"]
            map_query(grep("refund", limit=None), "Is a refund refused here?", {"refused": bool, "quote": str})
            map_query(chunks(context, 9000), "The killer's name, else null.", {"type": ["string", "null"]}, until=bool)
        """
        from .fanout import Fanout

        if isinstance(items, (str, bytes)) or not hasattr(items, "__iter__"):
            raise TypeError(
                "map_query(items, instruction): the items are a list, a generator or a mapping; see chunks()"
            )
        check_prompt(instruction, name="map_query")
        made = Fanout(self._calls, instruction, object if schema is None else schema, model, until)
        try:
            return made.run(items)
        except BaseException as error:
            if made.any_done:
                self._namespace[PARTIAL] = made.results
                made.say(f"{type(error).__name__}: the list so far is in the variable {PARTIAL}")
            raise

    def rlm_query(self, prompt: str, context: Any = None, schema: Any = None) -> Any:
        """Give a sub-question to a run of its own, which has a session like this one, and `context` in it. Returns the
        value that it submits; raises SubcallError when it ends without one.

        `context`: a text (a slice of `context`, a piece, any str), a list of document names, or a dict of name to
        text; without it, all of this session's. Slices of a Text, documents and names are passed without copying,
        however large. `schema`: what the value must be, as in llm_query. At the deepest level that --max-depth allows
        it is one call to the sub-model, like llm_query, which sees the prompt and the given text.

            half = len(context) // 2
            rlm_query("How many orders failed?", context[:half], int)
            rlm_query("Which of these contracts renew by themselves?", context.names("2024/*"), list[str])
        """
        return only(self._rlm([check_prompt(prompt, name="rlm_query")], [context], schema, "rlm_query"))

    def rlm_query_batched(
        self, prompts: Iterable[str], contexts: Sequence[Any] | None = None, schema: Any = None
    ) -> list[Any]:
        """Many rlm_query at once, in parallel, in order; `contexts`, when given, has one for each prompt. A failed one
        is a `FailedCall`, as in llm_query_batched."""
        asked = check_prompts(prompts, name="rlm_query_batched")
        given = [None] * len(asked) if contexts is None else list(contexts)
        if len(given) != len(asked):
            raise ValueError(f"rlm_query_batched: {len(asked)} prompts but {len(given)} contexts")
        return self._rlm(asked, given, schema, "rlm_query_batched")

    def _rlm(self, prompts: list[str], contexts: list[Any], spec: Any, name: str) -> list[Any]:
        from .passing import Passing

        passing = Passing(self._context, self._index)
        passed = [passing.describe(context, name=name) for context in contexts]
        if spec is None:
            return self._calls.ask_children(prompts, passed)
        from .json_replies import ask_children_for_values
        from .schemas import Schema

        schema = Schema(spec)
        if len(schema.text) > SCHEMA_CHARS:
            raise ValueError(
                f"{name}: a schema of {len(schema.text):,} characters; at most {SCHEMA_CHARS:,} can go along"
            )

        def ask(indexes: Sequence[int], asked: Sequence[str]) -> list[Any]:
            return self._calls.ask_children(asked, [passed[index] for index in indexes], schema.text)

        return ask_children_for_values(ask, prompts, schema)

    # -- answering

    def FINAL(self, value: Any, evidence: Any = None) -> None:  # noqa: N802 - the paper's name
        """Submit the answer to the question: text, bytes, or anything JSON can hold. The last one counts.

        It may be of any size, and need not fit in memory: a Path (or an open file) stands for what is in the file, a
        generator of text or bytes for what it yields, put together.

        `evidence`: quotes from `context`, word for word, that show it. Each is looked up there and given to the reader
        with its place. A list of: str, matches of `grep`, pieces of `chunks`, lines of `draw_sample`,
        (document, start, end), {"document": name, "quote": text}.

            FINAL("41 s", evidence=[hit, "took 41 s", ("b.log", p, p + 60)])
        """
        self._answers.submit(value, self._quotes(evidence))

    def cite(self, source: Any, start: int | None = None, end: int | None = None) -> None:
        """Note evidence for the answer, which may be submitted later: what FINAL takes as `evidence`, one or a list; or
        characters [start, end) of a text or of the document of this name.

            cite(hit); cite("took 41 s"); cite("b.log", p, p + 60)
        """
        if start is None and end is None:
            self._answers.note(self._quotes(source))
        else:
            from .evidence import quote

            self._answers.note([quote(source, start, end, self._context, self._alone(), "cite")])

    def _quotes(self, evidence: Any) -> list[Quote]:
        if evidence is None:
            return []
        from .evidence import quotes

        return quotes(evidence, self._context, self._alone())

    def _alone(self) -> str:
        """The name of the only document: to the code it is just `context`, but the code has read its name."""
        return str(self._index.names[0]) if self._index is not None and len(self._index) == 1 else ""

    def FINAL_VAR(self, name: Any, evidence: Any = None) -> None:  # noqa: N802
        """Submit the variable of this name (a value is taken too)."""
        if isinstance(name, str):
            key = name.strip().strip("\"'")
            if key in self._namespace:
                name = self._namespace[key]
            elif key.isidentifier():
                raise NameError(f"FINAL_VAR: no variable is named {key!r}; SHOW_VARS() lists them")
        self.FINAL(name, evidence)

    def SUBMIT(self, *values: Any, **fields: Any) -> None:  # noqa: N802
        """FINAL by another name; keyword arguments are submitted as a dict."""
        if fields:
            self._answers.submit(fields)
        else:
            self._answers.submit(values[0] if len(values) == 1 else list(values))

    # -- looking

    def SHOW_VARS(self) -> None:  # noqa: N802
        """Print your variables: name, type, size."""
        print("\n".join(self.variables()) or "(no variables yet)")

    def help(self, thing: Any = None) -> None:
        """Print what a function or class is for and how it is called; without one, which functions there are."""
        import inspect
        import pydoc

        if thing is None:
            print("help(name) for one of:", ", ".join(FUNCTIONS))
        elif getattr(thing, "__self__", None) is self:
            call = inspect.signature(thing)
            plain = [parameter.replace(annotation=parameter.empty) for parameter in call.parameters.values()]
            call = call.replace(parameters=plain, return_annotation=call.empty)
            print(f"{thing.__name__}{call}\n\n{inspect.getdoc(thing)}")
        else:
            print(pydoc.plain(pydoc.render_doc(thing)))

    def budget(self) -> dict[str, Any]:
        """What remains of the run's limits (None: unlimited or unknown); `limit`: the one that was reached.

        `subcall_chars`: the characters that one sub-call takes.
        """
        return self._calls.budget()

    def grep(self, pattern: Any, text: Any = None, **options: Any) -> search.Hits:
        return search.grep(pattern, self._or_context(text), **options)

    def chunks(
        self, text: Any = None, size: int | None = None, overlap: int = 0, by: Any = None, count: int | None = None
    ) -> Any:
        r"""Split a text into pieces of at most `size` characters (100,000), of whole lines where possible.

        `text`: a str, a Text or a mapping of name to such; without it, `context`. Gives a list for a str, else a lazy
        sequence (`for`, len, [i], slices). A piece is a str that has `.start`, `.end` (text[p.start:p.end] == p) and
        `.document` (its name in a mapping). Nothing is lost: without overlap, the pieces join to the text.

        `by`: what is kept whole: "lines", "paragraphs" (between blank lines), or records: a regular expression (str or
        compiled) that matches where each of them begins. One that is longer than `size` is cut, if possible at a line
        end. `count`: at most so many lines or records a piece; `size` is then unlimited unless given. `overlap`:
        characters that a piece repeats of the one before it.

            chunks(context, 50_000)                           # whole lines, packed
            chunks(context, count=500)                        # 500 lines each
            chunks(context, 50_000, by=r"^\d{4}-\d\d-\d\d")   # whole log entries with their stack traces, packed
            chunks(context, 50_000, by=r"^#+ ")               # Markdown sections
            chunks(context, by=r"^From ", count=1)            # one mail each
        """
        from .pieces import chunks

        return chunks(self._or_context(text), size, overlap, by, count)

    def draw_sample(self, text: Any = None, n: int = 20, *, seed: int = 0, by: Any = None) -> list[Piece]:
        """`n` lines drawn at random, spread evenly over a text, in its order: for a first look and for estimates.

        `text`: a str, a Text or a mapping of name to such (more lines from larger documents); without it, `context`.
        Every line has the same chance (in a Text: nearly), and the same `seed` gives the same lines; fewer than `n`
        only where the text has fewer, or very long ones. Gives a list of str without line ends that have `.start`,
        `.end` and, in a mapping, `.document`. `by` draws paragraphs or records, as in `chunks`. Of a record longer than
        30,000 characters, it is the part around the place drawn.

            for line in draw_sample(context, 20): print(line[:200])
            draw_sample(context, 5, by=r"^From ")             # five mails
            share = sum("ERROR" in s for s in draw_sample(context, 2000)) / 2000
        """
        from .sampling import draw_sample

        if isinstance(text, int):  # draw_sample(20)
            text, n = None, text
        return draw_sample(self._or_context(text), n, seed=seed, by=by)

    def csv_rows(
        self, text: Any = None, delimiter: str | None = None, fieldnames: Any = None, **options: Any
    ) -> CsvRows:
        """Read CSV or TSV as dicts by column, row by row, as csv.DictReader does; in a text of any size.

        `text`: a str, a Text or a mapping of name to such (one after the other, each with a header); without it,
        `context`. `delimiter`: one of , ; tab | by itself; `fieldnames`: the columns, when the first row does not have
        them; `options`: those of csv.reader. Quoted fields may hold line ends. Values are str.

        Gives an iterator with `.fieldnames`, `.delimiter` and, of the row read last, `.document` and `.line` (where it
        ends). A row with too few or too many fields is given like DictReader gives it (None; a list under the key None)
        and counted: `.bad` says how many, `.bad_rows` holds the first 20 with `.line .error .text`.

            rows = csv_rows(context)
            total = sum(float(row["amount"] or 0) for row in rows); print(rows.fieldnames, total, rows.bad)
        """
        from .readers import CsvRows

        return CsvRows(self._or_context(text), delimiter, fieldnames, options)

    def json_rows(self, text: Any = None) -> JsonRows:
        """Read JSON Lines, or the items of one JSON array, value by value; in a text of any size.

        `text`: a str, a Text or a mapping of name to such (one after the other); without it, `context`. Gives an
        iterator over the parsed values (dicts, mostly) with, of the value read last, `.document`, `.line` (its line's
        number; not in an array) and `.start` (where it begins in the text). A line that is not JSON is left out and
        counted: `.bad` says how many, `.bad_rows` holds the first 20 with `.line .error .text`. Raises ValueError
        where an array breaks off.

            rows = json_rows(context)
            kinds = Counter(row.get("type") for row in rows); print(kinds, rows.bad)
        """
        from .readers import JsonRows

        return JsonRows(self._or_context(text))

    def line_of(self, place: Any, text: Any = None) -> int:
        """The number, from 1, of the line that a place is in: to cite it.

        `place`: an offset in the text, or what has one in `.start`: a piece of `chunks`, a line of `draw_sample`, a
        match of `re`. `text`: the text it is in; without it, `context`, or the document of it that the piece is from.

            for p in found: print(f"{p.document}:{line_of(p)}", p[:200])
        """
        from .linenumbers import LineNumbering

        text = self._or_context(text)
        if isinstance(text, Mapping):
            text = text[getattr(place, "document", None)]
        if self._line_numbering is None:
            self._line_numbering = LineNumbering()
        return self._line_numbering.line_of(place, text)

    def estimate_tokens(self, text: Any = None) -> int:
        """About how many tokens a text is for a language model, without a tokenizer; a huge one is told by samples.

        `text`: a str, a Text or a mapping of name to such (the sum); without it, `context`. Within 25 % of OpenAI's
        cl100k_base for prose in most scripts, code, logs, CSV and JSON (base64: 30 %); other tokenizers differ by
        about as much. Takes milliseconds, whatever the size.

            short = [p for p in passages if estimate_tokens(p) < 8_000]
        """
        from .tokens import estimate_tokens

        return estimate_tokens(self._or_context(text))

    def _or_context(self, text: Any) -> Any:
        return self._context if text is None else text

    def grep_count(self, pattern: Any, text: Any = None, **options: Any) -> Any:
        return search.grep_count(pattern, self._or_context(text), **options)

    grep.__doc__ = search.grep.__doc__
    grep_count.__doc__ = search.grep_count.__doc__


PARTIAL = "map_query_partial"
"""The variable that holds what a map_query that raised has done."""

FUNCTIONS = (
    "llm_query", "llm_query_batched", "map_query", "allm_query", "allm_query_batched", "rlm_query", "rlm_query_batched",
    "FINAL", "FINAL_VAR", "SUBMIT", "cite", "SHOW_VARS", "budget", "grep", "grep_count", "chunks", "draw_sample",
    "csv_rows", "json_rows", "line_of", "estimate_tokens", "help",
)  # fmt: skip


ANSWERS = ("FINAL", "FINAL_VAR", "SUBMIT")


def leave(code: object = None) -> NoReturn:
    """End this cell. The kernel and its variables live on."""
    raise SystemExit(code)


leave.__name__ = leave.__qualname__ = "exit"


def only(replies: list[Any]) -> Any:
    reply = replies[0]
    if isinstance(reply, FailedCall):
        error = SubcallError(reply.error)
        error.reply = reply.reply
        raise error
    return reply


def check_prompts(prompts: Iterable[str], *, name: str) -> list[str]:
    if isinstance(prompts, (str, bytes)):
        raise TypeError(f"{name} takes a list of prompts; for one prompt use {name.replace('_batched', '')}")
    return [check_prompt(prompt, name=name) for prompt in prompts]
