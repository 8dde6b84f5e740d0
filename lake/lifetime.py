"""The end of a rule's lifetime: its replicas are deleted where nothing wants them any more and nothing is lost by it.

A file goes only if it came by rules that have all expired, no other rule at the site wants a dataset in it, and all its
datasets are at one other site, in files that were read for this and have the registered checksums. So the last copy of
anything stays. One process at a time cleans a lake: two cannot delete each other's last replica. The registry's rows go
first, then the file: a death in between leaves a file that no one reads, and the next clean removes it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

import schemas
from lake import datastore, delta, transfer_log
from lake.commit import commit
from lake.fault import point
from lake.link import reachable
from lake.parquet import write_files
from lake.query import QueryError, connect
from lake.rule import ANY, EXPIRED, REFETCH, Rule, RuleError, note, open_source, rules
from lake.site import Lake, Site, table_dir
from lake.slices import is_slice, table_of
from lake.sql import statement
from lake.transfer import WORKERS
from lake.transfer_log import Event


@dataclass
class Cleaned:
    """What became of the files of a site's expired rules: ``deleted`` paths, their ``bytes``, and what ``kept`` the others."""

    site: str
    deleted: list[str] = field(default_factory=list)
    bytes: int = 0
    kept: dict[str, str] = field(default_factory=dict)


def clean(lake: Lake, now: datetime | None = None) -> list[Cleaned]:
    """Delete what expired rules brought and nothing needs; one Cleaned per site that has such a rule."""
    now = now or datetime.now(UTC)
    with lake.central.lock("clean"):
        standing = [rule.at(now) for rule in rules(lake) if rule.name != REFETCH]
        ended = {rule.destination for rule in standing if rule.state == EXPIRED}
        return [_clean(lake, lake.site(name), standing) for name in lake.sites if name in ended and reachable(lake.site(name))]


def _clean(lake: Lake, site: Site, standing: Sequence[Rule]) -> Cleaned:
    here = [rule for rule in standing if rule.destination == site.name]
    expired = [rule for rule in here if rule.state == EXPIRED]
    ids = [rule.rule_id for rule in expired]
    done = Cleaned(site.name)
    with site.lock("movement"):
        with connect(lake, [site.name], site.name) as con:
            wanted = [each for rule in here if rule.state != EXPIRED for each in _wanted(lake, rule)]
            files = con.table(statement("expired_files"), {"expired": ids, "wanted": wanted, "site": site.name}).to_pylist()
        done.kept = {row["path"]: row["kept"] for row in files if row["kept"] is not None}
        free = [row for row in files if row["kept"] is None]
        safe = _safe(lake, site, free)
        done.kept |= {row["path"]: "no other site has an intact copy" for row in free if row["path"] not in safe}
        free = [row for row in free if row["path"] in safe]
        if free:
            _withdraw(site, [dataset for row in free for dataset in row["datasets"]])
        point("lifetime:withdrawn")
        _remove(site, ids)
        done.deleted, done.bytes = [row["path"] for row in free], sum(row["file_bytes"] for row in free)
        if free:
            kept = f", {len(done.kept)} kept ({min(done.kept.values())})" if done.kept else ""
            said = f"{len(done.deleted)} files deleted{kept}"
            expired = [replace(rule, reason=said) for rule in expired]
        note(site, expired)
    return done


def _wanted(lake: Lake, rule: Rule) -> list[str]:
    """The datasets that a rule wants at its destination, those that are there already among them, so far as can be known."""
    sources = [name for name in lake.sites if name != rule.destination] if rule.source == ANY else [rule.source]
    predicate, asked = rule.predicate, rule.source
    if not all(reachable(lake.site(name)) for name in sources):  # whatever of these types is here may be wanted
        predicate, asked = "true", rule.destination
    sql = f"SELECT dataset_id FROM dataset WHERE dataset_type IN (SELECT unnest($types::VARCHAR[])) AND (\n{predicate}\n)"
    with open_source(lake, asked, [asked], [rule]) as con:
        try:
            rows = con.table(sql, {"types": list(rule.dataset_types)})
        except QueryError as error:
            raise RuleError(f"rule {rule.name}: its predicate cannot be used ({error}); nothing was deleted") from None
    return rows["dataset_id"].to_pylist()  # type: ignore[no-any-return]


def _safe(lake: Lake, site: Site, files: Sequence[dict[str, Any]]) -> set[str]:
    """The files all of whose datasets one other site has, in files that are read here and now and are as registered."""
    if not files:
        return set()
    columns: dict[str, list[str]] = {"paths": [], "datasets": [], "checksums": []}
    for row in files:
        columns["paths"] += [row["path"]] * len(row["datasets"])
        columns["datasets"] += row["datasets"]
        columns["checksums"] += row["checksums"]
    with connect(lake) as con:
        rows = con.table(statement("datasets_elsewhere"), columns | {"site": site.name}).to_pylist()
    offers: dict[str, dict[str, list[tuple[str, int, str]]]] = {}
    for row in rows:
        offer = (row["replica"], row["file_bytes"], row["file_checksum"])
        offers.setdefault(row["path"], {}).setdefault(row["site"], []).append(offer)

    def intact(path: str) -> bool:
        return any(
            all(datastore.check(lake.site(name), *offer) is None for offer in offered)
            for name, offered in offers[path].items()
            if reachable(lake.site(name))
        )

    with ThreadPoolExecutor(WORKERS) as pool:
        return {path for path, good in zip(offers, pool.map(intact, offers), strict=True) if good}


def _withdraw(site: Site, dataset_ids: Iterable[str]) -> None:
    """Take datasets out of the registry, in one commit that puts the other rows of the touched files in their place."""
    gone = pa.table({"dataset_id": pa.array(sorted(set(dataset_ids)), pa.string())})
    with site.lock(), delta.cursor() as con:
        con.register("gone", gone)
        live = delta.scan("dataset", delta.files(site, "dataset"), filename=True)
        rows = con.sql(f"SELECT DISTINCT filename FROM ({live}) SEMI JOIN gone USING (dataset_id) ORDER BY ALL").fetchall()
        touched = [name.removeprefix(f"{site.table_path('dataset')}/") for (name,) in rows]
        left = con.sql(f"FROM ({delta.scan('dataset', [name for (name,) in rows])}) ANTI JOIN gone USING (dataset_id)")
        kept = schemas.conform("dataset", left.to_arrow_table())
        written = write_files(site, "dataset", kept) if kept.num_rows else []
        commit(site, "dataset", written, touched, None, {"why": "the lifetime of the rules that brought them is over"})


def _remove(site: Site, expired: Sequence[str]) -> None:
    """Take unregistered files of expired rules out of their catalogue tables and off the disk, and log it."""
    with connect(site.lake, [site.name], site.name) as con:
        rows = con.table(statement("expired_leftovers"), {"expired": list(expired)}).to_pylist()
    paths = sorted({row["path"] for row in rows})
    by_table: dict[str, list[str]] = {}
    for path in filter(is_slice, paths):
        by_table.setdefault(table_of(path), []).append(path)
    for table, members in by_table.items():
        delta.remove_files(site, table, [path.removeprefix(f"{table_dir(table)}/") for path in members])
    for path in paths:
        site.path(path).unlink(missing_ok=True)
    point("lifetime:removed")
    transfer_log.write(site, [Event(**row, state="deleted", reason="the lifetime of its rule is over") for row in rows])
