"""Where the runs of a sweep are carried out: a pool is given jobs, each of them runs that are carried out together."""

import os
import sys
import threading
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import cache
from itertools import chain

from joblib import Parallel, delayed

from experiments.config.run import Config
from experiments.runs import frozen_core
from experiments.runs.end_to_end import Errors, run
from experiments.runs.folder import ERROR, LOCK, is_done
from instseg import progress
from instseg.errors import UserError
from instseg.files import write_atomically

Job = Sequence[Config]
"""One run end to end, or all runs of one frozen core."""


class Pool(ABC):
    """Carries out jobs. A run ends with ``result.json`` in its folder, or with ``error.txt``, which says why not."""

    @abstractmethod
    def run_all(self, jobs: Sequence[Job]) -> None:
        """Carry out all jobs, in any order; one that fails stops no other.

        Raises:
            OSError: the folders of runs can't be written to.
        """


@dataclass
class LocalPool(Pool):
    """Processes of this machine, one a job at a time, which end with this process; with 1 this process does it."""

    processes: int

    def run_all(self, jobs: Sequence[Job]) -> None:
        for config in chain(*jobs):
            (config.folder() / ERROR).unlink(missing_ok=True)
        interrupted: list[Job] = []
        while jobs:
            began = time.time()
            try:
                self._carry_out(jobs)
                break
            except BrokenProcessPool:
                # joblib has then ended the other processes, too
                torn = [job for job in jobs if any(_was_running(config, began) for config in job)]
                if not torn:
                    raise
                _report_kill(torn)
                interrupted += torn
                jobs = [job for job in jobs if job not in torn and not all(map(_has_ended, job))]
        for job in interrupted:
            # alone, so that no other job is blamed for what this one does
            try:
                self._carry_out([job])
            except BrokenProcessPool:
                _report_kill([job])
                why = "its process was killed twice; is there enough memory? schedule.accumulate=2 needs less"
                for config in job:
                    _write_error(config, why)

    def _carry_out(self, jobs: Sequence[Job]) -> None:
        if self.processes == 1:
            for job in jobs:
                carry_out(job)
        else:
            tasks = (delayed(_carry_out_beside)(job, i % self.processes) for i, job in enumerate(jobs))
            Parallel(n_jobs=self.processes, batch_size=1)(tasks)


def carry_out(job: Job) -> None:
    """Carry out a job in this process; what stops its runs is written into their folders."""
    errors: Errors = {}
    try:
        if job[0].protocol == "frozen_core":
            errors = frozen_core.run_group(job)
        else:
            run(job[0])
    except Exception as reason:
        errors = {config.hash(): reason for config in job}
    for unexpected in {error for error in errors.values() if not isinstance(error, UserError)}:
        traceback.print_exception(unexpected)
    for config in job:
        if (error := errors.get(config.hash())) is not None:
            kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
            _write_error(config, f"{kind}{error}")


def _carry_out_beside(job: Job, line: int) -> None:
    """Carry out a job in a process of a pool, with progress on a line of its own."""
    progress.use_line(line)
    _end_with(os.getppid())
    carry_out(job)


@cache
def _end_with(parent: int) -> None:
    """End this process when its parent ends, so that a killed sweep leaves no run behind that holds its folder."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.2)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _was_running(config: Config, since: float) -> bool:
    lock = config.folder() / LOCK
    # times of files may lag behind the clock
    return not _has_ended(config) and lock.exists() and lock.stat().st_mtime >= since - 1


def _has_ended(config: Config) -> bool:
    return is_done(config) or (config.folder() / ERROR).exists()


def _report_kill(jobs: Sequence[Job]) -> None:
    names = ", ".join(config.folder().name for config in chain(*jobs) if not _has_ended(config))
    print(f"a process was killed while it ran {names}", file=sys.stderr)


def _write_error(config: Config, reason: str) -> None:
    if not is_done(config):
        write_atomically(config.folder() / ERROR, reason)
