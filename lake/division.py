"""Large files divide the sky among themselves: what lies at a place is in few of them, however large the table and long the survey.

The sky is a range of places (lake.arrangement), which has four parts, each of those again, down to single places. A file
of one part bears it in its name; ``part-<uuid>`` is of rows that came together, in no order that is known. Files of one part are
merged when the smaller ones together have half of what the largest has, or more; where that is more than FULL, each row goes to a
part below. So a row is written again only in a file that is half as large again as the one before, or in a smaller part,
and files that lie at a place and are not merged yet grow by three from one to the next.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lake import delta
from lake.arrangement import NOWHERE, PLACED, arranged, places
from lake.fault import point
from lake.merging import File, Reader, by_partition
from lake.site import Site

#: Smaller files, of no part, wait until they are many (lake.upkeep).
SMALL = 2**20
#: A file has at most so much: it is sorted in memory. So much is divided at a time: it goes in vain where another is first.
FULL, MOST = 128 * 2**20, 1024 * 2**20
#: Parts that a part has.
WAYS = 4
_MARKED = re.compile(r"part-(\d+)\.(\d+)-")


@dataclass(frozen=True, order=True)
class Part:
    """Of the sky: WAYS**height places, from number times as many on."""

    height: int
    number: int

    @property
    def mark(self) -> str:
        """How names of its files begin."""
        return f"{self.height}.{self.number}-"

    @property
    def range(self) -> slice:
        """Its places."""
        size = WAYS**self.height
        return slice(self.number * size, (self.number + 1) * size)

    def divided(self, weights: NDArray[np.float64]) -> Iterator[Part]:
        """The largest parts of it that weigh, by place, no more than FULL, or are a single place; none that weighs nothing."""
        weight = weights[self.range].sum()
        if weight > FULL and self.height:
            for number in range(WAYS):
                yield from Part(self.height - 1, WAYS * self.number + number).divided(weights)
        elif weight:
            yield self


SKY = Part(8, 0)
assert SKY.range.stop == NOWHERE + 1


def part_of(path: str) -> Part | None:
    """The part of the sky of which a file is, by its name."""
    found = _MARKED.match(path.rpartition("/")[2])
    return Part(int(found[1]), int(found[2])) if found else None


def divide(site: Site, table: str, enough: int | None = None, dry_run: bool = False) -> int:
    """Merge files that lie at the same places, and divide them where they are many, until nothing is left to do or files of
    ``enough`` bytes were merged; returns how many files. Nothing happens where another writer was first.

    DeltaError for what cannot be read, as in lake.upkeep.compact().
    """
    merged = weight = 0
    while table in PLACED and (due := _due(by_partition(site, table))):
        for part, files in due:
            if enough is not None and weight >= enough:
                return merged
            if not dry_run:
                try:
                    _merge(site, table, part, files)
                except delta.Overtaken:
                    return merged
                point("upkeep:divided")
            merged, weight = merged + len(files), weight + sum(file.weight for file in files)
        if dry_run:
            break
    return merged


def _due(partitions: Sequence[Sequence[File]]) -> list[tuple[Part, list[File]]]:
    """What is to be merged, files of one part each; what divides the sky first, and then the smaller parts."""
    due = []
    for files in partitions:
        of_part: dict[Part, list[File]] = {}
        for file in files:
            part = part_of(file.path)
            if part is not None or SMALL <= file.weight <= 2 * FULL:
                of_part.setdefault(part or SKY, []).append(file)
        due += [(part, chosen) for part, alike in sorted(of_part.items(), reverse=True) if (chosen := _alike(part, alike))]
    return due


def _alike(part: Part, files: Sequence[File]) -> list[File]:
    """As many files of a part as the rule allows to be merged; none where there are no two."""
    files = sorted(files, key=lambda file: (file.weight, file.path))
    sums = np.cumsum([file.weight for file in files])
    most = MOST if part.height else FULL
    count = max((n + 1 for n in range(1, len(files)) if files[n].weight <= 2 * sums[n - 1] and sums[n] <= most), default=0)
    chosen = files[:count]
    came = [file for file in chosen if part_of(file.path) is None]
    if came and sums[count - 1] > FULL:  # in order first: what is divided is read part by part
        weights = np.cumsum([file.weight for file in came])
        return came[: max(1, int(np.searchsorted(weights, FULL, "right")))]
    return chosen


def _merge(site: Site, table: str, part: Part, files: Sequence[File]) -> None:
    """Put the rows of files of a part into one, or into one of each of the parts into which it is divided."""
    with ExitStack() as stack:
        readers = [stack.enter_context(Reader(site, table, file)) for file in files]
        if sum(file.weight for file in files) <= max(FULL, files[-1].weight):
            rows = pa.concat_tables([reader.rows() for reader in readers])
            point("upkeep:read")
            new = iter([(part.mark, arranged(site, table, rows))])
        else:
            new = _divided(site, table, part, readers)
        delta.replace_files(site, table, [file.path for file in files], sum(file.rows for file in files), new)


def _divided(site: Site, table: str, part: Part, readers: Sequence[Reader]) -> Iterator[tuple[str, pa.Table]]:
    """The rows of each of the parts, with its mark; of one place no more than FULL at a time.

    Rows that are somewhere else now than when their file was written, as a visit has become known, stay in its part.
    """
    least, most = part.range.start, part.range.stop - 1
    where = [places(site, table, reader.columns(PLACED[table])).clip(least, most) for reader in readers]
    point("upkeep:read")
    counts = np.sum([np.bincount(each, minlength=NOWHERE + 1) for each in where], axis=0)
    weight = sum(reader.file.weight for reader in readers) / sum(reader.file.rows for reader in readers)
    for target in part.divided(counts * weight):
        rows: list[pa.Table] = []
        for reader, each in zip(readers, where, strict=True):
            inside = (each >= target.range.start) & (each < target.range.stop)
            of_group = np.repeat(np.arange(len(reader.sizes)), reader.sizes)
            groups = np.unique(of_group[inside])
            found = reader.rows(groups.tolist()).filter(pa.array(inside[np.isin(of_group, groups)]))
            if rows and weight * (found.num_rows + sum(part.num_rows for part in rows)) > FULL:
                yield target.mark, arranged(site, table, pa.concat_tables(rows))
                rows = []
            rows.append(found)
        yield target.mark, arranged(site, table, pa.concat_tables(rows))
