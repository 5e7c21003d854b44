"""Look a data set over before a run uses it: ``python -m experiments.data dataset=NAME [key=value ...]``."""

from experiments.config import apps, cli, run
from experiments.data.look import job

if __name__ == "__main__":
    run.register()
    apps.register()
    cli.run(cli.app("pkg://experiments.conf", "data", job))
