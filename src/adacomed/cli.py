"""The command line: a verb's name → a plain function, imported only when that verb is asked for.

A command's docstring is its help: the `Args:` lines become the options' help, `Example:` is kept
as written. A parameter without a default is an argument, one with a default an option (a list
called `overrides` takes the remaining key=value words).
"""

from __future__ import annotations

import inspect
import io
import os
import re
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Annotated, Any, get_type_hints

import typer

from adacomed import __version__
from adacomed.errors import DISK_IS_FULL, InputError, disk_is_full, nearest

COMMANDS: dict[str, tuple[str, str]] = {
    "demo": (
        "adacomed.commands.demo:demo",
        "run the main job end to end, on simulated or real data",
    ),
    "cohort check": ("adacomed.commands.cohort:check", "describe a cohort and every problem in it"),
    "cohort build": ("adacomed.commands.cohort:build", "raw release, or a simulation → cohort"),
    "embed": ("adacomed.commands.embed:embed", "compute and store large-model embeddings"),
    "train": ("adacomed.commands.train:train", "train AdaCoMed, or one other method"),
    "predict": ("adacomed.commands.predict:predict", "predict patients with a finished run"),
    "evaluate": ("adacomed.commands.evaluate:evaluate", "metrics with intervals of predictions"),
    "tune": ("adacomed.commands.tune:tune", "search the settings on validation patients"),
    "compare": ("adacomed.commands.compare:compare", "methods × folds × seeds → one table"),
    "reproduce": ("adacomed.commands.reproduce:reproduce", "the paper's tables and figures"),
    "report": ("adacomed.commands.report:report", "write the HTML report of a run"),
    "explain": ("adacomed.commands.explain:explain", "why a run says what it says of a patient"),
    "export": ("adacomed.commands.export:export", "a run as one file: bundle, ONNX, torch"),
    "audit verify": ("adacomed.commands.audit:verify", "whether a service's audit log is whole"),
    "serve": ("adacomed.commands.serve:serve", "a run as a web page and an API"),
    "encoders": ("adacomed.commands.encoders:encoders", "list the large models"),
    "doctor": ("adacomed.commands.doctor:doctor", "what is usable here, and how to get the rest"),
}

# What a path of the user's can be, without our doing, when a command comes to read or write it.
_ENVIRONMENT = (PermissionError, NotADirectoryError, IsADirectoryError, FileExistsError)
# polars' allocator would keep what is freed; read when polars is first imported, by a command.
_FRUGAL = ("_RJEM_MALLOC_CONF", "dirty_decay_ms:500,muzzy_decay_ms:0")
_STOPPED = "stopped; what was finished is kept"  # on Ctrl-C; a command may raise a better one


def main(argv: list[str] | None = None) -> None:
    """Run the command line; exit 0, 2 (the user's input) or 1 (our fault)."""
    words = sys.argv[1:] if argv is None else argv
    os.environ.setdefault(*_FRUGAL)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a console that cannot write "→"
    try:
        _dispatch(words)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except _ENVIRONMENT as error:
        if error.filename is None:
            raise
        print(f"error: {error.filename}: {error.strerror}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print(_STOPPED, file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # `adacomed … | head` closed our output
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except Exception as error:
        if not disk_is_full(error):
            raise
        where = f"{file}: " if (file := getattr(error, "filename", None)) else ""
        print(f"error: {where}{DISK_IS_FULL}", file=sys.stderr)
        sys.exit(2)


def _dispatch(words: list[str]) -> None:
    if not words or words[0] in ("--help", "-h", "help"):
        print(overview())
        return
    if words[0] == "--version":
        print(f"adacomed {__version__}")
        return
    for length in (2, 1):
        verb = " ".join(words[:length])
        if verb in COMMANDS and len(words) >= length:
            command(verb)(args=words[length:], prog_name=f"adacomed {verb}")
            return
    group = [name for name in COMMANDS if name.startswith(f"{words[0]} ")]
    if group and (len(words) == 1 or words[1] in ("--help", "-h")):
        print("\n".join(f"adacomed {name:16} {COMMANDS[name][1]}" for name in group))
        return
    raise InputError(f"no command {' '.join(words[:2])!r}{nearest(' '.join(words[:2]), COMMANDS)}")


def overview() -> str:
    """The text of `adacomed --help`; imports nothing."""
    verbs = "\n".join(f"  {name:14} {line}" for name, (_, line) in COMMANDS.items())
    return (
        "AdaCoMed: multi-modal medical diagnosis by collaboration of large and small models.\n\n"
        f"Usage: adacomed COMMAND [...]\n\nCommands:\n{verbs}\n\n"
        "Every command has --help with an example. Start with: adacomed demo\n"
        "Research use only: not a medical device."
    )


def command(verb: str) -> typer.Typer:
    """The Typer app of one verb, its help taken from the function's docstring."""
    module, _, attribute = COMMANDS[verb][0].partition(":")
    function = getattr(import_module(module), attribute)
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    text, helps = _read_docstring(inspect.getdoc(function) or "")
    app.command(help=text)(_with_options(function, helps))
    return app


def _read_docstring(doc: str) -> tuple[str, dict[str, str]]:
    """Split a docstring into the help text and the lines of its Args."""
    sections = re.split(r"^(Args|Returns|Raises|Example|Examples|Source):", doc, flags=re.M)
    text, helps = sections[0].strip(), {}
    for title, body in zip(sections[1::2], sections[2::2], strict=True):
        if title == "Args":
            for name, line in re.findall(r"^    (\w+): (.*(?:\n      +.*)*)", body, flags=re.M):
                helps[name] = " ".join(line.split())
        elif title.startswith("Example"):
            text += f"\n\n\b\nExample:\n  {inspect.cleandoc(body).strip()}"
    return text, helps


def _with_options(function: Callable[..., Any], helps: dict[str, str]) -> Callable[..., None]:
    """The same function with Typer's annotations, and no return value for Typer to look at."""
    hints = get_type_hints(function)
    parameters = []
    for name, parameter in inspect.signature(function).parameters.items():
        flag = "--" + name.strip("_").replace("_", "-")
        if parameter.default is True:
            flag += f"/--no-{flag[2:]}"
        info: Any
        if name == "overrides":
            info = typer.Argument(help=helps.get(name), metavar="KEY=VALUE", show_default=False)
        elif parameter.default is inspect.Parameter.empty:
            info = typer.Argument(help=helps.get(name))
        else:
            info = typer.Option(flag, help=helps.get(name))
        kind: Any = Annotated[hints[name], info]
        parameters.append(
            parameter.replace(annotation=kind, kind=inspect.Parameter.POSITIONAL_OR_KEYWORD)
        )

    def run(**values: Any) -> None:
        try:
            function(**values)
        except KeyboardInterrupt as stop:  # Typer would end without a word
            print(stop.args[0] if stop.args else _STOPPED, file=sys.stderr)
            raise typer.Exit(130) from None

    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    return run
