"""How far photometric visits scatter about their nights, nights drift in an hour and detectors differ: what the solution assumes of
them, told by what it leaves of it."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_array, diags_array

from pipelines.step2c.model import Model
from pipelines.step2c.normal import Solution

#: What a survey tells of how far visits scatter about their nights, nights drift in an hour and detectors differ: at least, at most
#: (mag), and how well it is known when it is settled.
KINDS = {"night": (0.003, 0.05, 0.02), "drift": (0.0003, 0.05, 0.1), "flat": (0.001, 0.1, 0.1)}
#: Random signs that tell traces, at least; and how many independent numbers tell of a scatter, at least.
SIGNS, TOLD = 1000, 3.0
#: By which part steps are shorter, so that what cannot be told apart changes alike.
DAMPED = 0.05


def find(built: Model, solution: Solution, before: dict[str, float]) -> dict[str, float]:
    """How far photometric visits scatter about their nights, nights drift in an hour and detectors differ (mag).

    Few stars leave a visit near its night, a flat near zero. Where the variances s_k^2 are assumed, what the solution leaves of the
    facts of kind k, in units of s_k, has the covariance P_kk, P being what is left of the unit matrix. One step of Fisher's scoring
    of the restricted likelihood (Patterson & Thompson 1971) changes s_k^2 by the parts t of it,
    sum_l |P_kl|^2 t_l = |left_k|^2 - tr P_kk. Random signs z tell these: z^T P_kk z and |P_kl z|^2 (Hutchinson 1990). No step is
    longer than to a fifth: near nothing the data say nothing more. Where nights have two visits, scatter and drift are the same.
    """
    chance = np.random.default_rng(20261129)
    rows = {}
    for name, own in built.scatter.items():
        if len(own):
            rows[name] = csr_array(diags_array(1.0 / built.error[own]) @ built.facts[own])
    names = list(rows)
    square, score = np.zeros((len(names), len(names))), np.zeros(len(names))
    for k, name in enumerate(names):
        own = built.scatter[name]
        left = rows[name] @ solution.unknowns - built.target[own] / built.error[own]
        signs = chance.choice([-1.0, 1.0], (len(own), -(-SIGNS // len(own))))
        made = solution.answer(rows[name].T @ signs)
        score[k] = left @ left
        for m, other in enumerate(names):
            through = rows[other] @ made
            if other == name:
                through = signs - through
                score[k] -= float(np.sum(signs * through)) / signs.shape[1]
            square[m, k] = float(np.sum(through**2)) / signs.shape[1]
    told = np.flatnonzero(np.diag(square) >= TOLD)
    matrix = 0.5 * (square + square.T)[np.ix_(told, told)]
    part = np.linalg.solve(matrix + DAMPED * np.diag(np.diag(matrix)), score[told])
    now = dict(before)
    for k, change in zip(told.tolist(), part, strict=True):
        least, most, _ = KINDS[names[k]]
        now[names[k]] = float(np.clip(before[names[k]] * np.sqrt(max(1.0 + change, 0.04)), least, most))
    return now


def settled(before: dict[str, float], now: dict[str, float]) -> bool:
    """Whether what was assumed is known well enough."""
    return all(abs(now[name] - before[name]) <= within * max(now[name], least) for name, (least, _, within) in KINDS.items())
