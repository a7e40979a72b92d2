"""Tables, and blocks between markers."""

import pytest

from cmbfe import markdown
from cmbfe.errors import InputError

PAGE = "before\n<!-- a: begin -->\nold\n<!-- a: end -->\nafter\n"


def test_a_table_has_headings_a_rule_and_rows():
    assert markdown.table(["a", "b"], [("1", "2")]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"


def test_a_block_is_replaced_between_its_markers_only_and_again():
    new = markdown.with_block(PAGE, "a", "x\ny")
    assert new == "before\n<!-- a: begin -->\nx\ny\n<!-- a: end -->\nafter\n"
    assert markdown.with_block(new, "a", "old") == PAGE


@pytest.mark.parametrize(
    "text",
    ["", "<!-- a: begin -->", PAGE * 2, "<!-- a: end --><!-- a: begin -->"],
    ids=["no", "one", "two", "turned"],
)
def test_markers_that_are_not_there_once_in_order_are_refused(text):
    with pytest.raises(InputError, match="a: begin"):
        markdown.with_block(text, "a", "x")


def test_a_page_is_replaced_whole_and_left_alone_where_it_has_no_marker(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    with pytest.raises(InputError, match=r"page\.md: expected"):
        markdown.replace_block(page, "b", "x")
    assert page.read_text() == PAGE
    markdown.replace_block(page, "a", "new")
    assert page.read_text() == PAGE.replace("old", "new")
    assert list(tmp_path.iterdir()) == [page]
    with pytest.raises(InputError, match="no such file"):
        markdown.replace_block(tmp_path / "none.md", "a", "x")
