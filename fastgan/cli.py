"""The entry point: what was typed is parsed and called; what goes wrong through the user's doing is one line and exit 2."""

import io
import os
import sys
from collections.abc import Callable
from contextlib import redirect_stderr
from functools import partial, wraps
from itertools import dropwhile, takewhile

import tyro

from fastgan.checked import UserError
from fastgan.commands.anomaly import anomaly
from fastgan.commands.data import data, data_pack, data_verify
from fastgan.commands.doctor import doctor
from fastgan.commands.evaluate import evaluate
from fastgan.commands.export import export
from fastgan.commands.import_run import import_run
from fastgan.commands.invert import invert
from fastgan.commands.plan import plan
from fastgan.commands.presets import presets
from fastgan.commands.printing import speaks
from fastgan.commands.report import report
from fastgan.commands.sample import sample
from fastgan.commands.train import train
from fastgan.commands.traverse import traverse

COMMANDS = {
    "presets": presets,
    "train": train,
    "sample": sample,
    "evaluate": evaluate,
    "import": import_run,
    "data": data,
    "traverse": traverse,
    "invert": invert,
    "anomaly": anomaly,
    "export": export,
    "plan": plan,
    "doctor": doctor,
    "report": report,
}
OF_DATA = {"pack": data_pack, "verify": data_verify}


def main() -> None:
    """The entry point of the `fastgan` command."""
    try:
        if sys.argv[1:2] == ["data"]:
            call = _parse(OF_DATA, "fastgan data", sys.argv[2:])
        else:
            call = _parse(COMMANDS, "fastgan", sys.argv[1:])
        call()
    except KeyboardInterrupt:
        _fail("interrupted", 130)
    except UserError as error:
        _fail(error, 2)
    except BrokenPipeError:  # who reads, `head` say, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python would complain again as it ends
        sys.exit(1)
    except OSError as error:
        _fail(f"{error.filename or 'the system'}: {error.strerror or error}", 2)
    except RuntimeError as error:
        from fastgan.training.keeping import Diverged

        if not isinstance(error, Diverged):
            raise
        _fail(error, 1)


def _parse(commands: dict[str, Callable[..., None]], program: str, words: list[str]) -> Callable[[], None]:
    """The command that was typed, ready to be called.

    Raises:
        UserError: the words make none.
    """
    return in_one_line(
        f"{program} {words[0]}" if words[:1] and words[0] in commands else program,
        lambda: tyro.extras.subcommand_cli_from_dict(
            {name: held(command) for name, command in commands.items()},
            # The deepspeed launcher adds an option that the environment has, too.
            args=[word for word in words if not word.startswith("--local_rank=")],
            prog=program,
            description="Training of generative adversarial networks with latent refinement.",
        ),
    )


def held(command: Callable[..., None]) -> Callable[..., Callable[[], None]]:
    """`command` in the form that tyro can parse and that is called later: parsed, it gives a function without arguments."""
    return wraps(command)(lambda *args, **kwargs: partial(command, *args, **kwargs))


def in_one_line(program: str, parse: Callable[[], Callable[[], None]]) -> Callable[[], None]:
    """What tyro makes of the command line, without the box that it draws around a mistake.

    Raises:
        UserError: the words are not understood.
    """
    said = io.StringIO()
    try:
        with redirect_stderr(said):
            return parse()
    except SystemExit as stop:
        if stop.code:
            # Its first paragraph, between an edge or a rule under its title and the next, says what is wrong.
            lines = [line.strip("│| ") for line in said.getvalue().splitlines()]
            below = dropwhile(_is_drawn, dropwhile(lambda line: not _is_drawn(line), lines))
            wrong = " ".join(takewhile(lambda line: not _is_drawn(line), below))
            raise UserError(f"{wrong or 'the command is not understood'} ({program} --help)") from None
        raise


def _is_drawn(line: str) -> bool:
    """Whether a line is part of a box, drawn in ASCII where the terminal has no other characters."""
    return not line or line.startswith(("╭", "╰", "+")) or line.endswith(("─────", "-----"))


def _fail(reason: object, code: int) -> None:
    if speaks(reason):
        print(f"fastgan: {reason}", file=sys.stderr)
    sys.exit(code)
