"""One training run, top to bottom: data, model, plan, loop, evaluation, final model.

Whatever ends it early, the run's directory says so, and the same command goes on from the last whole checkpoint to the
same weights that an undisturbed run ends with.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from trainer import best, final, lora, losses, mining, modelling, plan, standing
from trainer.bootstrap import Difference, paired
from trainer.config import Config
from trainer.console import progress
from trainer.data.example import Example
from trainer.errors import InvalidInput, QualityGate
from trainer.evaluate import evaluate
from trainer.following import Follow, redraw
from trainer.hardware import Hardware, find, in_turn
from trainer.journal import Journal
from trainer.loop import HeldOut, Loop, arguments, dataset, prompts_of
from trainer.material import gather
from trainer.plan import Plan
from trainer.questions import Questions
from trainer.run import RunDirectory, write_json
from trainer.scores import Scores
from trainer.stopping import StopOnSignal, to_the_end

CHOSEN: Final = ("batch_size", "mini_batch_size", "max_seq_length", "learning_rate", "warmup_steps", "eval_every")
SAMPLED: Final = 4_000  # texts whose tokens are counted to choose a length


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a completed run has made. `before`, `after` and `difference` are None where nothing was held out."""

    run: RunDirectory
    metric: str
    steps: int
    train_examples: int
    eval_examples: int
    first: bool = True  # of several processes, the one that writes
    before: Scores | None = None
    after: Scores | None = None
    difference: Difference | None = None

    def told(self) -> dict[str, Any]:
        """The scores in short, as a model's card has them."""
        if self.before is None or self.after is None or self.difference is None:
            return {}
        scores = {"before": self.before.of(self.metric), "after": self.after.of(self.metric)}
        return {"metric": self.metric, **scores, "difference": self.difference.to_json()}


@dataclass(frozen=True, slots=True)
class Task:
    """A run that is going on, and what it works with."""

    config: Config
    hardware: Hardware
    run: RunDirectory
    journal: Journal
    model: Any
    plan: Plan
    questions: Questions | None

    def scored(self, what: str = "") -> Scores:
        """The held-out scores of the model as it is now; with a bar of its own, unless the loop's stands there."""
        assert self.questions is not None
        with progress(what, "texts") if what else nullcontext() as advance:
            return evaluate(
                self.model,
                self.questions,
                batch_size=self.plan.eval_batch_size,
                query_prompt=self.config.query_prompt,
                document_prompt=self.config.document_prompt,
                progress=advance,
            )


def finetune(config: Config, sources: Mapping[str, str]) -> Outcome:
    """Trains, or goes on with what was begun. Raises Interrupted when a signal ended it, InvalidInput for what cannot
    be trained, QualityGate when the final score is below `fail_below`; the final model is there then all the same."""
    losses.kind(config.loss)
    run = standing.of(config)
    hardware = find(config.device, config.precision, config.threads or standing.threads_before(config))
    journal = Journal(run, writes=hardware.first)
    with in_turn(hardware):
        if hardware.first:
            standing.make_room(run, config)
            write_json(run.config, {"config": config.model_dump(mode="json"), "sources": dict(sources)})
    with journal.ending():
        journal.begin(base_model=config.base_model, num_epochs=config.epochs)
        outcome = _train(config, hardware, run, journal)
        journal.end("completed", final_model_path=str(run.final_model), step=outcome.steps, **outcome.told())
    redraw(run, journal)
    _pass_gate(config, outcome)
    return outcome


def _train(config: Config, hardware: Hardware, run: RunDirectory, journal: Journal) -> Outcome:
    material = gather(config, journal.tell)
    if config.fail_below is not None and material.questions is None:
        raise InvalidInput("fail_below: nothing is held out, so there would be no score")
    sizes = len(material.train), len(material.held_out)
    journal.learn(train_examples=sizes[0], eval_examples=sizes[1])

    base = modelling.find(config.base_model)
    model = modelling.load(base, hardware.device)
    config = _with_prompts(config, model)
    examples = _with_negatives(config, model, material.train, journal)
    rows = losses.rows(examples, config.loss)

    chosen = plan.make(config, hardware, len(rows["anchor"]), _lengths(model, rows), modelling.limit(model))
    for note in chosen.notes:
        journal.tell(note)
    with in_turn(hardware):
        if note := standing.record(run, config, hardware, base=base, chosen=_numbers(chosen), sizes=sizes):
            journal.tell(note, logging.WARNING)

    task = Task(config, hardware, run, journal, model, chosen, material.questions)
    before = _before(task)
    _prepare(task)
    log = _loop(task, rows)
    metric = "mrr@10" if config.best_by == "last" else config.best_by
    outcome = Outcome(run, metric, int(log[-1]["step"]), *sizes, hardware.first)
    return _finish(task, base, log, before, outcome) if hardware.first else outcome


def _with_prompts(config: Config, model: Any) -> Config:
    """A model that has prompts of its own is trained with them."""
    own = model.prompts or {}
    document = config.document_prompt or own.get("document") or own.get("passage") or ""
    return config.model_copy(
        update={"query_prompt": config.query_prompt or own.get("query") or "", "document_prompt": document}
    )


def _with_negatives(config: Config, model: Any, examples: list[Example], journal: Journal) -> list[Example]:
    """Hard negatives where the settings ask for them, or where the loss can learn nothing without."""
    lacking = losses.without_negatives(examples, config.loss)
    places = list(range(len(examples))) if config.mine_negatives else lacking
    if not places:
        return examples
    if lacking:
        journal.tell(f"{config.loss}: {len(lacking)} examples have no negative, so hard ones are mined for them")
    with progress("mining", "examples") as advance:
        mined = mining.mine(
            model,
            [examples[place] for place in places],
            [text for example in examples for text in example.positives],
            mining.Rules(count=config.mine_negatives or losses.MINED, seed=config.seed),
            query_prompt=config.query_prompt,
            document_prompt=config.document_prompt,
            progress=advance,
        )
    together = dict(zip(places, mined.examples, strict=True))
    journal.tell(f"mined for {len(places) - mined.none} of {len(places)} examples; nothing fitted the others")
    return [together.get(place, example) for place, example in enumerate(examples)]


def _lengths(model: Any, rows: losses.Rows) -> list[int]:
    texts = [text for column, values in rows.items() if column != "label" for text in values]
    return modelling.token_counts(model, texts[:: max(1, len(texts) // SAMPLED)])


def _before(task: Task) -> Scores | None:
    """What the base scores; a resumed run knows it already."""
    kept = task.run.checkpoints / "before.json"
    if task.questions is None or not task.hardware.first:
        return None
    if kept.exists() and (known := Scores.from_json(standing.read_json(kept))).questions == task.questions.digest():
        return known
    scores = task.scored("evaluating the base")
    write_json(kept, scores.to_json())
    task.journal.measure(epoch=0.0, step=0, **scores.summary())
    task.journal.tell(f"before: mrr@10 {scores.of('mrr@10'):.4f}, ndcg@10 {scores.of('ndcg@10'):.4f}")
    return scores


def _prepare(task: Task) -> None:
    """The length of training, and the adapter."""
    config = task.config
    task.model.max_seq_length = task.plan.max_seq_length
    if config.lora:
        targets = lora.add(
            task.model,
            r=config.lora_r,
            alpha=config.lora_alpha,
            dropout=config.lora_dropout,
            asked=config.lora_targets,
            seed=config.seed,
        )
        task.journal.tell(f"LoRA of rank {config.lora_r} on {', '.join(targets)}")


def _loop(task: Task, rows: losses.Rows) -> best.Log:
    """The training itself -> the log of all evaluations. Raises Interrupted."""
    journal = task.journal
    found = standing.checkpoint(task.run, task.hardware, journal)
    stopper = StopOnSignal(task.hardware.processes)
    with progress("training", "steps") as advance:
        follow = Follow(journal, advance, lambda: redraw(task.run, journal))
        loop = _assembled(task, rows, [follow, stopper, *_keeping(task)])
        log = to_the_end(loop, stopper, found)
    journal.tell(f"trained {loop.state.global_step} steps")
    return log


def _assembled(task: Task, rows: losses.Rows, callbacks: list[Any]) -> Loop:
    config, chosen = task.config, task.plan
    prompts = prompts_of(rows, config.query_prompt, config.document_prompt)
    evaluates = task.questions is not None
    loss = losses.make(task.model, config.loss, mini_batch_size=chosen.mini_batch_size, matryoshka=config.matryoshka)
    return Loop(
        model=task.model,
        args=arguments(config, chosen, task.hardware, task.run.checkpoints, evaluates=evaluates, prompts=prompts),
        train_dataset=dataset(rows),
        loss=loss,
        evaluator=HeldOut(task.scored) if evaluates else None,
        callbacks=callbacks,
    )


def _numbers(chosen: Plan) -> dict[str, Any]:
    """What the final weights depend on."""
    return {key: getattr(chosen, key) for key in CHOSEN}


def _saving(model: Any) -> Callable[[str], None]:
    return lambda path: model.save_pretrained(path, create_model_card=False)


def _keeping(task: Task) -> list[best.KeepBest]:
    if task.questions is None or task.config.best_by == "last":
        return []
    patience = task.config.early_stopping
    return [best.KeepBest(task.run.checkpoints, task.config.best_by, patience, _saving(task.model))]


def _finish(task: Task, base: Path, log: best.Log, before: Scores | None, outcome: Outcome) -> Outcome:
    """Takes the best weights, scores them as they will be served, and saves them."""
    config, run, journal = task.config, task.run, task.journal
    if note := final.take_best(config, run, task.model, log):
        journal.tell(note)
    task.model.max_seq_length = task.plan.serve_seq_length
    if before is not None:
        after = task.scored("evaluating the result")
        difference = paired(before, after, outcome.metric)
        outcome = replace(outcome, before=before, after=after, difference=difference)
        sides = {"before": before.to_json(), "after": after.to_json()}
        write_json(run.scores, {"metric": outcome.metric, **sides, "difference": difference.to_json()})
    final.save(config, run, task.model, base, {**standing.read_json(run.lineage), "scores": outcome.told()})
    return outcome


def _pass_gate(config: Config, outcome: Outcome) -> None:
    if config.fail_below is None or outcome.after is None:
        return
    score = outcome.after.of(outcome.metric)
    if score < config.fail_below:
        raise QualityGate(
            f"{outcome.metric} is {score:.4f}, and {config.fail_below} was demanded; the model stays in "
            f"{outcome.run.final_model}, and is not published"
        )
