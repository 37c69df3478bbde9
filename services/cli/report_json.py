"""The report of `reverie validate` as one JSON object."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from services.cli.notices import grouped

if TYPE_CHECKING:
    from services.cli.plan_report import Report
    from trainer_core.config.plan import MatmulKind, Plan
    from trainer_core.memory.cards import CardRow


def body_of(report: "Report") -> dict[str, Any]:
    """Every key is there, whatever the report has."""
    return {
        "trainable_modules": report.trainable_modules,
        "trainable_parameters": report.trainable_parameters,
        "steps": report.steps,
        "epochs": report.plan.identity.num_train_epochs if report.plan else None,
        "buckets": _buckets(report),
        "data": report.pictures.report and report.pictures.report.model_dump(mode="json"),
        "matmul": products_by_card(report.plan) if report.plan else None,
        "deterministic": report.plan.operation.deterministic if report.plan else None,
        "memory": asdict(report.memory) if report.memory else None,
        "cards": [_card(row) for row in report.cards],
        "sharding": [{"card_gib": row.card_gib, **asdict(row.choice)} for row in report.sharding],
        "notices": grouped(asdict(each) for each in report.notices),
        "warnings": list(report.warnings),
        "errors": [
            {"pointer": error.pointer, "code": error.code, "message": error.message}
            for error in report.errors
        ],
        "used_files": {file.option: str(file.path) for file in report.used},
        "plan_digest": report.plan_digest,
    }


def _buckets(report: "Report") -> list[dict[str, Any]]:
    return [
        {
            "backend": survey.backend.id,
            "role": survey.backend.role,
            "width_px": width,
            "height_px": height,
            "images": images,
            "repeats": survey.backend.repeats,
            "samples_per_epoch": images * (1 + survey.backend.repeats)
            if survey.backend.role == "train"
            else 0,
        }
        for survey in report.surveys
        for (width, height), images in sorted(survey.buckets.items())
    ]


def products_by_card(plan: "Plan") -> "dict[str, MatmulKind | None]":
    """Class of card → the products that the run would pick there; None: it is refused."""
    from trainer_core.config.plan.matmul import picks_by_card

    return picks_by_card(plan.identity.precision, plan.operation.device)


def _card(row: "CardRow") -> dict[str, Any]:
    """How the run fits a card; the blocks that are recomputed and offloaded by number."""
    planned = row.planned
    return {
        "card_gib": row.card_gib,
        "peak_estimate_bytes": planned.peak_bytes if planned else None,
        "keeps_transposed": planned.keeps_transposed if planned else None,
        "streams_conditioning": planned.streams_conditioning if planned else None,
        "recomputed_blocks": sorted(planned.recomputed) if planned else None,
        "offloaded_blocks": sorted(planned.offloaded) if planned else None,
        "host_bytes": planned.host_bytes if planned else None,
        "largest_batch": row.largest_batch,
        "refusal": row.refusal,
    }
