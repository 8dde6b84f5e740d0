"""python -m benchmarks: list them; python -m benchmarks NAME [--scale 1|10|100] [--json]: run one."""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import sys
from typing import Any

import click

import benchmarks

SCALES = ["1", "10", "100"]


def names() -> list[str]:
    """Every benchmark, in alphabetical order."""
    return sorted(m.name for m in pkgutil.iter_modules(benchmarks.__path__) if not m.name.startswith("_"))


class Benchmarks(click.Group):
    """A group whose commands are the modules beside this one, imported when they are used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return names()

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return command(cmd_name) if cmd_name in names() else None


def command(name: str) -> click.Command:
    """One benchmark as a command."""
    module = importlib.import_module(f"benchmarks.{name}")

    def run(scale: str, as_json: bool, **options: Any) -> None:
        load = round(os.getloadavg()[0], 2)
        failed = False
        for quantity in module.run(int(scale), **options):
            failed |= quantity.ok is False
            click.echo(json.dumps(quantity.record(int(scale), load)) if as_json else line(quantity))
        if not as_json:
            click.echo(f"scale {scale}, load {load}", err=True)
        sys.exit(1 if failed else 0)

    parameters: list[click.Parameter] = [
        *module.OPTIONS,
        click.Option(["--scale"], type=click.Choice(SCALES), default="1", show_default=True, help="Size of the problem."),
        click.Option(["--json", "as_json"], is_flag=True, help="One JSON object per quantity."),
    ]
    return click.Command(name, callback=run, params=parameters, help=module.ABOUT, short_help=module.ABOUT)


def line(quantity: benchmarks.Quantity) -> str:
    """A quantity on one line: name, ours, peer, ratio, wanted, ok."""
    verdict = {True: "ok", False: "NOT OK", None: ""}[quantity.ok]
    count = f"on {quantity.count:,}" if quantity.count is not None else ""
    peer = f"{quantity.peer.name} {quantity.peer.version} {quantity.peer.figure:.4g}" if quantity.peer else ""
    ratio = f"x{quantity.ratio:.3g}" if quantity.ratio is not None else ""
    value = f"{quantity.ours:.4g} {quantity.unit}"
    return f"{quantity.name:<40} {value:>16}  {count:<12} {peer:<24} {ratio:<8} {quantity.wanted:<8} {verdict}".rstrip()


@click.group(cls=Benchmarks, invoke_without_command=True)
@click.pass_context
def cli(ctx: click.Context) -> None:
    """The figures that the project claims, measured. Exit code 1 when one is not what is wanted.

    \b
    Examples:
      python -m benchmarks
      python -m benchmarks accuracy --lake ./drp-demo
    """
    if ctx.invoked_subcommand is None:
        for name in names():
            click.echo(f"{name:<16} {importlib.import_module(f'benchmarks.{name}').ABOUT}")


if __name__ == "__main__":
    cli(prog_name="python -m benchmarks")
