from d2lcls.book import results
from d2lcls.book.scoreboard import ROWS, scoreboard

import pytest

ENTRY = {"accuracy": {"mean": 83.94}, "minutes": {"median": 6.66}, "parameters": 390_000}


@pytest.fixture(autouse=True)
def measured(monkeypatch):
    monkeypatch.setattr(
        results, "read", lambda name: {row.entry: ENTRY for row in ROWS} if name == "scoreboard" else {}
    )


def test_it_ends_with_the_chapter_s_own_rows():
    text = repr(scoreboard("first-classifier")).splitlines()
    assert len(text) == 5 and "guessing" in text[1] and "small dense network" in text[-1]
    assert [line.count("> ") for line in text] == [0, 0, 1, 1, 1]
    assert "83.9%" in text[1] and "6.7" in text[1] and "390,000" in text[1]


def test_the_chapter_s_rows_are_marked_in_html():
    page = scoreboard("convolutional-networks")._repr_html_()
    assert page.count("<tr>") == 6 and page.count('<td class="current">') == 5
    assert page.index("small dense network") < page.index('class="current"') < page.index("SmallCNN, 2 epochs")


def test_another_chapter_is_refused():
    with pytest.raises(ValueError, match="chapter must be one of images-as-numbers, .*, not 'int8'"):
        scoreboard("int8")
