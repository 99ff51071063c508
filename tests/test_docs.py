"""What is written: docs/types.md, the docstring of each type's function, and the examples of the other pages."""

import doctest
import inspect
import re
from pathlib import Path

import numpy as np
import pytest
import ruvector
import ruvector.cli
import statements
from support import check_python

PAGE = Path(__file__).resolve().parent.parent / "docs" / "types.md"
# The function of a type is called <name>_attention, but for:
FUNCTIONS = {"flash_v2": "flash_attention", "gat": "gat", "gatv2": "gatv2"}
# Parameters that a function has in another form: GAT's heads are the first axis of its projections.
ELSEWHERE = {("gat", "num_heads"), ("gatv2", "num_heads")}
RECORDS = {record.name: record for record in ruvector.attention_types()}
PAPER = r"arXiv:\d{4}\.\d{4,5}|PMLR \d+|ICLR"


def function_of(name):
    return getattr(ruvector, FUNCTIONS.get(name, f"{name}_attention"))


def test_the_page_of_types_is_what_the_command_writes(tmp_path):
    """In a process of its own: other tests register types."""
    if not PAGE.exists():
        pytest.skip("docs/types.md is not beside the tests")
    written = tmp_path / "types.md"
    check_python(f"import ruvector.cli, sys; sys.exit(ruvector.cli.main(['types', '--markdown', {str(written)!r}]))")
    (own, own_errors), (page, errors) = (
        path.read_text(encoding="utf-8").split("## Errors of approximations\n") for path in (written, PAGE)
    )
    assert page == own, "run: ruvector types --markdown docs/types.md"
    # other kernels and matrix products round otherwise, to which the pseudo-inverse is the most sensitive
    number = r"(?<=: )\d[0-9.e+-]*"
    assert re.sub(number, "#", errors) == re.sub(number, "#", own_errors), (
        "run: ruvector types --markdown docs/types.md"
    )
    shown, found = (np.array([float(x) for x in re.findall(number, text)]) for text in (errors, own_errors))
    np.testing.assert_allclose(found, shown, rtol=0.1)


def test_errors_of_approximations_fall():
    table = PAGE.read_text(encoding="utf-8").split("## Errors of approximations\n")[1] if PAGE.exists() else ""
    rows = re.findall(r"^\| `(\w+)` .* \| ([^|]*) \|$", table, re.MULTILINE)
    kinds = {record.name for record in RECORDS.values() if record.family == "approximate"}
    kinds -= {"sparse_sinkhorn"}  # it tends to nothing else
    assert kinds | {"performer", "random_feature"} == {name for name, _ in rows} or not table
    for name, errors in rows:
        first, *_, last = (0.0 if x == "exact" else float(x) for x in re.findall(r": ([^,]+)", errors))
        assert last < first / 2.5, name


def test_the_page_has_every_fact_of_the_records(tmp_path):
    written = tmp_path / "types.md"
    assert ruvector.cli.main(["types", "--markdown", str(written)]) == 0
    text = written.read_text(encoding="utf-8")
    rows = {}
    for row in re.findall(r"^\| \[?`(\w+)`.*$", text.split("\n## ")[0], re.MULTILINE):
        rows[row] = next(line for line in text.splitlines() if re.match(rf"\| \[?`{row}`", line)).replace("\\*", "*")
    assert list(rows) == [record.name for record in ruvector.attention_types()]
    for record in ruvector.attention_types():
        for fact in (record.family, record.complexity, record.best_for, record.reference, *record.aliases):
            assert fact in rows[record.name], f"{record.name}: {fact}"
        if not record.parameters:
            continue
        section = re.search(rf"^## {record.name}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL).group(1)
        for parameter in record.parameters:
            row = f"| `{parameter.name}` | `{parameter.default}` | {parameter.range_text()} | {parameter.description} |"
            assert row in section.replace("\\|", "|"), row


def test_a_page_that_cannot_be_written_is_the_users_mistake(tmp_path, capsys):
    assert ruvector.cli.main(["types", "--markdown", str(tmp_path / "no" / "types.md")]) == 2
    assert "types.md" in capsys.readouterr().err


def entries(doc):
    """Parameter -> its text in the section "Parameters"."""
    body = re.split(r"\n\n(?=[A-Z].*\n-+\n)", doc.split("Parameters\n----------\n")[1])[0]
    found = {}
    for entry in re.split(r"\n(?=\S)", body):
        head, _, _ = entry.partition(" : ")
        for name in re.findall(r"\w+", head):
            found[name] = entry
    return found


@pytest.mark.parametrize("name", sorted(RECORDS))
def test_docstring_of_a_type(name):
    record, function = RECORDS[name], function_of(name)
    doc = inspect.getdoc(function)
    formulas = re.findall(r"``([^`]+)``", doc)
    assert any(re.search(r"softmax|sum", formula) for formula in formulas), "no formula"
    papers = re.findall(PAPER, record.reference)
    assert papers, f"the record's reference names no paper: {record.reference}"
    assert set(papers) <= set(re.findall(PAPER, " ".join(doc.split()))), f"the docstring does not name {papers}"
    notes = doc.split("Notes\n-----\n")[1].split("Examples\n--------\n")[0]
    assert re.search(r"O\(|operations", notes), "no cost"
    signature, explained = inspect.signature(function).parameters, entries(doc)
    for parameter in record.parameters:
        if (name, parameter.name) in ELSEWHERE:
            continue
        assert parameter.name in signature, parameter.name
        text = explained[parameter.name]
        if parameter.type in ("int", "float"):
            for end in (parameter.low, parameter.high):
                if end is not None and abs(end) >= 2**53:
                    continue  # what the type can hold
                pattern = "" if end is None else rf"(?<![\w.]){end:.10g}(?!\w|\.\d)"
                assert re.search(pattern, text), f"{parameter.name}: {end} is not in {text!r}"


@pytest.mark.parametrize("name", sorted(RECORDS))
def test_example_of_a_type_calls_it(name):
    function = function_of(name)
    tests = doctest.DocTestFinder().find(function, name, globs={"ruvector": ruvector, "np": np})
    examples = [example for test in tests for example in test.examples]
    assert any(f"ruvector.{function.__name__}(" in example.source for example in examples)
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE, verbose=False)
    for test in tests:
        assert runner.run(test).failed == 0


def test_every_function_of_a_type_is_public():
    for name in RECORDS:
        assert function_of(name).__name__ in ruvector.__all__, name


# Pages whose examples run --------------------------------------------------------------------------------------------

GUIDES = ("sdk.md", "search.md")


@pytest.mark.parametrize("page", GUIDES)
def test_examples_of_a_page_are_right(page):
    """In a process of its own, as a reader would type them."""
    path = PAGE.parent / page
    if not path.exists():
        pytest.skip(f"docs/{page} is not beside the tests")
    if page == "sdk.md":
        pytest.importorskip("safetensors", reason="the page reads a model from a file")
    text = path.read_text(encoding="utf-8")
    # every block of Python is an example
    assert all(
        re.match(r">>> ", block) for block in re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    )
    code = f"import doctest, sys; r = doctest.testfile({str(path)!r}, False); print(*r); sys.exit(r.failed > 0)"
    failed, tried = map(int, check_python(code).split()[-2:])
    assert failed == 0 and tried > 10


# docs/sql.md: the tables are written from the registry and from the list of statements --------------------------------

SQL = PAGE.with_name("sql.md")


def sql_types():
    """The table of types that C runs."""
    from ruvector._registry import _LACKS, records

    lines = ["| function | parameters |", "|---|---|"]
    for record in records():
        name = {"flash_v2": "flash"}.get(record.name, record.name)
        own = [f"`{p.name} := {'NULL' if p.default is None else p.default}`" for p in record.parameters]
        common = [key for key in ("causal", "scale") if key in _LACKS.get(record.name, ())]
        lines.append(f"| `ruvector_{name}_attention` | {', '.join(own)}{f' (no `{common[0]}`)' if common else ''} |")
    return "\n".join(lines)


def sql_statements():
    """The table of statements that run in another form."""
    lines = ["| document | statement | DuckDB | PostgreSQL | why |", "|---|---|---|---|---|"]
    for scene in statements.SCENES:
        for statement in scene.statements:
            if statement.forms:
                how = (
                    "absent" if form is None else "as written" if form == statement.text else "another form"
                    for form in (statement.form("duckdb"), statement.form("postgres"))
                )
                lines.append(f"| {scene.document} | {statement.name} | {' | '.join(how)} | {statement.why} |")
    return "\n".join(lines)


@pytest.mark.parametrize("mark, table", [("types", sql_types), ("statements", sql_statements)])
def test_tables_of_the_page_of_sql(mark, table):
    if not SQL.exists():
        pytest.skip("docs/sql.md is not beside the tests")
    assert f"<!-- {mark} -->\n{table()}\n" in SQL.read_text(encoding="utf-8")


@pytest.mark.sql
def test_examples_of_the_page_of_sql():
    """Blocks run in their order; where a block of text follows, it is what the last statement prints."""
    if not SQL.exists():
        pytest.skip("docs/sql.md is not beside the tests")
    duckdb = pytest.importorskip("duckdb", reason="duckdb is not installed")
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    text = SQL.read_text(encoding="utf-8").split("\n## DuckDB\n")[1].split("\n## What the documents")[0]
    names, relation, blocks = {}, None, re.findall(r"^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert {kind for kind, _ in blocks} == {"console", "python", "sql", "text"}
    for kind, block in blocks:
        if kind == "python":
            exec(block, names)
        elif kind == "sql":
            for statement in names["con"].extract_statements(block):
                relation = names["con"].sql(statement.query)
                assert statement.type != duckdb.StatementType.SELECT or len(relation.fetchall()) > 0
                relation = names["con"].sql(statement.query) if statement.type == duckdb.StatementType.SELECT else None
        elif kind == "text":
            assert str(relation).strip() == block.strip()
    names["con"].close()
