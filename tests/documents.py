"""
The code blocks of the documentation, and a session in which a reader would go through them.

What a block is for follows from its language:

- `sh`: each line is typed, in one shell after the other. It succeeds, or says `# exits with N`.
- `text`: what the commands or the program before have printed; `...` stands for what varies, and each time in `ms`
  may be another one. `text drawing` is no output, but a picture.
- `python`, `toml`: the file that the sentence above ends with, as in "Put this into `site.toml`:". If that sentence
  has "append", the block is added to the file; if it has "replace", its functions are changed there. Without a
  file, `python` is run.
- `{name}`: a directive of Sphinx, which builds it.
"""

from __future__ import annotations

import ast
import doctest
import re
import shlex
import subprocess
import textwrap
import time
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path

import attrs
from markdown_it import MarkdownIt
from markdown_it.token import Token

from environments import Environment

__all__ = ["Block", "Session", "blocks"]

#: Seconds in which containers that run have said what they have to say.
_SOON = 10
_AS_PRINTED = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@attrs.frozen(kw_only=True)
class Block:
    """
    A code block.

    Attributes:
        place: Document and line.
        language: As the document says it, with what follows; empty if it is only indented.
        file: The file that it is, or becomes a part of.
        verb: "append" or "replace", if the sentence above says so.
    """

    place: str
    language: str
    text: str
    file: str | None = None
    verb: str = ""

    @property
    def commands(self) -> list[str]:
        """The lines to type; one that ends in a backslash goes on."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return [line for line in lines if line.strip() and not line.startswith("#")]


def blocks(text: str, name: str) -> Iterator[Block]:
    """The code blocks of a Markdown text, in order; `name` is for messages."""
    tokens = MarkdownIt().parse(text)
    for number, token in enumerate(tokens):
        if token.type in ("fence", "code_block"):
            assert token.map is not None
            sentence = tokens[number - 2] if number > 1 and tokens[number - 1].type == "paragraph_close" else None
            yield Block(
                place=f"{name}:{token.map[0] + 1}",
                language=token.info.strip(),
                text=token.content,
                file=sentence and _named_file(sentence),
                verb=_verb(sentence),
            )


def _named_file(sentence: Token) -> str | None:
    """The path at the end of a sentence such as "Put this into `site.toml`:"."""
    *_, name, colon = [None, None, *(sentence.children or [])]
    if name and colon and name.type == "code_inline" and colon.content == ":":
        return name.content
    return None


def _verb(sentence: Token | None) -> str:
    """Of the last sentence of a paragraph."""
    last = re.split(r"\.\s", sentence.content)[-1].lower() if sentence else ""
    return next((verb for verb in ("append", "replace") if verb in last), "")


class Session:
    """A reader's shell in an empty directory, with a Python environment of its own that has what the tests' has."""

    def __init__(
        self,
        directory: Path,
        *,
        prints: Mapping[str, str],
        not_typed: Mapping[str, str],
        variables: Mapping[str, str],
    ) -> None:
        """
        Args:
            directory: For its own use.
            prints: By the beginning of a command, a part of what it prints, sooner or later.
            not_typed: By the beginning of a command, why it is not.
            variables: Of the environment, on top of this process's.
        """
        self.directory = directory / "here"
        self.directory.mkdir()
        self._state = directory / "shell"
        self._environment = Environment.make(directory / "venv")
        self._variables = variables
        self._prints = prints
        self._not_typed = tuple(not_typed)
        self._printed = ""

    def follow(self, block: Block) -> None:
        """Do what a block says, and check what it promises."""
        if block.language == "text drawing" or re.fullmatch(r"\{[a-z]+\}.*", block.language):
            return
        ways = {"sh": self._type, "text": self._compare, "python": self._python, "toml": self._toml}
        assert block.language in ways, f"{block.place}: nobody knows how to execute a block in {block.language!r}"
        ways[block.language](block)

    def run(self, command: str) -> subprocess.CompletedProcess[str]:
        """Type one line; what it prints on either output is `stdout`. Variables and directory last."""
        state = shlex.quote(str(self._state))
        keep = f"{{ export -p; printf 'cd %q\\n' \"$PWD\"; }} > {state}"
        script = f"set -a; [ ! -e {state} ] || . {state}\ntrap {shlex.quote(keep)} EXIT\n{command}"
        return self._environment.run(script, self.directory, self._variables)

    def _type(self, block: Block) -> None:
        self._printed = ""
        for command in block.commands:
            if command.startswith(self._not_typed):
                continue
            done = self._run_until_it_prints(command)
            self._printed += done.stdout
            expected = re.search(r"# .*\bexits with (\d+)", command)
            status = int(expected[1]) if expected else 0
            assert status == done.returncode, f"{block.place}: {command}\nexits with {done.returncode}:\n{done.stdout}"

    def _run_until_it_prints(self, command: str) -> subprocess.CompletedProcess[str]:
        """Type a command, and again while what it prints is not there yet."""
        part = next((part for beginning, part in self._prints.items() if command.startswith(beginning)), "")
        deadline = time.monotonic() + _SOON
        while part not in (done := self.run(command)).stdout and time.monotonic() < deadline:
            time.sleep(0.5)
        assert part in done.stdout, f"{command}\nnever prints {part!r}:\n{done.stdout}"
        return done

    def _compare(self, block: Block) -> None:
        checker = doctest.OutputChecker()
        shown, printed = (re.sub(r"[\d.]+ ms", "0 ms", text) for text in (block.text, self._printed))
        if not checker.check_output(shown, printed, _AS_PRINTED):
            difference = checker.output_difference(doctest.Example("", shown), printed, _AS_PRINTED)
            raise AssertionError(f"{block.place}: other output\n{difference}")

    def _python(self, block: Block) -> None:
        if block.file is None:
            (self.directory / "example.py").write_text(block.text)
            self._type(attrs.evolve(block, text="python example.py"))
        else:
            compile(self._write(block, block.file), block.place, "exec")

    def _toml(self, block: Block) -> None:
        name = block.file or "example.toml"
        text = self._write(block, name)
        if name.endswith("pyproject.toml"):
            tomllib.loads(text)
        else:
            self._type(attrs.evolve(block, text=f"pysuper config {name}"))

    def _write(self, block: Block, name: str) -> str:
        """Write a block to its file, or change that; the text that is there now."""
        here = self.run("pwd").stdout.strip()
        path = Path(here) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        text = block.text
        if block.verb == "append":
            blank = "\n" if text[0].isspace() else "\n\n"
            text = f"{path.read_text().rstrip()}\n{blank}{text}"
        elif block.verb == "replace":
            text = _replaced(path.read_text(), text)
        path.write_text(text)
        return text


def _replaced(code: str, functions: str) -> str:
    """Python code in which these functions, indented as they are there, stand for those of the same names."""
    lines = code.splitlines(keepends=True)
    for new in ast.parse(textwrap.dedent(functions)).body:
        assert isinstance(new, ast.FunctionDef | ast.AsyncFunctionDef)
        (old,) = (node for node in ast.walk(ast.parse("".join(lines))) if getattr(node, "name", None) == new.name)
        begin = min([old.lineno, *(decorator.lineno for decorator in old.decorator_list)]) - 1
        first = min([new.lineno, *(decorator.lineno for decorator in new.decorator_list)]) - 1
        lines[begin : old.end_lineno] = [line + "\n" for line in functions.splitlines()[first : new.end_lineno]]
    return "".join(lines)
