"""drp prune: take datasets out of a site's registry, put them back, and at last remove their files."""

from __future__ import annotations

from pathlib import Path

import click

from pipelines.cli.output import emit, format_option, lake_argument

COLUMNS = (
    "site", "dataset_type", "run", "exposure", "visit", "detector", "tract", "patch", "band", "bytes", "replicas",
    "archived", "becomes", "reason",
)  # fmt: skip
OPERATIONS = """
    SELECT operation, min(noted_at) AS noted_at, any_value(who) AS who, any_value(reason) AS reason,
           string_agg(DISTINCT state, ', ' ORDER BY state) AS states, count(*) AS datasets, min(version) AS version
    FROM tombstone_now
    GROUP BY operation
    ORDER BY noted_at
"""


@click.command("prune")
@lake_argument
@click.argument("site", metavar="SITE")
@click.argument("types", nargs=-1, metavar="[TYPE]...")
@click.option("--where", default="", metavar="CONDITION", help="Which of them: as in drp datasets.")
@click.option("--collection", "collections", multiple=True, metavar="NAME", help="What is in this collection (may be repeated).")
@click.option("--reason", default="pruned", show_default=True, metavar="TEXT", help="Why, for the record.")
@click.option(
    "--purge", is_flag=True, help="Also the last copy in the lake: no other site has it, nor a sound bundle of the archive."
)
@click.option("--tagged", is_flag=True, help="Also members of TAGGED collections.")
@click.option("--certified", is_flag=True, help="Also calibrations that are certified.")
@click.option("--wanted", is_flag=True, help="Also what a rule wants at SITE (it will be brought again).")
@click.option("--undo", "operation", metavar="OPERATION", help="Put back what an earlier prune took out.")
@click.option("--list", "listed", is_flag=True, help="List what was taken out, by operation.")
@click.option("--empty", is_flag=True, help="Remove the files of what was taken out --older-than days ago: no undo after that.")
@click.option("--older-than", type=click.FloatRange(0), default=7.0, show_default=True, metavar="DAYS", help="For --empty.")
@click.option("--yes", is_flag=True, help="Do it; without this it is only shown.")
@format_option
def command(
    lake: Path, site: str, types: tuple[str, ...], where: str, collections: tuple[str, ...], reason: str, purge: bool,
    tagged: bool, certified: bool, wanted: bool, operation: str | None, listed: bool, empty: bool, older_than: float,
    yes: bool, form: str,
) -> None:  # fmt: skip
    """Take datasets out of SITE: shown first, done with --yes. Their files stay until --empty, so that --undo works.

    Refused unless asked for: the last copy in the lake (a sound bundle of the archive counts as a copy: drp archive --recall
    brings it back), members of TAGGED collections, certified calibrations, and what a rule wants at SITE. Exit code 1 if
    something is refused, or cannot be put back.

    \b
    Examples:
      drp prune ./drp-demo FRDF direct_warp --where "tract = 9948" --yes
      drp prune ./drp-demo FRDF --list
      drp prune ./drp-demo FRDF --undo 3f2a --yes
      drp prune ./drp-demo FRDF --empty --older-than 30 --yes
    """
    from lake import prune, query
    from lake.search import search
    from lake.site import Lake

    opened = Lake.open(lake)
    member = opened.site(site)
    if sum((operation is not None, listed, empty, bool(types or where or collections))) != 1:
        raise click.UsageError("say which datasets (TYPE, --where, --collection), or one of --undo, --list, --empty")
    if listed or (operation and not yes):
        with query.connect(opened, [site], site) as con:
            rows = [row for row in con.table(OPERATIONS).to_pylist() if row["operation"].startswith(operation or "")]
        emit(rows, form, ["operation", "noted_at", "who", "reason", "states", "datasets", "version"])
        raise SystemExit(bool(operation and not rows))
    if operation:
        verdicts = prune.undo(member, operation).to_pylist()
        emit(verdicts, form, ["dataset_id", "verdict", "reason"])
        raise SystemExit(any(row["verdict"] not in ("accepted", "present") for row in verdicts))
    if empty:
        paths = prune.empty(member, older_than, dry_run=not yes)
        rows = [{"path": path, "becomes": "removed" if yes else "removed with --yes"} for path in paths]
        rows += [{"path": path, "becomes": "kept: the last copy by now"} for path in prune.last_copies(member, older_than)]
        emit(rows, form, ["path", "becomes"])
        return
    found = search(opened, types, where, collections, sites=[site])["dataset_id"].to_pylist()
    leave = prune.Leave(last_copy=purge, tagged=tagged, certified=certified, wanted=wanted)
    plan = prune.plan(opened, member, found, leave)
    done = ""
    if yes and not plan.refused.num_rows:
        done, plan = prune.prune(opened, member, found, reason, leave)
    rows = [row | {"site": site, "becomes": row["state"]} for row in plan.datasets.to_pylist()]
    rows += [row | {"site": site, "becomes": "refused"} for row in plan.refused.to_pylist()]
    emit(rows, form, COLUMNS)
    size = sum(row["bytes"] for row in plan.datasets.to_pylist())
    word = "taken out" if done else "would be taken out"
    what = f"{plan.datasets.num_rows:,} datasets, {size / 1e6:,.1f} MB {word}, {plan.refused.num_rows:,} refused"
    hint = f"; undo with: drp prune {lake} {site} --undo {done} --yes" if done else "" if yes else "; do it with --yes"
    click.echo(f"{what}{'; nothing was done' if plan.refused.num_rows and yes else hint}", err=True)
    if plan.refused.num_rows:
        raise SystemExit(1)
