"""What the paper reports, to stand beside ours: numbers as printed, never rounded further."""

from __future__ import annotations

import polars as pl

_COLUMNS = ("method", "Acc", "Auroc", "Auprc", "mAP", "mAR", "mF1")
_TABLE_4 = (  # MMIST ccRCC, Vital-12, 58 test patients (4 deaths); positive class: alive
    ("Meta-Transformer", 0.896, 0.694, 0.972, 0.464, 0.481, 0.473),
    ("OneLLM", 0.868, 0.531, 0.939, 0.507, 0.505, 0.504),
    ("WSI-Large", 0.931, 0.750, 0.978, 0.466, 0.500, 0.482),
    ("CT-Large", 0.931, 0.759, 0.981, 0.466, 0.500, 0.482),
    ("Clinical-Large", 0.862, 0.597, 0.963, 0.463, 0.463, 0.463),
    ("Large-Ensemble", 0.897, 0.778, 0.983, 0.464, 0.481, 0.473),
    ("MultimodalPred-Small", 0.621, 0.769, 0.980, 0.548, 0.681, 0.482),
    ("AdaCoMed", 0.862, 0.898, 0.992, 0.605, 0.694, 0.628),
)


def table_4() -> pl.DataFrame:
    """The paper's Table 4 (MMIST ccRCC); its Auprc treats "alive" as the positive class."""
    return pl.DataFrame(_TABLE_4, schema=list(_COLUMNS), orient="row")
