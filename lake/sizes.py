"""Which of many files are not where they should be with their sizes.

The interpreter's lock lets a second thread that looks at files wait for longer than it works. So a large batch is shared with a
second process, which runs lake/folders.py.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import IO

import pyarrow as pa
import pyarrow.compute as pc

from lake import folders
from lake.folders import Folders

#: Files of which sizes are asked for at once; so many that a second process, which takes 9 ms to start, is worth it.
AT_ONCE, SHARED = 1_000, 50_000


def differing(root: Path, paths: pa.ChunkedArray, sizes: pa.ChunkedArray, free: Callable[[], object] = lambda: None) -> list[str]:
    """Those of the paths below ``root`` that Folders.differing() says are not as they should be.

    ``free`` returns when the caller's other threads do nothing more: where these and a second process have no core left for
    this thread, it helps from then on.
    """
    wrong: list[str] = []
    firsts = deque(range(0, len(paths), AT_ONCE))
    with Folders(root) as seen, ThreadPoolExecutor(1, thread_name_prefix="sizes") as pool:
        helper = pool.submit(_elsewhere, root, firsts, paths, sizes) if len(paths) >= SHARED else None
        if helper is not None and len(os.sched_getaffinity(0)) <= 2:
            free()
        while True:
            try:
                first = firsts.popleft()
            except IndexError:
                if helper is None:
                    return wrong
                wrong += helper.result()
                helper = None  # what it left, if it failed, is looked at here
            else:
                wrong += seen.differing(paths.slice(first, AT_ONCE).to_pylist(), sizes.slice(first, AT_ONCE).to_pylist())


def _elsewhere(root: Path, firsts: deque[int], paths: pa.ChunkedArray, sizes: pa.ChunkedArray) -> list[str]:
    """What differs of those files that another process looked at; where that fails, it leaves them."""
    wrong: list[str] = []
    first: int | None = None
    command, pipe, none = [sys.executable, "-IS", folders.__file__, str(root)], subprocess.PIPE, subprocess.DEVNULL
    with (
        suppress(OSError, ValueError, IndexError),
        subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=none) as other,
    ):
        assert other.stdin and other.stdout
        try:
            while True:
                first = firsts.popleft()
                _send(other.stdin, paths.slice(first, AT_ONCE), sizes.slice(first, AT_ONCE))
                (answer,) = folders.received(other.stdout)
                wrong += answer.decode().split("\0") if answer else ()
                first = None
        finally:
            other.kill()  # to end by itself would take it 2 ms, for which all would wait
    if first is not None:
        firsts.append(first)
    return wrong


def _send(stream: IO[bytes], paths: pa.ChunkedArray, sizes: pa.ChunkedArray) -> None:
    """Ask for files: paths with NUL between them, and sizes, both put together by Arrow.

    ValueError for what cannot be said so: a path that is empty or holds a NUL, which is no file's, and a size that is not known.
    """
    if sizes.null_count:
        raise ValueError("a size is not known")
    listed = pa.ListArray.from_arrays(pa.array([0, len(paths)], pa.int32()), paths.combine_chunks())
    text = pc.binary_join(listed, "\0")[0].as_buffer().to_pybytes()
    if text.count(b"\0") >= len(paths) or b"\0\0" in b"\0" + text + b"\0":
        raise ValueError("a path is empty or holds a NUL")
    folders.send(stream, text, sizes.cast(pa.int64()).to_numpy().tobytes())
