"""`headgate bench`: N streams at a time through a gateway, as its clients see them. Bounded in streams and in time.

Without `--url` a demo gateway of its own is started and stopped. What is printed is measured at the clients: a token is
one content event, a pause is the time between two reads that brought tokens. The load and, without `--url`, the gateway
share this machine; the figures say so.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import click

from gateway.cli.figures import Measured, lines, report
from gateway.cli.http import Unreachable, key_option, remote

GRACE = 30.0  # seconds a stream may go on after the time is up


@click.command()
@click.option("--url", envvar="HEADGATE_URL", default="", help="The gateway; without it a demo gateway is started.")
@key_option
@click.option("--model", "-m", default="demo", show_default=True, help="The model, as the gateway's routes know it.")
@click.option("--streams", type=click.IntRange(1, 2000), default=50, show_default=True, help="Streams at a time.")
@click.option(
    "--seconds", type=click.FloatRange(1, 300), default=10, show_default=True, help="Time to start streams in."
)
@click.option("--tokens", type=click.IntRange(1, 10_000), default=200, show_default=True, help="Of one answer (demo).")
@click.option(
    "--rate",
    type=click.FloatRange(0, 10_000),
    default=50,
    show_default=True,
    help="Tokens/s of one stream (demo); 0: at once.",
)
@click.option("--message", default="", help="What to ask instead; for models that are not the demo.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def bench(
    url: str, key: str, model: str, streams: int, seconds: float, tokens: int, rate: float, message: str, as_json: bool
) -> None:
    """Measure tokens per second, time to the first token, and pauses. Ends with 1 when a stream failed."""
    from gateway.cli.temporary import demo_gateway

    asked = message or f"[tokens={tokens}] [rate={rate:g}]"
    body = {"model": model, "messages": [{"role": "user", "content": asked}]}
    if url:
        target = remote(url, key)
        told = _measure(target.url, target.key, body, streams, seconds)
    else:
        with demo_gateway() as own:
            before = own.cpu()
            told = _measure(own.url, "", body, streams, seconds)
            after = own.cpu()
            if before is not None and after is not None:
                told["gatewayCpuSeconds"] = round(after - before, 2)
    told |= {"url": url or "a demo gateway on this machine", "streams": streams}
    click.echo(json.dumps(told) if as_json else "\n".join(lines(told)))
    raise SystemExit(1 if told["errors"] else 0)


def _measure(url: str, key: str, body: dict[str, Any], streams: int, seconds: float) -> dict[str, Any]:
    try:
        return asyncio.run(_run(url, key, body, streams, seconds))
    except KeyboardInterrupt:
        raise Unreachable("interrupted; nothing was measured to its end") from None


async def _run(url: str, key: str, body: dict[str, Any], streams: int, seconds: float) -> dict[str, Any]:
    import aiohttp

    loop = asyncio.get_running_loop()
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    done: list[Measured] = []
    async with aiohttp.ClientSession(headers=headers, connector=aiohttp.TCPConnector(limit=0)) as session:
        await _reachable(session, url)
        began = loop.time()

        async def worker() -> None:
            while loop.time() - began < seconds:
                done.append(await _one(session, url, body))
                if done[-1].error:
                    await asyncio.sleep(0.2)  # a gateway that refuses is not to be hammered

        tasks = [asyncio.create_task(worker()) for _ in range(streams)]
        _, late = await asyncio.wait(tasks, timeout=seconds + GRACE)
        elapsed = loop.time() - began
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
    return report(done, elapsed, unfinished=len(late))


async def _reachable(session: Any, url: str) -> None:
    import aiohttp

    try:
        async with session.get(f"{url}/health", timeout=aiohttp.ClientTimeout(5)) as answer:
            await answer.read()
    except (aiohttp.ClientError, TimeoutError, ValueError) as problem:
        raise Unreachable(f"no gateway at {url}: {problem}") from None


async def _one(session: Any, url: str, body: dict[str, Any]) -> Measured:
    """One stream from its request to its end. Never raises for what a gateway does."""
    import aiohttp

    loop = asyncio.get_running_loop()
    measured = Measured(loop.time())
    limit = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=120)
    try:
        async with session.post(f"{url}/api/streaming/chat", json=body, timeout=limit) as answer:
            if answer.status != 200:
                measured.error = f"HTTP {answer.status}"
                return measured
            async for data in answer.content.iter_any():
                measured.take(data, loop.time())
    except (aiohttp.ClientError, TimeoutError, OSError) as problem:
        measured.error = measured.error or type(problem).__name__
    measured.close(loop.time())
    return measured
