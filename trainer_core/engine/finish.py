"""The end of a run: sample image, model card facts and result folder."""

from pathlib import Path

from trainer_core.base_models.layout import transformer_config
from trainer_core.data.cut_captions import CutCaptions, cut_captions
from trainer_core.disk import require_folder
from trainer_core.engine.reporting import report_finished, report_sample, report_stage
from trainer_core.engine.result import SAMPLE_NAME, write_run_result
from trainer_core.engine.state import Run, TrainingState
from trainer_core.export.card_facts import card_facts
from trainer_core.export.origin import weights_of_result
from trainer_core.export.safetensors_file import read_whole
from trainer_core.export.transformer_folder import file_type_of
from trainer_core.faultpoints import fault_point
from trainer_core.validation.fixed_loss import FixedLoss
from trainer_core.validation.sample import sample_for_result


def finish(run: Run, state: TrainingState, loss_after: FixedLoss) -> None:
    """Draw the sample image, write the result folder and report the run as finished.

    Every rank calls it, inside ``Backend.with_means``, where the parameters are the ones to
    publish. Only rank 0 writes.
    """
    report_stage(run, state, "sampling")
    network, plan = run.loaded.network, run.plan
    with run.backend.gathered():
        sample = sample_for_result(
            network,
            run.loaded.vae,
            Path(run.job.base_model_dir),
            operation=plan.operation,
            index=run.job.index,
            read_text=run.loaded.batches.text,
        )
    report_stage(run, state, "finalizing")
    parameters = run.backend.whole_parameters()
    if run.backend.rank != 0:
        dtype = file_type_of(plan.identity.precision.model_dump())
        for name in sorted(parameters.shapes):  # with rank 0, which writes them in this order
            read_whole(parameters, name, dtype)
        return
    weights = weights_of_result(plan.identity)
    facts = card_facts(
        plan,
        step=state.step,
        loss_before=state.loss_before,
        loss_after=loss_after.as_json(),
        trainable_parameters=run.loaded.trainable_parameters,
        trainable_modules=network.trainable_modules,
        weights=weights,
        matmul=run.loaded.matmul.kind,
        captions=_cut_captions(run),
        evaluation=None if state.evaluations is None else state.evaluations.as_facts(),
    )
    require_folder(run.job.checkpoints_dir)
    is_full_rank = plan.identity.adapter is None
    written = write_run_result(
        run.job.result_dir,
        plan=plan,
        step=state.step,
        transformer_config=transformer_config(Path(run.job.base_model_dir)) if is_full_rank else {},
        parameters=parameters,
        weights=weights,
        sample=sample,
        facts=facts,
    )
    fault_point("result.before_event")
    report_sample(run, state, f"result/{SAMPLE_NAME}")
    fault_point("train.before_finished")
    report_finished(run, state, written)


def _cut_captions(run: Run) -> CutCaptions:
    index = run.job.index
    captions = ((sample.path, index.captions_of(sample)) for sample in index.samples)
    return cut_captions(captions, Path(run.job.base_model_dir))
