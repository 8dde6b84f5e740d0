"""drp init: create the site lakes."""

from __future__ import annotations

from pathlib import Path

import click

from pipelines.cli.output import lake_argument


@click.command("init")
@lake_argument
@click.option("--sites", "file", required=True, type=click.Path(path_type=Path), help="YAML file that lists the sites.")
def command(lake: Path, file: Path) -> None:
    """Create a lake with the sites that FILE lists.

    \b
    FILE looks like:
      sites:
        USDF: {central: true, cores: 6000, memory_gb: 24000, storage_tb: 10000}
        FRDF: {cores: 3000, memory_gb: 24000, storage_tb: 5000}
      links:                                        # optional: limits of what goes from one site to another
        USDF -> FRDF: {mb_per_second: 1000, streams: 8}
        "* -> USDF": {mb_per_second: 2000}

    \b
    Example:
      drp init ./my-lake --sites sites.yaml
    """
    import yaml

    from lake.site import Lake, LakeError

    try:
        document = yaml.safe_load(file.read_text())
    except FileNotFoundError:
        raise click.UsageError(f"{file}: no such file") from None
    except yaml.YAMLError as error:
        raise click.UsageError(f"{file}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(document, dict) or "sites" not in document or set(document) - {"sites", "links"}:
        raise LakeError(
            f"{file}: the file must have the key 'sites', a mapping of site names to their properties, and may have 'links'"
        )
    for key, value in document.items():
        if not isinstance(value, dict):
            raise LakeError(f"{file}: {key}: must be a mapping")
    created = Lake.create(lake, document["sites"], document.get("links"))
    for site in created.sites.values():
        click.echo(f"{site.name}{' (central)' if site.central else ''}: {site.root}")
