"""The normal equations of one tract: its observations judged and weighted, its stars eliminated.

With weights w, terms a and star magnitudes eliminated (S = sum w, T = sum w m, U = sum w a over a star),

    N = sum_i [ sum_j w a a^T - U_i U_i^T / S_i ],   r = sum_i [ sum_j w m a - U_i T_i / S_i ],   N p = -r.

A star belongs to one tract, so the equations of the survey are the sum of those of its tracts. What a tract says depends on
its own observations only: a new night changes the equations of the tracts that it touched, and of no other.
"""

from __future__ import annotations

import duckdb
import pyarrow as pa

from pipelines.quantum import Inputs, NoWork, Quantum, returned
from pipelines.step2c import camera as cameras
from pipelines.step2c import design
from pipelines.step2c.camera import Camera
from pipelines.step2c.observations import INPUTS, prepare
from pipelines.step2c.settings import Settings
from pipelines.step2c.statement import statement

OUTPUTS = ("normal_term", "normal_equation", "visit_scatter")


def run(quantum: Quantum, inputs: Inputs) -> dict[str, pa.Table]:
    """``normal_term``, ``normal_equation`` and ``visit_scatter`` of a tract; NoWork where it has no usable observation."""
    settings = quantum.settings(Settings)
    with duckdb.connect(config={"threads": 1}) as con:
        for name in INPUTS:
            inputs.relation(con, name)
        prepare(con, cameras.of(con), settings)
        weigh(con, cameras.of(con), settings)
        where = {name: quantum.data_id[name] for name in ("tract", "skymap")}
        return {name: returned(name, _placed(rows, where)) for name, rows in assemble(con, settings).items()}


def _placed(rows: pa.Table, where: dict[str, object]) -> pa.Table:
    """Rows with the columns that name their tract."""
    if not rows.num_rows:
        raise NoWork("no isolated star has a usable observation")
    for name, value in where.items():
        rows = rows.append_column(name, pa.repeat(pa.scalar(value, pa.int32() if name == "tract" else pa.string()), rows.num_rows))
    return rows


def weigh(con: duckdb.DuckDBPyConnection, camera: Camera, settings: Settings) -> None:
    """Judge the observations of ``observation``: make the tables weighted, residual, scatter, colour, clipped and unfit.

    Zero points to judge by are found here, from this tract alone: medians first, then means alternating with clipping. They
    are not the answer, only good enough to see which observations, stars and visits scatter more than they should.
    """
    few = {"few": settings.few}
    begin(con, camera, settings)
    con.execute(statement("first_zeros"))
    for _ in range(2):
        con.execute(statement("medians"), few)
    for number in range(settings.rounds):
        con.execute(statement("residuals"))
        con.execute(statement("outliers"), {"clip": settings.clip, "limit": settings.limit})
        if number:
            con.execute(statement("star_quality"), {"star_chi2": settings.star_chi2})
        con.execute(statement("scatter"), {"usual": settings.usual})
        if number + 1 < settings.rounds:
            con.execute(statement("local_zero"), few)
            con.execute(statement("local_slope"), {"prior": settings.colour})
        colours(con, settings)


def begin(con: duckdb.DuckDBPyConnection, camera: Camera, settings: Settings) -> None:
    """Make what the rounds of judgement begin with: the view weighted, and empty tables of what they will find."""
    pivot = camera.reference_colour if settings.reference_colour is None else settings.reference_colour
    variables = {
        "floor": settings.floor,
        "reference_floor": settings.reference_floor,
        "reference_colour": pivot,
        "reach": settings.colour_reach,
    }
    for name, value in variables.items():
        con.execute(f"SET VARIABLE {name} = {float(value)!r}")
    for name, columns in (
        ("clipped", "star, visit"),
        ("unfit", "star"),
        ("scatter", "visit, '' AS band, 0 AS n, 0 :: DOUBLE AS excess"),
        ("residual", "star, '' AS band, m AS mean, m AS s"),
        ("local_zero", "visit, detector, 0 :: DOUBLE AS zero"),
        ("local_slope", "visit, 0 :: DOUBLE AS slope"),
    ):
        con.execute(f"CREATE OR REPLACE TEMP TABLE {name} AS SELECT {columns} FROM observation LIMIT 0")
    colours(con, settings)
    con.execute(statement("weighted"))


def colours(con: duckdb.DuckDBPyConnection, settings: Settings) -> None:
    """Make the table colour, by what is known of the stars so far."""
    blue, red = settings.colour_bands
    con.execute(statement("colours"), {"blue": blue, "red": red, "error": settings.colour_error})


def assemble(con: duckdb.DuckDBPyConnection, settings: Settings) -> dict[str, pa.Table]:
    """The normal equations from the table ``weighted``: the same bits for any order of rows and any number of threads."""
    bands, scatters = list(settings.detector_scatters), list(settings.detector_scatters.values())
    told = {"scatter": settings.detector_scatter, "bands": bands, "scatters": scatters}
    con.execute(statement("fitted"), {"structure": settings.cloud_structure, **told})
    con.execute(statement("normal_terms"), {"order": settings.flat_order})
    terms, equations = design.normal(design.read(con), con.sql("FROM normal_term").to_arrow_table())
    return {
        "normal_term": terms,
        "normal_equation": equations,
        "visit_scatter": con.sql(statement("visit_scatter")).to_arrow_table(),
    }
