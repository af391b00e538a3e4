"""D: keys, and where sub-calls go."""

from __future__ import annotations

import os

from .files import WORKED
from .rows import Case, Control, probe, tested

FULL = os.environ.get("RLM_E2E") == "full"
BATCH = 1_000_000 if FULL else 20_000

ENVIRONMENT = """
print("the variable: " + ("there" if HONEY_VARIABLE in os.environ else "absent"))
print("others: " + " ".join(sorted(set(os.environ) - {"PATH", "HOME", "LANG", "HOSTNAME", "LC_CTYPE"})))
"""
SEARCH = """
import glob
secret = SECRET_BACKWARDS[::-1].encode()
places = [*glob.glob("/proc/[0-9]*/environ"), *glob.glob("/proc/[0-9]*/cmdline"), "/proc/cmdline", "/proc/mounts"]
places += [f"/proc/{pid}/environ" for pid in range(1, 40_000)]
tops = ["/etc", "/tmp", "/dev/shm", "/run", "/in", "/root", "/home", "/var", "/opt", os.path.dirname(HONEY_FILE)]
for top in [SCRATCH, *tops]:
    for folder, _, names in os.walk(top):
        places += [os.path.join(folder, name) for name in names]
seen, found = 0, set()
for path in places:
    try:
        if path.startswith("/proc") or (os.path.isfile(path) and os.path.getsize(path) < 1 << 20):
            with open(path, "rb") as file:
                data = file.read(1 << 20)
            seen += 1
            if secret in data:
                found.add("environ" if path.startswith("/proc") else "file")
    except OSError:
        pass
print("looked at many: " + str(seen > 10))
print("found: " + (" ".join(sorted(found)) or "nothing"))
"""
CHOOSE = """
for label, arguments in {
    "api_base": {"api_base": "http://127.0.0.1:1"}, "base_url": {"base_url": "http://127.0.0.1:1"},
    "api_key": {"api_key": "x"}, "headers": {"extra_headers": {}}, "provider": {"custom_llm_provider": "openai"},
}.items():
    attempt(label, lambda: llm_query("x", **arguments))
    attempt(label + " of a batch", lambda: llm_query_batched(["x"], **arguments))
"""
PROMPTS = f"""
attempt("a number", lambda: llm_query(3))
attempt("bytes", lambda: llm_query(b"x"))
attempt("a text as a batch", lambda: llm_query_batched("x"))
attempt("17 MB", lambda: llm_query("x" * (17 << 20)))
attempt("a model that is no name", lambda: llm_query("x", model="m" * 1000))
print("NUL: " + str(llm_query("a\\0b") == "a\\0b"))
print("half a surrogate: " + llm_query("a\\ud800b"))
replies = llm_query_batched(["x"] * {BATCH})
print("a huge batch: " + str(len(replies) == {BATCH} and set(replies) == {{"x"}}))
"""
DUMP = """
import resource, signal
soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
print(f"limit: {soft} {hard}")
attempt("raise it", lambda: resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY)))
os.chdir(SCRATCH)
status = in_child(os.abort)
print("aborted: " + str(os.WTERMSIG(status) == signal.SIGABRT))
pattern = open("/proc/sys/kernel/core_pattern").read().strip()
piped = pattern.startswith("|")  # then a program of the host is asked, whatever the limit
print("dumped: " + str(os.WCOREDUMP(status) and not piped))
print("files: " + " ".join(name for name in os.listdir(SCRATCH) if "core" in name))
"""

CASES = (
    Case(
        "D01",
        "print the environment",
        "PATH, HOME, LANG, HOSTNAME and nothing else",
        (
            probe(
                "print",
                ENVIRONMENT,
                {"the variable": "absent", "others": ""},
                {"the variable": "there", "others": ".*RLM_TEST_HONEY_KEY.*"},
            ),
            tested("tests/sandbox/test_container.py::test_the_environment_is_four_names", only=("docker",)),
        ),
    ),
    Case(
        "D02",
        "search every readable file, all environments and arguments for a key of the host's",
        "it is nowhere",
        (
            probe(
                "search",
                SEARCH,
                {"looked at many": "True", "found": "nothing"},
                {"looked at many": "True", "found": "environ file"},
            ),
        ),
    ),
    Case(
        "D03",
        "Docker's own configuration names a proxy with a password",
        "the engine is not asked to put it into the container",
        (
            tested(
                "tests/sandbox/test_container.py::test_the_environment_is_four_names",
                "tests/sandbox/test_profile.py::test_the_images_variables_are_taken_away_by_name",
                only=("docker",),
            ),
        ),
    ),
    Case(
        "D04",
        "a provider's error message holds the key, or an address with `?key=`",
        "masked on screen, in the record and in what the kernel is told",
        (
            tested(
                "tests/models/test_failures.py::test_known_secrets_never_show",
                "tests/models/test_failures.py::test_secrets_by_their_looks",
                "tests/models/test_provider.py::test_the_key_in_a_rejection_is_redacted",
                "tests/sources/test_http.py::test_secrets_are_not_shown",
            ),
            tested("tests/ask/test_hostile.py::test_d04_a_key_in_a_providers_error_goes_nowhere"),
        ),
    ),
    Case(
        "D05",
        "a key stands in the input or the question",
        "what is recorded follows a documented rule; a key of the configuration is masked there too",
        (tested("tests/cli/test_config_command.py::test_d05_secrets_in_a_config_file_are_masked"),),
    ),
    Case(
        "D06",
        "a bug of ours while a key is in a local variable",
        "no traceback shows local variables",
        (
            tested("tests/cli/test_boundary.py::test_a_bug_is_short_on_screen_and_whole_in_a_file"),
            tested("tests/cli/test_hostile.py::test_d06_e09_a_bug_says_nothing_that_is_secret_or_obeyed"),
        ),
    ),
    Case(
        "D07",
        "choose the provider, its address, its key or headers from a cell",
        "rejected before anything is sent: a cell names an alias, which the host resolves",
        (
            probe(
                "arguments",
                CHOOSE,
                {
                    label + batch: "TypeError"
                    for label in ("api_base", "base_url", "api_key", "headers", "provider")
                    for batch in ("", " of a batch")
                },
                why="a call without them succeeds in D08",
            ),
            tested(
                "tests/test_engine.py::test_sub_calls_may_only_name_roles_and_aliases",
                "tests/kernel/test_arguments.py::test_d07_d08_arguments_are_checked_before_any_call",
            ),
        ),
    ),
    Case(
        "D08",
        "sub-calls with something that is no text, with 17 MB, NUL, half a surrogate, very many at once",
        "a typed error, or passed on in frames of bounded size, sixteen at once; each counts before it is sent",
        (
            probe(
                "prompts",
                PROMPTS,
                {
                    "a number": "TypeError",
                    "bytes": "TypeError",
                    "a text as a batch": "TypeError",
                    "17 MB": "SubcallError",
                    "a model that is no name": "TypeError|ValueError",
                    "NUL": "True",
                    "half a surrogate": "a\\?b",
                    "a huge batch": "True",
                },
                why="the last three succeed",
            ),
            tested(
                "tests/kernel/test_kernel.py::test_big_batches_are_split",
                "tests/kernel/test_kernel.py::test_prompts_with_lone_surrogates_are_sent",
                "tests/kernel/test_kernel.py::test_threads_and_asyncio_call_too",
            ),
        ),
    ),
    Case(
        "D09",
        "look at the host from outside during a run: `ps`, `docker inspect`",
        "no key in arguments, environment or labels",
        (tested("tests/sandbox/catalogue/test_probes.py::test_nothing_secret_is_seen_from_outside"),),
    ),
    Case(
        "D10",
        "crash, to leave a core dump",
        "none is written, and the limit cannot be raised",
        (
            probe(
                "abort",
                DUMP,
                {"limit": "0 0", "raise it": "EPERM|ValueError", "aborted": "True", "dumped": "False", "files": ""},
                Control(
                    {"limit": "-1 -1|\\d+ .*|0 -1", "raise it": WORKED, "aborted": "True"},
                ),
            ),
        ),
    ),
)
