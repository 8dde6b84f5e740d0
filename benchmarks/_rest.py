"""Waiting until a file system makes files at its usual speed again.

ext4 without a journal gives out no inode that was freed in the last minute (six, while that is not written back), and looks
at each of those on its way to another: after a large tree was removed, an empty file takes ten times as long to make,
whoever makes it. Some directories show it and others not, so that a minute is waited in any case.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import click

#: Directories that are tried (each may lie in another part of the disk), and empty files made in each.
FOLDERS, FILES = 8, 50
#: Seconds for an empty file that count as usual (15 to 40 us were measured at rest).
USUAL = 1e-4
#: Seconds: waited in any case, then between tries, and in all.
LEAST, PAUSE, LONGEST = 62.0, 10.0, 360.0


def wait(folder: Path) -> None:
    """Write everything back and wait until empty files in new directories of ``folder`` are made at the usual speed.

    Says on stderr how long that took, and the speed that was found. What it made stays: removed, it would be waited for.
    """
    began = time.perf_counter()
    os.sync()
    time.sleep(LEAST)
    tries = 1
    while (slowest := _seconds_per_file(folder / f"rest-{tries}")) > USUAL and time.perf_counter() - began < LONGEST:
        time.sleep(PAUSE)
        os.sync()  # an inode that is written back is given out sooner
        tries += 1
    said = "" if slowest <= USUAL else ", which is not its usual speed"
    waited = time.perf_counter() - began
    click.echo(f"the file system makes an empty file in {1e6 * slowest:.0f} us{said}; waited {waited:.0f} s for it", err=True)


def _seconds_per_file(folder: Path) -> float:
    """Of the slowest of some new directories."""
    slowest = 0.0
    for part in range(FOLDERS):
        made = folder / str(part)
        made.mkdir(parents=True)
        began = time.perf_counter()
        for n in range(FILES):
            os.close(os.open(made / str(n), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644))
        slowest = max(slowest, (time.perf_counter() - began) / FILES)
    return slowest
