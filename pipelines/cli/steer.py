"""drp accept, reject, pause, resume, retry, cancel: an operator's decisions, each an event with who, when and why."""

from __future__ import annotations

from pathlib import Path

import click

from pipelines.cli.output import campaign_option, known_campaign, lake_argument

why_option = click.option("--why", metavar="TEXT", help="The reason, kept with the decision.")
site_option = click.option("--site", metavar="SITE", help="At this site only.")
step_argument = click.argument("step", metavar="STEP")


@click.command("accept")
@lake_argument
@step_argument
@site_option
@why_option
@campaign_option
def accept(lake: Path, step: str, site: str | None, why: str | None, campaign: str | None) -> None:
    """Accept STEP although quanta failed, so that the campaign goes on without them.

    \b
    Example:
      drp accept ./my-lake step1 --site FRDF --why "two detectors were closed"
    """
    from lake.site import Lake
    from pipelines import steer

    opened = Lake.open(lake)
    for line in steer.decide(opened, known_campaign(opened, campaign), step, site, "accepted", why):
        click.echo(line)


@click.command("reject")
@lake_argument
@step_argument
@site_option
@why_option
@campaign_option
def reject(lake: Path, step: str, site: str | None, why: str | None, campaign: str | None) -> None:
    """Reject STEP: the campaign does not go on from it until it is retried or accepted.

    \b
    Example:
      drp reject ./my-lake step2c --why "wrong reference catalogue"
    """
    from lake.site import Lake
    from pipelines import steer

    opened = Lake.open(lake)
    for line in steer.decide(opened, known_campaign(opened, campaign), step, site, "rejected", why):
        click.echo(line)


@click.command("retry")
@lake_argument
@step_argument
@site_option
@why_option
@campaign_option
def retry(lake: Path, step: str, site: str | None, why: str | None, campaign: str | None) -> None:
    """Give the failed quanta of STEP another round of attempts at the next drp run.

    \b
    Example:
      drp retry ./my-lake step1 --why "disk replaced"
    """
    from lake.site import Lake
    from pipelines import steer

    opened = Lake.open(lake)
    for line in steer.retry(opened, known_campaign(opened, campaign), step, site, why):
        click.echo(line)


def _campaign_command(name: str, state: str, text: str, example: str) -> click.Command:
    @click.command(name, help=f"{text}\n\n\b\nExample:\n  {example}")
    @lake_argument
    @why_option
    @campaign_option
    def command(lake: Path, why: str | None, campaign: str | None) -> None:
        from lake.site import Lake
        from pipelines import steer

        opened = Lake.open(lake)
        click.echo(steer.set_state(opened, known_campaign(opened, campaign), state, why))

    return command


pause = _campaign_command(
    "pause", "paused", "Ask the driver to stop after the running jobs; nothing is lost.", "drp pause ./my-lake --why maintenance"
)
resume = _campaign_command("resume", "running", "Let a paused campaign run again (start it with drp run).", "drp resume ./my-lake")
cancel = _campaign_command(
    "cancel", "cancelled", "End a campaign for good; what it made stays.", 'drp cancel ./my-lake --why "superseded"'
)
