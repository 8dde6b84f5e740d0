"""drp rule: say what must be where, and see whether it is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipelines.cli.output import Bars, campaign_option, emit, format_option, lake_argument

if TYPE_CHECKING:
    from lake.movement import Rule
    from lake.site import Lake

COLUMNS = ("rule", "dataset_types", "source", "destination", "state", "files", "bytes", "reason")
FILES = """
    SELECT m.path, count(*) AS datasets, max(m.file_bytes) AS bytes, any_value(t.state) AS state,
           any_value(t.attempt) AS attempt, any_value(t.reason) AS reason
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
@click.option("--from", "source", required=True, metavar="SITE", help="Site that has them.")
@click.option("--to", "destination", required=True, metavar="SITE", help="Site that must get them.")
@campaign_option
@format_option
def add(lake: Path, name: str, types: str, predicate: str, source: str, destination: str, campaign: str | None, form: str) -> None:
    """Add a rule (or take it up again) and move what it wants. Exit code 1 if it is STUCK.

    SQL is a condition over the columns of the source's table dataset, and may use any other table of that site.

    \b
    Examples:
      drp rule add ./drp-demo "raws of 9470" --types raw --from USDF --to FRDF \\
          --where "visit IN (SELECT visit FROM visit_detector_patch WHERE tract = 9470)"
      drp rule add ./drp-demo coadds --types deep_coadd --from LANCS --to USDF
    """
    from lake import movement, registry
    from lake.site import Lake

    opened = Lake.open(lake)
    wanted = tuple(kind.strip() for kind in types.split(",") if kind.strip())
    known = registry.dataset_types(opened.site(source))
    unknown = [kind for kind in wanted if kind not in known]
    if unknown:
        raise click.UsageError(f"dataset type {unknown[0]!r} is not known at {source}; known: {', '.join(sorted(known))}")
    rule = movement.add_rule(opened, campaign, name, wanted, predicate, source, destination)
    _move(opened, [rule], form)


@command.command("run")
@lake_argument
@click.argument("names", nargs=-1, metavar="[RULE]...")
@campaign_option
@format_option
def run(lake: Path, names: tuple[str, ...], campaign: str | None, form: str) -> None:
    """Move what rules still want: the named ones, or all that are not satisfied. Exit code 1 if one is STUCK.

    \b
    Examples:
      drp rule run ./drp-demo
      drp rule run ./drp-demo "raws of 9470"
    """
    from lake import movement
    from lake.site import Lake

    opened = Lake.open(lake)
    rules = movement.rules(opened, campaign)
    chosen = [rule for name in names for rule in _named(rules, name)] if names else [r for r in rules if r.state != "OK"]
    _move(opened, [rule for rule in chosen if rule.source != "*"], form)


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
        for key, value in (vars(rule) | {"dataset_types": ", ".join(rule.dataset_types)}).items():
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
        row = vars(rule) | {"rule": rule.name, "dataset_types": ",".join(rule.dataset_types)}
        rows.append(row | {"bytes": size(rule.bytes)} if form == "table" else row)
    emit(rows, form, COLUMNS)
