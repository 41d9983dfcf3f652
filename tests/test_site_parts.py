"""What the pages share keeps words, code and formulas apart."""

import pytest

from mi_course.course import site_parts


def test_words_change_and_nothing_else_does():
    fragment = (
        "<h2 id='word'>word</h2><!-- word --><p title='word'>a word, <code>word</code>, <a href='word'>word</a> and "
        "<em>word</em>: $word_1$, $$word$$ and \\begin{align}word\\end{align}</p><pre><b>word</b></pre>"
    )
    changed = site_parts.change_words(fragment, lambda text: text.replace("word", "WORD"))
    assert changed.count("WORD") == 2
    assert "a WORD, <code>" in changed and "<em>WORD</em>" in changed
    assert changed.lower() == fragment.lower()


def test_a_line_of_markdown_is_escaped_and_its_code_marked():
    assert site_parts.inline("`a<b` & c") == "<code>a&lt;b</code> &amp; c"
    assert site_parts.plain("**a** `b`") == "a b"


def test_the_words_of_a_fragment_stand_on_one_line():
    said = '<h2 id="x">A &amp; b<a class="anchor-link" href="#x">¶</a></h2>\n<p>c<br><em>d</em>, <code>e</code>.</p>'
    assert site_parts.words_of(said) == "A & b c d, e."


@pytest.mark.parametrize("here, up", [("index.html", ""), ("features/1.html", "../")])
def test_a_page_finds_what_pages_share(here, up):
    page = site_parts.render(site_parts.environment(), "page", here, "A `title` & more", body="<p>body</p>")
    assert f'href="{up}style.css"' in page and f'src="{up}site.js"' in page
    assert "<title>A title &amp; more · mi_course</title>" in page and "<p>body</p>" in page
    assert "mathjax.js" not in page and "circuitsvis.js" not in page and "features/index.html" not in page


def test_marks_and_tones_follow_the_verdict():
    assert [site_parts.tone(v) for v in ("reproduced", "partly", None)] == ["met", "open", "open"]
    assert site_parts.mark("not reproduced") == "✘" and site_parts.mark(None) == "·"
