"""drp rule: say what must be where, see whether it is, and let it go again."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipelines.cli.output import Bars, campaign_option, emit, format_option, lake_argument

if TYPE_CHECKING:
    from lake.movement import Rule
    from lake.site import Lake

COLUMNS = (
    "rule", "dataset_types", "source", "destination", "priority", "state", "files", "bytes", "not_before", "expires_at", "reason",
)  # fmt: skip
FILES = """
    SELECT m.path, count(*) AS datasets, max(m.file_bytes) AS bytes, any_value(t.state) AS state,
           any_value(t.source) AS source, any_value(t.attempt) AS attempt, any_value(t.reason) AS reason
    FROM manifest m
    LEFT JOIN transfer_now t USING (site, rule_id, path)
    WHERE m.rule_id = $rule
    GROUP BY m.path
    ORDER BY m.path
"""


@click.group("rule")
def command() -> None:
    """Rules say which datasets must be at which site; the destination's registry decides whether they are.

    \b
    Example:
      drp rule list ./drp-demo
    """


@command.command("add")
@lake_argument
@click.argument("name")
@click.option("--types", required=True, metavar="TYPE,...", help="Dataset types.")
@click.option("--where", "predicate", default="true", show_default=True, metavar="SQL", help="Which of them; see below.")
@click.option("--from", "source", required=True, metavar="SITE", help="Site that has them; any: whichever serves best.")
@click.option("--to", "destinations", required=True, metavar="SITE,...", help="Site that must get them, or several.")
@click.option("--copies", type=int, metavar="N", help="How many of these sites must get them; all by default.")
@click.option("--priority", type=int, default=0, show_default=True, help="Rules of higher priority move first.")
@click.option("--not-before", metavar="TIME", help="Embargo: nothing leaves before this date or time (UTC).")
@click.option("--expires", metavar="TIME", help="Date or time (UTC), or +N days, after which the replicas may go (drp rule clean).")
@click.option("--once", is_flag=True, help="Only what matches now; else the rule goes on matching new datasets.")
@campaign_option
@format_option
def add(
    lake: Path, name: str, types: str, predicate: str, source: str, destinations: str, copies: int | None, priority: int,
    not_before: str | None, expires: str | None, once: bool, campaign: str | None, form: str,
) -> None:  # fmt: skip
    """Add a rule (or take it up again) and move what it wants. Exit code 1 if it is STUCK.

    SQL is a condition over the columns of the source's table dataset, and may use any other table of that site.

    \b
    Examples:
      drp rule add ./drp-demo "raws of 9470" --types raw --from USDF --to FRDF \\
          --where "visit IN (SELECT visit FROM visit_detector_patch WHERE tract = 9470)"
      drp rule add ./drp-demo coadds --types deep_coadd --from any --to LANCS,FRDF --copies 1 --expires +90
    """
    from lake import movement, registry
    from lake.site import Lake

    opened = Lake.open(lake)
    wanted = tuple(kind.strip() for kind in types.split(",") if kind.strip())
    givers = list(opened.sites) if source == "any" else [source]
    known = {kind for giver in givers for kind in registry.dataset_types(opened.site(giver))}
    unknown = [kind for kind in wanted if kind not in known]
    if unknown:
        raise click.UsageError(f"dataset type {unknown[0]!r} is not known at {source}; known: {', '.join(sorted(known))}")
    to = [each.strip() for each in destinations.split(",") if each.strip()]
    spec = movement.RuleSpec(
        campaign, name, wanted, predicate, movement.ANY if source == "any" else source, (to or [""])[0], priority,
        _time("--not-before", not_before), _time("--expires", expires), once,
    )  # fmt: skip
    alone = len(to) == 1 and copies in (None, 1)  # one destination that is the source is for add_rules to refuse
    specs = [spec] if alone else movement.spread(opened, spec, to, copies or len(set(to) - {source}))
    _move(opened, movement.add_rules(opened, specs), form)


def _time(option: str, text: str | None) -> datetime | None:
    from pipelines.placement import moment

    if text is None:
        return None
    try:
        if text.startswith("+"):
            return datetime.now(UTC).replace(microsecond=0) + timedelta(days=float(text[1:].removesuffix("d")))
        return moment(text)
    except (ValueError, OverflowError):
        raise click.UsageError(f"{option}: {text!r} is not a time, as 2027-01-31, 2027-01-31T12:00 or +90 (days)") from None


@command.command("run")
@lake_argument
@click.argument("names", nargs=-1, metavar="[RULE]...")
@campaign_option
@format_option
def run(lake: Path, names: tuple[str, ...], campaign: str | None, form: str) -> None:
    """Let rules match new datasets and move what they want: the named ones, or all. Exit code 1 if one is STUCK.

    \b
    Examples:
      drp rule run ./drp-demo
      drp rule run ./drp-demo "raws of 9470"
    """
    from lake import movement
    from lake.site import Lake

    opened = Lake.open(lake)
    rules = movement.rules(opened, campaign)
    chosen = [rule for name in names for rule in _named(rules, name)] if names else rules
    _move(opened, movement.evaluate(opened, chosen), form)


@command.command("clean")
@lake_argument
@format_option
def clean(lake: Path, form: str) -> None:
    """Take out the replicas that rules brought whose lifetime is over, where nothing else wants them.

    A file goes only if another site has all its datasets in files that were read for this and are intact: the last copy
    of anything stays. drp prune --undo puts back what was taken out; its files are removed seven days later, or by
    drp prune --empty.

    \b
    Example:
      drp rule clean ./drp-demo
    """
    from lake import movement
    from lake.site import Lake

    rows = []
    for done in movement.clean(Lake.open(lake)):
        rows += [{"site": done.site, "path": path, "what": "deleted", "reason": None} for path in done.deleted]
        rows += [{"site": done.site, "path": path, "what": "kept", "reason": why} for path, why in sorted(done.kept.items())]
    emit(rows, form, ("site", "path", "what", "reason"))


def _decision(verb: str, text: str) -> click.Command:
    @command.command(verb, help=f'{text}\n\n\b\nExample:\n  drp rule {verb} ./drp-demo "raws of 9470" --why "disks are full"')
    @lake_argument
    @click.argument("name", metavar="RULE")
    @click.option("--why", metavar="TEXT", help="The reason, kept with the decision.")
    @campaign_option
    @format_option
    def decide(lake: Path, name: str, why: str | None, campaign: str | None, form: str) -> None:
        from lake import movement
        from lake.site import Lake
        from pipelines.journal import who

        opened = Lake.open(lake)
        change = movement.suspend if verb == "suspend" else movement.resume
        _show([change(opened, rule, who(), why) for rule in _named(movement.rules(opened, campaign), name)], form)

    return decide


suspend = _decision("suspend", "Let a rule (at all its destinations) rest until it is resumed.")
resume = _decision("resume", "Let a suspended rule go on at the next run.")


@command.command("list")
@lake_argument
@campaign_option
@format_option
def list_(lake: Path, campaign: str | None, form: str) -> None:
    """List the rules and their states.

    \b
    Example:
      drp rule list ./drp-demo --format json
    """
    from lake import movement
    from lake.site import Lake

    _show(movement.rules(Lake.open(lake), campaign), form)


@command.command("show")
@lake_argument
@click.argument("name", metavar="RULE")
@campaign_option
@format_option
def show(lake: Path, name: str, campaign: str | None, form: str) -> None:
    """Show one rule (its name, or the beginning of its id), and every file of its manifest.

    \b
    Example:
      drp rule show ./drp-demo "place/raws/USDF-FRDF"
    """
    from lake import movement, query
    from lake.site import Lake

    opened = Lake.open(lake)
    rules = movement.rules(opened, campaign)
    [rule, *others] = _named(rules, name)
    if others:
        raise click.UsageError(f"{len(others) + 1} rules are called {name!r}; give the beginning of an id: "
                               + ", ".join(each.rule_id for each in (rule, *others)))  # fmt: skip
    with query.connect(opened, [rule.destination]) as con:
        files = con.table(FILES, {"rule": rule.rule_id})
    if form == "table":
        for key, value in rule.row().items():
            click.echo(f"{key:13} {'' if value is None else value}")
    emit(files.to_pylist(), form, files.column_names)


def _named(rules: list[Rule], name: str) -> list[Rule]:
    found = [rule for rule in rules if rule.name == name or rule.rule_id.startswith(name)]
    if not found:
        listed = ", ".join(sorted({rule.name for rule in rules})) or "none yet"
        raise click.UsageError(f"no rule {name!r}; known: {listed}")
    return found


def _move(lake: Lake, rules: list[Rule], form: str) -> None:
    from lake import movement

    with Bars() as bars:
        report = movement.run_rules(lake, rules, lambda done, total: bars.update("movement", "files", done, total))
        for (site, path), reason in report.damaged.items():
            healed = report.healed.get((site, path))
            bars.say(f"{path}: {reason}" + (f"; replaced by the replica of {healed}" if healed else ""))
    _show(report.rules, form)
    if report.stuck:
        raise SystemExit(1)


def _show(rules: list[Rule], form: str) -> None:
    from pipelines.cli.transfers import size

    rows: list[dict[str, Any]] = []
    for rule in rules:
        row = {"rule": rule.name} | rule.row()
        rows.append(row | {"bytes": size(rule.bytes)} if form == "table" else row)
    emit(rows, form, COLUMNS)
