"""The parser of the command line: whole names only, each key once, and one line for what it does not take."""

import re
from argparse import ArgumentError
from collections.abc import Iterable
from difflib import get_close_matches
from inspect import signature
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

import torch
import yaml
from jsonargparse import get_loader, set_loader
from lightning.pytorch import callbacks, loggers
from lightning.pytorch.cli import LightningArgumentParser

import twolayer.data
from twolayer.answers import Misuse, causes

MODE = "yaml_once"
NESTED = ("data.", "model.optimizer.")
OPTION = re.compile(r"--?[A-Za-z][^=]*")
OF_A_CLASS = {"class_path": ":str", "init_args": ":map", "dict_kwargs": ":map"}
"""What stands in the place of an instance, and the tags of YAML that it has."""
MOST = 100_000
BESIDE = {
    "export": "Write an ONNX file of a trained network.",
    "plot": "Write a page with pictures of a run.",
}
"""Commands that do without this parser, in words."""


def _load_once(text: str) -> Any:
    """YAML as jsonargparse reads it, but no key twice in one mapping.

    Raises:
        yaml.MarkedYAMLError: a key is there twice, or it is no YAML; the mark says in which line.
    """
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except RecursionError as error:
        raise yaml.YAMLError("it is nested too deeply") from error
    if node is not None:
        _look(node, (), {})
    return get_loader("yaml")(text)


def _look(node: yaml.Node, above: tuple[int, ...], sizes: dict[int, int]) -> int:
    """How many values there are in a node, where it is not refused."""
    if id(node) in above:
        raise _refusal(node, "it holds itself")
    if id(node) not in sizes:
        inner = (*above, id(node))
        pairs = node.value if isinstance(node, yaml.MappingNode) else ()
        keys = {key.value: value for key, value in pairs if isinstance(key, yaml.ScalarNode)}
        seen = set()
        for key, _ in pairs:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in seen:
                raise _refusal(key, f"{key.value!r} is there twice")
            if not key.value:
                raise _refusal(key, "a key is empty")
            if "class_path" in keys and key.value not in OF_A_CLASS:
                raise _refusal(key, f"beside class_path, {key.value!r} must stand in init_args")
            if key.value in OF_A_CLASS and not keys[key.value].tag.endswith(OF_A_CLASS[key.value]):
                kind = "a name" if key.value == "class_path" else "options by name"
                raise _refusal(key, f"{key.value} must be {kind}")
            seen.add(key.value)
        values = [value for _, value in pairs] or (node.value if isinstance(node, yaml.SequenceNode) else [])
        sizes[id(node)] = 1 + sum(_look(value, inner, sizes) for value in values)
        if sizes[id(node)] > MOST:  # by names for the same, which make few lines a billion values
            raise _refusal(node, f"it holds more than {MOST} values")
    return sizes[id(node)]


def _refusal(node: yaml.Node, problem: str) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)


set_loader(MODE, _load_once, exceptions=(yaml.YAMLError,))


class Parser(LightningArgumentParser):
    """Lightning's parser, without its 100 lines of usage.

    Raises:
        Misuse: the arguments cannot be parsed; the message is one line, and names the option.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **kwargs, "parser_mode": MODE})

    def parse_args(self, args: Any = None, *others: Any, **kwargs: Any) -> Any:
        given = [] if args is None else list(args)
        for option, value in pairwise([*given, ""]):
            name, equals, after = option.lstrip("-").partition("=")
            value = after if equals else value
            if option.startswith("-") and name in ("c", "config") and "://" in value:
                raise Misuse(f"--config must be a file of this machine, got {value}")
            if option.startswith("--") and name in (self.groups or {}) and Path(value).is_file():
                self._check_file(value)
        return super().parse_args(args, *others, **kwargs)

    def parse_path(self, path: Any, *args: Any, **kwargs: Any) -> Any:
        self._check_file(str(path))
        return super().parse_path(path, *args, **kwargs)

    def _check_file(self, path: str) -> None:
        """What can be said of a configuration file by itself."""
        try:
            content = Path(path).read_bytes()
            text = content.decode()
            value = _load_once(text)
        except UnicodeDecodeError as error:
            line = content[: error.start].count(b"\n") + 1
            raise Misuse(f"{path} must be UTF-8, got the byte {content[error.start]:#04x} in line {line}") from error
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            where = f"line {mark.line + 1}" if mark else f"character {getattr(error, 'position', 0)}"
            what = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
            raise Misuse(f"{path} must be YAML, with each key once, but in {where}: {what}") from error
        except OSError as error:
            raise Misuse(f"--config must be a file, got {path}: {error.strerror}") from error
        if not isinstance(value, dict):
            came = "nothing" if value is None or value == "" else f"a {type(value).__name__}"
            raise Misuse(f"{path} must hold options by name, such as 'model:', got {came}")
        for section in self.groups or {}:
            if section in value and not isinstance(value[section], dict | str):
                came = "nothing" if value[section] is None else repr(value[section])
                raise Misuse(f"{path}: {section} must hold options by name, or be the path of a file, got {came}")

    def validate(self, *args: Any, **kwargs: Any) -> None:
        try:
            super().validate(*args, **kwargs)
        except KeyError as error:
            if not hasattr(error, "known"):
                parser = getattr(error, "subcommand_parser", self)
                error.known = parser.option_names()  # type: ignore[attr-defined]
            raise

    def option_names(self) -> list[str]:
        """Of options, without hyphens."""
        return [option[2:] for action in self._actions for option in action.option_strings if option.startswith("--")]

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if not self.exit_on_error:  # of a class among others that a value may be
            raise ArgumentError(None, message) from ex
        raise Misuse(self._in_one_line(message, ex)) from ex

    def _in_one_line(self, message: str, ex: Exception | None) -> str:
        chain = list(causes(ex)) or [ValueError(message)]
        keys: list[str] = []
        for error in chain:
            if (found := re.match(r'Parser key "([^"]+)"', str(error))) and found[1] not in keys[-1:]:
                keys.append(found[1])
        key = ".".join(keys)
        last = str(chain[-1])
        known = next((error.known for error in chain if hasattr(error, "known")), None)
        if found := re.match(r"unrecognized arguments: (.*)", message):
            return self._unknown_argument(found[1].split(" "))
        if found := re.search(r"[Oo]ption '([^']+)' is not accepted before", message):
            return f"options come after the command, such as fit, but {found[1]} is before it"
        if found := re.search(r"[Oo]ption '([^']+)'", last):
            name = f"{key}.{found[1]}" if key else found[1]
            return f"--{name} is no option{_nearest(found[1], known or self._all_names(), key)}"
        if found := re.search(r"arguments are required: (.*)", last):
            names = [name.removeprefix(f"{self._command(name)}.") for name in found[1].split(", ")]
            return ", ".join(f"--{key + '.' if key else ''}{name}" for name in names) + " must be given"
        if found := re.search(r'Linked "([^"]+)" must be given via "([^"]+)"', last):
            return f"--{found[1]} cannot be given: it follows from {found[2]}"
        if found := re.search(r"\((\w+)\) --> ([\w.]+): ", message):
            return f"--{found[2]} cannot be given: it follows from {found[1]}"
        parsers = self._subcommands_action.choices if self._subcommands_action else {}
        commands = [*parsers, *BESIDE] if parsers else []
        if found := re.search(r"invalid choice: '([^']*)'", message):
            if self.args and self.args[0].startswith("-"):
                name = self.args[0].partition("=")[0]
                if name[2:] in parsers["fit"].option_names():
                    return f"options come after the command, such as fit, but {name} is before it"
                return self._unknown_argument(self.args)
            return f"there is no command {found[1]!r}{_nearest(found[1], commands, hyphens='')}: {', '.join(commands)}"
        if commands and 'expected "subcommand"' in message:
            return f"a command must be given: {', '.join(commands)}"
        if "expected one argument" in message:
            return f"{self._without_value()} must be followed by a value"
        if found := re.match(r"argument (?:\S+/)?(--\S+): (.*)", message):
            return f"{found[1]}: {found[2]}"
        return self._bad_value(key, chain, message)

    def _bad_value(self, key: str, chain: list[BaseException], message: str) -> str:
        texts = [str(error) for error in chain]
        if not key:
            return message
        value = next((m[1] for text in reversed(texts) if (m := re.search(r"(?:Given|Got) value: (.*)", text))), None)
        union = next((text for text in texts[-2:] if "any of the Union subtypes" in text), texts[-1])
        types = [_type(name) for name in re.findall(r"Expected an? (<class '[^']*'>|typing\.Literal\[.*?\])", union)]
        last = texts[-1]
        if found := re.search(r'Unable to load config "(.*)"', last):
            return f"--{key} must be options by name, or a file with them, got {found[1]!r}"
        nested = re.search(r"NestedArg\(key='([^']+)'", value or "")
        if nested and nested[1] not in key.split("."):
            return f"--{key}.{nested[1]} is no option: {key} must be {' or '.join(types) or 'another value'}"
        found = re.match(r"Expected a dot import path string: (.*)", last)
        if found and not {"int", "float", "bool"} & set(types):
            return f"--{key} must be a class by name, got {found[1]!r}{_nearest(found[1], _classes(), hyphens='')}"
        if last.startswith("Expected") and types:
            came = "" if value is None else f", got {value!r}"
            return f"--{key} must be {' or '.join(dict.fromkeys(types))}{came}"
        value = next((m[1] for text in texts if (m := re.search(r"Given value: (.*)", text))), value)
        return f"--{key}: {last}" + ("" if value is None or value in last else f", got {value}")

    def _without_value(self) -> str:
        """The option behind which the next one follows, or nothing."""
        given = [*(self.args or ()), "--"]
        return next(one for one, after in pairwise(given) if OPTION.fullmatch(one) and after.startswith("--"))

    def _command(self, name: str) -> str:
        return name.split(".")[0] if self._subcommands_action and "." in name else ""

    def _all_names(self) -> list[str]:
        names = [name for name in self.option_names() if not name.endswith(".help")]
        classes = {NESTED[0]: [getattr(twolayer.data, name) for name in twolayer.data.__all__]}
        classes[NESTED[1]] = [torch.optim.Adam]
        for prefix, members in classes.items():
            for cls in members:
                if isinstance(cls, type):
                    bases = [base for base in cls.__mro__ if "__init__" in vars(base) and base is not object]
                    names += [prefix + option for base in bases for option in signature(base).parameters]
        return [name for name in names if not name.endswith((".args", ".kwargs", ".params"))]

    def _unknown_argument(self, arguments: list[str]) -> str:
        if "--" in arguments:
            return "-- is no option, and nothing comes after it"
        argument = next((one for one in arguments if one.startswith("-")), arguments[0])
        name = argument.partition("=")[0] or argument
        if not name.startswith("-"):
            return f"{name!r} is one word too many: options are --name value"
        return f"{name} is no option{_nearest(name.lstrip('-'), self._all_names())}"


def _nearest(name: str, names: Iterable[str], prefix: str = "", hyphens: str = "--") -> str:
    """``": did you mean …?"``, or nothing if no name is near."""
    names = list(dict.fromkeys(names))
    plain = name.replace("-", "_")
    leaf = plain.split(".")[-1]
    if not plain or name in names:
        return ""
    found = (
        [one for one in names if one.lower() == plain.lower()]
        or [one for one in names if one.startswith(plain)]
        or [one for one in names if one.split(".")[-1] == leaf]
        or get_close_matches(plain, names, n=1)
        or [one for one in names if one.split(".")[-1] in get_close_matches(leaf, [n.split(".")[-1] for n in names], 1)]
    )
    if not found:
        return ""
    return f": did you mean {hyphens}{prefix + '.' if prefix else ''}{found[0]}?"


def _classes() -> list[str]:
    modules = (twolayer.data, torch.optim, torch.optim.lr_scheduler, callbacks, loggers)
    return [name for module in modules for name, value in vars(module).items() if isinstance(value, type)]


def _type(name: str) -> str:
    if found := re.match(r"typing\.Literal\[(.*)\]", name):
        return f"one of {found[1]}"
    return {"NoneType": "null", "Iterable": "list"}.get(plain := name[8:-2].split(".")[-1], plain)
