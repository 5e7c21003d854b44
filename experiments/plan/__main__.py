"""Plan a study before it is run: ``python -m experiments.plan study=NAME [detect=AP] [power=P] [key=value ...]``."""

from dataclasses import fields
from functools import partial

from experiments.config import apps, cli, expand, run
from experiments.plan.job import job


def main() -> int | None:
    """Say what the study will be able to tell, and freeze the plan where asked to."""
    run.register()
    apps.register()
    own = [key.name for key in fields(apps.Plan)]
    return cli.app("pkg://experiments.conf", "plan", partial(job, expand.take_for_runs(own)))()


if __name__ == "__main__":
    cli.run(main)
