from sciflow.reporting import Markup, table


def test_what_a_solver_says_is_text_and_not_html():
    """The reason of a failed member comes from foreign code."""
    page = table(["member", "<why>"], [["3", "<script>alert(1)</script>"], ["4", Markup("<b>kept</b>")]])
    assert "<script>" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "&lt;why&gt;" in page
    assert "<b>kept</b>" in page
