"""From a method's probabilities to answers: recalibrated, and with prediction sets.

Both are fitted on validation patients, each scored by a model that was not trained on them. Where
inner folds validate ("cv", and every classical method), those models saw fewer patients than the
one that is kept, or are fewer than it averages; on a held-out validation set the epoch was chosen
on the same patients. The sets' coverage is then not promised by theory, and test patients have to
say what it is (`benchmarks/conformal.py` measures the first case).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adacomed.config import Experiment
from adacomed.evaluation.conformal import Sets, fit_sets
from adacomed.evaluation.discrimination import choose_threshold
from adacomed.evaluation.recalibration import AUTO, NONE, Calibrator, choose_calibrator
from adacomed.evaluation.scored import HALF
from adacomed.training.outcome import Threshold
from adacomed.training.seed import derive


@dataclass(frozen=True)
class Calibrated:
    """What validation patients say of a method's probabilities.

    Attributes:
        prob: (N, K), theirs, calibrated: a threshold is chosen on these.
        calibrator: for new patients' probabilities; None for findings and survival.
        sets: for new patients' calibrated probabilities; likewise.
        threshold: on the positive class's, maximises macro F1; 0.5 stands for argmax where K > 2.
        found: how they were chosen, for people.
    """

    prob: NDArray[np.float64]
    calibrator: Calibrator | None
    sets: Sets | None
    threshold: Threshold
    found: dict[str, Any]

    def apply(self, prob: NDArray[np.float64]) -> NDArray[np.float64]:
        """New patients' probabilities, calibrated."""
        return prob if self.calibrator is None else self.calibrator.apply(prob)


def uncalibrated(prob: NDArray[np.float64], threshold: Threshold) -> Calibrated:
    """Of findings and survival: both kinds of evidence are of classes that exclude each other."""
    why = {"calibration": {"kind": NONE, "why": "only class tasks are recalibrated"}}
    return Calibrated(prob, None, None, threshold, why)


def calibrate(
    label: NDArray[np.int64],
    prob: NDArray[np.float64],
    subjects: NDArray[np.str_],
    experiment: Experiment,
) -> Calibrated:
    """Fit what `experiment.evidence` asks for on the N validation patients.

    With calibration "auto" the presets `paper` and `authors` keep their probabilities as they are.

    Args:
        label: (N,) class.
        prob: (N, K), corrected for the class weights of training.
        subjects: (N,) subject of each row.
    """
    evidence = experiment.evidence
    seed = derive(experiment.seed, "calibration")
    as_published = evidence.calibration == AUTO and experiment.preset != "default"
    kind = NONE if as_published else evidence.calibration
    calibrator, found = choose_calibrator(kind, label, prob, subjects, seed)
    if as_published:
        found |= {"why": f"preset {experiment.preset}: probabilities stay as they are"}
    calibrated = calibrator.apply(prob)
    sets = fit_sets(label, calibrated, evidence.coverage)
    about = {"coverage": sets.coverage, "n": list(sets.n), "notes": list(sets.notes)}
    cut = HALF if prob.shape[1] > 2 else choose_threshold(label, calibrated[:, 1])
    choices = {"calibration": found, "sets": about}
    return Calibrated(calibrated, calibrator, sets, float(cut), choices)
