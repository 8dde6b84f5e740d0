"""Large files divide the sky among themselves: each row in a file of its part, written again a bounded number of times, and
never lost or doubled, whoever else writes, prunes or dies meanwhile."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_lake import make
from test_arrangement import DETECTORS, EVERYTHING, GROUP, TRACTS, add_visits, groups_read, rows, shrink

import schemas
from checks import audit
from lake import commit, delta, division, prune, registry, snapshot, upkeep
from lake.arrangement import NOWHERE, arranged, places
from lake.division import FULL, SKY, SMALL, Part, part_of
from lake.merging import File
from lake.parquet import DeltaError
from lake.site import Lake, Site

ROOT = Path(__file__).parents[2]
VISITS = range(100, 132)


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file is full with thirty rows."""
    shrink(monkeypatch)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    lake = make(tmp_path / "lake", 1, DETECTORS)
    add_visits(lake.central, VISITS)
    return lake


def nights(site: Site, count: int = 4, run: str = "run") -> None:
    """Raws of all visits, those of a night in a file."""
    each = len(VISITS) // count
    for night in range(count):
        registry.ingest(site, rows(site, f"{run}{night}", list(VISITS[night * each : (night + 1) * each])))


def held(site: Site) -> Counter[str]:
    with delta.cursor() as con:
        return Counter(i for (i,) in delta.relation(con, site, "dataset").project("dataset_id").fetchall())


def in_their_parts(site: Site, table: str = "dataset") -> list[Part]:
    """The parts of the files of a table, once it is seen that each has rows of its part only, in order."""
    parts = []
    for path in delta.files(site, table):
        part = part_of(path)
        if part is not None:
            with delta.cursor() as con:
                found = schemas.conform(table, con.sql(delta.scan(table, [path])).to_arrow_table())
            where = places(site, table, found)
            assert part.range.start <= where.min() and where.max() < part.range.stop, (part, where)
            assert arranged(site, table, found).equals(found) or table != "dataset"
            parts.append(part)
    return parts


def test_files_divide_the_sky(lake: Lake, few: None, monkeypatch: pytest.MonkeyPatch) -> None:
    site = lake.central
    nights(site)
    before, wanted = held(site), len(VISITS) // TRACTS * DETECTORS
    assert division.divide(site, "dataset", dry_run=True) == 1 and len(delta.files(site, "dataset")) == 4
    assert division.divide(site, "dataset") == 4 + 4, "each in order, then divided"
    assert division.divide(site, "dataset") == division.divide(site, "dataset", dry_run=True) == 0
    parts = in_their_parts(site)
    assert held(site) == before and len(parts) == len(set(parts)) == len(delta.files(site, "dataset")) == TRACTS
    for tract in range(TRACTS):
        found, read = groups_read(lake, f"tract = {tract}", monkeypatch)
        assert (found, read) == (wanted, wanted // GROUP)
    assert groups_read(lake, "visit = 105 AND detector = 1", monkeypatch) == (1, 1)
    for night in (range(200, 216), range(216, 232)):
        add_visits(site, night)
    assert division.divide(site, "visit_detector_patch") > 0
    assert len(in_their_parts(site, "visit_detector_patch")) >= TRACTS
    assert division.divide(site, "visit") == 0, "not looked up by place"


def test_upkeep_on_the_way_does_a_part_of_it(lake: Lake, few: None, monkeypatch: pytest.MonkeyPatch) -> None:
    site = lake.central
    nights(site)
    before, counts = held(site), []
    monkeypatch.setattr(upkeep, "BUNCH", 1)
    for _ in range(5):
        upkeep.tend(site)
        counts.append(len([path for path in delta.files(site, "dataset") if part_of(path) is not None]))
    assert counts == [1, 2, 3, 4, TRACTS] and held(site) == before
    assert min(part.height for part in in_their_parts(site)) < SKY.height


def test_what_has_no_place_and_what_is_at_one_place_stays_in_full_files(lake: Lake, few: None) -> None:
    site = lake.central
    for run in range(5):
        registry.ingest(site, rows(site, f"run{run}", [101, 105, 109, 113, 117, 121, 125]))
    division.divide(site, "dataset")
    sizes = [pq.read_metadata(path).num_rows for path in delta.files(site, "dataset")]
    assert [part.height for part in in_their_parts(site)] == [0] * len(sizes) and max(sizes) <= division.FULL
    assert sum(sizes) == 5 * 7 * DETECTORS and division.divide(site, "dataset") == 0
    with delta.cursor() as con:
        nowhere = delta.relation(con, site, "dataset").to_arrow_table()
    nowhere = nowhere.set_column(nowhere.column_names.index("visit"), "visit", pa.nulls(nowhere.num_rows, pa.int64()))
    assert set(places(site, "dataset", nowhere).tolist()) == {NOWHERE}
    tracts = pa.array([9469, None, 10**9, -1] + [7] * (nowhere.num_rows - 4), nowhere.schema.field("tract").type)
    found = places(site, "dataset", nowhere.set_column(nowhere.column_names.index("tract"), "tract", tracts))
    assert found[:5].tolist() == [9469, NOWHERE, NOWHERE, 0, 7], "a dataset without a visit is where its tract is"


@pytest.mark.parametrize("seed", range(2))
def test_rows_whose_place_has_changed_are_not_lost(lake: Lake, few: None, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """Visits point to anywhere else each time that it is asked."""
    chance, site = np.random.default_rng(seed), lake.central
    monkeypatch.setattr(
        division, "places", lambda site, table, rows: chance.integers(0, NOWHERE + 1, rows.num_rows).astype(np.uint16)
    )
    for run in range(3):
        nights(site, 8, f"run{run}.")
        before = held(site)
        assert division.divide(site, "dataset") > 0 and held(site) == before
    assert len({part_of(path) for path in delta.files(site, "dataset")}) > 4


def test_pruning_keeps_parts(lake: Lake, few: None) -> None:
    site = lake.central
    nights(site)
    division.divide(site, "dataset")
    parts, before = in_their_parts(site), held(site)
    out = sorted(before)[::5]
    prune.prune(lake, site, out, "room", EVERYTHING)
    assert sorted(in_their_parts(site)) == sorted(parts) and sorted(held(site)) == sorted(before.keys() - set(out))


def test_another_first_and_damage_leave_everything_as_it_was(lake: Lake, few: None, monkeypatch: pytest.MonkeyPatch) -> None:
    site = lake.central
    nights(site)
    for _ in range(4):
        division.divide(site, "dataset", enough=1)
    live, before, real = delta.files(site, "dataset"), held(site), delta.write_files

    def overtaken(*arguments: object) -> object:
        """Another one divides while the first part is written."""
        monkeypatch.setattr(delta, "write_files", real)
        assert division.divide(site, "dataset") == 4
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(delta, "write_files", overtaken)
    assert division.divide(site, "dataset") == 0
    assert held(site) == before
    folder = site.table_path("dataset") / "dataset_type=raw"
    there = {str(path) for path in folder.glob("*.parquet")}
    assert {*live, *delta.files(site, "dataset")} <= there and held(site) == before
    assert upkeep.sweep(site, "dataset", hours=0)[0] > 0
    assert {str(path) for path in folder.glob("*.parquet")} == set(delta.files(site, "dataset")), "nothing is left of the second"

    nights(site, 4, "more")
    damaged = next(path for path in map(Path, delta.files(site, "dataset")) if part_of(path.name) is None)
    content = bytearray(damaged.read_bytes())
    content[30] ^= 1
    damaged.write_bytes(content)
    live = set(folder.glob("*.parquet"))
    with pytest.raises(DeltaError, match=f"{damaged.name} cannot be read: .*; restore it$"):
        division.divide(site, "dataset")
    assert set(folder.glob("*.parquet")) == live == set(map(Path, delta.files(site, "dataset")))


def test_who_reads_an_older_version_still_can(lake: Lake, few: None) -> None:
    site = lake.central
    nights(site)
    snapshot.keep(site, "dr1", "op@host")
    old, before = delta.files(site, "dataset"), held(site)
    division.divide(site, "dataset")
    assert upkeep.sweep(site, "dataset") == (0, 0)
    upkeep.sweep(site, "dataset", hours=0)
    with delta.cursor() as con:
        found = con.sql(delta.scan("dataset", snapshot.files(site, "dr1", "dataset"))).fetchall()
    assert all(Path(path).exists() for path in old) and len(found) == before.total() and held(site) == before


@pytest.mark.parametrize("change", ["lost", "doubled"])
@pytest.mark.parametrize("what", ["merged", "divided", "pruned"])
def test_as_many_rows_as_there_were_or_nothing(
    lake: Lake, few: None, monkeypatch: pytest.MonkeyPatch, what: str, change: str
) -> None:
    """Whatever goes wrong while rows are put into other files is seen before these take the place of the old ones."""
    site = lake.central
    nights(site)
    for _ in range(4 if what == "divided" else 0):
        division.divide(site, "dataset", enough=1)
    before, live = held(site), delta.files(site, "dataset")
    lost = len(before) // 8 if what == "pruned" else 0

    def wrong(site: Site, table: str, rows: pa.Table) -> pa.Table:
        return rows.slice(1) if change == "lost" else pa.concat_tables([rows, rows.slice(0, 1)])

    with monkeypatch.context() as patch:
        for module in (upkeep, division, prune):
            patch.setattr(module, "arranged", wrong)
        patch.setattr(division, "SMALL", 1000 if what == "merged" else 1)
        with pytest.raises(DeltaError, match=r"table dataset: (\d+) rows became (?!\1 )\d+; nothing was changed, report this$"):
            if what == "merged":
                upkeep.compact(site, "dataset", at_least=2)
            elif what == "divided":
                division.divide(site, "dataset")
            else:
                prune.prune(lake, site, sorted(before)[:lost], "room", EVERYTHING)
    assert held(site) == before and delta.files(site, "dataset") == live
    folder = site.table_path("dataset") / "dataset_type=raw"
    upkeep.sweep(site, "dataset", hours=0)
    assert {str(path) for path in folder.glob("*.parquet")} == set(live)


def test_pruning_makes_no_file_larger(lake: Lake, few: None) -> None:
    """Files that wait to be divided may be many and large: put into one they would be too large for it."""
    site = lake.central
    nights(site)
    before = [pq.read_metadata(path).num_rows for path in delta.files(site, "dataset")]
    prune.prune(lake, site, sorted(held(site))[::5], "room", EVERYTHING)
    after = [pq.read_metadata(path).num_rows for path in delta.files(site, "dataset")]
    assert len(after) == len(before) and max(after) <= max(before)
    assert division.divide(site, "dataset") > 0


def test_orphans_are_removed_when_upkeep_is_done(lake: Lake, few: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it has written is named by nothing until all is."""
    site = lake.central
    nights(site)
    before, real = held(site), delta.write_files

    with ThreadPoolExecutor(1) as pool:
        removing: list[Future[list[str]]] = []

        def written(*arguments: object) -> object:
            files = real(*arguments)  # type: ignore[arg-type]
            if not removing:
                removing.append(pool.submit(audit.remove_orphans, site))
                wait(removing, 1)
            return files

        monkeypatch.setattr(delta, "write_files", written)
        upkeep.maintain(site)
        assert removing[0].result() == []
    assert held(site) == before and len(in_their_parts(site)) == TRACTS and audit.audit(site, deep=True).ok


def test_a_file_of_which_the_log_does_not_say_the_rows_is_named(lake: Lake, few: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    site = lake.central
    nights(site)
    [old, *_] = map(Path, delta.files(site, "dataset"))
    new, root = old.rename(old.with_name("part-another.parquet")), site.table_path("dataset")
    added = delta.AddFile(str(new.relative_to(root)), {"dataset_type": "raw"}, new.stat().st_size, 0, "{}")
    commit.commit(site, "dataset", [added], [str(old.relative_to(root))], None, None)
    with pytest.raises(DeltaError, match=f"{new.name} has 24 rows, the log says -1; restore it$"):
        upkeep.compact(site, "dataset", at_least=2)
    upkeep.tend(site)  # does not stumble
    assert held(site).total() == len(VISITS) * DETECTORS


DIVIDE = """
import sys
import pytest
from test_arrangement import shrink
from lake import division
from lake.site import Lake
with pytest.MonkeyPatch.context() as patch:
    shrink(patch)
    division.divide(Lake.open(sys.argv[1]).central, "dataset")
"""


@pytest.mark.parametrize(
    "point", ["upkeep:read", "upkeep:written", "upkeep:divided", "upkeep:divided:4", "upkeep:written:5", "upkeep:written:7"]
)
def test_death_at_a_point(lake: Lake, few: None, point: str) -> None:
    site = lake.central
    nights(site)
    before = held(site)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *map(str, (ROOT / "tests", ROOT / "tests/lake"))])}
    died = subprocess.run(
        [sys.executable, "-c", DIVIDE, str(lake.root)], env=environment | {"DRP_FAULT": point}, capture_output=True, text=True
    )
    assert died.returncode == -signal.SIGKILL, died.stderr
    assert held(site) == before
    division.divide(site, "dataset")
    assert held(site) == before and len(in_their_parts(site)) == TRACTS


def test_dividing_among_writers_pruning_and_others_that_divide(lake: Lake, few: None) -> None:
    site = lake.central
    nights(site)
    before = held(site)
    out = sorted(before)[::7]

    def write(run: int) -> None:
        for night in range(4):
            registry.ingest(site, rows(site, f"new{run}.{night}", list(VISITS[night::5])))

    def divide(_: int) -> None:
        for _ in range(8):
            division.divide(site, "dataset")

    def take_out(_: int) -> None:
        prune.prune(lake, site, out, "room", EVERYTHING)

    with ThreadPoolExecutor(5) as pool:
        tasks = [*(pool.submit(write, n) for n in range(2)), *(pool.submit(divide, n) for n in range(2)), pool.submit(take_out, 0)]
        for done in tasks:
            done.result()
    division.divide(site, "dataset")
    new = sum(len(VISITS[night::5]) for night in range(4)) * 2 * DETECTORS
    found = held(site)
    assert max(found.values()) == 1 and len(found) == len(before) - len(out) + new and not found.keys() & set(out)
    in_their_parts(site)


@pytest.mark.parametrize("seed", range(6))
def test_rows_are_written_again_a_bounded_number_of_times(seed: int) -> None:
    """Files of any size come day by day, from a changing part of the sky: the rule alone, without rows."""
    chance = np.random.default_rng(seed)
    files: dict[str, tuple[File, np.ndarray]] = {}
    came = again = 0.0
    for day in range(600):
        weights = np.zeros(NOWHERE + 1)
        low = int(chance.integers(0, 12_288 - 1_000))
        width = int(chance.integers(1, 1_000)) if seed % 2 else 12_288
        where = chance.integers(0, width, 50) + (low if seed % 2 else 0)
        np.add.at(weights, where, math.exp(chance.uniform(math.log(SMALL), math.log(FULL / 2))) / 50)
        name = f"p/part-{day:036}.parquet"
        files[name] = File(name, math.ceil(weights.sum()), 1), weights
        came += weights.sum()
        while due := division._due([[file for file, _ in files.values()]]):
            for part, chosen in due:
                both = np.sum([files.pop(file.path)[1] for file in chosen], axis=0)
                again += both.sum()
                keeps = sum(file.weight for file in chosen) <= max(FULL, chosen[-1].weight)
                for number, target in enumerate([part] if keeps else part.divided(both)):
                    own = np.zeros_like(both)
                    own[target.range] = both[target.range]
                    name = f"p/part-{target.mark}{day:06}-{number:029}.parquet"
                    while name in files:
                        name = name.replace(".parquet", "x.parquet")
                    files[name] = File(name, max(1, math.ceil(own.sum())), 1), own
    assert math.isclose(sum(weights.sum() for _, weights in files.values()), came)
    at_place = Counter[int]()
    for file, _ in files.values():
        part = part_of(file.path) or SKY
        for place in range(part.range.start, min(part.range.stop, 12_288), 97):
            at_place[place - place % 97] += 1
    assert again <= 8 * came, again / came
    assert max(at_place.values()) <= 32
