"""Finds the code blocks of Markdown pages, and parses command lines by the programs' own parsers, without running."""

import argparse
import functools
import inspect
import re
import runpy
import shlex
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import pytest
import tyro

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"(?<=\n\n)(?: {4}.*\n(?:\n(?= {4}))?)+")
OUTSIDE = set("git pip apt-get curl unzip export cd . set for done wait sbatch".split())
"""Programs and shell words that are not of this project."""
BEFORE = {"do", "srun"}
"""Words that a command may follow, with options of their own."""
OURS = {"fmlfast", "python", "torchrun", "make"}


class Block(NamedTuple):
    """A code block: its language, text and first line number."""

    language: str
    text: str
    line: int


def blocks(page: Path) -> Iterator[Block]:
    """The fenced blocks of a page and, as shell, the indented ones that begin with a program."""
    text = page.read_text()
    for found in FENCE.finditer(text):
        language = "sh" if found[1] == "bash" else found[1]
        yield Block(language, found[2], text[: found.start()].count("\n") + 2)
    prose = FENCE.sub(lambda m: "\n" * m[0].count("\n"), text)
    for found in INDENTED.finditer(prose):
        code = "\n".join(line[4:] for line in found[0].splitlines())
        if {line.split()[0] for line in code.splitlines() if line.strip()} & (OURS | OUTSIDE | BEFORE):
            yield Block("sh", code, prose[: found.start()].count("\n") + 1)


def commands(code: str) -> Iterator[list[str]]:
    """The commands of a shell block as words: without comments, and without what stands before the program."""
    for line in code.replace("\\\n", " ").splitlines():
        line = re.sub(r"\$\([^)]*\)", "X", line)  # what another command would print
        line = re.sub(r"\$\w+(?=/)|(?<=/)\$\w+", "1", line)  # I/N
        line = re.sub(r"\s\$\w+(?=\s|$)", "", line)  # unquoted variables may be empty
        lexer = shlex.shlex(line, posix=True, punctuation_chars=";&|")
        lexer.whitespace_split = True
        command: list[str] = []
        for word in [*lexer, ";"]:
            if word.strip(";&|"):
                command.append(word)
                continue
            while command and (command[0] in BEFORE or re.match(r"\w+\+?=|-", command[0])):
                command.pop(0)
            if command:
                yield command
            command = []


class Parsed(BaseException):
    """Raised instead of running what was parsed."""


def check(command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Parses a command by the program that it starts; raises ValueError when that program would not take it."""
    program, *arguments = command
    program = Path(program).name or program
    if "torchrun" in command:
        program, arguments = "python", arguments[arguments.index("train.py") :]
    if program == "make":
        targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
        if not set(arguments) <= targets:
            raise ValueError(f"no such target: {arguments}")
    elif program == "pip":
        known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        for extras in re.findall(r"(?:fmlfast|\.)\[([\w,]+)\]", " ".join(arguments)):
            if not set(extras.split(",")) <= known.keys():
                raise ValueError(f"no such extra: {extras}")
    elif program in OURS:
        _parse(program, arguments, monkeypatch)
    elif program not in OUTSIDE:
        raise ValueError(f"unknown program {program}")


def _parse(program: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(tyro, "cli", functools.partial(_parsed, tyro.cli))
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", _stop)
    try:
        if program == "fmlfast":
            from fmlfast.cli import main

            main(arguments)
        elif arguments[0] == "-m" and arguments[1] not in ("venv", "pytest", "pip", "mkdocs", "build"):
            monkeypatch.setattr(sys, "argv", arguments[1:])
            runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
        elif arguments[0].endswith(".py") and (ROOT / arguments[0]).is_file():
            monkeypatch.setattr(sys, "argv", arguments)
            runpy.run_path(str(ROOT / arguments[0]), run_name="__main__")
        elif arguments[0] not in ("-c", "-m", "setup_cpu.py"):
            raise ValueError(f"no such script: {arguments[0]}")
    except Parsed:
        pass
    except SystemExit as error:
        if error.code not in (0, None):
            raise ValueError(f"refused with {error.code}") from error


def _parsed(cli: Any, target: Any, *args: Any, **options: Any) -> NoReturn:
    """Parses as `tyro.cli` does, and stops where that would call a function."""
    if inspect.isfunction(target):
        target = functools.wraps(target)(lambda *a, **k: None)
    cli(target, *args, **options)
    raise Parsed


def _stop(parser: argparse.ArgumentParser, args: Any = None, namespace: Any = None) -> NoReturn:
    unknown = parser.parse_known_args(args, namespace)[1]
    if unknown:
        parser.error(f"unknown: {unknown}")
    raise Parsed
