"""A program under the name of an image is not run."""

import pytest

from cmbfe.data.postscript import refuse_postscript
from cmbfe.errors import InputError


@pytest.mark.parametrize("content", [b"%!PS-Adobe-3.0 EPSF-3.0\n", b"\xc5\xd0\xd3\xc6\0\0"])
def test_postscript_is_refused_whatever_its_name(tmp_path, content):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(InputError, match=r"a\.png: not a readable image, but PostScript"):
        refuse_postscript(tmp_path / "a.png")


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n", b"%PDF"])
def test_everything_else_is_left_to_the_reader(tmp_path, content):
    (tmp_path / "a.png").write_bytes(content)
    refuse_postscript(tmp_path / "a.png")
