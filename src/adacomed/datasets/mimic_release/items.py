"""The dictionaries d_items and d_labitems: the variables' rows among many others.

The ids are the real ones as far as they are known (of the procedures and of the rows around, from
memory); a reader of the release must select by label, which these tables are there to try.
"""

from __future__ import annotations

from adacomed.datasets.mimic.variables import CHARTED, FLUID, LABORATORY, PROCEDURES

PROCEDURE_IDS = {
    "foley_catheter": 229351,
    "picc_line": 224264,
    "intubation": 224385,
    "peritoneal_dialysis": 225805,
    "bronchoscopy": 225400,
    "eeg": 225462,
    "dialysis_crrt": 225802,
    "dialysis_catheter": 224270,
    "chest_tube_removed": 225434,
    "hemodialysis": 225441,
}

# itemid, label, unit, typical value: charted, but none of the variables
OTHER_CHARTED = (
    (220046, "Heart rate Alarm - High", "bpm", 120),
    (220047, "Heart Rate Alarm - Low", "bpm", 50),
    (220050, "Arterial Blood Pressure systolic", "mmHg", 118),
    (220051, "Arterial Blood Pressure diastolic", "mmHg", 60),
    (220052, "Arterial Blood Pressure mean", "mmHg", 78),
    (220074, "Central Venous Pressure", "mmHg", 9),
    (223751, "Non-Invasive Blood Pressure Alarm - High", "mmHg", 160),
    (223761, "Temperature Fahrenheit", "°F", 98),
    (223762, "Temperature Celsius", "°C", 37),
    (223835, "Inspired O2 Fraction", None, 40),
    (224690, "Respiratory Rate (Total)", "insp/min", 18),
    (224422, "Spont RR", "insp/min", 17),
    (226253, "SpO2 Desat Limit", "%", 88),
    (226512, "Admission Weight (Kg)", "kg", 80),
    (226707, "Height", "Inch", 67),
    (225624, "BUN", "mg/dL", 20),
    (220621, "Glucose (serum)", "mg/dL", 130),
    (227442, "Potassium (serum)", "mEq/L", 4),
)
OTHER_ITEMS = (
    (220001, "Problem List", "chartevents", "General"),
    (225054, "On Hold", "datetimeevents", "Access Lines - Peripheral"),
    (224275, "20 Gauge", "procedureevents", "Access Lines - Peripheral"),
    (225752, "Arterial Line", "procedureevents", "Access Lines - Invasive"),
    (225792, "Invasive Ventilation", "procedureevents", "2-Ventilation"),
    (227194, "Extubation", "procedureevents", "1-Intubation/Extubation"),
    (225459, "Chest X-Ray", "procedureevents", "5-Imaging"),
    (225433, "Chest Tube Placed", "procedureevents", "4-Procedures"),
    (224149, "Access Pressure", "chartevents", "Dialysis"),
    (225323, "Dialysis Catheter Site Appear", "chartevents", "Access Lines - Invasive"),
    (226559, "Foley", "outputevents", "Output"),
    (220949, "Dextrose 5%", "inputevents", "Fluids/Intake"),
)
OTHER_PROCEDURES = (225752, 225792, 225459)

# itemid, label, fluid, category: laboratory rows that are none of the variables. The first part
# carries a variable's label: of another fluid, or (a later method) of blood under another id.
SAME_LABEL = (
    (51084, "Glucose", "Urine", "Chemistry"),
    (51478, "Glucose", "Urine", "Hematology"),
    (51790, "Glucose", "Cerebrospinal Fluid", "Chemistry"),
    (51022, "Glucose", "Joint Fluid", "Chemistry"),
    (51100, "Sodium", "Urine", "Chemistry"),
    (51097, "Potassium", "Urine", "Chemistry"),
    (51078, "Chloride", "Urine", "Chemistry"),
    (51082, "Creatinine", "Urine", "Chemistry"),
    (51104, "Urea Nitrogen", "Urine", "Chemistry"),
    (51446, "Neutrophils", "Pleural", "Hematology"),
    (52569, "Glucose", "Blood", "Chemistry"),
    (52610, "Potassium", "Blood", "Chemistry"),
    (52623, "Sodium", "Blood", "Chemistry"),
    (52546, "Creatinine", "Blood", "Chemistry"),
    (50811, "Hemoglobin", "Blood", "Blood Gas"),
    (51755, "White Blood Cells", "Blood", "Hematology"),
)
OTHER_LABS = (
    (50801, "Alveolar-arterial Gradient", "Blood", "Blood Gas"),
    (50813, "Lactate", "Blood", "Blood Gas"),
    (50820, "pH", "Blood", "Blood Gas"),
    (50822, "Potassium, Whole Blood", "Blood", "Blood Gas"),
    (50824, "Sodium, Whole Blood", "Blood", "Blood Gas"),
    (50808, "Free Calcium", "Blood", "Blood Gas"),
    (50810, "Hematocrit, Calculated", "Blood", "Blood Gas"),
    (50861, "Alanine Aminotransferase (ALT)", "Blood", "Chemistry"),
    (50878, "Asparate Aminotransferase (AST)", "Blood", "Chemistry"),
    (50885, "Bilirubin, Total", "Blood", "Chemistry"),
    (50862, "Albumin", "Blood", "Chemistry"),
    (51237, "INR(PT)", "Blood", "Hematology"),
    (51274, "PT", "Blood", "Hematology"),
    (51275, "PTT", "Blood", "Hematology"),
    (51244, "Lymphocytes", "Blood", "Hematology"),
    (51254, "Monocytes", "Blood", "Hematology"),
    (51252, "Microcytes", "Blood", "Hematology"),
    (51133, "Absolute Lymphocyte Count", "Blood", "Hematology"),
    (51498, "Specific Gravity", "Urine", "Hematology"),
    (51491, "pH", "Urine", "Hematology"),
)
GAS = {50809}  # of the variables' ids


def d_items() -> list[dict[str, object]]:
    """Rows of d_items, by itemid; a procedure's label is there once."""
    rows: list[dict[str, object]] = []
    for v in CHARTED:
        low, high = v.normal or (None, None)
        kind = "Text" if v.name.startswith("gcs") else "Numeric"
        unit = None if kind == "Text" else v.unit
        row = _item(v.ids[0], v.label, "chartevents", "Routine Vital Signs", unit, kind)
        rows.append({**row, "lownormalvalue": low, "highnormalvalue": high})
    for i, label, unit, _ in OTHER_CHARTED:
        rows.append(_item(i, label, "chartevents", "Alarms", unit, "Numeric"))
    for v in PROCEDURES:
        number = PROCEDURE_IDS[v.name]
        rows.append(_item(number, v.label, "procedureevents", "4-Procedures", None, "Process"))
    for i, label, table, category in OTHER_ITEMS:
        rows.append(_item(i, label, table, category, None, "Text"))
    return sorted(rows, key=lambda row: str(row["itemid"]))


def _item(
    number: int, label: str, table: str, category: str, unit: str | None, kind: str
) -> dict[str, object]:
    return {
        "itemid": number,
        "label": label,
        "abbreviation": label[:20].strip(),
        "linksto": table,
        "category": category,
        "unitname": unit,
        "param_type": kind,
    }


def d_labitems() -> list[dict[str, object]]:
    """Rows of d_labitems, by itemid."""
    rows = [
        (number, v.label, FLUID, "Blood Gas" if number in GAS else "Chemistry")
        for v in LABORATORY
        for number in v.ids
    ]
    keys = ("itemid", "label", "fluid", "category")
    found = sorted([*rows, *SAME_LABEL, *OTHER_LABS])
    return [dict(zip(keys, row, strict=True)) for row in found]
