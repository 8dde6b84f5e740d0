"""The command line ``drp``: thin commands, each imported only when it is used.

Exit codes: 0 ok, 1 something is wrong with the lake or campaign, 2 the command was misused. Errors are one line on stderr;
DRP_DEBUG=1 shows where they come from.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

import click

#: Command: (module:object, help shown in the list).
COMMANDS: dict[str, tuple[str, str]] = {
    "demo": ("pipelines.cli.demo:command", "The six-tract campaign, from nothing to report."),
    "init": ("pipelines.cli.init:command", "Create the site lakes."),
    "simulate": ("pipelines.cli.simulate:command", "Make the raw exposures of a campaign."),
    "ingest-raws": ("pipelines.cli.ingest_raws:command", "Register raw frames and calibrations at a site."),
    "ingest": ("pipelines.cli.ingest:command", "Bring files of any dataset type into a site."),
    "run": ("pipelines.cli.run:command", "Run or continue a campaign."),
    "status": ("pipelines.cli.status:command", "Steps x sites x states; down to one quantum."),
    "accept": ("pipelines.cli.steer:accept", "Accept a step whose failures are understood."),
    "reject": ("pipelines.cli.steer:reject", "Reject a step, so that the campaign does not go on."),
    "pause": ("pipelines.cli.steer:pause", "Ask the driver to stop after the running jobs."),
    "resume": ("pipelines.cli.steer:resume", "Let a paused campaign run again."),
    "retry": ("pipelines.cli.steer:retry", "Give failed quanta another round of attempts."),
    "cancel": ("pipelines.cli.steer:cancel", "End a campaign for good."),
    "ledger": ("pipelines.cli.ledger:command", "Expected against present: is anything lost?"),
    "audit": ("pipelines.cli.audit:command", "Storage against registry: lost, damaged, orphan."),
    "transfers": ("pipelines.cli.transfers:command", "Rules and transfers: counts, bytes, rate, ETA."),
    "rule": ("pipelines.cli.rule:command", "Add, list and show rules."),
    "archive": ("pipelines.cli.archive:command", "Bundle small files; verify, read and recall them."),
    "publish": ("pipelines.cli.publish:command", "Send a release to a distribution site."),
    "datasets": ("pipelines.cli.datasets:command", "Find datasets by data ID, collection, time and place."),
    "collection": ("pipelines.cli.collection:command", "List, show, tag, certify and chain collections."),
    "prune": ("pipelines.cli.prune:command", "Take datasets out of a site, and put them back."),
    "export": ("pipelines.cli.exchange:export_command", "Write the registry of a site to a few small files."),
    "import": ("pipelines.cli.exchange:import_command", "Take what export wrote into a site."),
    "export-butler": ("pipelines.cli.export_butler:command", "Write datasets as a Butler's YAML export."),
    "import-butler": ("pipelines.cli.import_butler:command", "Take a Butler's YAML export into a site."),
    "sql": ("pipelines.cli.sql:command", "Ask anything of every table of every site."),
    "upkeep": ("pipelines.cli.upkeep:command", "Merge small files, remove what nobody needs any more."),
    "qa": ("pipelines.cli.qa:command", "Judge the campaign by its expectation suites."),
    "report": ("pipelines.cli.report:command", "Write the campaign report (one HTML file)."),
}


class LazyGroup(click.Group):
    """A group that knows its commands by name and imports one only to run it or to show its own help."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS:
            ctx.fail(f"no such command {args[0]!r}; known: {', '.join(COMMANDS)}")
        return super().resolve_command(ctx, args)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="multisite-drp", prog_name="drp")
def cli() -> None:
    """Multisite data release processing: run sky survey campaigns over several sites, and prove that nothing was lost.

    \b
    Start here:
      drp demo                        the whole thing, from nothing to report
      drp status ./drp-demo           what is done, what is running
      drp ledger ./drp-demo           is anything lost?
      drp sql ./drp-demo "SELECT band, count(*) FROM visit_table GROUP BY band"
    """


def _ours(error: BaseException) -> bool:
    return type(error).__module__.split(".")[0] in ("schemas", "lake", "checks", "pipelines")


def _exit_code(error: Exception) -> int:
    """2 for misuse, 1 for what is wrong with lake, campaign or storage (also where an OSError is behind it)."""
    if not _ours(error) or not isinstance(error, ValueError):
        return 1
    return int(getattr(error, "exit_code", 1 if isinstance(error.__context__, OSError) else 2))


def main(arguments: list[str] | None = None) -> None:
    """Entry point of the ``drp`` command."""
    try:
        result: Any = cli.main(arguments, standalone_mode=False)
        code = result if isinstance(result, int) else 0
    except click.exceptions.Abort:
        click.echo("stopped; run the same command again to continue", err=True)
        code = 130
    except click.ClickException as error:
        hint = f" (see {error.ctx.command_path} --help)" if isinstance(error, click.UsageError) and error.ctx else ""
        click.echo(f"drp: {error.format_message()}{hint}", err=True)
        code = 2
    except BrokenPipeError:  # who reads has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except Exception as error:
        if os.environ.get("DRP_DEBUG"):
            raise
        text = " ".join(str(error.args[0] if isinstance(error, KeyError) and error.args else error).split())
        if isinstance(error, OSError) and error.strerror:
            text = f"{error.filename or ''}: {error.strerror}".lstrip(": ")
        elif not _ours(error):
            text = f"unexpected {type(error).__name__}: {text} (DRP_DEBUG=1 shows where)"
        click.echo(f"drp: {text}", err=True)
        code = _exit_code(error)
    sys.exit(code)
