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
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, MissingMandatoryValue, OmegaConfBaseException

from instseg.errors import UserError, unknown_name

CONF = Path(__file__).parents[1] / "conf"


def run(main: Callable[[], int | None]) -> NoReturn:
    """Run an app's ``main`` and exit; what a user did wrong is printed as one line."""
    # Private, as no public way is: from Python 3.14 on argparse reads the help of each flag when it is added, and
    # that of one of Hydra's (1.3.8) is no string (facebookresearch/hydra, issue 3121)
    if hasattr(argparse.ArgumentParser, "_check_help"):
        argparse.ArgumentParser._check_help = lambda *_: None
    # else Hydra prints errors in its own way and exits
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        sys.exit(main() or 0)
    except KeyboardInterrupt:
        fail("interrupted; the same command goes on from the last checkpoint", 130)
    except BrokenPipeError:
        # the reader of the output has closed it; when Python flushes it at the end that must not fail again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except UserError as error:
        fail(str(error))
    except (hydra.errors.HydraException, OmegaConfBaseException) as error:
        fail(one_line(error))
    # behind Hydra's errors, as some of them are OSErrors, too
    except OSError as error:
        if error.filename is None:
            raise
        fail(f"{error.filename}: {error.strerror}; results_dir, out and the like must name a folder to write to")


def app(config_path: str, config_name: str, job: Callable[[DictConfig], int | None]) -> Callable[[], int | None]:
    """A Hydra app whose errors come out as they were raised; Hydra would announce them on stderr first. What the job
    returns is the exit code; --help and the like run no job."""

    def main() -> int | None:
        code: int | None = 0
        failure: Exception | None = None

        @hydra.main(version_base="1.3", config_path=config_path, config_name=config_name)
        def composed(cfg: DictConfig) -> None:
            nonlocal code, failure
            try:
                code = job(cfg)
            except Exception as error:
                failure = error

        composed()
        if failure is not None:
            raise failure
        return code

    return main


def as_list(key: str, argument: str) -> str:
    """``key=B,C``, which Hydra would take for a sweep, as a list; quotes and ``\\,`` stay."""
    return re.sub(rf"""^({key})=([^\[{{"'].*(?<!\\),.*)$""", r"\1=[\2]", argument)


def as_text(key: str, argument: str) -> str:
    """``key=TEXT`` with TEXT quoted for Hydra, which then takes any file's name, whatever brackets and commas are in
    it."""
    name, equals, text = argument.partition("=")
    return f"{key}={_quoted(text)}" if name == key and equals else argument


def as_texts(key: str, argument: str) -> str:
    """``key=B,C`` as a list of texts (:func:`as_text`); commas in round brackets, and ``\\,``, are part of a text."""
    name, _, text = argument.partition("=")
    if name != key or not text or text[0] in "[{'\"":
        return argument
    names = [_quoted(name.replace("\\,", ",")) for name in re.split(r"(?<!\\),(?![^(]*\))", text)]
    return f"{key}=[{','.join(names)}]" if len(names) > 1 else f"{key}={names[0]}"


def _quoted(text: str) -> str:
    if text in ("", "null") or text[0] in "'\"":
        return text
    # only before a quote does a backslash need another one
    escaped = re.sub(r"(\\*)('|$)", lambda match: 2 * match[1] + ("\\'" if match[2] else ""), text)
    return f"'{escaped}'"


def fail(message: str, code: int = 2) -> NoReturn:
    """Print one line to stderr and exit."""
    print(f"error: {message}", file=sys.stderr)
    sys.exit(code)


def one_line(error: BaseException) -> str:
    """What Hydra or OmegaConf has to say, in one line with the nearest valid names."""
    if match := re.search(r"Could not find '([\w/]+)/([^'/]+)'", str(error)):
        group, name = match.groups()
        if (CONF / group).is_dir():
            return str(unknown_name(group, name, (path.stem for path in (CONF / group).glob("*.yaml"))))
    if isinstance(error, hydra.errors.OverrideParseException):
        return f"{error.override!r} can't be read: write key=value, or key=a,b,c in a sweep"
    cause = error
    while cause.__cause__ is not None and not isinstance(cause, OmegaConfBaseException):
        cause = cause.__cause__
    key = str(cause.full_key) if isinstance(cause, OmegaConfBaseException) and cause.full_key else ""
    if not key:
        return " ".join(str(error).split())
    if isinstance(cause, ConfigKeyError | ConfigAttributeError) and isinstance(cause.parent_node, DictConfig):
        prefix = key[: key.rfind(".") + 1]
        return str(unknown_name("key", key, (prefix + name for name in map(str, cause.parent_node) if name != "hydra")))
    if isinstance(cause, MissingMandatoryValue):
        return f"{key} must be given: {key}=..."
    return f"{key}: {str(cause).splitlines()[0]}"
