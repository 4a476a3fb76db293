"""One audit entry for every prediction that leaves, before it leaves."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from starlette.requests import Request

from adacomed.serve.audit import AuditLog, output_of
from adacomed.serve.refusals import LOG, Refusal
from adacomed.serve.settings import Settings

if TYPE_CHECKING:
    from adacomed.serve.service import Case

# Waiting for the disk, not working; several wait for one write together.
_WRITERS = ThreadPoolExecutor(max_workers=16, thread_name_prefix="audit")
OF_AN_EXPLANATION = ("prob", "prediction_set", "s", "w_large", "w_small")


async def audited(request: Request, what: str, case: Case, output: Mapping[str, Any]) -> None:
    """Write down who was told what of whom; nobody is told what cannot be written down.

    Args:
        what: "predict", "explain" or "view".
        case: the patient, with the digests of the inputs.
        output: a record (`record.record`) or an explanation (`Patient.to_dict`); its numbers alone
            are kept.
    Raises:
        Refusal: 503, the log cannot be written.
    """
    state = request.app.state
    audit: AuditLog | None = state.audit
    if audit is not None:
        loop, without = asyncio.get_running_loop(), output.get("without") or ()
        entry: dict[str, Any] = {
            "who": who(request, state.settings),
            "what": what,
            "sample_id": case.sample_id,
            "model_hash": state.service.run.model_hash,
            "inputs": {m: d for m, d in case.hashes.items() if m not in without},
            "output": _numbers(output),
        }
        # shielded: a caller who leaves now must not leave an entry half awaited
        written = loop.run_in_executor(_WRITERS, lambda: audit.append(**entry))
        try:
            await asyncio.shield(written)
        except OSError as error:
            LOG.error("the audit log cannot be written (%s)", error.strerror)
            raise Refusal(
                503,
                "the audit log cannot be written, so no prediction is given",
                reason="audit",
                headers={"Retry-After": "60"},
            ) from None
    state.metrics.predictions.labels(what).inc()


def who(request: Request, settings: Settings) -> str:
    """`loopback 127.0.0.1`, or the token's name and the address that showed it."""
    name = "loopback" if settings.token is None else settings.token_name
    return f"{name} {request.client.host}" if request.client else name


def _numbers(output: Mapping[str, Any]) -> dict[str, Any]:
    """What of an answer the log keeps: probabilities, sets and weights."""
    if "predictions" in output:
        return output_of(output)
    return {k: output.get(k) for k in OF_AN_EXPLANATION}
