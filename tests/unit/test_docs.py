"""The docs are true: examples, snippets, specs, commands, links and keys."""

import contextlib
import io
import json
import re
import runpy
import shlex
import tomllib
from pathlib import Path
from urllib.parse import unquote

import pytest

import hwsim
from hwsim.cli.app import run_code
from hwsim.specs.device import DeviceSpec
from hwsim.specs.load import validate
from hwsim.specs.model import ModelSpec
from hwsim.specs.scenario import Scenario
from hwsim.specs.stack import StackSpec
from hwsim.specs.system import SystemFile

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
# Reference pages are made with the site.
PAGES = sorted(p for p in DOCS.rglob("*.md") if p.parent.name != "reference")
EXAMPLES = sorted((DOCS / "examples").glob("*.py"))
KINDS = {
    "device": DeviceSpec, "system": SystemFile, "model": ModelSpec,
    "stack": StackSpec, "scenario": Scenario,
}  # fmt: skip
HOMES = {
    "device": "devices/gpu/{}/spec.toml",
    "system": "devices/systems/{}/spec.toml",
    "model": "workloads/models/{}.toml",
    "stack": "workloads/stacks/{}.toml",
    "scenario": "workloads/scenarios/{}.toml",
}
CONFIG = {
    "model_type": "llama", "hidden_size": 512, "intermediate_size": 1024,
    "num_hidden_layers": 2, "num_attention_heads": 8, "vocab_size": 32000,
    "max_position_embeddings": 4096,
}  # fmt: skip
FENCE = re.compile(r"^(```+).*?^\1$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
SNIPPET = re.compile(r"<!-- runnable -->\n```python\n(.*?)```", re.DOTALL)
SPEC = re.compile(r"<!-- spec: (\w+) -->\n```toml\n(.*?)```", re.DOTALL)
SHELL = re.compile(r"^```(?:sh|console)\n(.*?)^```", re.DOTALL | re.MULTILINE)
COMMAND = re.compile(r"^(?:\$ )?hwsim ([a-z]+ ?[^#\n]*)$", re.MULTILINE)
INLINE = re.compile(r"`hwsim ([a-z][^`\n]*)`")


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def _anchors(path: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub and MyST make them."""
    found = set()
    for line in FENCE.sub("", _text(path)).splitlines():
        if line.startswith("#"):
            title = line.lstrip("#").strip().casefold().replace("`", "")
            found.add(re.sub(r"[^\w\- ]", "", title).replace(" ", "-"))
    return found


def _links(path: Path) -> list[str]:
    links = LINK.findall(FENCE.sub("", _text(path)))
    return [link for link in links if not link.startswith(("http:", "https:"))]


def _specs() -> list[tuple[str, str, str]]:
    return [
        (page.name, kind, body)
        for page in PAGES
        for kind, body in SPEC.findall(_text(page))
    ]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_example_prints_what_is_committed(example, capsys):
    runpy.run_path(str(example), run_name="__main__")
    assert capsys.readouterr().out == _text(example.with_suffix(".out"))


def test_there_are_examples_and_each_output_has_one():
    assert len(EXAMPLES) >= 5
    outputs = {path.stem for path in (DOCS / "examples").glob("*.out")}
    assert outputs == {path.stem for path in EXAMPLES}


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda p: p.stem)
def test_relative_links_resolve(page):
    for link in _links(page):
        name, _, anchor = unquote(link).partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), f"{page.name}: {link} leads nowhere"
        assert target.is_relative_to(ROOT), f"{page.name}: {link} leaves the project"
        if anchor:
            assert anchor in _anchors(target), f"{page.name}: {link} has no heading"


def test_every_page_can_be_reached_from_the_index():
    seen, waiting = set(), [DOCS / "index.md"]
    while waiting:
        page = waiting.pop()
        if page in seen:
            continue
        seen.add(page)
        linked = [(page.parent / link.partition("#")[0]).resolve()
                  for link in _links(page)]  # fmt: skip
        waiting += [path for path in linked if path.suffix == ".md"]
    lost = [str(page.relative_to(DOCS)) for page in PAGES if page not in seen]
    assert not lost, f"no link leads to {', '.join(lost)}"


def test_python_snippets_run(tmp_path, monkeypatch, capsys):
    snippets = SNIPPET.findall(_text(DOCS / "guides" / "python.md"))
    assert len(snippets) >= 6
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for number, snippet in enumerate(snippets):
        exec(compile(snippet, f"python.md, snippet {number}", "exec"), names)
    assert (tmp_path / "roofline.svg").is_file()
    assert "8030261248" in capsys.readouterr().out


@pytest.mark.parametrize(("page", "kind", "body"), _specs())
def test_specs_in_guides_are_valid(page, kind, body, tmp_path):
    if kind == "device":  # resolves based_on as well
        path = tmp_path / "own.toml"
        path.write_text(body, encoding="utf-8")
        assert hwsim.infer("gpt-2-124m", str(path), prompt=64, output=8).latency_s > 0
        return
    table = tomllib.loads(body)
    assert validate(KINDS[kind], table, page, units_required=True)


def test_each_kind_of_spec_has_an_example():
    assert {kind for _, kind, _ in _specs()} == set(KINDS)


def _commands() -> list[str]:
    found: dict[str, None] = {}
    for page in [ROOT / "README.md", *PAGES]:
        text = _text(page)
        shell = [c for block in SHELL.findall(text) for c in COMMAND.findall(block)]
        found |= dict.fromkeys(c.strip() for c in [*shell, *INLINE.findall(text)])
    return list(found)


@pytest.fixture
def reader(tmp_path, monkeypatch):
    """The working folder of somebody who has written every file of the guides."""
    monkeypatch.chdir(tmp_path)
    for _, kind, body in _specs():
        name = tomllib.loads(body).get("id", "scenario")
        for path in (Path(f"{name}.toml"), Path("my", HOMES[kind].format(name))):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(body, encoding="utf-8")
    for folder in ("path/to", "path/to/folder"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        Path(folder, "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    monkeypatch.setenv("HWSIM_PATH", "my")


def test_commands_in_the_docs_run(reader):
    slow = ("demo", "validate", "measure", "calibrate")
    # A word alone names a command, ellipses and capitals stand for something.
    other = re.compile(r"^\w+$|\.\.\.|[|]|[A-Z]{4}")
    commands = [c for c in _commands() if not other.search(c)]
    assert len(commands) > 20
    for command in commands:
        if command.startswith(slow):
            continue
        errors = io.StringIO()
        with contextlib.redirect_stdout(io.StringIO()), \
             contextlib.redirect_stderr(errors):  # fmt: skip
            # Pages have tests of their own, and take seconds.
            code = run_code(shlex.split(re.sub(r" --report \S+", "", command)))
        assert code == 0, f"hwsim {command}: {errors.getvalue()}"


def _keys(value: object) -> set[str]:
    if not isinstance(value, dict):
        return set()
    return set(value).union(*(_keys(inner) for inner in value.values()))


def test_every_json_key_is_documented():
    answers = [
        hwsim.infer("gpt-2-124m", "l4", prompt=64, output=8),
        hwsim.train("gpt-2-124m", "l4", seq=64),
        hwsim.op("matmul", device="l4", m=64, n=64, k=64),
        hwsim.estimate("gpt-2-124m", "l4", batch=1, context=64),
    ]
    text = _text(DOCS / "guides" / "read-the-output.md")
    for answer in answers:
        keys = {k for k in answer.to_dict() if k != "config"}
        for table in ("breakdown", "memory_bytes"):
            keys |= _keys(answer.to_dict().get(table, {}))
        missing = {key for key in keys if f"`{key}`" not in text}
        assert not missing, f"{answer.kind}: {sorted(missing)} are not documented"


def test_every_key_of_a_stack_is_in_its_guide():
    text = _text(DOCS / "guides" / "add-a-stack.md")
    stack = hwsim.load_stack("default-inference").model_dump()
    for table in ("launch", "fusion", "overlap", "held"):
        written = set(re.findall(r"^(\w+) = ", text, re.MULTILINE))
        missing = sorted(set(stack[table]) - written)
        assert not missing, f"{table}: {missing} are not in add-a-stack.md"


@pytest.mark.parametrize(
    "page", sorted((DOCS / "models").glob("*.md")), ids=lambda p: p.stem
)
def test_a_models_page_has_equations_validity_and_error(page):
    text = _text(page)
    assert re.search(r"^```text\n|\$|^\| Name \| Order", text, re.MULTILINE)
    assert re.search(r"^## (Where it holds|Uneven stages)$", text, re.MULTILINE)
    assert "## Measured error" in text
    assert "hwsim/" in text  # where its code is
    overview = _text(DOCS / "background" / "cost-models.md")
    assert f"(../models/{page.name})" in overview
