"""What the README says is what the program does."""

from __future__ import annotations

import dataclasses
import re
import tomllib

import pytest

from rlm_cli.config import KEYS, OTHER_VARIABLES
from rlm_cli.errors import ExitCode
from rlm_cli.events import Result

from .update_readme import BLOCK, README, fill, rendered, run_command

TEXT = README.read_text("utf-8")
BLOCKS = {block["command"]: block for block in BLOCK.finditer(TEXT)}
HELPS = [command for command, block in BLOCKS.items() if block["kind"] == "help"]
DEMOS = [command for command, block in BLOCKS.items() if block["kind"] == "demo"]
OURS = BLOCK.sub("", TEXT)
"""The README without what is generated."""


def section(name: str) -> str:
    found = re.search(rf"<!-- {name} -->\n(.*?)<!-- /{name} -->", TEXT, re.DOTALL)
    assert found
    return found[1]


@pytest.mark.parametrize("command", HELPS)
def test_help_texts_are_what_the_commands_print(command: str) -> None:
    """`python -m tests.update_readme` would change nothing."""
    assert BLOCKS[command][0] == rendered("help", command, run_command(command))


@pytest.mark.docker
@pytest.mark.parametrize("command", DEMOS)
def test_the_demo_is_real(command: str) -> None:
    """The demo prints what the README shows, but for times, sizes and ids: `python -m tests.update_readme demo`."""
    printed = rendered("demo", command, run_command(command))
    assert _without_measures(BLOCKS[command][0]) == _without_measures(printed)


def _without_measures(text: str) -> str:
    return re.sub(r"\d{8}-\d{6}-\w+|\d[\d.,]*( (ms|s|k|M|kB|tok)\b)*", "N", text)


def test_filling_changes_only_the_blocks() -> None:
    """Text around the blocks stays, old bodies go, and filling twice is filling once."""
    text = "a\n<!-- help: rlm x -->\nold\n<!-- /help -->\nb\n<!-- help: rlm y -->\n<!-- /help -->\n"
    expected = (
        "a\n<!-- help: rlm x -->\n```text\n$ rlm x\nsays rlm x\n```\n<!-- /help -->\n"
        "b\n<!-- help: rlm y -->\n```text\n$ rlm y\nsays rlm y\n```\n<!-- /help -->\n"
    )

    def say(command: str) -> str:
        return f"says {command}\n"

    assert fill(text, {"help"}, say) == expected == fill(fill(text, {"help"}, say), {"help"}, say)
    assert fill(text, {"demo"}, say) == text


def test_exit_codes_are_the_real_ones() -> None:
    """Every code but batch's, which has no command yet, by number and name."""
    rows = {int(code): name for code, name in re.findall(r"^\| (\d+) \| (\w+) \|", section("exit-codes"), re.MULTILINE)}
    assert rows == {code.value: code.name.lower() for code in ExitCode if code is not ExitCode.BATCH_FAILURES}


def test_json_fields_are_the_results() -> None:
    """Each field that is described exists, and each that exists is described."""
    names = {
        name for row in re.findall(r"^\| (`.*?) \|", section("json"), re.MULTILINE) for name in row.split("`")[1::2]
    }
    assert names == {field.name for field in dataclasses.fields(Result)}


def test_flags_variables_and_keys_exist() -> None:
    """No flag, RLM_ variable or configuration key of the README is one that rlm does not have."""
    helps = "".join(map(run_command, HELPS)) + run_command("rlm sources --help") + run_command("rlm config list --help")
    flags = set(re.findall(r"(?<![\w-])--[a-z][\w-]+", OURS)) - {"--since", "--from"}  # journalctl's and uvx's
    assert {flag for flag in flags if not re.search(rf"{flag}\b", helps)} == set()
    known = {key.env for key in KEYS.values()} | {name for name, _ in OTHER_VARIABLES}
    assert set(re.findall(r"\bRLM_[A-Z_]+\b", OURS)) - known == set()
    example = re.search(r"```toml\n(.*?)```", OURS, re.DOTALL)
    assert example
    tables = {key.name for key in KEYS.values() if key.many}
    assert _flat(tomllib.loads(example[1]), tables) - set(KEYS) == set()


def _flat(tables: dict[str, object], many: set[str], prefix: str = "") -> set[str]:
    names = set[str]()
    for name, value in tables.items():
        full = prefix + name
        deeper = isinstance(value, dict) and full not in many
        names |= _flat(value, many, f"{full}.") if deeper else {full}  # type: ignore[arg-type]  # checked one line up
    return names


def test_commands_in_prose_exist() -> None:
    """Every `rlm VERB` in the README is a command in `rlm --help`."""
    verbs = set(re.findall(r"^  ([a-z]+) {2,}", run_command("rlm --help"), re.MULTILINE))
    named = set(re.findall(r"(?:`|\$ |\| |--from rlm-cli )rlm ([a-z]+)\b", OURS))
    assert named and named - verbs == set()
