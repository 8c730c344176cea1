"""The benchmark of pages measures pages that are really made, on data that the readers take."""

import json
from pathlib import Path

import pytest

from benchmarks import report_ctr


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="memory is read from /proc, which Linux has")
def test_pages_of_a_small_set_are_made_and_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = {"rows": 600, "valid-rows": 80, "test-rows": 90, "items": 130, "width": 20}
    options = report_ctr.parser().parse_args([f"--{name}={size}" for name, size in sizes.items()])
    report_ctr.prepare(tmp_path, options)
    covers = tmp_path / "data" / "microlens" / "item_images"
    assert len(list(covers.iterdir())) == 130
    assert (covers / "65.jpg").samefile(covers / "1.jpg") and not (covers / "64.jpg").samefile(covers / "1.jpg")
    for kind in report_ctr.PAGES:
        capsys.readouterr()
        report_ctr.one_page(kind, tmp_path, options)
        taken = json.loads(capsys.readouterr().out.splitlines()[-1])
        page = tmp_path / f"{kind}.html"
        assert taken["bytes"] == page.stat().st_size < report_ctr.LIMIT_BYTES
        assert taken["cpu"] > 0 and 10**8 < taken["peak"] < 10**11
        assert "labels of test are not known" in page.read_text() or kind == "compare"
