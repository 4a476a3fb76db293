"""The 46 variables of MIMIC-IV-MM: their labels and ids, units, possible and normal values.

Five are demographics, columns of the samples; the others are events: nine charted, 22 of the
laboratory (blood), ten procedures. `limits` are what a living patient can have: a value beyond them
is an error of charting and is dropped. `normal` is the reference range of an adult, which the
original work erased everything outside of (preset `paper`).

Source: the paper's data section; reference/datasets.md (ids from memory, so labels are checked).
"""

from __future__ import annotations

from dataclasses import dataclass, field

DEMOGRAPHICS = ("age_decade", "insurance", "language", "marital_status", "race")
Range = tuple[float, float]


@dataclass(frozen=True)
class Variable:
    """One variable of the events table.

    Attributes:
        name: in events.parquet.
        label: in d_items or d_labitems, exactly.
        ids: itemids that the label is expected to have; empty: found by the label alone.
        unit: of the values that are kept.
        limits: possible values in that unit, both ends included; None for a procedure.
        normal: the reference range; None where the original erased nothing.
        factors: other unit → what its values are multiplied by.
    """

    name: str
    label: str
    ids: tuple[int, ...]
    unit: str
    limits: Range | None = None
    normal: Range | None = None
    factors: dict[str, float] = field(default_factory=dict)


CHARTED = (
    Variable("heart_rate", "Heart Rate", (220045,), "bpm", (10, 300), (60, 100)),
    Variable(
        "nbp_systolic",
        "Non Invasive Blood Pressure systolic",
        (220179,),
        "mmHg",
        (30, 300),
        (90, 140),
        {"kPa": 7.50062},
    ),
    Variable(
        "nbp_diastolic",
        "Non Invasive Blood Pressure diastolic",
        (220180,),
        "mmHg",
        (10, 220),
        (60, 90),
        {"kPa": 7.50062},
    ),
    Variable(
        "nbp_mean",
        "Non Invasive Blood Pressure mean",
        (220181,),
        "mmHg",
        (15, 250),
        (70, 105),
        {"kPa": 7.50062},
    ),
    Variable("respiratory_rate", "Respiratory Rate", (220210,), "insp/min", (2, 80), (12, 20)),
    Variable("spo2", "O2 saturation pulseoxymetry", (220277,), "%", (20, 100), (95, 100)),
    Variable("gcs_eye", "GCS - Eye Opening", (220739,), "points", (1, 4)),
    Variable("gcs_verbal", "GCS - Verbal Response", (223900,), "points", (1, 5)),
    Variable("gcs_motor", "GCS - Motor Response", (223901,), "points", (1, 6)),
)

LABORATORY = (
    Variable("glucose", "Glucose", (50931, 50809), "mg/dL", (5, 2500), factors={"mmol/L": 18.0156}),
    Variable("potassium", "Potassium", (50971,), "mEq/L", (0.5, 15), factors={"mmol/L": 1.0}),
    Variable("sodium", "Sodium", (50983,), "mEq/L", (80, 220), factors={"mmol/L": 1.0}),
    Variable("chloride", "Chloride", (50902,), "mEq/L", (40, 180), factors={"mmol/L": 1.0}),
    Variable(
        "creatinine",
        "Creatinine",
        (50912,),
        "mg/dL",
        (0.05, 60),
        factors={"umol/L": 1 / 88.42},
    ),
    Variable(
        "urea_nitrogen", "Urea Nitrogen", (51006,), "mg/dL", (1, 400), factors={"mmol/L": 2.8011}
    ),
    Variable("bicarbonate", "Bicarbonate", (50882,), "mEq/L", (2, 70), factors={"mmol/L": 1.0}),
    Variable("anion_gap", "Anion Gap", (50868,), "mEq/L", (-20, 70), factors={"mmol/L": 1.0}),
    Variable("haemoglobin", "Hemoglobin", (51222,), "g/dL", (1, 30), factors={"g/L": 0.1}),
    Variable("haematocrit", "Hematocrit", (51221,), "%", (3, 80)),
    Variable("magnesium", "Magnesium", (50960,), "mg/dL", (0.2, 15), factors={"mmol/L": 2.4305}),
    Variable("platelets", "Platelet Count", (51265,), "K/uL", (1, 3000), factors={"10^9/L": 1.0}),
    Variable("phosphate", "Phosphate", (50970,), "mg/dL", (0.1, 30), factors={"mmol/L": 3.0974}),
    Variable(
        "white_blood_cells",
        "White Blood Cells",
        (51301,),
        "K/uL",
        (0, 600),
        factors={"10^9/L": 1.0},
    ),
    Variable("calcium", "Calcium, Total", (50893,), "mg/dL", (2, 25), factors={"mmol/L": 4.0078}),
    Variable("mch", "MCH", (51248,), "pg", (10, 60)),
    Variable(
        "red_blood_cells", "Red Blood Cells", (51279,), "m/uL", (0.3, 12), factors={"10^12/L": 1.0}
    ),
    Variable("mchc", "MCHC", (51249,), "%", (15, 50), factors={"g/dL": 1.0}),
    Variable("mcv", "MCV", (51250,), "fL", (40, 160)),
    Variable("rdw", "RDW", (51277,), "%", (8, 45)),
    Variable("neutrophils", "Neutrophils", (51256,), "%", (0, 100)),
    Variable("vancomycin", "Vancomycin", (51009,), "ug/mL", (0, 150), factors={"mg/L": 1.0}),
)

PROCEDURES = tuple(
    Variable(name, label, (), "1 at its start")
    for name, label in (
        ("foley_catheter", "Foley Catheter"),
        ("picc_line", "PICC Line"),
        ("intubation", "Intubation"),
        ("peritoneal_dialysis", "Peritoneal Dialysis"),
        ("bronchoscopy", "Bronchoscopy"),
        ("eeg", "EEG"),
        ("dialysis_crrt", "Dialysis - CRRT"),
        ("dialysis_catheter", "Dialysis Catheter"),
        ("chest_tube_removed", "Chest Tube Removed"),
        ("hemodialysis", "Hemodialysis"),
    )
)

FLUID = "Blood"  # of every laboratory variable
EVENTS = (*CHARTED, *LABORATORY, *PROCEDURES)
