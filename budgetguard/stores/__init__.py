"""Where accounts live: in the memory of this process, in a SQLite file, or in Redis."""

from budgetguard.stores.memory import Account, MemoryStore
from budgetguard.stores.opening import open_store
from budgetguard.stores.protocol import Balance, Store

__all__ = ["Account", "Balance", "MemoryStore", "Store", "open_store"]
