"""The end of a rule's lifetime: its replicas are taken out where nothing wants them any more and nothing is lost by it.

A file goes only if it came by rules that have all expired, no other rule at the site wants a dataset in it, and all its
datasets are at one other site, in files that were read for this and have the registered checksums. So the last copy of
anything stays. One process at a time cleans a lake: two cannot take out each other's last replica. Taking out is that of
lake/prune.py: it can be undone (what was put back stays) until the files go, by drp prune --empty, or by a clean after
the horizon.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from lake import datastore, prune, transfer_log
from lake.fault import point
from lake.link import reachable
from lake.query import QueryError, connect
from lake.rule import ANY, EXPIRED, REFETCH, Rule, RuleError, note, open_source, rules
from lake.site import Lake, Site
from lake.sql import statement
from lake.transfer import WORKERS
from lake.transfer_log import Event

OVER = "the lifetime of its rule is over"


@dataclass
class Cleaned:
    """What became of the files of a site's expired rules: paths ``deleted`` (taken out of the registry) and their ``bytes``,
    what ``kept`` the others, and how many files that were taken out before the horizon are ``gone`` from storage."""

    site: str
    deleted: list[str] = field(default_factory=list)
    gone: int = 0
    bytes: int = 0
    kept: dict[str, str] = field(default_factory=dict)


def clean(lake: Lake, now: datetime | None = None) -> list[Cleaned]:
    """Take out what expired rules brought and nothing needs; one Cleaned per site that has such a rule."""
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
        prune.settle(site)
        with connect(lake, [site.name], site.name) as con:
            wanted = [each for rule in here if rule.state != EXPIRED for each in _wanted(lake, rule)]
            files = con.table(statement("expired_files"), {"expired": ids, "wanted": wanted, "site": site.name}).to_pylist()
        done.kept = {row["path"]: row["kept"] for row in files if row["kept"] is not None}
        free = [row for row in files if row["kept"] is None]
        safe = _safe(lake, site, free)
        done.kept |= {row["path"]: "no other site has an intact copy" for row in free if row["path"] not in safe}
        free = [row for row in free if row["path"] in safe]
        if free:
            leave = prune.Leave(tagged=True, certified=True, wanted=True)
            prune.prune(lake, site, [dataset for row in free for dataset in row["datasets"]], OVER, leave)
        point("lifetime:withdrawn")
        _let_go(site, ids)
        done.gone = len(prune.empty(site, reason=OVER))
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


def _let_go(site: Site, expired: Sequence[str]) -> None:
    """Log that what is not registered (any more) is no longer under way; what never was, and is not kept, is removed."""
    with connect(site.lake, [site.name], site.name) as con:
        rows = con.table(statement("expired_leftovers"), {"expired": list(expired)}).to_pylist()
    for path in sorted({row["path"] for row in rows if not row.pop("kept")}):
        site.path(path).unlink(missing_ok=True)
    point("lifetime:removed")
    transfer_log.write(site, [Event(**row, state="deleted", reason=OVER) for row in rows])
