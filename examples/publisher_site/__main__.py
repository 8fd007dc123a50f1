"""Run the example site against an embedded operator, until Ctrl-C.

From a clone, with nothing but Python: ``python -m nox -s site``. Where the project and
its dependency group ``site`` are installed: ``python -m examples.publisher_site``.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib

import uvicorn

from uid2_async.operator import LocalOperator

from .app import make_app


async def main() -> None:
    """Serve the site at a port of this machine."""
    parser = argparse.ArgumentParser(prog="python -m examples.publisher_site")
    parser.add_argument("--port", type=int, default=8000)
    port = parser.parse_args().port
    async with LocalOperator() as operator:
        config = uvicorn.Config(
            make_app(operator), port=port, log_level="warning", ws="none"
        )
        print(f"The site is at http://127.0.0.1:{port}/ - Ctrl-C stops it.", flush=True)
        await uvicorn.Server(config).serve()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main())
