"""`underscript report` on the folder of a monitor."""

import json

import pytest

from underscript.cli.command_line import main
from watched import watched


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    watched([1, 2, 3], ["input", "fc"]).save("watched")
    return tmp_path / "watched"


def test_its_page_is_written_into_the_folder_or_where_it_is_asked_for(folder, capsys):
    assert main(["report", "watched", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"report": "watched/report.html"}
    page = (folder / "report.html").read_text()
    assert "3 epochs of training, watched" in page
    assert main(["report", "watched", "--out", "elsewhere.html"]) == 0
    assert (folder.parent / "elsewhere.html").read_text() == page


def test_a_monitor_is_not_compared_with_runs(folder, capsys):
    assert main(["report", "watched", "watched"]) == 2
    message = capsys.readouterr().err
    assert "us.load_monitor reads" in message
    assert len(message.splitlines()) == 1
