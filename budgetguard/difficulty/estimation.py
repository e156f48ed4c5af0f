"""Estimation: a task's difficulty, asked for once, at its first call."""

from __future__ import annotations

from typing import TYPE_CHECKING

from budgetguard.difficulty.estimate import (
    UNKNOWN,
    Difficulty,
    Estimator,
    Task,
    ask,
    distrust,
    understand,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable


class Estimation:
    """What is known of the difficulty of one task. Forgets the prompt when it has asked.

    While the estimator is at work the difficulty is unknown, so that the model calls it makes
    itself are admitted without asking it again.
    """

    __slots__ = ("_estimator", "_prompt", "_workflow", "difficulty", "pending")

    def __init__(self, estimator: Estimator | None, prompt: str | None, workflow: str) -> None:
        self.difficulty = UNKNOWN
        self.pending = estimator is not None
        """Whether the estimator was not asked yet."""
        self._estimator = estimator
        self._prompt = prompt
        self._workflow = workflow

    def run(self) -> None:
        """Ask the estimator; one that is async gives no answer here."""
        estimator, answer = self._ask()
        if isinstance(answer, Difficulty):
            self.difficulty = answer
            return
        close = getattr(answer, "close", None)  # a coroutine that nobody will await
        if close is not None:
            close()
        distrust(estimator, "it is async and this call is not")

    async def arun(self) -> None:
        """Ask the estimator, and wait for its answer if it is async."""
        estimator, answer = self._ask()
        if isinstance(answer, Difficulty):
            self.difficulty = answer
            return
        try:
            self.difficulty = understand(estimator, await answer)
        except Exception as error:  # noqa: BLE001 -- observation never hurts
            self.difficulty = distrust(estimator, error)

    def _ask(self) -> tuple[Estimator, Difficulty | Awaitable[float | Difficulty]]:
        estimator = self._estimator
        assert estimator is not None  # noqa: S101 -- else it is never pending
        task = Task(self._prompt, self._workflow)
        self.pending, self._prompt = False, None
        return estimator, ask(estimator, task)


NOTHING_TO_ASK = Estimation(None, None, "")
"""For every task whose budget has no estimator: nothing in it ever changes."""
