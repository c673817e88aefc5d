"""An optional package that is not there, or is broken, is one line that names the extra."""

import sys

import pytest

from underscript.errors import DataError, PackageError
from underscript.utils.extras import optional_package


def test_a_package_that_is_there_is_returned():
    assert optional_package("json.decoder", "none", "for this") is sys.modules["json.decoder"]


def test_a_missing_package_names_the_extra():
    with pytest.raises(PackageError) as caught:
        optional_package("no_such_package.part", "some", "for this")
    assert str(caught.value) == (
        "for this the package no_such_package.part is needed; install the extra: "
        "pip install 'underscript[some]'"
    )
    assert isinstance(caught.value, ImportError)


def test_a_package_that_lacks_one_of_its_own_says_which(tmp_path, monkeypatch):
    (tmp_path / "broken_package.py").write_text("import no_such_package\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(DataError, match=r"its import fails \(No module named 'no_such_package'\)"):
        optional_package("broken_package", "some", "for this", DataError)
