"""Charts and tables of one patient: what each modality did, and when an event may come."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from adacomed.explain.patient import Patient
from adacomed.report.figures import Style, layout, line, rounded, rule
from adacomed.report.page import NONE, Figure, Row, Table, label, number


def effects(patient: Patient) -> Table:
    """Every modality's Shapley value and the probability without it, the largest first."""
    k = patient.explained
    rows = []
    for name, effect in sorted(
        patient.modalities.items(), key=lambda pair: -abs(pair[1].shapley[k])
    ):
        if not effect.present:
            rows.append(Row([name, "absent", NONE]))
            continue
        error = "" if effect.error is None else f" ± {number(effect.error[k])}"
        moved = f"{_signed(effect.shapley[k])}{error}"
        rows.append(Row([name, moved, number(effect.without[k])]))
    caption = f"How much each modality moves the probability of {patient.classes[k]}"
    notes = [
        f"Shapley values: from {number(patient.base[k])}, of a patient of whom nothing is known, "
        f"to {number(patient.prob[k])}; averaged over every order in which the modalities come in."
    ]
    return Table(caption, ["modality", "moves it by", "without it alone"], rows, notes)


def overlaps(patient: Patient) -> Table | None:
    """What pairs of modalities do together beyond what each does; None where that is nothing."""
    rows = [
        Row([pair, _signed(value), f"{'lower' if value < 0 else 'higher'} than by each alone"])
        for pair, value in sorted(patient.overlap.items(), key=lambda pair: -abs(pair[1]))
        if abs(value) >= 0.0005
    ]
    if not rows:
        return None
    notes = [
        "What two modalities do together beyond what each does by itself. Where both push one way "
        "and the interaction the other, they tell in part the same thing."
    ]
    columns = ["pair", "interaction", "together the probability is"]
    return Table("Where two modalities overlap", columns, rows, notes)


def _signed(value: float) -> str:
    return ("+" if value > 0 else "") + number(value)


def effect_figure(patient: Patient) -> Figure:
    """One bar per modality, to the right where it raises the probability."""
    k = patient.explained
    values = {m: e.shapley[k] for m, e in patient.modalities.items() if e.present}
    values = dict(sorted(values.items(), key=lambda item: -abs(item[1])))
    bars = {
        "type": "bar",
        "orientation": "h",
        "x": rounded(list(values.values())),
        "y": [label(name) for name in values],
        "marker": {"color": ["var(--c1)" if v > 0 else "var(--c0)" for v in values.values()]},
        "text": [_signed(v) for v in values.values()],
        "textposition": "outside",
        "cliponaxis": False,
        "hovertemplate": "%{y}: %{x:+.3f}<extra></extra>",
    }
    most = max([0.02, *map(abs, values.values())]) * 1.75
    shape = layout("", "", height=90 + 34 * len(values))
    shape["xaxis"] |= {"range": [-most, most], "zeroline": True, "zerolinecolor": "var(--muted)"}
    shape["yaxis"] |= {"type": "category", "autorange": "reversed", "automargin": True}
    told = "; ".join(f"{name} {_signed(v)}" for name, v in values.items()) or "nothing is present"
    title = f"What moves the probability of {patient.classes[k]}"
    alt = f"Shapley values of the modalities: {told}."
    return Figure("effects", title, alt, {"data": [bars], "layout": shape})


def survival_figure(one: Mapping[str, Any]) -> Figure | None:
    """The chance of no event by each time; None where the task has no times."""
    times, curve = one.get("intervals"), one.get("survival")
    if not times or not curve:
        return None
    x, y = [0.0, *map(float, times)], [1.0, *map(float, curve)]
    unit = str(one.get("unit") or "time")
    data = [line(x, y, "no event", Style("var(--c0)", "solid", 2.5), mode="lines+markers")]
    if one.get("horizon") is not None:
        data.append(rule([one["horizon"]] * 2, [0, 1], "horizon"))
    rows = [Row([f"{t:g}", number(p)]) for t, p in zip(x, y, strict=True)]
    table = Table("Chance of no event", [unit, "no event so far"], rows)
    shape = layout(unit, "no event so far", height=320, yaxis={"range": [0, 1.02]})
    alt = "; ".join(f"{number(p)} at {t:g}" for t, p in zip(x, y, strict=True))
    alt = f"Chance that no event has come by each time, in {unit}: {alt}."
    return Figure("survival", "When", alt, {"data": data, "layout": shape}, table)
