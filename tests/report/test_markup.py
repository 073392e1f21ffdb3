"""Markup escapes whatever is none."""

from fastgan.report.markup import Markup, exact, joined, plain, table, tag


def test_text_is_escaped_once_and_markup_never():
    assert tag("p", "a < b & c", tag("b", "x")) == "<p>a &lt; b &amp; c<b>x</b></p>"
    assert joined(["<", Markup("<br>"), None, 3]) == "&lt;<br>3"
    assert isinstance(tag("p"), Markup)


def test_attributes():
    assert tag("img", alt="\"'<", class_="a", stroke_width=1) == '<img alt="&quot;&#x27;&lt;" class="a" stroke-width="1">'
    assert tag("details", open=True, id=None, hidden=False) == "<details open></details>"


def test_a_tables_headings():
    found = table([("<a>", 1, 2)], ("", "x", "y"), "what")
    assert 'aria-label="what"' in found
    assert "<caption>what</caption>" in found
    assert '<th scope="row">&lt;a&gt;</th><td>1</td><td>2</td>' in found
    assert found.count('scope="col"') == 3


def test_values_as_people_write_them():
    assert [plain(value) for value in (None, True, 0.1 + 0.2, 1e-5, 1e4, 123456.7, 7, "x")] == [
        "none", "yes", "0.3", "1e-05", "10,000", "123,457", "7", "x",
    ]  # fmt: skip
    assert [exact(value) for value in (0.0078125, 12345.5, 384000.0, 1e-8)] == ["0.0078125", "12345.5", "384,000", "1e-08"]
    assert plain([0.5, 0.9]) == "0.5, 0.9"
    assert plain([]) == plain({}) == "none"
    assert plain({"a": None}) == "a none"
    assert plain(list(range(1000))).endswith("19, ... (1000)")
