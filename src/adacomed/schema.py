"""Every on-disk contract in one file: columns, file names, split names, the cohort card.

Whoever writes one of these files and whoever reads it import the names from here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

# ---- names --------------------------------------------------------------------------------------
TRAIN, VAL, TEST = "train", "val", "test"
SPLITS = (TRAIN, VAL, TEST)
CEILING = "bayes"  # the method that knows a simulated cohort's true probabilities
BUNDLE = ".adacomed"  # ending of a run in one file


# ---- columns ------------------------------------------------------------------------------------
class Samples:
    """samples.parquet: one row per sample, beside whatever input columns the cohort has."""

    SAMPLE_ID = "sample_id"
    SUBJECT_ID = "subject_id"
    SPLIT = "split"


class Labels:
    """labels.parquet: one row per sample and task; an unlabelled sample has no row."""

    SAMPLE_ID = "sample_id"
    TASK = "task"
    LABEL = "label"  # integer class, 0 … K−1; binary: 1 is the positive class
    TIME = "time"  # survival: of the event (label 1), or when the patient was last seen (label 0)
    BAYES_PROB = "bayes_prob"  # simulated cohorts only: P(label = 1 | all modalities), the ceiling


class Vectors:
    """An embedding table: one row per item; several items of a sample are pooled at load."""

    SAMPLE_ID, ITEM = "sample_id", "item"
    VECTOR = "vector"  # list[float32] of the modality's width


class Predictions:
    """predictions.parquet: one row per sample × task × method × repeat × fold × seed."""

    SAMPLE_ID = "sample_id"
    SUBJECT_ID = "subject_id"
    SPLIT = "split"
    TASK = "task"
    LABEL = "label"  # integer class; null where unknown (a new patient)
    PROB = "prob"  # probability of the positive class; K > 2: prob_0 … prob_{K−1} beside it
    LOGIT_LARGE = "logit_large"  # log-odds of the positive class; null where a method has none
    LOGIT_SMALL = "logit_small"
    S, W_LARGE, W_SMALL = "s", "w_large", "w_small"
    ROUTER = "router"  # list[float]: router weight of every expert, in the run's expert order
    SPREAD = "spread"  # standard deviation of the log-odds between the models averaged, in nats
    PRESENT = "present"  # list[str]: modality names present for the sample
    THRESHOLD = "threshold"  # decision threshold on prob, chosen on validation
    REPEAT, FOLD, SEED = "repeat", "fold", "seed"
    METHOD = "method"
    SET = "prediction_set"  # list[int]: classes that conformal prediction cannot rule out
    TIME = "time"  # survival: when the event, or the last sight of the patient, was (task's unit)
    SURVIVAL = "survival"  # list[float]: P(no event by the end of each interval)
    INTERVALS = "intervals"  # list[float]: those ends; label says whether `time` is an event's
    HORIZON = "horizon"  # survival: the time, one of those ends, by which `prob` is the risk
    KEPT = "kept"  # stress.parquet, list[str]: modalities not taken away from anyone
    NOISE = "noise"  # stress.parquet: deviation of the noise added, in training deviations
    MODEL = "model_hash"  # new patients: sha256 of the run's model.safetensors
    ENCODERS = "encoders"  # new patients, list[str]: "modality: encoder@fingerprint", or "as given"
    VERSION = "adacomed"  # new patients: the version that predicted

    REQUIRED = (SAMPLE_ID, SUBJECT_ID, SPLIT, TASK, LABEL, PROB, METHOD)


class Explanations:
    """explanations.parquet: one row per sample and thing that its prediction is explained by."""

    SAMPLE_ID = "sample_id"
    CLASS = "class"  # the class explained; binary: 1
    LEVEL = "level"  # "modality", "variable", "time", "token", "patch" or "expert"
    MODALITY = "modality"  # null for an expert
    NAME = "name"  # of the modality, variable, expert; a token or a patch by its place
    POSITION = "position"  # hours (time), index (token, patch); else null
    VALUE = "value"  # modality: Shapley value in probability; expert: router weight; else: log-odds


class History:
    """history.parquet: one row per training stage and epoch."""

    STAGE = "stage"  # "small", "adacomed", or the baseline's name
    EPOCH = "epoch"
    PART = "part"  # "train" or "val"
    METRIC = "metric"  # "loss", "task", "contrast", "auroc", "s", "w_large", "lr"
    VALUE = "value"


def group_column(name: str) -> str:
    """Column of a predictions table with a cohort's group (`groups:`), such as sex or site."""
    return f"group_{name}"


def finding_task(task: str, finding: str) -> str:
    """What a multi-label task's rows are called: one task per finding."""
    return f"{task}: {finding}"


def prob_column(k: int) -> str:
    """Column of the probability of class k in a multi-class predictions table."""
    return f"{Predictions.PROB}_{k}"


# ---- files --------------------------------------------------------------------------------------
class CohortFiles:
    """Names inside a built cohort folder."""

    CARD = "cohort.yaml"
    SAMPLES, LABELS = "samples.parquet", "labels.parquet"
    VECTORS = "vectors"  # vectors/<modality>.parquet
    EVENTS = "events.parquet"  # the tables of a built cohort with raw inputs, and who was left out
    IMAGES, NOTES = "images.parquet", "notes.parquet"
    FLOW, PICTURE = "flow.json", "flow.svg"


class RunFiles:
    """Names inside a finished run folder."""

    CONFIG = "config.yaml"
    ENVIRONMENT = "environment.json"
    MODEL = "model.safetensors"
    INPUTS = "inputs.json"  # the fitted inputs: modalities, widths, scalers, vocabularies
    PREDICTIONS = "predictions.parquet"
    METRICS, HISTORY = "metrics.json", "history.parquet"
    REPORT, TABLE = "report.html", "table.csv"
    STRESS = "stress.parquet"  # test patients again, with modalities taken away or noise added
    FLOW = "flow.json"  # who was left out, and why
    EXPLANATIONS = "explanations.parquet"
    MODEL_CARD, TRIPOD = "model_card.md", "tripod_ai.md"
    CHECKSUMS = "checksums.json"  # in a bundle: file → sha256


# ---- cards --------------------------------------------------------------------------------------
class Card(BaseModel):
    """A YAML or JSON document on disk; an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class TaskCard(Card):
    """One task: where its label is and what counts as positive.

    With `column` the label is read from the cohort's table; without, from labels.parquet under the
    task's own name (already integers). `positive` makes a binary task (the rest is negative, unless
    `negative` names it), `classes` a multi-class one, in its order. `findings`, columns that may
    all be positive (or name: column), make a multi-label task. `time`, the column of when the event
    or the last sight of the patient was, makes a survival task: `column` says whether it happened.
    """

    column: str | None = None
    findings: list[str] | dict[str, str] | None = None
    time: str | None = None
    intervals: int | None = Field(None, ge=1, le=100)  # of time, each with a hazard
    horizon: float | None = Field(None, gt=0)  # the time whose risk is the probability
    unit: str = ""  # of time
    table: Path | None = None  # where `column` is, if not in the cohort's table; keyed by sample
    positive: str | int | float | bool | None = None
    negative: str | int | float | bool | None = None
    classes: list[str | int | float | bool] | None = None
    description: str = ""

    @model_validator(mode="after")
    def _one_meaning(self) -> TaskCard:
        if self.positive is not None and self.classes is not None:
            raise ValueError("give either positive (a binary task) or classes, not both")
        return self


class TabularCard(Card):
    """Columns of the cohort's table, or of its own, keyed by sample_id; or statistics of a series,
    `hr mean` and so on: all, or those that `columns` names."""

    kind: Literal["tabular"]
    columns: list[str] = []
    table: Path | None = None
    summarise: str | None = None  # name of a series modality
    categorical: list[str] = []  # integer codes that are names, not amounts
    missing: list[str | int | float] = []  # codes that mean "not recorded", such as -1
    prompt: str | None = None  # name of a versioned prompt in the package, or a template file
    encoder: str | None = None

    @model_validator(mode="after")
    def _one_source(self) -> TabularCard:
        if not self.columns and self.summarise is None:
            raise ValueError("name at least one of the table's columns:, or a series to summarise:")
        if self.summarise is not None and (self.table or self.categorical or self.missing):
            given = "table:, categorical: and missing:"
            raise ValueError(f"summarise: makes numbers of a series; leave out {given}")
        return self


class TextCard(Card):
    """Free text: one per sample in a column of the cohort's table, or several in a table of its
    own, keyed by sample_id. With `root` the column names UTF-8 files below it. `time` is a column
    beside `column` with hours from the index time, for models that read notes in their order."""

    kind: Literal["text"]
    column: str
    root: Path | None = None
    table: Path | None = None
    time: str | None = None
    encoder: str | None = None


class EmbeddingCard(Card):
    """The user's own vectors: `root` is a parquet file with sample_id and vector (and item); a .npy
    matrix, its rows as the table's or as `column` names them (NaN: no vector); or a folder of files
    `<sample_id>.npz`, `<sample_id>-<item>.npz` (or .npy), or the names in `column`."""

    kind: Literal["embedding"]
    root: Path
    column: str | None = None
    pooling: Literal["mean"] = "mean"


class FileCard(Card):
    """Raw files, their paths below `root` in a column: of the cohort's table (one per sample), or
    of a table of its own, keyed by sample_id (several per sample, pooled at load).

    An image is PNG, JPEG or DICOM; a volume NIfTI or a folder with one DICOM series; a slide what
    openslide reads. `time` (hours from the index time) and `view` (such as AP) are columns beside
    `column`, for models that read images themselves.
    """

    kind: Literal["image", "volume", "slide"]
    column: str
    root: Path = Path(".")
    table: Path | None = None
    time: str | None = None
    view: str | None = None
    encoder: str | None = None


class SeriesCard(Card):
    """Measurements over time, in a table of its own (parquet or csv). Long: a row per measurement,
    with the columns named by `sample`, `time`, `variable`, `value`. Wide: `columns` names one
    column per variable, a row per sample and time."""

    kind: Literal["series"]
    table: Path
    sample: str = "sample_id"
    time: str = "hours"  # a number of hours from the index time, or a duration
    variable: str = "variable"
    value: str = "value"
    columns: list[str] | None = Field(None, min_length=1)  # wide
    window: tuple[float, float] | None = None  # hours; what lies outside is left out
    limits: dict[str, tuple[float, float]] = {}  # variable → possible values; others are left out
    bins: dict[str, tuple[float, float]] = {}  # variable → its scale; default: fitted in training
    units: dict[str, str] = {}  # variable → unit, for people
    codes: dict[str, str] = {}  # code of a FHIR Observation, such as LOINC's → variable
    encoder: str | None = None


ModalityCard = Annotated[
    TabularCard | TextCard | EmbeddingCard | FileCard | SeriesCard, Field(discriminator="kind")
]


class CohortCard(Card):
    """cohort.yaml: one file beside one table describes a cohort, built or the user's own."""

    name: str
    title: str = ""
    simulated: bool = False  # every title made from this cohort then says so
    source: str = ""
    licence: str = ""
    table: Path
    subject: str
    # what names a row: a column, or several that do together ("id/file"); default: the subject
    sample: str | list[str] | None = None
    split: str | None = None  # column with train / val / test
    split_by_sample: bool = False  # the split may put a subject's samples into several parts
    labels: Path | None = None
    tasks: dict[str, TaskCard] = Field(min_length=1)
    modalities: dict[str, ModalityCard] = Field(min_length=1)
    groups: list[str] = []  # columns to report by (sex, site, …), never inputs by themselves
    notes: str = ""

    @property
    def sample_columns(self) -> list[str]:
        """Columns of the table that together name a sample."""
        named = self.sample or self.subject
        return [named] if isinstance(named, str) else named

    @property
    def keys(self) -> list[str]:
        """Columns by which another table may name a sample; the first one there counts."""
        columns = self.sample_columns
        return [Samples.SAMPLE_ID, *(columns if len(columns) == 1 else ())]
