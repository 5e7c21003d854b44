"""What the apps share: errors of one line, and exit codes (0 well, 1 something failed, 2 wrong input)."""

import argparse
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import hydra
import hydra.errors
from omegaconf import DictConfig
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    MissingMandatoryValue,
    OmegaConfBaseException,
)

from instseg.errors import UserError, unknown_name

CONF = Path(__file__).parents[1] / "conf"


def run(main: Callable[[], int | None]) -> NoReturn:
    """Run an app's ``main`` and exit; what a user did wrong is printed as one line."""
    # Python 3.14 refuses the lazy help text of one of Hydra's flags (facebookresearch/hydra, issue 3121)
    if hasattr(argparse.ArgumentParser, "_check_help"):
        argparse.ArgumentParser._check_help = lambda *_: None
    # Hydra would print errors its own way and leave
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        sys.exit(main() or 0)
    except KeyboardInterrupt:
        fail("interrupted; the same command goes on from the last checkpoint", 130)
    except BrokenPipeError:
        # whoever read the output has enough of it; nothing more may be flushed into it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except UserError as error:
        fail(str(error))
    except (hydra.errors.HydraException, OmegaConfBaseException) as error:
        fail(one_line(error))
    # some of Hydra's are OSErrors, too
    except OSError as error:
        if error.filename is None:
            raise
        fail(f"{error.filename}: {error.strerror}; results_dir, out and the like must name a folder to write to")


def app(config_path: str, config_name: str, job: Callable[[DictConfig], int | None]) -> Callable[[], int | None]:
    """A Hydra app whose errors come out as they were raised; Hydra would announce them on stderr first. What the job
    returns is the exit code."""

    def main() -> int | None:
        errors: list[Exception] = []
        codes: list[int | None] = []

        @hydra.main(version_base="1.3", config_path=config_path, config_name=config_name)
        def composed(cfg: DictConfig) -> None:
            try:
                codes.append(job(cfg))
            except Exception as error:
                errors.append(error)

        composed()
        if errors:
            raise errors[0]
        # --help and the like run no job
        return codes[0] if codes else 0

    return main


def as_list(key: str, argument: str) -> str:
    """``key=B,C``, which Hydra would take for a sweep, as the list that it is; quotes and ``\\,`` stay."""
    return re.sub(rf"""^({key})=([^\[{{"'].*(?<!\\),.*)$""", r"\1=[\2]", argument)


def as_texts(key: str, argument: str) -> str:
    """``key=B,C`` as :func:`as_list` has it, of names that may hold brackets; commas in these, and ``\\,``, stay."""
    given, equals, text = argument.partition("=")
    if given != key or not equals or text in ("", "null") or text[0] in "[{'\"":
        return argument
    names = [name.replace("\\,", ",") for name in re.split(r"(?<!\\),(?![^(]*\))", text)]
    quoted = [as_text(key, f"{key}={name}").removeprefix(f"{key}=") for name in names]
    return f"{key}=[{','.join(quoted)}]" if len(quoted) > 1 else f"{key}={quoted[0]}"


def as_text(key: str, argument: str) -> str:
    """``key=TEXT`` so that Hydra takes any file's name for one, whatever brackets and commas are in it."""
    given, equals, text = argument.partition("=")
    if given != key or not equals or text in ("", "null") or text[0] in "'\"":
        return argument
    # backslashes count before a quote alone
    quoted = re.sub(r"(\\*)('|$)", lambda found: 2 * found[1] + ("\\'" if found[2] else ""), text)
    return f"{key}='{quoted}'"


def fail(message: str, code: int = 2) -> NoReturn:
    """Print one line to stderr and exit."""
    print(f"error: {message}", file=sys.stderr)
    sys.exit(code)


def one_line(error: BaseException) -> str:
    """What Hydra or OmegaConf has to say, in one line with the nearest valid names."""
    if found := re.search(r"Could not find '([\w/]+)/([^'/]+)'", str(error)):
        group, name = found.groups()
        if (CONF / group).is_dir():
            return str(unknown_name(group, name, (path.stem for path in (CONF / group).glob("*.yaml"))))
    if isinstance(error, hydra.errors.OverrideParseException):
        return f"{error.override!r} can't be read: write key=value, or key=a,b,c in a sweep"
    cause = error
    while cause.__cause__ is not None and not isinstance(cause, OmegaConfBaseException):
        cause = cause.__cause__
    path = str(cause.full_key) if isinstance(cause, OmegaConfBaseException) and cause.full_key else ""
    if path:
        if isinstance(cause, ConfigKeyError | ConfigAttributeError) and isinstance(cause.parent_node, DictConfig):
            prefix = path[: path.rfind(".") + 1]
            keys = map(str, cause.parent_node)
            return str(unknown_name("key", path, (prefix + key for key in keys if key != "hydra")))
        if isinstance(cause, MissingMandatoryValue):
            return f"{path} must be given: {path}=..."
        return f"{path}: {str(cause).splitlines()[0]}"
    return " ".join(str(error).split())
