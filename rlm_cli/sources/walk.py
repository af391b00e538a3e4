"""One folder on disk -> the files in it that are read, and every path that is not, with the reason.

We always walk ourselves, ignored folders too (to count what is in them); inside a git work tree the verdict is
membership in git's own list. Order of judgement: version control folders never; `-g` decides alone where it matches;
hidden; ignore rules; then what kind of file it is, can it be opened, is it binary.
"""

from __future__ import annotations

import builtins
import errno
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from ..errors import InputError
from ..in_place import open_in_place
from . import Skip, SkipReason, SourceOptions, compressed, git, rules
from .arguments import quote
from .convert.formats import Format, recognise
from .encoding import HEAD, is_binary
from .rules import Level

VERSION_CONTROL = frozenset({".git", ".hg", ".svn", ".bzr", ".jj", ".pijul", "_darcs"})
"""Never read and never counted, whatever the options: nothing in them is anybody's text."""

Progress = Callable[[int, int], None]
"""Files found and their bytes, so far. It may raise to stop the walk."""

TELL_EVERY = 256
NO_GLOB: tuple[SkipReason, str] = ("ignored", "no -g glob matches")
SWAPPED = "a symbolic link that was put in its place"
LOOP = "a symbolic link that leads to itself"
UNREADABLE = ("a socket", SWAPPED, LOOP)
"""What `cat` reads no more than we do."""
BINARY = "a NUL byte in its first 64 KiB"


class Found(NamedTuple):
    """A file that is read. `below` is its name under the source, "" when the source is the file itself.

    `packed`: it is compressed, or an archive, and is to be opened; or, once it has been, its name still ends that way.
    """

    source: int
    below: str
    path: str
    size: int
    mtime_ns: int
    packed: bool = False
    archive: str = ""
    """The file on disk that it was unpacked from."""
    convert: str = ""
    """The format that it is to be converted from, or was."""


@dataclass(frozen=True)
class Place:
    """A folder to be walked: where it is, what it is called under the source, and what decides in it."""

    path: str
    below: str
    level: Level | None
    tree: git.Listing | None
    top: str = ""
    """The work tree that `tree` is of."""

    def child(self, name: str) -> Place:
        below = f"{self.below}/{name}" if self.below else name
        return Place(f"{self.path.rstrip('/')}/{name}", below, self.level, self.tree, self.top)


class UnusableError(Exception):
    """A file cannot be read; why, and in which column of the summary it belongs."""

    def __init__(self, reason: SkipReason, why: str) -> None:
        super().__init__(why)
        self.reason = reason
        self.why = why


def open_file(path: str, *, look: bool) -> tuple[os.stat_result, bytes]:
    """(status, head) of a regular file; `look`: the head is wanted. `path` is free of links. Raises `UnusableError`.

    Never blocks: a FIFO that took the file's place after it was listed is opened without waiting and refused.
    """
    try:
        fd = open_in_place(path)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise UnusableError("special", LOOP if leads_to_itself(path) else SWAPPED) from error
        if error.errno == errno.ENXIO:  # a socket, or a device that is not there
            raise UnusableError("special", kind_on_disk(path)) from error
        raise UnusableError("unreadable", error.strerror or str(error)) from error
    try:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode):
            raise UnusableError("special", kind_of(info.st_mode))
        head = os.read(fd, HEAD) if look or info.st_size == 0 else b""
    except OSError as error:
        raise UnusableError("unreadable", error.strerror or str(error)) from error
    finally:
        os.close(fd)
    if head and info.st_size == 0:
        raise UnusableError("special", "a file of the kernel, without a size")
    return info, head


def leads_to_itself(path: str) -> bool:
    """Whether there is nothing but links at the end of this one."""
    try:
        Path(path).stat()
    except OSError as error:
        return error.errno == errno.ELOOP
    return False


def is_folder(path: str) -> bool:
    """False too for what may not be looked at: opening it will say so."""
    try:
        return Path(path).is_dir()
    except OSError:
        return False


def kind_of(mode: int) -> str:
    """A file that is not regular, in words."""
    kinds = {
        stat.S_IFIFO: "a named pipe",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
        stat.S_IFLNK: "a symbolic link",
        stat.S_IFDIR: "a folder",
    }
    return kinds.get(stat.S_IFMT(mode), "not a regular file")


def kind_on_disk(path: str) -> str:
    """The same, of a path."""
    try:
        return kind_of(os.lstat(path).st_mode)
    except OSError:
        return "gone"


@dataclass
class Walk:
    """The walk of all sources of one command. `found`, `skips` and `notes` grow; each source is walked once."""

    options: SourceOptions
    env: Mapping[str, str]
    progress: Progress | None = None
    unpack: bool = False
    """Whether there is a place to open compressed files and archives in."""
    found: list[Found] = field(default_factory=list)
    skips: list[Skip] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    source: int = 0
    title: str = ""
    rules_off: bool = False
    bytes: int = 0
    seen: int = 0
    entered: set[tuple[int, int]] = field(default_factory=set)
    """Folders by identity (with -L), so that a link never leads to one a second time."""

    def __post_init__(self) -> None:
        options = self.options
        self.no_ignore = options.no_ignore or options.unrestricted >= 1
        self.hidden = options.hidden or options.unrestricted >= 2
        self.binary = options.unrestricted >= 3
        self.opens = self.unpack and options.archives
        self.converts = options.convert if self.unpack else "none"
        extra = () if self.no_ignore else options.ignore
        self.extra = rules.parse([(f"sources.ignore: {pattern}", pattern) for pattern in extra], self.note)
        self.globs = rules.parse([(f"-g {glob!r}", glob) for glob in options.globs], self.note)
        self.only_globs = any(not glob.startswith("!") for glob in options.globs)

    def note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    def document(self, name: str, head: builtins.bytes) -> Format | None:
        """The format that a file is to be converted from."""
        return recognise(name, head, self.converts)

    # -- one source -----------------------------------------------------------------------------------------------

    def file(self, path: str, *, source: int, written: str) -> None:
        """Take a file that was named on the command line, whatever it is called and holds. Raises `UnusableError`."""
        info, head = open_file(path, look=self.opens or self.converts != "none")
        packed = self.opens and compressed.recognise(written, head) is not None
        form = self.document(written, head)
        if form is not None and form.missing:
            raise UnusableError("unconverted", form.missing)
        self.take(Found(source, "", path, info.st_size, info.st_mtime_ns, packed, convert=form.name if form else ""))

    def folder(self, path: str, *, source: int, title: str) -> None:
        """Walk a folder that was named on the command line, by its real path; `title` is how it was named.

        Raises `UnusableError` when the folder itself cannot be listed.
        """
        self.source, self.title, self.rules_off = source, title.rstrip("/"), self.no_ignore
        self.entered.clear()
        links: list[Place] = []
        self._walk(self._begin(path), links, first=True)
        while links:
            self._follow(links.pop(0), links)

    def _begin(self, path: str) -> Place:
        place = self._place(path, "")
        if self.rules_off:
            return place
        rule = self._own_rule(path, place)
        if rule:
            self.rules_off = True
            self.note(f"{self.title or '/'} is itself ignored ({rule}): read with ignore rules off")
            return Place(path, "", None, None)
        return place

    def _place(self, path: str, below: str) -> Place:
        """What decides in a folder that is entered from outside: by name, by link, or as another repository."""
        if self.rules_off:
            return Place(path, below, None, None)
        top, tree = git.work_tree(path), None
        if top:
            try:
                tree = git.listing(path, top, self.env)
            except git.GitError as error:
                self.note(f"git did not list {rules.shown(path)} ({error}): its ignore files were read directly")
        level = rules.extend(None, top, (".git/info/exclude",), self.note) if top and tree is None else None
        for folder in reversed(Path(path).parents):
            inside = not top or folder.is_relative_to(top)
            level = rules.extend(level, str(folder), self._ignore_files(str(folder), tree, inside=inside), self.note)
        return Place(path, below, level, tree, top if tree else "")

    def _ignore_files(self, folder: str, tree: git.Listing | None, *, inside: bool) -> list[str]:
        """The ignore files there are in a parent of the source; `.gitignore` counts inside its work tree only."""
        names = rules.ALL_FILES if tree is None and inside else rules.OWN_FILES
        return [name for name in names if os.path.lexists(f"{folder.rstrip('/')}/{name}")]

    def _own_rule(self, path: str, place: Place) -> str:
        """The rule by which the source itself, or a folder it is in, is ignored; "" when none does."""
        if place.tree is not None and path != place.top:
            try:
                rule = git.rule_for(path, place.top, self.env)
            except git.GitError:
                rule = ""
            if rule:
                return rule
        for folder in (*reversed(Path(path).parents), Path(path)):
            verdict = _above(place.level, str(folder)).check(str(folder), folder=True)
            if verdict.ignored:
                return verdict.rule
        return ""

    # -- folders --------------------------------------------------------------------------------------------------

    def _walk(self, start: Place, links: list[Place], *, first: bool = False) -> None:
        stack = [start]
        while stack:
            place = stack.pop()
            try:
                entries = self._list(place.path)
            except OSError as error:
                if first and place is start:
                    raise UnusableError("unreadable", error.strerror or str(error)) from error
                swapped = error.errno == errno.ELOOP
                why = SWAPPED if swapped else error.strerror or ""
                self._skip(place, "special" if swapped else "unreadable", why, folder=True)
                continue
            place = self._inside(place, {entry.name for entry in entries}, start)
            for entry in entries:
                self._visit(place, entry, stack, links)

    def _list(self, path: str) -> list[os.DirEntry[str]]:
        folder = open_in_place(path)
        try:
            with os.scandir(folder) as listing:
                entries = sorted(listing, key=lambda entry: os.fsencode(entry.name))
            for entry in entries:
                entry.is_dir(follow_symlinks=False)  # where a listing does not say, it is looked up here and kept
            if self.options.follow:
                info = os.fstat(folder)
                self.entered.add((info.st_dev, info.st_ino))
        finally:
            os.close(folder)
        return entries

    def _inside(self, place: Place, names: set[str], start: Place) -> Place:
        """The place with its own ignore files, or, where another repository begins, with that one's rules."""
        if self.rules_off:
            return place
        if ".git" in names and place is not start and self._is_other_tree(place):
            place = self._place(place.path, place.below)
        files = rules.ALL_FILES if place.tree is None else rules.OWN_FILES
        present = [name for name in files if name in names]
        return replace(place, level=rules.extend(place.level, place.path, present, self.note)) if present else place

    def _is_other_tree(self, place: Place) -> bool:
        """Unless git lists files below it as the outer repository's own (a `.git` that is no repository)."""
        tree = place.tree
        return tree is None or place.path[len(tree.root.rstrip("/")) + 1 :] not in tree.folders

    def _follow(self, place: Place, links: list[Place]) -> None:
        """Walk the folder that a link leads to, unless it was walked already: that ends loops."""
        real = os.path.realpath(place.path)
        try:
            info = Path(real).stat()
        except OSError as error:
            self._skip(place, "unreadable", error.strerror or "")
            return
        if (info.st_dev, info.st_ino) in self.entered:
            self._skip(place, "special", "a link to a folder that was read already")
            return
        self._walk(self._place(real, place.below), links)

    # -- entries --------------------------------------------------------------------------------------------------

    def _visit(self, place: Place, entry: os.DirEntry[str], stack: list[Place], links: list[Place]) -> None:
        if entry.name in VERSION_CONTROL:
            return
        here = place.child(entry.name)
        is_folder = entry.is_dir(follow_symlinks=False)
        # An archive is a folder: what is in it is held against the globs.
        archive = self.opens and compressed.says_archive(entry.name)
        excluded = self._excluded(here, entry.name, is_folder, chosen=archive)
        if excluded:
            reason, rule = excluded
            self._skip(here, reason, rule, folder=is_folder, files=self._count(here.path) if is_folder else 1)
        elif is_folder:
            stack.append(self._untangled(here))
        elif entry.is_symlink():
            self._link(here, links)
        elif not entry.is_file(follow_symlinks=False):
            self._skip(here, "special", kind_on_disk(here.path))
        else:
            self._take(here, here.path)

    def _untangled(self, place: Place) -> Place:
        """Below a folder that a `!pattern` or -g brought back against git, git's list decides nothing any more."""
        tree = place.tree
        return replace(place, tree=None, top="") if tree and not tree.holds(place.path, folder=True) else place

    def _excluded(self, here: Place, name: str, folder: bool, *, chosen: bool = False) -> tuple[SkipReason, str] | None:
        """Why it is left out. `chosen`: a file that needs no -g glob that matches."""
        if self.globs.rules:
            wanted = self.globs.check(here.below, folder=folder)
            if wanted.ignored is not None:
                return None if wanted.ignored else ("ignored", wanted.rule)
            if self.only_globs and not folder and not chosen:
                return NO_GLOB
        if name.startswith(".") and not self.hidden:
            return "hidden", ""
        verdict = here.level.check(here.path, folder=folder) if here.level else rules.NO_OPINION
        if verdict.ignored is None and self.extra.rules:
            verdict = self.extra.check(here.below, folder=folder)
        if verdict.ignored is not None:
            return ("ignored", verdict.rule) if verdict.ignored else None
        if here.tree is not None and not here.tree.holds(here.path, folder=folder):
            return "ignored", ""
        return None

    def _link(self, here: Place, links: list[Place]) -> None:
        if not self.options.follow:
            self._skip(here, "special", "a symbolic link; -L follows it")
            return
        real = os.path.realpath(here.path)
        if is_folder(real):
            links.append(here)
        else:
            self._take(here, real)

    def _take(self, here: Place, path: str) -> None:
        look = self.opens and compressed.says_packed(here.below)
        try:
            info, head = open_file(path, look=look or not self.binary or self.converts != "none")
        except UnusableError as error:
            self._skip(here, error.reason, error.why)
            return
        packed = look and compressed.recognise(here.below, head) is not None
        if look and not packed and self._excluded(here, here.below.rpartition("/")[2], False) == NO_GLOB:
            self._skip(here, *NO_GLOB)
            return
        form = None if packed else self.document(here.below, head)
        if form is not None and form.missing:
            self._skip(here, "unconverted", form.missing)
            return
        if not packed and form is None and not self.binary and is_binary(head):
            self._skip(here, "binary", BINARY)
            return
        convert = form.name if form else ""
        self.take(Found(self.source, here.below, path, info.st_size, info.st_mtime_ns, packed, convert=convert))

    # -- archives -------------------------------------------------------------------------------------------------

    def excluded_inside(self, archive: str, name: str) -> tuple[SkipReason, str] | None:
        """Why the file `name` in the archive `archive` (its own name under the source) is left out; ignore files say
        nothing about it."""
        parts = name.split("/")
        chosen = bool(archive) and self.globs.check(archive, folder=False).ignored is True
        for count in range(1, len(parts) + 1):
            below = "/".join([*([archive] if archive else []), *parts[:count]])
            here = Place("", below, None, None)
            # An archive in it is a folder, too.
            opened = chosen or compressed.says_archive(name)
            excluded = self._excluded(here, parts[count - 1], count < len(parts), chosen=opened)
            if excluded:
                return excluded
        return None

    # -- counting -------------------------------------------------------------------------------------------------

    def take(self, found: Found) -> None:
        """One more file that is read."""
        self.found.append(found)
        self.bytes += found.size
        self._tick()

    def _skip(self, here: Place, reason: SkipReason, rule: str, *, folder: bool = False, files: int = 1) -> None:
        if files == 0:
            return
        shown = f"{self.title}/{here.below}{'/' if folder else ''}"
        tree = here.top if reason == "ignored" and not rule else ""
        self.skips.append(Skip(shown, reason, rule, files, here.path, tree))
        self._tick()

    def _tick(self) -> None:
        self.seen += 1
        if self.progress is not None and self.seen % TELL_EVERY == 0:
            self.progress(len(self.found), self.bytes)

    def _count(self, path: str) -> int:
        """Files below a folder that is left out whole. What cannot be listed counts as nothing."""
        return sum(1 for _ in self._files_below(path))

    def _files_below(self, path: str) -> Iterator[str]:
        stack = [path]
        while stack:
            try:
                with os.scandir(stack.pop()) as listing:
                    for entry in listing:
                        if entry.is_dir(follow_symlinks=False):
                            if entry.name not in VERSION_CONTROL:
                                stack.append(entry.path)
                        elif entry.name not in VERSION_CONTROL:
                            self._tick()
                            yield entry.path
            except OSError:
                continue


def _above(level: Level | None, path: str) -> Level:
    """The levels of strict parents of `path`."""
    while level is not None and (level.base == path or not path.startswith(level.base.rstrip("/") + "/")):
        level = level.above
    return level or Level("/", ())


def named_error(path: str, error: UnusableError) -> InputError:
    """A path named on the command line that cannot be read."""
    if error.reason == "special":
        hint = "" if error.why in UNREADABLE else f"pipe it: cat {quote(path)} | rlm ask - ..."
        return InputError(f"{path} is {error.why}, not a file", hint=hint, code="special_file")
    hint = f"look at its permissions: ls -ld {path}" if error.why == os.strerror(errno.EACCES) else ""
    return InputError(f"{path} cannot be read: {error.why}", hint=hint, code="unreadable")
