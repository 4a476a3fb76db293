"""How often a 95 % interval covers the truth, on simulated scores whose AUROC is known.

    .venv/bin/python benchmarks/coverage.py                 # about 8 minutes of one core
    .venv/bin/python benchmarks/coverage.py --draws 100     # a quick look

Scores are normal in each class, one standard deviation wide (`spread` of the positives differs in
the second block), and far enough apart for the AUROC asked for; the probability is the true one.
The truth of AUPRC and Brier is taken from a million patients. The number of events is the same in
every draw. In the clustered block a patient has three rows that share half of their variance.
Every method sees the same draws and, of the bootstrap, the same resamples.
"""

from __future__ import annotations

import argparse
import platform
import time
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit
from scipy.stats import norm

from adacomed.evaluation.discrimination import METRICS
from adacomed.evaluation.intervals import Columns, bootstrap, delong, percentile, wilson
from adacomed.evaluation.limits import bootstrap_limits
from adacomed.evaluation.newcombe import newcombe
from adacomed.evaluation.scored import Scored

Floats = NDArray[np.float64]
NAMES = ["auroc", "auprc", "brier", "sensitivity"]
AREAS, SIZES, PREVALENCES = (0.6, 0.75, 0.9, 0.97), (100, 300), (0.1, 0.5)
SHARED = 0.5  # of the variance, between the rows of a patient


class Setting(NamedTuple):
    """One population and sample size."""

    area: float
    n: int
    prevalence: float
    rows: int = 1
    spread: float = 1.0

    @property
    def shift(self) -> float:
        """Distance of the classes: the AUROC of normals is Φ(shift / √(1 + spread²))."""
        return float(np.sqrt(1 + self.spread**2) * norm.ppf(self.area))

    def draw(self, rng: np.random.Generator, n: int) -> tuple[dict[str, Floats], NDArray[np.int64]]:
        """Columns label and prob of n patients, and the patient of every row."""
        events = round(n * self.prevalence)
        who = np.repeat(np.arange(n), self.rows)
        label = np.repeat(np.repeat([1, 0], [events, n - events]), self.rows)
        noise = rng.normal(size=n)[who]
        if self.rows > 1:
            own = rng.normal(size=len(who))
            noise = np.sqrt(SHARED) * noise + np.sqrt(1 - SHARED) * own
        x = np.where(label == 1, self.shift + self.spread * noise, noise)
        odds = norm.logpdf(x, self.shift, self.spread) - norm.logpdf(x) + logit(self.prevalence)
        return {"label": label, "prob": expit(odds), "score": x}, who


def statistic(setting: Setting):
    """The metrics under R weightings; decisions at a threshold of the prevalence."""

    def function(columns: Columns, weight: Floats) -> Floats:
        label, prob = columns["label"], columns["prob"]
        scored = Scored.of(label, prob, setting.prevalence, weight)
        values = [METRICS[name].function(scored) for name in NAMES]
        if setting.spread != 1:  # then the probability is no monotone function of the score
            values[0] = METRICS["auroc"].function(Scored.of(label, columns["score"], weight=weight))
        return np.stack(values, axis=1)

    return function


def intervals(setting: Setting, seed: int, resamples: int) -> dict[str, tuple[float, float]]:
    """The interval of every method on one draw; `metric: method` → low and high."""
    start = [seed, *(round(100 * number) for number in setting)]
    columns, who = setting.draw(np.random.default_rng(start), setting.n)
    label, score, of = columns["label"], columns["score"], statistic(setting)
    value = of(columns, np.ones((1, len(label))))[0]
    events = round(setting.n * setting.prevalence)
    found: dict[str, tuple[float, float]] = {}
    by_size = newcombe(value[0], events, setting.n - events)[1:]
    found["auroc: Newcombe"] = by_size
    if setting.rows == 1:
        plain = delong(label, score)[1:]
        found["auroc: DeLong"] = plain
        found["auroc: logit"] = delong(label, score, logit_scale=True)[1:]
        t = delong(label, score, logit_scale=True, student=True)[1:]
        found["auroc: logit, t"] = by_size if np.isnan(t[0]) else t  # as `evaluate` does
        found["sensitivity: Wilson"] = tuple(float(x) for x in wilson(value[3] * events, events))
    draws = bootstrap(of, columns, who, label, resamples, seed)
    rarest = min(events, setting.n - events)
    ways = {
        "percentile": percentile(draws),
        "scaled t": bootstrap_limits(NAMES, value, draws, rarest - 1),
    }
    for way, (low, high) in ways.items():
        for i, name in enumerate(NAMES):
            found[f"{name}: {way}"] = (float(low[i]), float(high[i]))
    return found


def coverage(setting: Setting, draws: int, resamples: int) -> dict[str, float]:
    """Share of draws whose interval covers the truth; one without limits does not."""
    columns, _ = setting.draw(np.random.default_rng(0), 10**6 // setting.rows)
    truth = statistic(setting)(columns, np.ones((1, len(columns["label"]))))[0]
    truth[0] = setting.area
    hits: dict[str, int] = {}
    for seed in range(draws):
        for way, (low, high) in intervals(setting, seed, resamples).items():
            of = truth[NAMES.index(way.partition(":")[0])]
            hits[way] = hits.get(way, 0) + int(low <= of <= high)
    return {way: hit / draws for way, hit in hits.items()}


def block(title: str, settings: list[Setting], draws: int, resamples: int) -> None:
    """Print two markdown tables, a row per setting, in percent: AUROC, and the other metrics."""
    found = [coverage(setting, draws, resamples) for setting in settings]
    for part, wanted in (("AUROC", True), ("the other metrics", False)):
        ways = [way for way in found[0] if way.startswith("auroc") == wanted]
        print(f"\n### {title}: {part}\n")
        print(f"| AUROC | spread | patients | events | {' | '.join(ways)} |")
        print("|--:" * (4 + len(ways)) + "|")
        for setting, shares in zip(settings, found, strict=True):
            cells = " | ".join(f"{100 * shares[way]:.1f}" for way in ways)
            events = round(setting.n * setting.prevalence)
            of = f"{setting.area} | {setting.spread} | {setting.n} | {events}"
            print(f"| {of} | {cells} |", flush=True)


def main() -> None:
    """Print the tables, the Monte Carlo error and the machine."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--resamples", type=int, default=200)
    options = parser.parse_args()
    started = time.perf_counter()
    every = [Setting(a, n, p) for a in AREAS for n in SIZES for p in PREVALENCES]
    block("One row a patient", every, options.draws, options.resamples)
    uneven = [
        Setting(a, 100, p, spread=s) for s in (0.6, 1.7) for a in (0.75, 0.9) for p in PREVALENCES
    ]
    block("Positives 0.6 and 1.7 times as spread", uneven, options.draws, options.resamples)
    clustered = [Setting(a, 100, p, rows=3) for a in AREAS for p in PREVALENCES]
    block("Three rows a patient", clustered, options.draws, options.resamples)
    error = 100 * np.sqrt(0.95 * 0.05 / options.draws)
    print(
        f"\n{options.draws} draws, {options.resamples} resamples: Monte Carlo error {error:.1f} "
        f"points where coverage is 95. {time.perf_counter() - started:.0f} s, one core, "
        f"{platform.processor() or platform.machine()}, Python {platform.python_version()}, "
        f"NumPy {np.__version__}."
    )


if __name__ == "__main__":
    main()
