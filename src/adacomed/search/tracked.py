"""A search for MLflow: one run, and one nested in it for each trial."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from adacomed.schema import CohortCard
from adacomed.search.results import BEST, PAGE, TRIALS, Found
from adacomed.search.run import Search
from adacomed.search.study import INDEX, finished
from adacomed.tracking.contents import Sent, about, settings_of

if TYPE_CHECKING:
    from optuna import Study


def sent(
    search: Search, found: Found, study: Study, card: CohortCard, task: str, data: str
) -> Sent:
    """What is tracked of a search: settings, scores on validation, files. No patient's row.

    Args:
        data: `Inputs.fingerprint()`.
    """
    params, changed = settings_of(search.objective.experiment)
    tags = about(card.name, task, card.simulated, data, "tune")
    name = f"val/{found.metric}"
    ranges = {f"search.{p.name}": p.text() for p in search.space}
    metrics: dict[str, Any] = {f"{name}_best": found.best["score"]}
    metrics[f"{name}_default"] = found.start["score"]
    if found.gain is not None:
        g = found.gain
        metrics |= {"difference": g.difference, "difference_low": g.low, "difference_high": g.high}
    files = [search.out / file for file in (BEST, TRIALS, PAGE)]
    runs = []
    for trial in finished(study):
        scored: dict[str, Any] = {name: trial.value} if trial.state.name == "COMPLETE" else {}
        standing = {f"{name}_standing": sorted(trial.intermediate_values.items())}
        state = {**tags, "state": trial.state.name.lower()}
        title = f"trial {trial.user_attrs[INDEX]}"
        runs.append(Sent(title, trial.params, {**scored, **standing}, state))
    every = tags | {"changed": changed, "clearly_better": str(found.clear).lower()}
    return Sent(f"tune {search.out.name}", params | ranges, metrics, every, files, runs)
