"""Similar patients: near in the joint space, never oneself, the same in any company, meaningful."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import t as students_t

from adacomed.errors import InputError
from adacomed.explain.similar import reference_of, similar
from adacomed.inference import in_double
from adacomed.training.outcome import Findings, Survival
from adacomed.training.perturb import without
from tests.training.conftest import make_inputs

from .test_patient import run_of

METHODS = ["adacomed", "large-ensemble", "average", "small"]


def one(inputs, i: int):
    return inputs.take(np.array([i]))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("members", [1, 2])
def test_of_a_reference_the_nearest_come_first(method: str, members: int, fitted) -> None:
    trained, inputs = fitted(method, members=members)
    run = run_of(trained, 2)
    reference = reference_of(run, inputs)
    np.testing.assert_allclose((reference.vectors**2).sum(axis=1), 1, atol=1e-12)
    for i in (0, 17):
        found = similar(reference, run, one(inputs, i), k=29)
        names = [n.sample_id for n in found]
        assert sorted([*names, inputs.sample_id[i]]) == sorted(inputs.sample_id)
        nearness = [n.similarity for n in found]
        assert nearness == sorted(nearness, reverse=True)
        for n in found[:3]:
            j = list(inputs.sample_id).index(n.sample_id)
            assert n.similarity == pytest.approx(reference.vectors[i] @ reference.vectors[j])
            assert (n.label, n.seen) == (inputs.target[j], run.classes[inputs.target[j]])
            assert ("b" in n.present) == inputs.present[j, 1]
            assert n.prob == tuple(reference.prob[j])


def test_it_is_the_joint_space_of_each_member(fitted) -> None:
    """The mean of the members' cosines, from z_large and z_small themselves."""
    trained, inputs = fitted(members=2)
    run = run_of(trained, 2)
    model = in_double(trained).model
    batch = trained.fitted.batch(inputs).to("cpu", torch.float64)
    cosines = []
    for member in model.members:
        with torch.no_grad():
            output = member(batch)
        sides = [z / z.norm(dim=1, keepdim=True) for z in (output.z_large, output.z_small)]
        large, small = (z @ z.T for z in sides)
        cosines.append((large + small) / 2)
    expected = torch.stack(cosines).mean(dim=0).numpy()
    assert batch.present.any(dim=1).all()
    vectors = reference_of(run, inputs).vectors
    np.testing.assert_allclose(vectors @ vectors.T, expected, atol=1e-9)


def test_a_patient_is_at_home_among_the_same_patients_in_any_company(fitted) -> None:
    trained, inputs = fitted(members=2)
    run = run_of(in_double(trained), 2)
    whole = reference_of(run, inputs)
    parts = [reference_of(run, one(inputs, i)).vectors[0] for i in range(len(inputs))]
    np.testing.assert_allclose(whole.vectors, np.stack(parts), atol=1e-12)
    turned = reference_of(run, inputs.take(np.arange(30)[::-1].copy()))
    for i in (3, 22):
        here, there = (similar(r, run, one(inputs, i)) for r in (whole, turned))
        assert [n.sample_id for n in here] == [n.sample_id for n in there]


def test_equal_patients_stand_in_the_order_of_their_ids(fitted) -> None:
    trained, inputs = fitted()
    run = run_of(trained, 2)
    same = inputs.take(np.array([4] * 6 + [9]))
    names = np.array(["d", "a", "c", "f", "b", "e", "other"])
    same = replace(same, sample_id=names, subject_id=names)
    found = similar(reference_of(run, same), run, one(inputs, 4), k=6)
    assert [n.sample_id for n in found] == ["a", "b", "c", "d", "e", "f"]
    assert found[0].similarity == pytest.approx(1)
    assert found[0].similarity <= 1


def test_never_one_of_ones_own_samples(fitted) -> None:
    trained, inputs = fitted()
    run = run_of(trained, 2)
    subjects = np.array([f"s{i // 3}" for i in range(30)])
    reference = reference_of(run, replace(inputs, subject_id=subjects))
    me = replace(one(inputs, 7), subject_id=np.array(["s2"]))  # p097; s2 is p096 to p098
    found = {n.sample_id for n in similar(reference, run, me, k=30)}
    assert found == set(inputs.sample_id) - {"p096", "p097", "p098"}
    found = {n.sample_id for n in similar(reference, run, me, k=30, without_subject="s0")}
    assert len(found) == 24
    with pytest.raises(InputError, match="for one patient, 30 arrived"):
        similar(reference, run, inputs)


def test_without_a_large_modality_the_small_side_decides(fitted) -> None:
    trained, inputs = fitted()
    run = run_of(trained, 2)
    bare = without(inputs, ["a", "b"])
    reference = reference_of(run, bare)
    z_small = reference.vectors[:, reference.vectors.shape[1] // 2 :]
    assert (reference.vectors[:, : z_small.shape[1]] == 0).all()
    np.testing.assert_allclose((z_small**2).sum(axis=1), 1, atol=1e-12)
    assert all(n.present == ("clinical",) for n in similar(reference, run, one(bare, 0)))


@pytest.mark.parametrize("method", ["a-large", "flex-moe"])
def test_a_method_without_such_a_space_says_so(method: str, fitted) -> None:
    trained, inputs = fitted(method)
    run = replace(run_of(trained, 2), method=method)
    with pytest.raises(InputError, match=f"no similar patients for {method}"):
        reference_of(run, inputs)


def test_nobody_to_compare_with(fitted) -> None:
    trained, inputs = fitted()
    with pytest.raises(InputError, match="no patient to compare with"):
        reference_of(run_of(trained, 2), inputs.take(np.array([], int)))


def test_what_became_of_a_neighbour_in_words(fitted) -> None:
    trained, inputs = fitted()
    unknown = replace(inputs, target=np.full(30, -1))
    assert set(reference_of(run_of(trained, 2), unknown).seen) == {""}
    truth = np.tile([[1.0, 0.0], [0.0, 0.0], [1.0, 1.0], [np.nan, np.nan]], (8, 1))[:30]
    findings = replace(trained, outcome=Findings(("oedema", "fracture"), (0.0, 0.0)))
    run = replace(run_of(findings, 2), classes=("oedema", "fracture"))
    found = reference_of(run, replace(inputs, truth=truth))
    assert found.seen[:4] == ("oedema", "no finding", "oedema, fracture", "")
    assert (found.label == -1).all()
    survival = Survival(("alive", "dead"), 2.0, unit="months", ends=(1.0, 2.0), base=(0.0, 0.0))
    run = replace(run_of(replace(trained, outcome=survival), 2), classes=("alive", "dead"))
    times = np.tile([[12.5, 1.0], [3.0, 0.0]], (15, 1))
    found = reference_of(run, replace(inputs, truth=times))
    assert found.seen[:2] == ("dead at 12.5 months", "alive at 3 months")


def test_neighbours_share_the_label_more_often_than_chance(fitted) -> None:
    """New patients against patients whom the model was not trained on either."""
    trained, _ = fitted(members=2)
    run = run_of(in_double(trained), 2)
    others = make_inputs(400, seed=1)
    names = np.array([f"n{i:03d}" for i in range(400)])
    others = replace(others, sample_id=names, subject_id=names)
    reference = reference_of(run, others.take(np.arange(250)))
    beyond = []
    for i in range(250, 400):
        found = similar(reference, run, one(others, i), k=5)
        label = others.target[i]
        beyond.append(
            np.mean([n.label == label for n in found]) - (reference.label == label).mean()
        )
    mean, error = np.mean(beyond), np.std(beyond, ddof=1) / np.sqrt(len(beyond))
    low = mean - students_t.ppf(0.975, len(beyond) - 1) * error
    assert low > 0, f"{mean:.3f}, 95 % from {low:.3f}"
