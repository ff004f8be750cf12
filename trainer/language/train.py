"""One run of `trainer language`, top to bottom: data, base, rows as tokens, adapter, loop, evaluation, final adapter.

Whatever ends it early, the run's directory says so, and the same command goes on from the last whole checkpoint to the
same weights that an undisturbed run ends with.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np

from trainer import best, modelling, standing
from trainer.bootstrap import of_changes
from trainer.console import progress
from trainer.data.dialogue import Dialogue
from trainer.errors import InvalidInput, QualityGate
from trainer.following import Follow, redraw
from trainer.hardware import Hardware, find, in_turn
from trainer.journal import Journal
from trainer.language import final, golden, info, loop, material, plan, speaker
from trainer.language.config import LanguageConfig
from trainer.language.encoding import Encoder, Sample, encode
from trainer.language.golden import Form
from trainer.language.job import Job
from trainer.language.material import Material
from trainer.language.measure import Measured
from trainer.language.outcome import Figures, Outcome
from trainer.language.speaker import Speaker
from trainer.language.task import Rows, Task
from trainer.run import RunDirectory, write_json
from trainer.stopping import StopOnSignal, to_the_end

RECALLED: Final = 64  # rows that were trained on and are asked, before and after


def tune(config: LanguageConfig, sources: Mapping[str, str]) -> Outcome:
    """Trains, or goes on with what was begun. Raises Interrupted when a signal ended it, InvalidInput for what cannot
    be trained, QualityGate when fewer answers are right than `fail_below`; the adapter is there then all the same."""
    if config.org:
        material.check_organisation(config.org)
        material.check_files(config.org, (*config.data, *config.validation))
    run = standing.of(config)
    hardware = find(config.device, config.precision, config.threads or standing.threads_before(config))
    _check_four_bits(config, hardware)
    with in_turn(hardware):
        if hardware.first:
            standing.make_room(run, config)
            settings = {"task": "language", "config": config.model_dump(mode="json"), "sources": dict(sources)}
            write_json(run.config, settings)
    job = Job(run, config.org)
    journal = Journal(run, writes=hardware.first, told=job.told)
    with journal.ending():
        journal.queue(base_model=config.base_model, num_epochs=config.epochs)
        outcome = _train(config, hardware, run, journal, job)
        journal.end("completed", final_model_path=str(run.final_model), step=outcome.steps, **outcome.told())
    redraw(run, journal)
    _pass_gate(config, outcome)
    return outcome


def _check_four_bits(config: LanguageConfig, hardware: Hardware) -> None:
    if config.qlora and hardware.device != "cuda":
        raise InvalidInput(
            "qlora: training over 4 bits needs CUDA: on a CPU evaluating between steps was seen to spoil the base. "
            "Without --qlora an adapter is trained here too"
        )


def _train(config: LanguageConfig, hardware: Hardware, run: RunDirectory, journal: Journal, job: Job) -> Outcome:
    found = material.gather(config, journal.tell)
    sizes = len(found.train), len(found.held_out)
    base = modelling.find(config.base_model)
    loaded, form = _loaded(config, hardware, base)
    limit = plan.limit(config, loaded.limit)
    rows = _encoded(config, Encoder(loaded.tokenizer, loaded.endings, form.templated), found, limit, journal)
    chosen = plan.make(config, hardware, len(rows.train), limit)
    for note in chosen.notes:
        journal.tell(note)
    task = Task(config, hardware, run, journal, job, loaded, chosen, found, rows, form)
    with in_turn(hardware):
        if note := _record(task, base):
            journal.tell(note, logging.WARNING)
    journal.begin(train_examples=sizes[0], eval_examples=sizes[1])
    before = _before(task)
    wrapped, targets = speaker.adapted(loaded, config)
    journal.tell(f"LoRA of rank {config.lora_r} on {', '.join(targets)}")
    task = replace(task, speaker=wrapped, targets=targets)
    log = _loop(task)
    outcome = Outcome(run, job.id, base, chosen.steps, *sizes, hardware.first, before)
    return _finish(task, log, outcome) if hardware.first else outcome


def _loaded(config: LanguageConfig, hardware: Hardware, base: Path) -> tuple[Speaker, Form]:
    """The base, and how it computes: in half precision where the device trains so, as nothing of it is trained."""
    dtype = "float32" if hardware.device == "cpu" else hardware.precision
    loaded = speaker.load(base, device=hardware.device, dtype=dtype, nf4=config.qlora)
    loaded = speaker.with_template(loaded, config.chat_template)
    templated = config.chat_template != "none" and bool(loaded.tokenizer.chat_template)
    return loaded, Form(hardware.device, dtype, config.qlora, hardware.threads, templated)


def _record(task: Task, base: Path) -> str:
    """Where the run comes from. The paths of the data stay in its directory; the template is a part of what it is."""
    config, template = task.config, str(task.form.templated and task.speaker.tokenizer.chat_template)
    paths = [str(path.resolve()) for path in (*config.data, *config.validation)]
    numbers = {key: getattr(task.plan, key) for key in plan.CHOSEN}
    return standing.record(
        task.run,
        config,
        task.hardware,
        base=base,
        chosen={**numbers, "template": hashlib.sha256(template.encode()).hexdigest()},
        sizes=(len(task.material.train), len(task.material.held_out)),
        more={"data_paths": paths, "job_id": task.job.id},
    )


def _encoded(config: LanguageConfig, encoder: Encoder, found: Material, limit: int, journal: Journal) -> Rows:
    def samples(rows: list[Dialogue]) -> list[Sample]:
        return encode(rows, encoder, limit, config.too_long, journal.tell)

    asked = material.some(found.held_out, config.eval_sample_size or len(found.held_out), config.seed)
    rows = Rows(samples(found.train), samples(asked), [])
    if not rows.train:
        raise InvalidInput("nothing to train on: all rows are too long")
    if not asked:
        journal.tell("nothing is held out: the last weights are taken, and figures are of rows trained on")
    recalled = material.some(found.train, RECALLED, config.seed)
    return replace(rows, recalled=encode(recalled, encoder, limit, config.too_long, lambda line: None))


def _before(task: Task) -> Figures | None:
    """What the base says; a resumed run knows it already."""
    kept = task.run.checkpoints / "before.json"
    if not task.hardware.first:
        return None
    if kept.exists():
        return Figures.from_json(standing.read_json(kept))
    figures = task.figures("evaluating the base")
    write_json(kept, figures.to_json())
    found = figures.judged
    if figures.held_out:
        told = {"held_out_loss": found.loss, "perplexity": found.perplexity, "exact_match": found.exact_match}
        task.journal.measure(epoch=0.0, step=0, **told)
    task.journal.tell(
        f"before: loss {found.loss:.4f}, perplexity {found.perplexity:.2f}, {found.exact_match:.0%} right"
    )
    return figures


def _loop(task: Task) -> best.Log:
    """The training itself -> the log of all evaluations. Raises Interrupted."""
    journal = task.journal
    found = standing.checkpoint(task.run, task.hardware, journal)
    stopper = StopOnSignal(task.hardware.processes)
    with progress("training", "steps") as advance:
        follow = Follow(journal, advance, lambda: redraw(task.run, journal), loop.judged)
        made = loop.assembled(
            task.speaker.model,
            task.rows.train,
            config=task.config,
            plan=task.plan,
            hardware=task.hardware,
            folder=task.run.checkpoints,
            pad=task.speaker.pad,
            scored=_scoring(task),
            callbacks=[follow, stopper, *_keeping(task)],
        )
        log = to_the_end(made, stopper, found)
    journal.tell(f"trained {made.state.global_step} steps")
    return log


def _scoring(task: Task) -> Callable[[], Measured] | None:
    return (lambda: task.scored(task.rows.held_out)) if task.rows.held_out else None


def _keeping(task: Task) -> list[best.KeepBest]:
    if not task.rows.held_out or task.config.best_by == "last":
        return []
    save = lambda path: loop.save_adapter(task.speaker.model, path)  # noqa: E731  one line, used once
    return [best.KeepBest(task.run.checkpoints, task.config.best_by, task.config.early_stopping, save)]


def _finish(task: Task, log: best.Log, outcome: Outcome) -> Outcome:
    """Takes the best weights, measures them, and saves them with what they answer."""
    config, run, journal = task.config, task.run, task.journal
    if note := final.take_best(config, run, task.speaker.model, log):
        journal.tell(note)
    after = task.figures("evaluating the result")
    outcome = replace(outcome, after=after)
    if outcome.before and outcome.before.held_out and after.held_out:
        change = np.array(after.held_out.losses) - np.array(outcome.before.held_out.losses)
        outcome = replace(outcome, difference=of_changes(change))
    write_json(run.scores, {"task": "language", **outcome.told(), **outcome.scores()})
    spoken = golden.speak(task.speaker.model, task.speaker.tokenizer, sorted(task.speaker.endings), task.form)
    final.save(run, task.speaker, spoken, info.known(task, outcome))
    return outcome


def _pass_gate(config: LanguageConfig, outcome: Outcome) -> None:
    if config.fail_below is None or outcome.after is None:
        return
    share = outcome.after.judged.exact_match
    if share < config.fail_below:
        raise QualityGate(
            f"{share:.4f} of the answers {outcome.judged} are right word for word, and {config.fail_below} was "
            f"demanded; the adapter stays in {outcome.run.final_model}, and is not published"
        )
