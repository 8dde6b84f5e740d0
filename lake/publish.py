"""Publication is one commit: a batch of finished work becomes visible whole, once, whatever happens in between.

A batch is judged, then written durably to ``publish/<sequence>.arrow``, then applied in fixed order: files to their
catalogue tables, registry rows, attempt rows, each commit guarded by the application transaction ("publish", sequence).
Then the batch file goes. After a crash at any instruction there is either no batch file (nothing happened) or one that
is applied again, where what was applied is a no-op. One committer at a time holds the site's lock.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

import schemas
from lake import datastore, delta, fault, prune, registry, slices, upkeep
from lake.durable import fsync_dir, write_durable
from lake.registry import Judgement
from lake.site import LakeError, Site, one_line

APP = "publish"
_PARTS = {"accepted": "dataset", "waiting": "parked", "admitted": "parked", "attempts": "attempt"}
#: After how many batches the site's tables are looked after.
TEND_EVERY = 50


class PublishError(LakeError):
    """A batch cannot be applied; the message names it."""

    exit_code = 1


@dataclass(frozen=True)
class Batch:
    """Finished work: ``datasets`` in the schema ``dataset`` (registered_at may be absent), ``attempts`` in its own."""

    datasets: pa.Table
    attempts: pa.Table


@dataclass(frozen=True)
class _Prepared:
    """What a batch will do, decided once: applying it makes no decisions."""

    judgement: Judgement
    attempts: pa.Table
    files: dict[str, list[delta.AddFile]]


class Publisher:
    """The committer of a site. Opening it finishes what a dead one left."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.folder = site.path("publish")
        self._published = 0
        with site.lock():
            self.replayed = self._replay()
        prune.settle(site)

    def publish(self, batch: Batch) -> pa.Table:
        """Make a batch visible; returns (dataset_id, verdict, reason) in the order of ``batch.datasets``.

        ``present`` is a dataset that was remade with the same content: nothing changes (a damaged file is replaced by
        the new one). A dataset that is refused makes the ``succeeded`` attempt of its quantum a failed one, with the
        reason.
        """
        with self.site.lock():
            self._replay()
            fault.point("publish:start")
            prepared = self._prepare(batch)
            fault.point("publish:prepared")
            if prepared.judgement.has_work or prepared.attempts.num_rows:
                self._commit(prepared)
                self._published += 1
        if self._published >= TEND_EVERY:
            self._published = 0
            upkeep.tend(self.site)
        return prepared.judgement.verdicts

    # -- deciding ------------------------------------------------------------------------------------------------------

    def _prepare(self, batch: Batch) -> _Prepared:
        judgement = registry.judge(self.site, batch.datasets)
        moved, broken = self._parted(judgement.judged)
        if moved or broken:
            judgement = registry.judge(self.site, _relocated(batch.datasets, moved), problems=broken)
        self._settle_copies(batch.datasets, judgement.judged)
        files = registry.catalogue_files(self.site, judgement.accepted)
        attempts = _with_verdicts(schemas.conform("attempt", batch.attempts), judgement.judged)
        return _Prepared(judgement, attempts, files)

    def _parted(self, judged: pa.Table) -> tuple[dict[str, slices.SliceRecord], dict[str, str]]:
        """Files of slices whose datasets got different verdicts, written again as one file per verdict.

        In one file, the rows of a dataset that is registered elsewhere would be twice in the catalogue table, and those
        of one that waits would be there before it is registered. Returns the new records of datasets by id, and files
        that cannot be read, with the reason.
        """
        kept = judged.filter(
            pc.and_(
                pc.is_in(judged["verdict"], pa.array(["accepted", "parked"])),
                pc.starts_with(judged["path"], slices.PREFIX),
            )
        )
        held = kept.group_by(["path", "verdict"]).aggregate([("dataset_id", "distinct"), ("dataset_id", "list")])
        moved: dict[str, slices.SliceRecord] = {}
        broken: dict[str, str] = {}
        for row in sorted(held.to_pylist(), key=lambda row: (row["path"], row["verdict"])):
            ids = set(row["dataset_id_list"])
            try:
                if {i for i, _ in slices.contents(self.site, row["path"])} != ids:
                    moved |= {r.dataset_id: r for r in slices.extract(self.site, row["path"], ids)}
            except slices.SliceError as error:
                broken[row["path"]] = str(error)
        return moved, broken

    def _settle_copies(self, given: pa.Table, judged: pa.Table) -> None:
        """New copies of registered datasets replace a damaged file, or go; so do files that were parted.

        Only files that nothing can refer to are removed: those under an alternative name, and those of slices.
        """
        ids = set(judged["dataset_id"].to_pylist())
        gone = set(given["path"].to_pylist()).difference(judged["path"].to_pylist())
        used = set(judged.filter(pc.not_equal(judged["verdict"], "present"))["path"].to_pylist())
        copies = judged.filter(pc.and_(pc.equal(judged["verdict"], "present"), pc.not_equal(judged["path"], judged["known_path"])))
        for row in copies.select(["path", "known_path", "file_bytes", "file_checksum"]).to_pylist():
            path, known = row["path"], row["known_path"]
            if path in used or path in gone:
                continue
            if path == datastore.alternative(known, row["file_checksum"]):
                if datastore.check(self.site, known, row["file_bytes"], row["file_checksum"]) is None:
                    gone.add(path)
                else:
                    used.add(path)
                    self.site.path(path).replace(self.site.path(known))
                    fsync_dir(self.site.path(known).parent)
            elif slices.is_slice(path) and ids.issuperset(i for i, _ in slices.contents(self.site, path)):
                gone.add(path)
        for path in sorted(gone):
            self.site.path(path).unlink(missing_ok=True)

    # -- doing ---------------------------------------------------------------------------------------------------------

    def _commit(self, prepared: _Prepared) -> None:
        sequence = self._next()
        path = self.folder / f"{sequence:012}.arrow"
        try:
            write_durable(path, _encode(prepared))
        except OSError as error:
            raise PublishError(f"site {self.site.name}: the batch {path} cannot be written: {one_line(error)}") from None
        fault.point("publish:written")
        self._apply(sequence, prepared)
        self._finish(path)

    def _apply(self, sequence: int, prepared: _Prepared) -> None:
        txn = (APP, sequence)
        metadata = {"batch": str(sequence)}
        for table, files in prepared.files.items():
            delta.add_files(self.site, table, files, txn, metadata, verify=False)
            fault.point("publish:catalogue")
        if prepared.judgement.has_work:
            registry.record(self.site, prepared.judgement, txn)
        fault.point("publish:registered")
        delta.append(self.site, "attempt", prepared.attempts, txn, metadata)
        fault.point("publish:attempted")

    def _finish(self, path: Path) -> None:
        path.unlink()
        fault.point("publish:removed")
        fsync_dir(self.folder)

    def _replay(self) -> int:
        """Apply the batches that a dead committer left, oldest first; returns how many."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for unfinished in self.folder.glob(f"{datastore.TEMPORARY}*"):
            unfinished.unlink()
        left = sorted(self.folder.glob("*.arrow"))
        for path in left:
            try:
                prepared = _decode(path)
            except (OSError, pa.ArrowInvalid, KeyError) as error:
                raise PublishError(
                    f"site {self.site.name}: the batch {path} cannot be read ({error}); restore or remove it"
                ) from None
            self._apply(int(path.stem), prepared)
            self._finish(path)
        return len(left)

    def _next(self) -> int:
        """A sequence number above all that were applied: every batch leaves its own in ``attempt`` and ``dataset``."""
        applied = (delta.transaction_version(self.site, table, APP) or 0 for table in ("attempt", "dataset"))
        return 1 + max(applied)


def _relocated(datasets: pa.Table, moved: dict[str, slices.SliceRecord]) -> pa.Table:
    """Dataset rows with the path and sizes of the files that their slices were moved to."""
    rows = datasets.to_pylist()
    for row in rows:
        if record := moved.get(row["dataset_id"]):
            row |= {c: getattr(record, c) for c in ("path", "bytes", "file_bytes", "file_checksum")}
    return pa.Table.from_pylist(rows, schema=datasets.schema)


def _with_verdicts(attempts: pa.Table, judged: pa.Table) -> pa.Table:
    """Attempts, those that claim success for a refused dataset turned into failures that say why."""
    refused = judged.filter(pc.equal(judged["verdict"], "rejected")).select(["quantum_id", "reason"])
    why = {row["quantum_id"]: row["reason"] for row in refused.to_pylist() if row["quantum_id"] is not None}
    if not why:
        return attempts
    rows = attempts.to_pylist()
    for row in rows:
        if row["state"] == "succeeded" and row["quantum_id"] in why:
            row |= {"state": "failed", "reason": f"output refused: {why[row['quantum_id']]}"[:2048]}
    return pa.Table.from_pylist(rows, schema=attempts.schema)


# -- the batch file ----------------------------------------------------------------------------------------------------


def _tables(prepared: _Prepared) -> Iterator[tuple[str, pa.Table]]:
    judgement = prepared.judgement
    yield "accepted", judgement.accepted
    yield "waiting", judgement.waiting
    yield "admitted", judgement.admitted
    yield "attempts", prepared.attempts


def _encode(prepared: _Prepared) -> bytes:
    """One Arrow IPC file: a row per part, its content an IPC stream of its own; the catalogue files as JSON."""
    names, contents = (
        ["files"],
        [json.dumps({t: [vars(f) for f in files] for t, files in prepared.files.items()}).encode()],
    )
    for name, table in _tables(prepared):
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        names.append(name)
        contents.append(sink.getvalue().to_pybytes())
    whole = pa.table({"part": names, "content": pa.array(contents, pa.large_binary())})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, whole.schema) as writer:
        writer.write_table(whole)
    return bytes(sink.getvalue())


def _decode(path: Path) -> _Prepared:
    with pa.ipc.open_file(pa.py_buffer(path.read_bytes())) as reader:
        whole = reader.read_all()
    contents = dict(zip(whole["part"].to_pylist(), whole["content"].to_pylist(), strict=True))
    files = {table: [delta.AddFile(**file) for file in listed] for table, listed in json.loads(contents["files"]).items()}
    parts = {name: schemas.conform(table, pa.ipc.open_stream(contents[name]).read_all()) for name, table in _PARTS.items()}
    judged = parts["accepted"].slice(0, 0)
    return _Prepared(Judgement(judged, parts["accepted"], parts["waiting"], parts["admitted"]), parts["attempts"], files)
