"""Do prediction sets hold what they promise? Coverage per class on held-out simulated patients.

A logistic regression is trained once. The calibration patients are then drawn anew 40 times, its
sets fitted on each draw, and their coverage counted on the same 20,000 held-out patients. The
guarantee is about the mean over draws; the scatter is what one user's sets may be off by. The model
is also recalibrated by Platt scaling on the same calibration patients, as in a run, and groups
(ward) get limits of their own.

Last, the way of a run with few patients: nobody is set aside, the limits are those of out-of-fold
scores (5 folds), and the model is trained again on everyone. Theory promises less there.

    python benchmarks/conformal.py [--draws 40] [--calibration 500] [--held-out 20000]
"""

from __future__ import annotations

import argparse
import math

import numpy as np
import polars as pl
from scipy.stats import beta
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from adacomed.datasets.simulated import Patients, simulate
from adacomed.evaluation.conformal import fit_sets, set_coverage
from adacomed.evaluation.recalibration import fit_calibrator

TRAIN = 2000


def features(people: Patients) -> np.ndarray:
    """(N, P): vectors (absent: 0, and a flag) and the table's numbers."""
    here = np.stack(list(people.present.values()), axis=1)
    vectors = [
        np.where(people.present[name][:, None], x, 0.0) for name, x in people.vectors.items()
    ]
    numbers = [s.to_numpy() for s in people.table.values() if s.dtype.is_numeric()]
    table = np.stack(numbers, axis=1).astype(float)
    missing = np.isnan(table)
    return np.concatenate([*vectors, here, np.where(missing, np.nanmean(table, 0), table)], axis=1)


def untrained() -> Pipeline:
    """A logistic regression on scaled columns."""
    return make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=500))


def out_of_fold(
    x: np.ndarray, y: np.ndarray, test: slice, size: int, asked: argparse.Namespace
) -> list[pl.DataFrame]:
    """Coverage where training patients are their own calibration patients, out of fold."""
    tables = []
    for draw in range(asked.draws):
        rows = slice(draw * size, (draw + 1) * size)
        oof = cross_val_predict(untrained(), x[rows], y[rows], cv=5, method="predict_proba")
        calibrator = fit_calibrator("platt", y[rows], oof)
        sets = fit_sets(y[rows], calibrator.apply(oof), asked.coverage)
        prob = untrained().fit(x[rows], y[rows]).predict_proba(x[test])
        tables.append(set_coverage(y[test], sets.sets(calibrator.apply(prob))))
    return tables


def report(title: str, tables: list[pl.DataFrame], asked: float) -> None:
    """Mean and scatter over draws of each row of `set_coverage`."""
    rows = pl.concat([t.with_row_index("row") for t in tables])
    print(f"\n{title}")
    for key, part in rows.group_by("row", "group", "class", maintain_order=True):
        mean, scatter = part["coverage"].mean(), part["coverage"].std()
        size, abstain = part["size"].mean(), part["abstain"].mean()
        who = f"{'ward ' + str(key[1]) if key[1] else 'everyone'}, "
        who += "all classes" if key[2] is None else f"class {key[2]}"
        print(
            f"  {who:22} n {part['n'][0]:6d}  coverage {mean:.4f} (asked {asked:.2f}, "
            f"off by {100 * (mean - asked):+.2f} points, sd of a draw {100 * scatter:.2f})  "
            f"size {size:.2f}  abstain {abstain:.2f}"
        )


def main() -> None:
    """Simulate, train, calibrate on many draws, count."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--draws", type=int, default=40)
    parser.add_argument("--calibration", type=int, default=500, help="patients of one draw")
    parser.add_argument("--held-out", type=int, default=20_000)
    parser.add_argument("--coverage", type=float, default=0.9)
    asked = parser.parse_args()
    need = TRAIN + asked.draws * asked.calibration + asked.held_out
    people = simulate(need, 3, seed=0)
    x, y = features(people), people.label
    ward = people.table["ward"].to_numpy()
    prob = untrained().fit(x[:TRAIN], y[:TRAIN]).predict_proba(x)
    test = slice(need - asked.held_out, need)
    plain, scaled, grouped, marginal, counts = [], [], [], [], []
    for draw in range(asked.draws):
        start = TRAIN + draw * asked.calibration
        cal = slice(start, start + asked.calibration)
        counts.append(np.bincount(y[cal]))
        sets = fit_sets(y[cal], prob[cal], asked.coverage)
        plain.append(set_coverage(y[test], sets.sets(prob[test])))
        platt = fit_calibrator("platt", y[cal], prob[cal])
        sets = fit_sets(y[cal], platt.apply(prob[cal]), asked.coverage)
        scaled.append(set_coverage(y[test], sets.sets(platt.apply(prob[test]))))
        sets = fit_sets(y[cal], prob[cal], asked.coverage, ward[cal])
        grouped.append(set_coverage(y[test], sets.sets(prob[test], ward[test]), ward[test]))
        sets = fit_sets(y[cal], prob[cal], asked.coverage, by_class=False)
        marginal.append(set_coverage(y[test], sets.sets(prob[test])))
    print(
        f"{asked.draws} draws of {asked.calibration} calibration patients, "
        f"{asked.held_out} held-out patients, {TRAIN} training patients, none in two of these"
    )
    for k, n in enumerate(np.mean(counts, axis=0).round().astype(int)):
        rank = math.ceil(round((n + 1) * asked.coverage, 9))
        theory = beta(rank, n + 1 - rank)
        print(f"theory, class {k}, n {n}: mean {theory.mean():.4f}, sd {theory.std():.4f}")
    report("class-conditional", plain, asked.coverage)
    report("class-conditional after Platt scaling on the same patients", scaled, asked.coverage)
    report("class- and group-conditional", grouped, asked.coverage)
    report("marginal, for comparison: one limit for all classes", marginal, asked.coverage)
    few = out_of_fold(x, y, test, asked.calibration, asked)
    report(f"a run's way: {asked.calibration} patients, out of fold", few, asked.coverage)


if __name__ == "__main__":
    main()
