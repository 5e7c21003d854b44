"""Masks of trained runs on any images: ``python -m experiments.predict run=NAME input=FOLDER``."""

import sys

from experiments.config import apps, cli
from experiments.predict.images import predict

if __name__ == "__main__":
    for key in ("input", "output"):
        sys.argv[1:] = [cli.as_text(key, argument) for argument in sys.argv[1:]]
    sys.argv[1:] = [cli.as_texts("run", argument) for argument in sys.argv[1:]]
    apps.register()
    cli.run(cli.app("pkg://experiments.conf_apps", "predict", lambda cfg: predict(apps.to_config(cfg, apps.Predict))))
