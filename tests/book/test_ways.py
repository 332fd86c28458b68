"""How a reader finds the way: badges, reasons to read on, index of equations, quizzes, reference; and publishing."""

import os
import re
import shutil
import subprocess
import sys

import nbformat
import pytest
from reader import HTML, ROOT

import ctm
from tools.chapter import begin
from tools.publish import COLAB, publish

CONTENTS = re.findall(r"(?:file|root): book/(\w+)", (ROOT / "_toc.yml").read_text(encoding="utf-8"))
NUMBERED = re.search(r"Part I\..*(?=caption: Reference)", (ROOT / "_toc.yml").read_text(encoding="utf-8"), flags=re.S)[0]
CHAPTERS = ["five_minutes", *re.findall(r"file: book/(\w+)", NUMBERED)]


def prose(name):
    """What a page shows of its chapter's text."""
    cells = nbformat.read(ROOT / f"book/{name}.ipynb", as_version=4).cells
    shown = [cell for cell in cells if cell.cell_type == "markdown" and "remove-cell" not in cell.metadata.get("tags", [])]
    text = re.sub(r"^```\{raw\} html\n.*?^```$", "", "\n\n".join(cell.source for cell in shown), flags=re.M | re.S)
    return re.sub(r"^:[\w-]+:.*$", "", text, flags=re.M)  # :class: and the like


def questions_of(name):
    """The section of a page with more questions, up to the quiz."""
    page = ROOT / f"book/{name}.md"
    text = page.read_text(encoding="utf-8") if page.exists() else prose(name)
    return text.partition("\n## More questions\n")[2].partition("```{include} quiz/")[0]


def html(name):
    return (HTML / f"book/{name}.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", CHAPTERS)
def test_a_chapter_says_how_long_it_takes_and_how_hard_it_is(name):
    (badges,) = re.findall(r'<ul class="badges".*?</ul>', html(name), flags=re.S)
    read, run, level = re.findall(r"<li>(.*?)</li>", badges)
    assert re.fullmatch(r"\d+ min to read, exercises \d+ min", read)
    main, _, rest = prose(name).partition("## Exercises")
    exercises, _, questions = rest.partition("## More questions")
    exercises += questions[questions.index("```{include} quiz/") :]
    for part, minutes in zip((main, exercises), map(int, re.findall(r"\d+", read)), strict=True):
        assert minutes % 5 == 0
        assert minutes <= 25
        assert minutes - 5 < len(part.split()) / 150 <= minutes
    assert run.startswith("runs in about ")
    assert run.removeprefix("runs in ") in html(name).partition(badges)[2]
    assert level in ("first steps", "core", "in depth")


def test_the_hours_that_the_chapters_take_are_the_sum_of_their_badges():
    minutes = sum(int(re.search(r"(\d+) min to read", html(name))[1]) for name in CHAPTERS)
    assert round(minutes / 30) / 2 == 8.5
    for page in ("welcome", "ways_to_read"):
        assert "eight and a half hours" in html(page)


@pytest.mark.parametrize("name", [*CHAPTERS, "nano", "official_code"])
def test_questions_that_readers_ask_are_answered_in_a_few_sentences(name):
    asked = re.findall(r"^(`{3,})\{dropdown\} ([^\n]+)\n(.*?)^\1$", questions_of(name), flags=re.M | re.S)
    assert len(asked) >= 12
    assert len({question for _, question, _ in asked}) == len(asked)
    for _, question, answer in asked:
        assert question.endswith("?"), question
        assert 10 <= len(answer.split()) <= 200, question
    section = html(name).partition('id="more-questions"')[2].split("<h2>")[1].partition("</article>")[0]
    assert section.count("<details") == len(asked)


# What a reader puts in place of these names, or in the middle of which function of the page the lines belong.
OWN = {"data", "drawings", "model", "network", "objective", "photographs", "pixels", "shape", "student", "teacher"}
PARTS = {
    "build_your_own": {"after", "batch", "before", "derivative", "g", "mean", "u"},
    "boundary_condition": {"sigma_data"},
    "control": {"A"},
    "image_plan": {"OnDisk"},  # of the page's program prepare.py
    "many_machines": {"c_in", "c_out", "c_skip", "log"},
}


def test_programs_in_answers_lack_no_import_and_name_nothing_unknown(tmp_path):
    for name in [*CHAPTERS, "official_code"]:
        cells = nbformat.read(ROOT / f"book/{name}.ipynb", as_version=4).cells if name in CHAPTERS else []
        before = "\n\n".join(cell.source for cell in cells if cell.cell_type == "code")
        blocks = re.findall(r"^```(?:python|{code-block} python)\n(.*?)^```", questions_of(name), flags=re.M | re.S)
        for number, block in enumerate(blocks):
            (tmp_path / f"{name}-{number}.py").write_text(before + "\n\n" + block, encoding="utf-8")
    assert len(list(tmp_path.iterdir())) > 35
    check = ["ruff", "check", "--isolated", "--select", "F821,E9", "--output-format", "concise"]
    told = subprocess.run([sys.executable, "-m", *check, tmp_path], check=False, capture_output=True, text=True).stdout
    assert "invalid-syntax" not in told
    unknown = set(re.findall(r"(\w+)-\d+\.py:.*Undefined name `(\w+)`", told))
    assert {(page, name) for page, name in unknown if name not in OWN | PARTS.get(page, set())} == set()


@pytest.mark.parametrize("place", range(1, len(CONTENTS)))
def test_each_page_says_why_to_go_on_to_the_next(place):
    before, after = CONTENTS[place - 1 : place + 1]
    link = re.search(r'<a class="right-next" href="(.*?)".*?prev-next-why">(.*?)</p>', html(before), flags=re.S)
    assert link[1] == f"{'book/' * (before == 'index')}{after}.html"
    assert len(link[2]) > 15
    back = re.search(r'<a class="left-prev" href="(.*?)".*?prev-next-why">(.*?)</p>', html(after), flags=re.S)
    assert back[1] == f"{before}.html"
    assert len(back[2]) > 15


def test_the_index_holds_every_numbered_equation_once():
    listed = re.findall(r'href="(\w+\.html#equation-[\w-]+)"', html("equations"))
    there = [f"{name}.html#{label}" for name in CONTENTS for label in re.findall(r'id="(equation-[\w-]+)"', html(name))]
    assert len(there) > 80
    assert listed == there  # in the order of the book, too
    assert len(re.findall(r'class="math notranslate nohighlight">\s*\\\[', html("equations"))) == len(there)
    named = re.findall(r"^(eq-[\w-]+):", (ROOT / "book/equations.yml").read_text(encoding="utf-8"), flags=re.M)
    assert {f"equation-{label}" for label in named} <= {address.partition("#")[2] for address in there}
    assert not re.search(r"[,:;.]\s*\\\]", html("equations"))  # no end of a sentence


@pytest.mark.parametrize("name", CHAPTERS)
def test_a_quiz_has_three_questions_with_one_right_answer_each(name):
    _, *questions = re.split(r"^\*\*\d\.\*\*", (ROOT / f"book/quiz/{name}.md").read_text(encoding="utf-8"), flags=re.M)
    assert len(questions) == 3
    for question in questions:
        answers = re.findall(r"^```\{dropdown\} .+\n\*\*(Right|No)\.\*\* .{20,}", question, flags=re.M)
        assert sorted(answers) == ["No", "No", "Right"]
    quiz = html(name).partition('id="check-yourself"')[2].partition("</section>")[0]
    assert quiz.count("<details") == 9
    assert 'id="summary"' not in quiz


def test_right_answers_stand_in_different_places():
    places = []
    for path in (ROOT / "book/quiz").glob("*.md"):
        places += [
            part[: part.index("Right")].count("**No.**")
            for part in re.split(r"^\*\*\d\.\*\*", path.read_text(encoding="utf-8"), flags=re.M)[1:]
        ]
    assert max(map(places.count, range(3))) < len(places) / 2


def test_the_reference_holds_every_public_name():
    page, names = html("package"), []
    for path in (ROOT / "ctm").glob("*.py"):
        if not path.stem.startswith("_"):
            found = re.findall(r"^(?:def|class) ([A-Za-z]\w*)", path.read_text(encoding="utf-8"), flags=re.M)
            names += [f"ctm.{path.stem}.{name}" for name in found]
    assert len(names) > 80
    assert [name for name in names if f'id="{name}"' not in page] == []
    for name in ctm.__all__:
        assert re.search(rf'id="(ctm\.\w+\.{name}|module-ctm\.{name})"', page), name


def test_three_paths_lead_through_the_book():
    titles = re.findall(r"<h2>(.*?)<a", html("ways_to_read"))
    assert titles[:3] == ["An hour", "An afternoon", "Everything"]


def test_the_bibliography_says_how_to_cite_the_book():
    assert "cff-version" in re.sub(r"<[^>]+>", "", html("bibliography"))


def test_without_an_address_nothing_points_to_one():
    page = html("solvers")
    assert not re.search("mybinder|colab|og:url", page)
    assert not (HTML / "sitemap.xml").exists()
    assert "_sources/book/solvers.ipynb" in page
    assert (HTML / "_sources/book/solvers.ipynb").exists()


def test_with_an_address_a_page_can_be_launched_and_shared(tmp_path):
    """A book of two pages, published under an example's name, where the path has spaces and other letters and the machine
    reads files as ASCII unless it is told otherwise."""
    tmp_path = tmp_path / "a book, ∂x and ö"
    tmp_path.mkdir()
    for folder in ("book", "ctm", "studies"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "_config.yml", tmp_path)
    (tmp_path / "_toc.yml").write_text(
        "format: jb-book\nroot: book/ways_to_read\nchapters:\n  - file: book/solvers\n", encoding="utf-8"
    )
    begin(tmp_path, "fresh", "A fresh chapter", after="solvers")
    publish(tmp_path, "https://github.com/example/ctm", "https://example.org/ctm")
    publish(tmp_path, "https://github.com/example/ctm", "https://example.org/ctm")  # twice is once
    welcome = (tmp_path / "book/welcome.ipynb").read_text(encoding="utf-8")
    assert "you need the book's repository, at <https://github.com/example/ctm>." in welcome
    notebook = nbformat.read(tmp_path / "book/solvers.ipynb", as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert len([cell for cell in code if "google.colab" in cell.source]) == 1

    command = [sys.executable, "-c", "from jupyter_book.cli.main import main; main()", "build", ".", "-q"]
    plain = {name: value for name, value in os.environ.items() if not name.startswith("LC_")}
    plain |= {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, cwd=tmp_path, env=plain, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    out = tmp_path / "_build/html"
    page = (out / "book/solvers.html").read_text(encoding="utf-8")
    assert "https://mybinder.org/v2/gh/example/ctm/main?urlpath=lab/tree/book/solvers.ipynb" in page
    assert "https://colab.research.google.com/github/example/ctm/blob/main/book/solvers.ipynb" in page
    assert 'href="ways_to_read.html#run-it-yourself"' in page
    assert "google.colab" not in page  # the cell is in the notebook alone
    fresh = (out / "book/fresh.html").read_text(encoding="utf-8")
    for part in ("A fresh chapter", "min to read", 'id="equation-eq-fresh-map"', 'id="fig-fresh"', "Check yourself"):
        assert part in fresh, part
    assert 'property="og:url" content="https://example.org/ctm/book/solvers.html"' in page
    assert (out / "_static/card.png").stat().st_size > 10_000
    assert "<loc>https://example.org/ctm/book/solvers.html</loc>" in (out / "sitemap.xml").read_text(encoding="utf-8")


def test_a_chapter_is_begun_under_a_new_name_behind_a_page_that_is_there(tmp_path):
    (tmp_path / "book/quiz").mkdir(parents=True)
    for file in ("_toc.yml", "book/chapters.yml", "book/template.ipynb"):
        shutil.copy(ROOT / file, tmp_path / file)
    for name, after, said in (("A b", "solvers", "NAME must be"), ("new", "solver", "--after must be")):
        with pytest.raises(ValueError, match=said):
            begin(tmp_path, name, "Title", after)
    assert (tmp_path / "_toc.yml").read_text(encoding="utf-8") == (ROOT / "_toc.yml").read_text(encoding="utf-8")
    begin(tmp_path, "new", "Title", "solvers")
    with pytest.raises(ValueError, match="NAME must be"):
        begin(tmp_path, "new", "Title", "solvers")
    text = (tmp_path / "book/new.ipynb").read_text(encoding="utf-8")
    assert "# Title" in text
    assert "NAME" not in text


def test_the_cell_for_colab_does_nothing_elsewhere_and_fetches_the_book_there(monkeypatch, tmp_path):
    ran, cell = [], COLAB.format(repository="https://github.com/example/ctm")
    monkeypatch.setattr("subprocess.run", lambda command, **_: ran.append(command))
    monkeypatch.setattr("os.chdir", lambda folder: ran.append(folder))
    monkeypatch.setattr(sys, "path", list(sys.path))
    exec(cell, {})
    assert ran == []
    monkeypatch.setitem(sys.modules, "google.colab", object())
    exec(cell, {})
    clone, install, folder = ran
    assert clone[:2] == ["git", "clone"]
    assert "https://github.com/example/ctm" in clone
    assert install[1:4] == ["-m", "pip", "install"]
    assert folder == "/content/book/book"
