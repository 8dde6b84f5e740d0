"""drp init: create the site lakes."""

from __future__ import annotations

from pathlib import Path

import click

from pipelines.cli.output import lake_argument


@click.command("init")
@lake_argument
@click.option(
    "--sites", "file", required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path), help="YAML file of the sites."
)
def command(lake: Path, file: Path) -> None:
    """Create a lake with the sites that FILE lists.

    \b
    FILE looks like:
      sites:
        USDF: {central: true, cores: 6000, memory_gb: 24000, storage_tb: 10000}
        FRDF: {cores: 3000, memory_gb: 24000, storage_tb: 5000}
        LANCS: {root: "s3://bucket/prefix", endpoint: "https://s3.example.org"}
      links:                                        # optional: limits of what goes from one site to another
        USDF -> FRDF: {mb_per_second: 1000, streams: 8}
        "* -> USDF": {mb_per_second: 2000}

    \b
    A site with a root is in an object store; AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY come from the
    environment (or DRP_LANCS_ACCESS_KEY_ID, ... for that site alone). $NAME stands for an environment variable.
    A store without conditional put is refused: commits would be lost in it.

    \b
    Example:
      drp init ./my-lake --sites sites.yaml
    """
    from lake.site import Lake, read_config

    document = read_config(file)
    created = Lake.create(lake, document["sites"], document.get("links"))
    for site in created.sites.values():
        click.echo(f"{site.name}{' (central)' if site.central else ''}: {site.root}")
