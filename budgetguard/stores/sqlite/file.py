"""The file of a SQLite store: a connection to it that is ready to use.

Invariant: nothing is ever written to a file that is not ours, or that a newer version made.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import suppress
from pathlib import Path
from typing import Final

VERSION: Final = 1
"""The version of the schema, in the file's `user_version`."""

APPLICATION: Final = int.from_bytes(b"bdgt", "big")
"""Tells our files from those of other applications, in the file's `application_id`."""

_SCHEMA: Final = Path(__file__).with_name("schema.sql")


class WrongFileError(Exception):
    """The file is there, but it is none that this version can use."""


def connect(path: str) -> sqlite3.Connection:
    """A connection that never waits by itself; the file is made if there is none.

    Raises:
        OSError: If the file cannot be made.
        WrongFileError: If it is not ours, or from a newer version.
        sqlite3.Error: If it cannot be opened, or not now.
    """
    _create(path)
    # One thread uses it at a time, but not always the same one.
    db = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
    try:
        _prepare(db)
    except BaseException:
        db.close()
        raise
    return db


def identity(path: str) -> tuple[int, int] | None:
    """Tells which file a path leads to, by device and inode; `None` if to none."""
    try:
        found = os.stat(path)  # noqa: PTH116 -- before every command, and Path is slow
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _create(path: str) -> None:
    """Make the file, for its owner only; SQLite gives the -wal and -shm beside it the same mode."""
    # Never open and close a file that is there: that would drop the locks that other connections
    # of this process have on it (POSIX locks belong to the process).
    if not os.path.isdir(os.path.dirname(path)):  # noqa: PTH112, PTH120 -- as identity()
        raise WrongFileError("its directory does not exist: make it, or name another")
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    if os.path.isdir(path):  # noqa: PTH112
        raise WrongFileError("it is a directory: name a file in it")
    if not os.access(path, os.R_OK | os.W_OK):
        raise WrongFileError("this user may not read and write the file")


def _prepare(db: sqlite3.Connection) -> None:
    """Check whose file it is, make the tables in a new one, and set the connection up."""
    is_new = _check(db)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = NORMAL")
    if not is_new:
        return
    db.execute("BEGIN IMMEDIATE")
    if _check(db):  # nobody else was faster
        for statement in _SCHEMA.read_text("utf-8").split(";\n"):
            db.execute(statement)
        db.execute(f"PRAGMA application_id = {APPLICATION}")
        db.execute(f"PRAGMA user_version = {VERSION}")
    db.execute("COMMIT")


def _check(db: sqlite3.Connection) -> bool:
    """Whether the file is empty.

    Raises:
        WrongFileError: If it is not ours, or from a newer version.
    """
    # The tables first: while another process makes them, there are none or all is there.
    (tables,) = db.execute("SELECT count(*) FROM sqlite_master").fetchone()
    (application,) = db.execute("PRAGMA application_id").fetchone()
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if tables and application != APPLICATION:
        raise WrongFileError("the file is the database of another application: name another file")
    if version > VERSION:
        msg = f"the file has schema version {version}, and this budgetguard knows {VERSION}: update"
        raise WrongFileError(msg)
    return not tables
