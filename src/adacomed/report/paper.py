"""What the paper reports, to stand beside ours: numbers as printed, never rounded further."""

from __future__ import annotations

from collections.abc import Iterable

import polars as pl

Row = tuple[str | float, ...]

METRICS = ("Acc", "Auroc", "Auprc", "mAP", "mAR", "mF1")  # in the paper's order, in every table
TASKS = ("mortality", "longstay", "readmission")  # of MIMIC-IV-MM
_COLUMNS = ("method", *METRICS)

# Per task: method, then METRICS. The paper's bold face is not kept: it marks AdaCoMed in every
# column of readmission, also where another method is printed higher (Acc .955, Auprc .118).
_TABLE_2: dict[str, tuple[Row, ...]] = {  # MIMIC-IV-MM, methods
    "mortality": (
        ("Meta-Transformer", 0.562, 0.717, 0.309, 0.561, 0.641, 0.489),
        ("OneLLM", 0.736, 0.511, 0.208, 0.501, 0.501, 0.497),
        ("XRay-Large", 0.806, 0.685, 0.236, 0.573, 0.581, 0.576),
        ("Text-Large", 0.829, 0.765, 0.341, 0.622, 0.637, 0.628),
        ("TimeSeries-Large", 0.776, 0.529, 0.142, 0.519, 0.521, 0.519),
        ("Large-Ensemble", 0.844, 0.774, 0.343, 0.645, 0.653, 0.649),
        ("MultimodalPred-Small", 0.806, 0.641, 0.197, 0.564, 0.569, 0.567),
        ("AdaCoMed", 0.862, 0.805, 0.366, 0.673, 0.654, 0.663),
    ),
    "longstay": (
        ("Meta-Transformer", 0.615, 0.662, 0.736, 0.605, 0.607, 0.605),
        ("OneLLM", 0.453, 0.505, 0.638, 0.502, 0.501, 0.434),
        ("XRay-Large", 0.600, 0.617, 0.680, 0.586, 0.585, 0.586),
        ("Text-Large", 0.618, 0.654, 0.727, 0.602, 0.598, 0.599),
        ("TimeSeries-Large", 0.610, 0.630, 0.687, 0.603, 0.606, 0.603),
        ("Large-Ensemble", 0.633, 0.664, 0.734, 0.618, 0.613, 0.614),
        ("MultimodalPred-Small", 0.657, 0.690, 0.747, 0.646, 0.647, 0.646),
        ("AdaCoMed", 0.674, 0.732, 0.782, 0.667, 0.671, 0.668),
    ),
    "readmission": (
        ("Meta-Transformer", 0.482, 0.582, 0.075, 0.517, 0.602, 0.372),
        ("OneLLM", 0.866, 0.521, 0.118, 0.509, 0.519, 0.506),
        ("XRay-Large", 0.919, 0.583, 0.056, 0.499, 0.499, 0.499),
        ("Text-Large", 0.915, 0.544, 0.052, 0.503, 0.504, 0.503),
        ("TimeSeries-Large", 0.955, 0.592, 0.056, 0.478, 0.499, 0.489),
        ("Large-Ensemble", 0.915, 0.563, 0.060, 0.520, 0.523, 0.521),
        ("MultimodalPred-Small", 0.922, 0.548, 0.054, 0.515, 0.514, 0.514),
        ("AdaCoMed", 0.931, 0.619, 0.080, 0.533, 0.525, 0.528),
    ),
}
_TABLE_3: dict[str, tuple[Row, ...]] = {  # MIMIC-IV-MM, AdaCoMed's strategies
    "mortality": (
        ("Ensemble", 0.784, 0.664, 0.193, 0.562, 0.581, 0.567),
        ("Learnable Weighted", 0.840, 0.786, 0.338, 0.640, 0.651, 0.645),
        ("Inverse Contrastive", 0.862, 0.805, 0.366, 0.673, 0.654, 0.663),
        ("Gaussian Contrastive", 0.846, 0.799, 0.380, 0.654, 0.673, 0.663),
        ("Threshold Contrastive", 0.844, 0.802, 0.361, 0.652, 0.670, 0.660),
    ),
    "longstay": (
        ("Ensemble", 0.648, 0.679, 0.724, 0.635, 0.633, 0.634),
        ("Learnable Weighted", 0.669, 0.718, 0.775, 0.658, 0.657, 0.658),
        ("Inverse Contrastive", 0.662, 0.718, 0.770, 0.649, 0.644, 0.645),
        ("Gaussian Contrastive", 0.674, 0.732, 0.782, 0.667, 0.671, 0.668),
        ("Threshold Contrastive", 0.664, 0.714, 0.767, 0.652, 0.648, 0.650),
    ),
    "readmission": (
        ("Ensemble", 0.922, 0.542, 0.049, 0.501, 0.501, 0.501),
        ("Learnable Weighted", 0.930, 0.628, 0.064, 0.507, 0.505, 0.505),
        ("Inverse Contrastive", 0.927, 0.637, 0.100, 0.521, 0.517, 0.518),
        ("Gaussian Contrastive", 0.931, 0.619, 0.080, 0.533, 0.525, 0.528),
        ("Threshold Contrastive", 0.925, 0.601, 0.074, 0.503, 0.502, 0.502),
    ),
}
_TABLE_4: tuple[Row, ...] = (  # MMIST ccRCC, Vital-12, 58 test patients (4 deaths)
    ("Meta-Transformer", 0.896, 0.694, 0.972, 0.464, 0.481, 0.473),
    ("OneLLM", 0.868, 0.531, 0.939, 0.507, 0.505, 0.504),
    ("WSI-Large", 0.931, 0.750, 0.978, 0.466, 0.500, 0.482),
    ("CT-Large", 0.931, 0.759, 0.981, 0.466, 0.500, 0.482),
    ("Clinical-Large", 0.862, 0.597, 0.963, 0.463, 0.463, 0.463),
    ("Large-Ensemble", 0.897, 0.778, 0.983, 0.464, 0.481, 0.473),
    ("MultimodalPred-Small", 0.621, 0.769, 0.980, 0.548, 0.681, 0.482),
    ("AdaCoMed", 0.862, 0.898, 0.992, 0.605, 0.694, 0.628),
)
_TABLE_5: tuple[Row, ...] = (  # MMIST ccRCC, Vital-12, AdaCoMed's strategies
    ("Ensemble", 0.810, 0.822, 0.986, 0.525, 0.551, 0.524),
    ("Learnable Weighted", 0.828, 0.810, 0.985, 0.532, 0.560, 0.535),
    ("Inverse Contrastive", 0.862, 0.847, 0.987, 0.640, 0.810, 0.675),
    ("Gaussian Contrastive", 0.862, 0.856, 0.989, 0.554, 0.579, 0.562),
    ("Threshold Contrastive", 0.862, 0.898, 0.992, 0.605, 0.694, 0.628),
)
_TABLE_6: tuple[Row, ...] = (  # MIMIC-IV-MM: cost of training on A100s
    ("Meta-Transformer", 302.8, 19.9, 41.89),
    ("OneLLM", 383.0, 55.6, 74.53),
    ("MultimodalPred-Small", 49.7, 2.4, 2.09),
    ("AdaCoMed", 21.3, 1.0, 0.02),
)


def table_2() -> pl.DataFrame:
    """The paper's Table 2 (MIMIC-IV-MM, methods): task, method and the six metrics, 24 rows."""
    return _by_task(_TABLE_2)


def table_3() -> pl.DataFrame:
    """The paper's Table 3 (MIMIC-IV-MM, weighting strategies), as `table_2`, 15 rows."""
    return _by_task(_TABLE_3)


def table_4() -> pl.DataFrame:
    """The paper's Table 4 (MMIST ccRCC); its Auprc treats "alive" as the positive class."""
    return _frame(_TABLE_4, _COLUMNS)


def table_5() -> pl.DataFrame:
    """The paper's Table 5 (MMIST ccRCC, weighting strategies); Auprc as in `table_4`."""
    return _frame(_TABLE_5, _COLUMNS)


def table_6() -> pl.DataFrame:
    """The paper's Table 6: cost of training on MIMIC-IV-MM, per method.

    Returns:
        method; parameters_m (trained, millions); memory_gb (GPU, per batch of 64, of 1 for OneLLM);
        epoch_min (minutes per epoch). AdaCoMed's row leaves no time for its frozen encoders: their
        embeddings are made once, before.
    """
    return _frame(_TABLE_6, ("method", "parameters_m", "memory_gb", "epoch_min"))


def _by_task(tables: dict[str, tuple[Row, ...]]) -> pl.DataFrame:
    rows = ((task, *row) for task in TASKS for row in tables[task])
    return _frame(rows, ("task", *_COLUMNS))


def _frame(rows: Iterable[Row], columns: tuple[str, ...]) -> pl.DataFrame:
    kinds = {c: pl.String if c in ("task", "method") else pl.Float64 for c in columns}
    return pl.DataFrame(list(rows), schema=kinds, orient="row")
