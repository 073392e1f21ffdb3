"""`fastgan report` as a user types it."""


def test_report_of_a_run(fastgan, run_folder, tmp_path):
    out = tmp_path / "new" / "page.html"
    code, shown, said = fastgan("report", run_folder, "--out", out)
    assert code == 0, said
    assert shown.splitlines()[-1] == f"1 run -> {out}"
    assert "FD-digits" in out.read_text()


def test_what_is_no_run_is_one_line(fastgan, run_folder, tmp_path):
    for arguments, expected in (
        ((tmp_path, "--out", tmp_path / "page.html"), "there is no run in"),
        ((run_folder, "--out", tmp_path / "page.pdf"), "must end in .html"),
        (("--out", tmp_path / "page.html"), "at least one run"),
        ((run_folder,), "--out"),
    ):
        code, _, said = fastgan("report", *arguments)
        assert code == 2
        assert expected in said
        assert len(said.splitlines()) == 1
