"""Work that blocks (encoders, explanations, files), in a bounded number of threads."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

from starlette.requests import Request

T = TypeVar("T")


class Work:
    """The threads and the scratch folder of one service.

    Args:
        threads: at work at once; further work waits its turn, in order.
    """

    def __init__(self, threads: int) -> None:
        self._pool = ThreadPoolExecutor(max_workers=threads, thread_name_prefix="work")
        self._scratch = TemporaryDirectory(prefix="adacomed-serve-", ignore_cleanup_errors=True)

    async def do(self, function: Callable[..., T], *args: object) -> T:
        """The function's result. If nobody waits any more, what has not begun never does."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, function, *args)

    def folder(self) -> TemporaryDirectory[str]:
        """A new folder for one patient's files, readable by this user alone."""
        # a thread that nobody waits for may still write there when it is removed
        return TemporaryDirectory(dir=self._scratch.name, ignore_cleanup_errors=True)

    def close(self) -> None:
        """Let what runs come to its end, and remove every file."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._scratch.cleanup()


async def blocking(request: Request, function: Callable[..., T], *args: object) -> T:
    """`Work.do` of the service that a request is to."""
    work: Work = request.app.state.work
    return await work.do(function, *args)


@asynccontextmanager
async def scratch(request: Request) -> AsyncIterator[Path]:
    """A folder for a request's files, gone with the request."""
    work: Work = request.app.state.work
    with work.folder() as folder:
        yield Path(folder)
