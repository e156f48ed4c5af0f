"""SQLiteStore: accounts in one file, for the processes of one machine."""

from budgetguard.stores.sqlite.store import SQLiteStore

__all__ = ["SQLiteStore"]
