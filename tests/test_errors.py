"""Errors are one line, whatever a hostile file put into them."""

from wand_export.errors import BundleError


def test_control_characters_are_shown_not_sent() -> None:
    error = BundleError("a\nb/manifest.json", "family: '\x1b[2J\u202eevil\r'", "do\tnot")
    assert str(error) == r"a\nb/manifest.json: family: '\x1b[2J\u202eevil\r' (do\tnot)"
    assert error.value == r"family: '\x1b[2J\u202eevil\r'"
    assert str(BundleError("é", "「好」 ’s", "")) == "é: 「好」 ’s"


def test_a_value_without_end_is_cut() -> None:
    assert len(str(BundleError("file", "x" * 10**6, "y" * 10**6))) < 2100
