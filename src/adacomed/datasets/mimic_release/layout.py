"""Where each table of a release lies, and its columns in order."""

from __future__ import annotations

_COLUMNS = {
    "patients": "subject_id gender anchor_age anchor_year anchor_year_group dod",
    "admissions": "subject_id hadm_id admittime dischtime deathtime admission_type "
    "admit_provider_id admission_location discharge_location insurance language marital_status "
    "race edregtime edouttime hospital_expire_flag",
    "transfers": "subject_id hadm_id transfer_id eventtype careunit intime outtime",
    "labevents": "labevent_id subject_id hadm_id specimen_id itemid order_provider_id charttime "
    "storetime value valuenum valueuom ref_range_lower ref_range_upper flag priority comments",
    "d_labitems": "itemid label fluid category",
    "icustays": "subject_id hadm_id stay_id first_careunit last_careunit intime outtime los",
    "chartevents": "subject_id hadm_id stay_id caregiver_id charttime storetime itemid value "
    "valuenum valueuom warning",
    "procedureevents": "subject_id hadm_id stay_id caregiver_id starttime endtime storetime itemid "
    "value valueuom location locationcategory orderid linkorderid ordercategoryname "
    "ordercategorydescription patientweight isopenbag continueinnextdept statusdescription "
    "originalamount originalrate",
    "d_items": "itemid label abbreviation linksto category unitname param_type lownormalvalue "
    "highnormalvalue",
    "metadata": "dicom_id subject_id study_id PerformedProcedureStepDescription ViewPosition Rows "
    "Columns StudyDate StudyTime ProcedureCodeSequence_CodeMeaning ViewCodeSequence_CodeMeaning "
    "PatientOrientationCodeSequence_CodeMeaning",
    "radiology": "note_id subject_id hadm_id note_type note_seq charttime storetime text",
}
# Release 1.0 knows no care givers and providers, and tells more of a procedure.
_FIRST = {
    "admissions": _COLUMNS["admissions"]
    .replace("admit_provider_id ", "")
    .replace("race", "ethnicity"),
    "labevents": _COLUMNS["labevents"].replace("order_provider_id ", ""),
    "d_labitems": "itemid label fluid category loinc_code",
    "chartevents": _COLUMNS["chartevents"].replace("caregiver_id ", ""),
    "procedureevents": "subject_id hadm_id stay_id starttime endtime storetime itemid value "
    "valueuom location locationcategory orderid linkorderid ordercategoryname "
    "secondaryordercategoryname ordercategorydescription patientweight totalamount totalamountuom "
    "isopenbag continueinnextdept cancelreason statusdescription comments_date ORIGINALAMOUNT "
    "ORIGINALRATE",
}
_CORE = ("patients", "admissions", "transfers")  # of release 1.0
_ICU = ("icustays", "chartevents", "procedureevents", "d_items")


def columns(release: str, table: str) -> list[str]:
    """The columns of a table in a release, in order."""
    found = _FIRST.get(table, _COLUMNS[table]) if release == "1.0" else _COLUMNS[table]
    return found.split()


def place(release: str, table: str) -> str:
    """Where a table's csv lies below the generated folder."""
    if table == "metadata":
        return "mimic-cxr-jpg/mimic-cxr-2.0.0-metadata.csv"
    if table == "radiology":
        return "mimic-iv-note/note/radiology.csv"
    if table in _CORE and release == "1.0":
        return f"mimic-iv/core/{table}.csv"
    return f"mimic-iv/{'icu' if table in _ICU else 'hosp'}/{table}.csv"
