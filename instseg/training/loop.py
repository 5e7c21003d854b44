"""The training loop: one model, or many heads on a frozen core, each with a folder for checkpoint and metrics."""

import json
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from instseg import progress, seeds
from instseg.data.batches.loader import Batch
from instseg.detector.mask_rcnn import MaskRCNN
from instseg.detector.measured_pyramid import PULLS
from instseg.errors import DivergedError, UserError
from instseg.files import write_atomically
from instseg.training import checkpoint, frozen_core
from instseg.training.plateau import Course
from instseg.training.schedule import Schedule, set_lr
from instseg.training.step import step


@dataclass
class HeadResult:
    """How the training of a head went.

    Attributes:
        start: iteration that it resumed from.
        seconds: of the iterations that it took part in, those before a break included.
        error: why it ended early, if it did.
        iterations: that it was trained, those before a break included.
        tail_start: with ``schedule.until=plateau`` the iteration at which the rate began to go down.
    """

    start: int = 0
    seconds: float = 0.0
    error: DivergedError | None = None
    iterations: int = 0
    tail_start: int | None = None


class _Learner:
    """A model in training, which goes on from its folder's checkpoint where there is one."""

    def __init__(self, model: MaskRCNN, folder: Path, schedule: Schedule, device: torch.device, frozen: bool) -> None:
        self.model, self.optimizer = model, schedule.make_optimizer(model)
        self.path = folder / "checkpoint.pt"
        self.course, self.lr = Course(schedule), 0.0
        self.result = HeadResult(*_resume(self.path, model, self.optimizer, self.course, device, frozen))
        self.result.iterations, self.result.tail_start = self.result.start, self.course.tail_start
        self.metrics = Metrics(folder / "metrics.jsonl", keep_until=self.result.start)

    @property
    def is_unfinished(self) -> bool:
        return self.result.error is None and self.result.iterations < self.course.end

    def add(self, losses: dict[str, float], title: str) -> None:
        """Take the losses of an iteration."""
        self.metrics.add(losses)
        self.result.iterations += 1
        if self.course.add(losses):
            self.result.tail_start = self.course.tail_start
            name = self.path.parent.name
            progress.say(f"{title}: {name}: the rate goes down from {self.course.tail_start} to {self.course.end}")


def train(
    models: Sequence[MaskRCNN],
    schedule: Schedule,
    batches: Callable[[int], Iterable[Batch]],
    folders: Sequence[Path],
    *,
    seed: int,
    device: torch.device,
    core_is_frozen: bool = False,
    describe: Callable[[Any], str] = str,
    evaluate: Callable[[Sequence[MaskRCNN]], list[dict[str, Any]]] | None = None,
    evaluate_every: int = 0,
    checkpoint_every: int = 1000,
    log_every: int = 20,
    title: str = "train",
) -> list[HeadResult]:
    """Train one model, or the mask heads of models that share a frozen core, to the schedule's end, or each to its own
    (:mod:`instseg.training.plateau`).

    Each goes on from its folder's ``checkpoint.pt`` where there is one: training begins at the earliest, and the other
    heads join at the iterations of theirs. On the CPU a run that was killed and resumed ends with the very numbers of
    an unbroken one, and a head with those of a head trained alone. A model whose losses or gradients are not finite
    drops out.

    Args:
        models: on ``device``; one, unless ``core_is_frozen``.
        schedule: already scaled to its batch size.
        batches: first iteration -> the batches from there on.
        folders: one a model, for ``checkpoint.pt``, which holds the whole model, and ``metrics.jsonl``.
        seed: of the random choices inside the models; each iteration has random streams of its own.
        core_is_frozen: see :mod:`instseg.training.frozen_core`.
        describe: an ``image_id`` -> what to call the image in an error.
        evaluate: called every ``evaluate_every`` iterations (0: never) with the models still in training; the dict
            that it gives for each goes into ``metrics.jsonl``.
        checkpoint_every: iterations between checkpoints; one is written at each head's end in any case.
        log_every: iterations between lines of ``metrics.jsonl``, which hold means over them, and the pulls of the
            branches at the pyramid (:mod:`instseg.detector.measured_pyramid`).

    Returns:
        One result a model; of one that dropped out, ``error`` names the iteration, the losses and the images.

    Raises:
        UserError: a checkpoint is of another model or core.
    """
    if len(models) > 1 and not core_is_frozen:
        raise ValueError("only models on one frozen core are trained at once")
    learners = [_Learner(*pair, schedule, device, core_is_frozen) for pair in zip(models, folders, strict=True)]
    start = min((each.result.start for each in learners if each.is_unfinished), default=schedule.iterations)
    take_step = frozen_core.step if core_is_frozen else _step_alone
    training_mode = frozen_core.training_mode if core_is_frozen else MaskRCNN.train
    for model in models:
        training_mode(model)
    began = time.perf_counter()
    with progress.bar(total=schedule.iterations, initial=start, desc=title, unit="it") as bar:
        for iteration, batch in enumerate(batches(start), start=start):
            bar.update()
            active = [each for each in learners if each.is_unfinished and each.result.start <= iteration]
            if not active:
                continue
            for learner in active:
                learner.lr = learner.course.lr(iteration)
                set_lr(learner.optimizer, learner.lr)
            optimizers = [learner.optimizer for learner in active]
            active_models = [learner.model for learner in active]
            # end to end it is measured at every iteration; on a frozen core that would cost time
            outcomes = take_step(
                *(active_models, optimizers, schedule, batch, device),
                seed=seed,
                iteration=iteration,
                measure_pull=(iteration + 1) % log_every == 0,
            )
            for learner, losses in zip(active, outcomes, strict=True):
                if isinstance(losses, FloatingPointError):
                    learner.result.error = _diverged(losses, iteration, batch, schedule, describe)
                    learner.optimizer.zero_grad(set_to_none=True)
                else:
                    learner.add(losses, title)
                    if len(models) == 1:
                        bar.set_postfix(loss=f"{_loss(losses):.3f}", refresh=False)
            active = [learner for learner in active if learner.result.error is None]
            done = iteration + 1
            to_save = [each for each in active if done % checkpoint_every == 0 or not each.is_unfinished]
            for learner in active:
                if learner in to_save or done % log_every == 0:
                    learner.metrics.write(done, learner.lr)
                learner.result.seconds += time.perf_counter() - began
            if active and evaluate is not None and evaluate_every and done % evaluate_every == 0:
                for learner, scores in zip(active, evaluate([learner.model for learner in active]), strict=True):
                    learner.metrics.append({"iteration": done, "eval": scores})
                for learner in active:
                    training_mode(learner.model)
            for learner in to_save:
                state = learner.course.state()
                checkpoint.save(learner.path, learner.model, learner.optimizer, done, learner.result.seconds, state)
            began = time.perf_counter()
            bar.total = max(learner.course.end for learner in learners)
            if not any(learner.is_unfinished for learner in learners):
                break
    return [learner.result for learner in learners]


def _step_alone(
    models: Sequence[MaskRCNN],
    optimizers: Sequence[torch.optim.Optimizer],
    *args: Any,
    seed: int,
    iteration: int,
    measure_pull: bool,
) -> list[dict[str, float] | FloatingPointError]:
    """:func:`instseg.training.step.step` as :func:`instseg.training.frozen_core.step` takes and gives it."""
    torch.manual_seed(seeds.derive(seed, "iteration", iteration))
    try:
        return [step(models[0], optimizers[0], *args)]
    except FloatingPointError as error:
        return [error]


def _diverged(
    error: FloatingPointError, iteration: int, batch: Batch, schedule: Schedule, describe: Callable[[Any], str]
) -> DivergedError:
    images = ", ".join(describe(target["image_id"]) for target in batch[1])
    return DivergedError(
        f"training is not finite at iteration {iteration} ({error}); images: {images}; "
        f"a lower schedule.lr={schedule.lr:g} or schedule.clip_norm may help"
    )


def _resume(
    path: Path,
    model: MaskRCNN,
    optimizer: torch.optim.Optimizer,
    course: Course,
    device: torch.device,
    core_is_frozen: bool,
) -> tuple[int, float]:
    """Load a checkpoint, where there is one; returns the iterations that are done, and their seconds."""
    if not path.exists():
        return 0, 0.0
    state = checkpoint.load(path, device)
    core = frozen_core.core_state(model) if core_is_frozen else []
    before = [value.clone() for value in core]
    try:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
    except (RuntimeError, ValueError, KeyError) as error:
        raise UserError(f"{path} is the checkpoint of another model; delete it to train from the start") from error
    if (state["course"] is None) != (course.state() is None):
        raise UserError(f"{path} is of another schedule.until; delete it to train from the start")
    if state["course"] is not None:
        course.load(state["course"])
    if not all(map(torch.equal, before, core)):
        raise UserError(f"{path} was trained on another core; delete it to train the head from the start")
    return int(state["iteration"]), float(state["seconds"])


def _loss(numbers: dict[str, float]) -> float:
    """The sum of the losses among the numbers of an iteration."""
    return sum(value for name, value in numbers.items() if name not in PULLS)


class Metrics:
    """``metrics.jsonl``. Lines that a killed run wrote after its last checkpoint are dropped, as those iterations are
    done again."""

    def __init__(self, path: Path, keep_until: int) -> None:
        self.path = path
        kept = ""
        for line in path.read_text().splitlines() if path.exists() else []:
            try:
                if json.loads(line)["iteration"] <= keep_until:
                    kept += f"{line}\n"
            except json.JSONDecodeError:
                # a line that a kill cut short; it is after the last checkpoint, so what follows is not needed
                break
        write_atomically(path, kept)
        self._sums: dict[str, float] = defaultdict(float)
        self._counts: Counter[str] = Counter()

    def add(self, numbers: dict[str, float]) -> None:
        """Add the losses of an iteration, and its pulls where they were measured."""
        for name, value in numbers.items():
            self._sums[name] += value
            self._counts[name] += 1

    def write(self, iteration: int, lr: float) -> None:
        means = {name: value / self._counts[name] for name, value in self._sums.items()}
        self.append({"iteration": iteration, "lr": lr, "loss": _loss(means), **means})
        self._sums.clear()
        self._counts.clear()

    def append(self, line: dict[str, Any]) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")
