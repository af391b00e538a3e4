"""`rlm config`: edits that leave the rest of the file alone, and commands that work on a broken one."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlm_cli.cli.config_edit import save, with_value, without
from rlm_cli.errors import ConfigError

from .conftest import Rlm

FILE = """\
# my settings
model = "a/b"   # the usual one

[limits] # caps
cost = 1
# iterations = 5
subcalls = [ # wrong type, but one value
  1,
]

[aliases]
fast = "x"
"""


def test_setting_changes_one_line() -> None:
    """Comments, order and spacing stay; a new key goes to the end of its table; a new table to the end."""
    text = with_value(FILE, ("model",), "c/d")
    text = with_value(text, ("limits", "cost"), 2.5)
    text = with_value(text, ("limits", "time"), "5m")
    text = with_value(text, ("sources", "ignore"), ["*.x"])
    text = with_value(text, ("sub_model",), "e")
    assert text == (
        '# my settings\nmodel = "c/d"   # the usual one\nsub_model = "e"\n\n[limits] # caps\ncost = 2.5\n'
        "# iterations = 5\nsubcalls = [ # wrong type, but one value\n  1,\n]\n"
        'time = "5m"\n\n[aliases]\nfast = "x"\n\n[sources]\nignore = ["*.x"]\n'
    )


def test_unsetting_takes_the_whole_value_out() -> None:
    """Several lines go when the value had several; what is not there changes nothing."""
    text = without(without(FILE, ("limits", "subcalls")), ("limits", "nothing"))
    assert text == FILE.replace("subcalls = [ # wrong type, but one value\n  1,\n]\n", "")


@pytest.mark.parametrize("text", ["limits = { cost = 1 }\n", "[limits]\n[limits.cost]\nx = 1\n"])
def test_other_spellings_are_refused_not_broken(text: str) -> None:
    """A value inside an inline table, or one that is a table, is left to the editor."""
    with pytest.raises(ConfigError) as caught:
        with_value(text, ("limits", "cost"), 2)
    assert (caught.value.message.split(" ")[0], caught.value.hint) == ("line", "rlm config edit")


def test_a_table_of_many_is_left_alone() -> None:
    """`x.y.z` is no value of `[[x.y]]`: there are several."""
    many = "[[x.y]]\nz = 1\n\n[[x.y]]\nz = 2\n"
    assert without(many, ("x", "y", "z")) == many
    for where in (("x", "y", "z"), ("x", "y")):
        with pytest.raises(ConfigError):
            with_value(many, where, 3)
    with pytest.raises(ConfigError):
        without(many, ("x", "y"))


def test_windows_line_ends_stay() -> None:
    """A file with CRLF keeps it, in the new lines too."""
    assert with_value("a = 1\r\n[t]\r\nb = 2\r\n", ("t", "c"), 3) == "a = 1\r\n[t]\r\nb = 2\r\nc = 3\r\n"


WORDS = st.text(min_size=1, max_size=8).filter(lambda text: text.isprintable() and text.isascii())
SCALARS = st.one_of(WORDS, st.integers(-9, 9), st.booleans(), st.lists(WORDS, max_size=3))


@given(st.dictionaries(WORDS, st.dictionaries(WORDS, SCALARS, max_size=3), max_size=3), WORDS, WORDS, SCALARS)
def test_any_edit_changes_that_value_and_no_other(
    document: dict[str, dict[str, object]], table: str, name: str, value: object
) -> None:
    """For any names and values, quoted or not: setting equals setting in a dictionary, and unsetting undoes it."""
    text = ""
    for header, entries in document.items():
        for key, entry in entries.items():
            text = with_value(text, (header, key), entry)
    edited = with_value(text, (table, name), value)
    before = {header: entries for header, entries in document.items() if entries}
    wanted = {**before, table: {**before.get(table, {}), name: value}}
    removed = tomllib.loads(without(edited, (table, name)))
    left = {key: entry for key, entry in wanted[table].items() if key != name}
    assert (tomllib.loads(text), tomllib.loads(edited), removed) == (before, wanted, {**wanted, table: left})


def test_saving_keeps_links_and_modes(tmp_path: Path) -> None:
    """A new file is private; a link (dotfile managers) stays a link; nothing else is left in the folder."""
    real = tmp_path / "dotfiles" / "config.toml"
    link = tmp_path / "config.toml"
    real.parent.mkdir()
    link.symlink_to(real)
    save(link, "a = 1\n")
    first = real.stat().st_mode & 0o777
    real.chmod(0o644)
    save(link, "a = 2\n")
    assert (
        first,
        real.stat().st_mode & 0o777,
        link.is_symlink(),
        real.read_text(),
        len(list(tmp_path.rglob("*"))),
    ) == (
        0o600,
        0o644,
        True,
        "a = 2\n",
        3,
    )


def test_set_get_unset(rlm: Rlm, home: Path) -> None:
    """A value that was set is what get prints and list names the origin of; unset brings the default back."""
    path = home / "config.toml"
    done = [
        rlm("config", "set", "limits.time", "90s"),
        rlm("config", "get", "limits.time"),
        rlm("config", "unset", "limits.time"),
        rlm("config", "get", "limits.time"),
    ]
    assert ([d.code for d in done], done[1].out, done[3].out, path.read_text()) == (
        [0, 0, 0, 0],
        "90s\n",
        "15m\n",
        "[limits]\n",
    )


@pytest.mark.parametrize("written", ['prices."acme/m-1.5"', "prices.acme/m-1.5"])
def test_an_entry_may_be_quoted_as_in_the_file(rlm: Rlm, home: Path, written: str) -> None:
    """`prices."acme/m-1.5"` is what `rlm help config` shows: the quotes are TOML's, and no part of the model's id."""
    done = [
        rlm("config", "set", written, "1,2"),
        rlm("config", "get", written),
        rlm("config", "get", written, "--json"),
    ]
    assert ([d.code for d in done], done[1].out) == ([0, 0, 0], "1,2\n")
    assert tomllib.loads((home / "config.toml").read_text())["prices"].keys() == {"acme/m-1.5"}
    assert "prices.acme/m-1.5 " in rlm("config", "list", "--set", f"{written}=3,4").out
    assert rlm("config", "unset", written).code == 0
    assert rlm("config", "get", written).code == 2


def test_d05_secrets_in_a_config_file_are_masked(rlm: Rlm, home: Path) -> None:
    """A password in a URL, an option that is a key: in every listing, in JSON, and when they are set. Positive control:
    the file has them, and an option that is none is shown."""
    said = [
        rlm("config", "set", "api.base", "https://me:hunter2-hunter2@host.example/v1"),
        rlm("config", "set", "model_options.api_key", "opaque-hunter2"),
        rlm("config", "set", "model_options.top_p", "0.5"),
        rlm("config", "list"),
        rlm("config", "list", "--json"),
        rlm("config", "get", "api.base"),
        rlm("config", "get", "model_options"),
        rlm("config", "get", "model_options.api_key", "--json"),
    ]
    text = "".join(done.out + done.err for done in said)
    assert ({done.code for done in said}, "hunter2" in text) == ({0}, False)
    assert ("https://[key]@host.example/v1" in text, "api_key=[key]" in text, "0.5" in text) == (True, True, True)
    assert (home / "config.toml").read_text().count("hunter2") == 3


def test_list_as_json_has_value_and_origin(rlm: Rlm, home: Path) -> None:
    """Scripts see each value with the kind and place of its origin."""
    rlm("config", "set", "limits.cost", "0.25")
    rlm("config", "set", "aliases.fast", "x/y")
    settings = json.loads(rlm("config", "list", "--json").out)["settings"]
    place = f"{home / 'config.toml'}:2"
    assert (settings["limits.cost"], settings["limits.depth"], settings["aliases.fast"]["value"]) == (
        {"value": 0.25, "origin": "user", "place": place},
        {"value": 1, "origin": "default", "place": ""},
        "x/y",
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("set", "limits.cots", "1"), "did you mean 'limits.cost'?"),
        (("set", "limits.cost", "much"), "limits.cost: 'much' is not an amount in dollars"),
        (("set", "aliases", "x"), "rlm config set aliases.NAME VALUE"),
        (("set", "run.debug", "true"), "use --debug or RLM_DEBUG"),
        (("set", "--project", "sandbox.image", "x"), "may not be set by a project"),
        (("get", "aliases.none"), "aliases.none is not set"),
        (("get", "nonsense"), "unknown key 'nonsense'"),
    ],
)
def test_what_cannot_be_set_is_said(rlm: Rlm, home: Path, words: tuple[str, ...], said: str) -> None:
    """Exit 2, a reason, and no file written."""
    done = rlm("config", *words)
    assert (done.code, said in done.err, home.exists(), Path("rlm.toml").exists()) == (2, True, False, False), done.err


def test_project_files_are_written_where_they_are_read(rlm: Rlm) -> None:
    """`config set --project` writes the rlm.toml that the next command obeys."""
    rlm("config", "set", "--project", "limits.cost", "0.5")
    assert (rlm("config", "get", "limits.cost").out, Path("rlm.toml").read_text()) == (
        "0.50\n",
        "[limits]\ncost = 0.5\n",
    )


def test_a_broken_file_stops_runs_but_not_its_repair(rlm: Rlm, home: Path) -> None:
    """list exits 2 and names the line; path, validate and edit still work, and set refuses to write into it."""
    home.mkdir()
    path = home / "config.toml"
    path.write_text("[limits\n")
    codes = {words: rlm("config", *words.split()).code for words in ("list", "path", "validate", "set model x")}
    said = rlm("config", "list").err
    assert (codes, f"{path}:1: not valid TOML" in said, path.read_text()) == (
        {"list": 2, "path": 0, "validate": 2, "set model x": 2},
        True,
        "[limits\n",
    )


def test_validate_names_every_problem(rlm: Rlm, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Problems of files and variables at once; a good configuration is said to be valid."""
    good = rlm("config", "validate")
    monkeypatch.setenv("RLM_MAX_COST", "much")
    rlm("config", "set", "limits.dept", "1")
    bad = rlm("config", "validate", "--set", "limits.time=soon")
    assert (good.code, good.out, bad.code, bad.err.count("error: ")) == (0, "valid\n", 2, 2)


def test_reading_settings_writes_nothing(rlm: Rlm, home: Path) -> None:
    """Defaults are never written into the user's file: after list, get, path and validate there is none."""
    for words in (("list",), ("get", "model"), ("path",), ("validate",)):
        rlm("config", *words)
    assert not home.exists()
