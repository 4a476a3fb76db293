"""A run's model with everything around it, as one module of tensors: what the exports are made of.

Vectors come in as their encoders gave them and table cells in their own units, so that a program
elsewhere needs none of the run's scalers; probabilities go out calibrated, as `inference.predict`
gives them. It computes in double precision, as `inference.forward` does.
"""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adacomed.errors import InputError
from adacomed.evaluation.recalibration import ISOTONIC, NONE, Calibrator
from adacomed.evaluation.scored import EPS
from adacomed.inference import in_double
from adacomed.models.adacomed import AdaCoMed
from adacomed.models.batch import Batch
from adacomed.models.members import Members
from adacomed.models.small.scores import ScoreSmall
from adacomed.models.small.trees import Imputed
from adacomed.readers.tabular import Amount, TableEncoder
from adacomed.training.checkpoint import Run
from adacomed.training.outcome import Findings, Outcome, Survival
from adacomed.training.scaling import Standardiser
from adacomed.training.trained import correct_prior

READ_RAW = ("gru", "meta-transformer", "onellm")
WITH_SMALL, MULTIMODAL = ("adacomed", "small", "average"), "multimodal-pred"
FIELDS = ("logits", "logits_large", "logits_small", "s", "w_large", "w_small", "router", "spread")


class Fusion(nn.Module):
    """present (B, M), vectors and tables (see `feeds.Feeds`) → outputs by name, float64.

    A modality counts as present where `present` says so and its vector holds no NaN; the rows of
    an absent one may hold anything.

    Raises:
        InputError: a model that reads series, images or notes themselves, or one that lets a
            patient's answer depend on the batch.
    """

    log_prior: Tensor

    def __init__(self, run: Run) -> None:
        super().__init__()
        _exportable(run)
        trained = in_double(run.trained)
        fitted = trained.fitted
        self.modalities = list(dict.fromkeys([*fitted.native, *fitted.tables]))
        self.large, self.own, self.small = list(fitted.large), fitted.own, fitted.small
        self.vectors = {m: fitted.native[m] for m in fitted.native if m not in fitted.own}
        self.tables = list(fitted.tables)
        self.scalers = nn.ModuleList(Scaler(s) for s in fitted.large.values())
        self.encoders = nn.ModuleList(Cells(e) for e in fitted.tables.values())
        self.model = traceable(trained.model)
        self.body = _common_body(self.model)
        self.register_buffer("log_prior", trained.log_prior.double())
        self.outcome: Outcome = trained.outcome
        self.calibrated = Calibrated(trained.calibrator)

    def forward(
        self, present: Tensor, vectors: dict[str, Tensor], tables: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """Outputs of B patients by name; which there are depends on the method (`FIELDS`)."""
        batch = self.batch(present, vectors, tables)
        if self.body is not None:
            batch = replace(batch, e_small=self.body.embed(batch))
        output = correct_prior(self.model(batch), self.log_prior)
        prob = self.calibrated(probabilities(self.outcome, output.logits))
        said = {name: x for name in FIELDS if (x := getattr(output, name)) is not None}
        if isinstance(self.outcome, Survival):
            said["survival"] = _curves(output.logits)
        # a name of its own for each: the same tensor twice would be one output of a graph
        return {"prob": prob, **{name: x.clone() for name, x in said.items()}}

    def batch(
        self, present: Tensor, vectors: dict[str, Tensor], tables: dict[str, Tensor]
    ) -> Batch:
        """What `FittedInputs.batch` makes of the same patients."""
        told = {m: present[:, i, None] for i, m in enumerate(self.modalities)}  # (B, 1)
        cells, filled = {}, {}
        for name, encode in zip(self.tables, self.encoders, strict=True):
            filled[name] = told[name] & ~tables[name].isnan().all(dim=1, keepdim=True)
            cells[name] = torch.where(filled[name], encode(tables[name]), torch.nan)
        large, here = {}, []
        for name, scale in zip(self.large, self.scalers, strict=True):
            if name in self.own:
                x, there = scale(cells[name]), filled[name]
                x = torch.where(x.isnan(), 0.0, x)
            else:
                x = scale(vectors[name])
                there = told[name] & ~x.isnan().any(dim=1, keepdim=True)
            large[name] = torch.where(there, x, torch.nan).double()
            here.append(there)
        small = {m: cells[m].double() if m in cells else large[m] for m in self.small}
        return Batch(embeddings=large, present=torch.cat(here, dim=1), small=small)


class Scaler(nn.Module):
    """A `Standardiser` as tensors, single precision like it."""

    mean: Tensor
    scale: Tensor
    components: Tensor | None

    def __init__(self, fitted: Standardiser) -> None:
        super().__init__()
        self.register_buffer("mean", torch.from_numpy(fitted.mean.copy()))
        self.register_buffer("scale", torch.from_numpy(fitted.scale.copy()))
        axes = fitted.components
        self.register_buffer("components", None if axes is None else torch.from_numpy(axes.copy()))

    def forward(self, x: Tensor) -> Tensor:
        """(B, D) → (B, D) or (B, k) float32."""
        z = (x - self.mean) / self.scale
        return z if self.components is None else z @ self.components.T


class Cells(nn.Module):
    """A `TableEncoder` over numbers: amounts standardised, categories one-hot, all at once."""

    column: Tensor
    mean: Tensor
    scale: Tensor
    code: Tensor
    category: Tensor

    def __init__(self, encoder: TableEncoder) -> None:
        super().__init__()
        rows: list[tuple[int, float, float, float, bool]] = []
        for j, column in enumerate(encoder.columns):
            if isinstance(column, Amount):
                rows.append((j, column.mean, column.scale, 0.0, False))
            else:
                rows += [(j, 0.0, 1.0, float(k), True) for k in range(len(column.values))]
        self.register_buffer("column", torch.tensor([r[0] for r in rows], dtype=torch.long))
        for i, name in enumerate(("mean", "scale", "code"), start=1):
            self.register_buffer(name, torch.tensor([r[i] for r in rows], dtype=torch.float64))
        self.register_buffer("category", torch.tensor([r[4] for r in rows], dtype=torch.bool))

    def forward(self, x: Tensor) -> Tensor:
        """(B, columns) float64 → (B, P) float32, NaN = not observed."""
        cell = x[:, self.column]  # (B, P)
        amount = (cell - self.mean) * self.scale
        hot = torch.where(cell.isnan(), torch.nan, (cell == self.code).double())
        return torch.where(self.category, hot, amount).float()


class Calibrated(nn.Module):
    """`Calibrator.apply` on tensors."""

    def __init__(self, calibrator: Calibrator | None) -> None:
        super().__init__()
        self.map = calibrator or Calibrator()
        shift = torch.tensor(self.map.intercepts or (0.0,), dtype=torch.float64)
        self.register_buffer("shift", shift)
        for k, (x, y) in enumerate(self.map.knots):
            self.register_buffer(f"x_{k}", torch.tensor(x, dtype=torch.float64))
            self.register_buffer(f"y_{k}", torch.tensor(y, dtype=torch.float64))

    def forward(self, prob: Tensor) -> Tensor:
        """(B, K) → (B, K)."""
        if self.map.kind == NONE:
            return prob
        if self.map.kind != ISOTONIC:
            logs = prob.clamp(EPS, 1 - EPS).log()
            return torch.softmax(self.map.slope * logs + self.get_buffer("shift"), dim=-1)
        share = prob[:, 1:] if len(self.map.knots) == 1 else prob
        trust, curves = self.map.trust, []
        for k in range(len(self.map.knots)):
            p = share[:, k, None]
            said = _interpolated(p, self.get_buffer(f"x_{k}"), self.get_buffer(f"y_{k}"))
            curves.append(trust * said + (1 - trust) * p)
        out = torch.cat(curves, dim=1)
        if len(curves) == 1:
            return torch.cat([1 - out, out], dim=1)
        out = out.clamp_min(EPS)
        return out / out.sum(dim=1, keepdim=True)


def _interpolated(p: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """The line through the corners (x, y) at p (B, 1): the sum of what each piece adds."""
    run, rise = x.diff(), y.diff()
    slope = torch.where(run > 0, rise / run.clamp_min(torch.finfo(run.dtype).tiny), 0.0)
    inside = torch.minimum((p - x[:-1]).clamp_min(0.0), run)  # (B, pieces)
    return y[:1] + (inside * slope).sum(dim=1, keepdim=True)


def probabilities(outcome: Outcome, logits: Tensor) -> Tensor:
    """`Outcome.probabilities` on tensors, before calibration: (B, K), (B, J) or (B, 2)."""
    if isinstance(outcome, Findings):
        return torch.sigmoid(logits)
    if isinstance(outcome, Survival):
        alive = _curves(logits)[:, outcome.ends.index(outcome.horizon)]
        return torch.stack([alive, 1 - alive], dim=1)
    return torch.softmax(logits, dim=-1)


def _curves(logits: Tensor) -> Tensor:
    return F.logsigmoid(-logits).cumsum(dim=-1).exp()


def traceable(model: nn.Module) -> nn.Module:
    """A copy whose way does not hang on the values of its buffers, which a graph could not show."""
    model = copy.deepcopy(model)
    for module in model.modules():
        if isinstance(module, Imputed):
            module.flagged = module.flagged.nonzero().squeeze(1)  # a mask, as places
        elif isinstance(module, ScoreSmall):
            speaks = module.speaks.tolist()
            del module.speaks
            module.__dict__["speaks"] = speaks
    return model.eval().requires_grad_(False)


def _common_body(model: nn.Module) -> ScoreSmall | None:
    """The frozen small model of several members, where it is the same in all: it is run once."""
    if not isinstance(model, Members):
        return None
    bodies = [getattr(member, "small", member) for member in model.members]
    first = bodies[0]
    if not isinstance(first, ScoreSmall):
        return None
    want = {k: x for k, x in first.state_dict().items() if not k.startswith("head.")}
    for body in bodies[1:]:
        state = body.state_dict()
        if body.speaks != first.speaks or not all(
            k in state and torch.equal(x, state[k]) for k, x in want.items()
        ):
            return None
    return first


def _exportable(run: Run) -> None:
    spec, fitted = run.trained.spec, run.trained.fitted
    body = spec["small"]["kind"] if spec["model"] in WITH_SMALL else None
    if fitted.raw.shapes or spec["model"] in READ_RAW or body == MULTIMODAL:
        whose = f"its small model {MULTIMODAL}" if body == MULTIMODAL else run.method
        raise InputError(
            f"{run.folder}: {whose} reads series, images and notes themselves, and an export takes "
            f"vectors and tables only; export a run of adacomed with small.kind=stack or shallow, "
            f"or move this one as a bundle"
        )
    mixing = (m for m in run.trained.model.modules() if isinstance(m, AdaCoMed))
    if any(m.bank is None or m.score != "own" or m.weighting.batch_mean for m in mixing):
        raise InputError(
            f"{run.folder}: by its preset {run.meta['preset']!r} a patient's answer depends on who "
            f"else is in the batch, and a graph for any number of patients cannot say so; export a "
            f"run of the default preset, or move this one as a bundle"
        )
