"""Where accounts live: in the memory of this process."""

from budgetguard.stores.memory import Account, MemoryStore

__all__ = ["Account", "MemoryStore"]
