"""Large batches with many words, packed by the C library: what a Redis client costs the token road is mostly packing.

Law: as `Link.batch`: one round trip, sent once, answers in order. Only for commands that may be sent again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hiredis import pack_command
from redis.exceptions import NoScriptError, ResponseError

from gateway.registry.redis_client import Away, Link, Op, is_poison, words_of
from gateway.registry.redis_url import Client

_PATIENCE = 5.0  # times the time-out


async def packed_batch(link: Link, ops: Sequence[Op]) -> list[Any]:
    """Send all on one connection; the answers, in order; an answer to a poisoned key is its exception. Raises Away."""
    if link.cluster:  # each has its node
        return await link.batch(ops)
    answers = await link.run(lambda client: _send(client, ops), patience=_PATIENCE)
    refused = [answer for answer in answers if isinstance(answer, BaseException)]
    if any(isinstance(answer, NoScriptError) for answer in refused):
        return await link.batch(ops)
    for answer in refused:
        if not is_poison(answer):
            link.trip(str(answer))
            raise Away(link.error)
    return answers


async def _send(client: Client, ops: Sequence[Op]) -> list[Any]:
    pool = client.connection_pool
    connection = await pool.get_connection()
    answers: list[Any] = []
    try:
        packed = [pack_command(words_of(op)) for op in ops]  # type: ignore[arg-type]  # its stub allows one word
        await connection.send_packed_command(packed)
        for _ in ops:
            try:
                answers.append(await connection.read_response())
            except ResponseError as error:
                answers.append(error)
    finally:
        await pool.release(connection)
    return answers
