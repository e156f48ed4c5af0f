"""The emergency switch: `BUDGETGUARD_MODE=off|observe|enforce`, read once, logged once.

`off` admits everything and records nothing, `observe` treats every policy as if it were wrapped
in `observe(...)`, `enforce` obeys policies that are. Unset, each Budget decides for itself.
"""

from __future__ import annotations

import functools
import logging
import os
from typing import Literal, cast, get_args

Mode = Literal["off", "observe", "enforce"]

VARIABLE = "BUDGETGUARD_MODE"


@functools.cache
def forced_mode() -> Mode | None:
    """The mode that the environment forced on this process; `None` if it forced none.

    Raises:
        ValueError: If the variable is set to something else.
    """
    value = os.environ.get(VARIABLE)
    if not value:
        return None
    if value not in get_args(Mode):
        msg = f"{VARIABLE} must be one of {', '.join(get_args(Mode))}, not {value!r}"
        raise ValueError(msg)
    logging.getLogger("budgetguard").warning("%s=%s overrides every budget", VARIABLE, value)
    return cast("Mode", value)
