"""Commands that meet values nobody put there: the value is set aside, the command repeated once, the others go on.

Law: a fault of one key never reaches the breaker, never stops another key's command, and destroys nothing: what is
set aside can be looked at for a day under `<key>:corrupt`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import structlog

from gateway.registry.redis_client import Link, Op
from gateway.registry.redis_layout import Layout

log = structlog.get_logger(__name__)


async def healed(link: Link, layout: Layout, ops: Sequence[Op], *, probe: bool = False) -> list[Any]:
    """`Link.batch`, with wrong-typed keys quarantined and their commands repeated. Raises Away. An answer that is still
    an exception is of a key that cannot be healed here."""
    answers = await link.batch(ops, probe=probe)
    sick = [i for i, answer in enumerate(answers) if isinstance(answer, BaseException)]
    if not sick:
        return answers
    for i in sick:
        log.warning("registry.corrupt_key", keys=ops[i].keys[:3], error=str(answers[i]))
    await link.batch([layout.quarantine(ops[i]) for i in sick], probe=probe)
    again = await link.batch([ops[i] for i in sick], probe=probe)
    for i, answer in zip(sick, again, strict=True):
        answers[i] = answer
    return answers
