from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from adacomed.cohort.check import check
from adacomed.cohort.cohort import load_cohort
from adacomed.cohort.split import official
from adacomed.datasets.mmist_ccrcc import EXPECTED, TASK, build, built_counts
from adacomed.errors import InputError

SOURCE = Path(__file__).parents[2] / ".." / "shared" / "data" / "mmist-ccrcc"
pytestmark = pytest.mark.skipif(not SOURCE.is_dir(), reason="needs ../shared/data/mmist-ccrcc")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("cohorts") / "mmist"
    build(SOURCE, out)
    return out


@pytest.mark.filterwarnings("error")
def test_counts_are_the_published_ones(built: Path) -> None:
    table = built_counts(built)
    assert dict(table.select("what", "found").rows()) == EXPECTED
    assert check(built).errors == []


def test_labels_against_the_raw_file(built: Path) -> None:
    raw = pl.read_csv(SOURCE / "clinical+genomic_split.csv")
    cohort = load_cohort(built)
    assert cohort.samples["sample_id"].to_list() == raw["case_id"].to_list()
    assert cohort.target(TASK).tolist() == (1 - raw["vital_status_12"]).to_list()
    assert cohort.classes(TASK) == ("alive", "dead")
    assert "vital_status_12" not in cohort.samples.columns
    fold = official(cohort, cohort.target(TASK))
    assert (len(fold.train), len(fold.test), fold.val) == (497, 121, None)
    complete = cohort.take(cohort.samples["complete"].to_numpy())
    assert len(complete) == 239


def test_groups_to_report_by_are_no_inputs(built: Path) -> None:
    cohort = load_cohort(built)
    assert cohort.card.groups == ["gender", "age", "race", "project"]
    projects = dict(cohort.samples["project"].value_counts().rows())
    assert projects == {"TCGA-KIRC": 429, "CPTAC-CCRCC": 189}
    assert not set(cohort.table("clinical").columns) & {"age", "race", "project"}
    known = cohort.samples.filter(pl.col("race").is_not_null())
    assert (known["race_White"] == (known["race"] == "White").cast(pl.Int64)).all()
    assert cohort.samples["age"].null_count() == cohort.samples["age_diag"].null_count() == 17


def test_table_has_17_features_with_codes_as_categories(built: Path) -> None:
    table = load_cohort(built).table("clinical")
    assert table.width == 17
    text = [name for name, dtype in table.schema.items() if dtype == pl.String]
    assert [name[-2:] for name in text] == ["pt", "pn", "cm", "pm"]
    assert table["VHL_mutation"].null_count() == 156
    assert table["ajcc_clin_metastasis_cm"].null_count() == 494
    assert not (table.select(pl.col(pl.Float64)) == -1).to_numpy().any()


def test_vectors_are_the_mean_of_a_patients_files(built: Path) -> None:
    cohort = load_cohort(built)
    ids = cohort.samples["sample_id"].to_list()
    for modality, folder, width in (("ct", "CT", 512), ("mri", "MRI", 512), ("wsi", "WSI", 1024)):
        vectors = cohort.vectors(modality)
        assert vectors.shape == (618, width)
        rows = np.flatnonzero(~np.isnan(vectors[:, 0]))
        for row in rows[[0, 10, -1]]:
            files = sorted((SOURCE / "Features" / f"{folder} Features").glob(f"{ids[row]}-*.npz"))
            mean = np.mean([np.load(f)["arr_0"].ravel() for f in files], axis=0)
            np.testing.assert_allclose(vectors[row], mean, rtol=1e-4, atol=1e-5)
    found = {
        m: len(pl.read_parquet(built / "vectors" / f"{m}.parquet")) for m in ("ct", "mri", "wsi")
    }
    # Of the 2,907 slides 476 are of 141 people who are not in the table of 618.
    assert found == {"ct": 736, "mri": 522, "wsi": 2431}


def test_chosen_items_are_one_a_patient(tmp_path: Path) -> None:
    build(SOURCE, tmp_path / "one", items="chosen")
    for modality, count in (("ct", 239), ("mri", 52), ("wsi", 618)):
        frame = pl.read_parquet(tmp_path / "one" / "vectors" / f"{modality}.parquet")
        assert len(frame) == frame["sample_id"].n_unique() == count
    first = pl.read_parquet(tmp_path / "one" / "vectors" / "wsi.parquet").row(0, named=True)
    assert (first["sample_id"], first["item"]) == ("C3L-00004", "26")


def copy_of_the_release(tmp_path: Path) -> Path:
    """The release with the first 30 files of each kind."""
    source = tmp_path / "release"
    source.mkdir()
    for file in SOURCE.glob("*.csv"):
        shutil.copy(file, source)
    for folder in (SOURCE / "Features").iterdir():
        (source / "Features" / folder.name).mkdir(parents=True)
        for file in sorted(folder.iterdir())[:30]:
            shutil.copy(file, source / "Features" / folder.name)
    return source


@pytest.mark.filterwarnings("ignore:MMIST")
def test_other_counts_are_a_warning(tmp_path: Path) -> None:
    source = copy_of_the_release(tmp_path)
    with pytest.warns(UserWarning, match="with WSI: expected 618, found"):
        build(source, tmp_path / "out")
    assert (tmp_path / "out" / "cohort.yaml").is_file()


def test_another_layout_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    source = copy_of_the_release(tmp_path)
    shutil.rmtree(source / "Features" / "MRI Features")
    with pytest.raises(InputError, match="no folder Features/MRI Features"):
        build(source, tmp_path / "out")
    with pytest.raises(InputError, match="no clinical"):
        build(tmp_path, tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["release"]
