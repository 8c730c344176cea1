"""`python -m track1_mdr download` on the sample's files, served on the loopback as the hub, Kaggle and a web page."""

import io
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner, Result

from common.errors import DataError
from tests.common.download.archive_files import rar_bytes, tree
from tests.loopback.http_server import Served, Trouble, WebServer
from tests.loopback.hub_server import HubServer, path_of
from tests.loopback.kaggle_server import KEY, Contest, KaggleServer
from track1_mdr.__main__ import app
from track1_mdr.download import PARTS, check

MMDOCIR, M2KR, EVALUATION = "MMDocIR/MMDocIR-Challenge", "Jingbiao/M2KR-Challenge", "MMDocIR/MMDocIR_Evaluation_Dataset"
TRAINING = "MMDocIR/MMDocIR_Train_Dataset"
CONTEST = "multimodal-document-retrieval-challenge"
TOKEN = "hf_S3cretS3cretS3cret"  # noqa: S105, a dummy
Download = Callable[..., Result]


def page_table(questions: bytes, *, lose: int = 0) -> bytes:
    """Return a page table for all documents of the questions, less the last `lose` pages."""
    counts = {row["doc_name"]: row["num_of_pages"] for row in map(json.loads, questions.splitlines())}
    rows = [(name, str(page)) for name, count in counts.items() for page in range(count)]
    rows = rows[: len(rows) - lose]
    table = {
        "doc_name": [name for name, _ in rows],
        "passage_id": [page for _, page in rows],
        "image_path": [f"page_images/{name}_{page}.jpg" for name, page in rows],
        "image_binary": pa.array([b"\xff\xd8\xff"] * len(rows), pa.binary()),
        "ocr_text": ["words"] * len(rows),
        "vlm_text": ["more words"] * len(rows),
    }
    buffer = io.BytesIO()
    pq.write_table(pa.table(table), buffer)
    return buffer.getvalue()


def layout_table(questions: bytes) -> bytes:
    """Return a layout table with one block on the first page of each document."""
    names = sorted({json.loads(line)["doc_name"] for line in questions.splitlines()})
    texts = {name: ["words"] * len(names) for name in ("text", "ocr_text", "vlm_text")}
    boxes = {"bbox": [[0.0, 0.0, 5.0, 5.0]] * len(names), "page_size": [[10.0, 10.0]] * len(names)}
    table = {"doc_name": names, "type": ["text"] * len(names), "page_id": [0] * len(names), **texts, **boxes}
    buffer = io.BytesIO()
    pq.write_table(pa.table(table), buffer)
    return buffer.getvalue()


def zipped(folder: Path) -> bytes:
    """Return a zip of a folder, with its name before each file."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path in sorted(folder.iterdir()):
            archive.write(path, f"{folder.name}/{path.name}")
    return buffer.getvalue()


def repositories(sample: Path) -> dict[str, dict[str, bytes]]:
    """Return the data sets of the hub, made of the sample's files."""
    questions = (sample / "mmdocir" / "MMDocIR_gt_remove.jsonl").read_bytes()
    m2kr = {
        f"{name}/train-00000-of-00001.parquet": next((sample / "m2kr" / name).glob("*.parquet")).read_bytes()
        for name in ("challenge_data", "challenge_passage")
    }
    screenshots = zipped(sample / "m2kr" / "Challenge")
    third = len(screenshots) // 3 + 1
    m2kr |= {f"Web_Image.zip.{n + 1:03d}": screenshots[n * third : (n + 1) * third] for n in range(3)}
    pdfs = sorted((sample / "mmdocir" / "pdfs").glob("*.pdf"))
    return {
        MMDOCIR: {"MMDocIR_gt_remove.jsonl": questions, "MMDocIR_doc_passages.parquet": page_table(questions)},
        M2KR: {**m2kr, "query_images.zip": zipped(sample / "m2kr" / "query_images"), "README.md": b"#"},
        EVALUATION: {
            "MMDocIR_annotations.jsonl": (sample / "mmdocir" / "MMDocIR_annotations.jsonl").read_bytes(),
            "MMDocIR_layouts.parquet": layout_table(questions),
            "doc_miscellaneous/doc_pdfs.rar": rar_bytes([(f"doc_pdfs/{p.name}", p.read_bytes()) for p in pdfs]),
        },
        TRAINING: {"data/train-0.parquet": page_table(questions), "train.jsonl": questions, "README.md": b"#"},
    }


@pytest.fixture(scope="module")
def repos(root: Path) -> dict[str, dict[str, bytes]]:
    return repositories(root / "data" / "sample")


@pytest.fixture
def hub(repos: dict[str, dict[str, bytes]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    for name in [name for name in os.environ if name.startswith(("KAGGLE", "HF_T", "MIRC"))]:
        monkeypatch.delenv(name)
    with HubServer(repos, token=TOKEN) as server:
        for name, value in {**server.environ(), "HOME": str(tmp_path / "home")}.items():
            monkeypatch.setenv(name, value)
        yield server


@pytest.fixture
def download(hub: HubServer, tmp_path: Path) -> Download:
    def run(*options: str) -> Result:
        command = ["download", "--data", str(tmp_path / "data"), "--tries", "1", "--timeout", "10", *options]
        return CliRunner().invoke(app, command, terminal_width=200)

    return run


def test_all_parts_come_from_the_hub_are_read_and_summed_up(
    download: Download, hub: HubServer, root: Path, tmp_path: Path
) -> None:
    done = download()
    assert done.exit_code == 0, done.output
    told = " ".join(done.output.split())
    assert "mmdocir: 84 questions on 6 documents" in told
    assert "pages with images in MMDocIR_doc_passages.parquet" in told
    assert "gold of 84 of 84 questions. It is the test set's" in told
    assert "m2kr: 39 queries, 39 with an image; 120 passages, 120 with a screenshot" in told
    assert done.output.splitlines()[-1].endswith(f"-m track1_mdr run --data {tmp_path / 'data'}")
    sample, data = root / "data" / "sample", tmp_path / "data"
    for name in ("m2kr/Challenge", "m2kr/query_images", "m2kr/challenge_data", "m2kr/challenge_passage"):
        assert tree(data / name) == tree(sample / name)
    assert not list(data.rglob("*.part*")) + list(data.rglob("*.zip*"))
    asked = len(hub.asked)
    again = download("--verify")
    assert again.exit_code == 0, again.output
    assert len(hub.asked) == asked  # nobody was asked


def test_the_other_parts_come_too(
    download: Download, repos: dict[str, dict[str, bytes]], root: Path, tmp_path: Path
) -> None:
    done = download("--only", "mmdocir,training")
    assert done.exit_code == 0, done.output
    assert tree(tmp_path / "data" / "mmdocir" / "pdfs") == tree(root / "data" / "sample" / "mmdocir" / "pdfs")
    assert tree(tmp_path / "data" / "mmdocir_train") == {
        name: data for name, data in repos[TRAINING].items() if name != "README.md"
    }
    assert "mmdocir: 6 PDFs" in done.output
    assert "mmdocir: 6 layout blocks" in done.output


def test_kaggle_comes_first_and_the_hub_when_its_rules_are_not_accepted(
    download: Download, repos: dict[str, dict[str, bytes]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {"MMDocIR/MMDocIR_gt_remove.jsonl": repos[MMDOCIR]["MMDocIR_gt_remove.jsonl"]}
    with KaggleServer({CONTEST: Contest(files)}) as server:
        for name, value in server.environ(tmp_path / "home").items():
            if "proxy" not in name.lower():
                monkeypatch.setenv(name, value)
        monkeypatch.setenv("HTTP_PROXY", server.address)  # of the client alone: the hub is not asked here
        done = download("--only", "questions", "--source", "kaggle")
        assert done.exit_code == 0, done.output
        assert f"kaggle {CONTEST}" in done.output
        server.contests[CONTEST].accepted = False
        refused = download("--only", "questions", "--source", "kaggle", "--again")
    assert refused.exit_code == 2
    assert f"https://www.kaggle.com/competitions/{CONTEST}/rules" in refused.output
    assert (tmp_path / "data" / "mmdocir" / "MMDocIR_gt_remove.jsonl").read_bytes() == files[
        "MMDocIR/MMDocIR_gt_remove.jsonl"
    ]
    assert KEY not in done.output + refused.output


def test_gold_comes_from_the_web_where_the_hub_lacks_it(
    download: Download, hub: HubServer, repos: dict[str, dict[str, bytes]], tmp_path: Path
) -> None:
    del hub.repos[EVALUATION]
    gold = repos[EVALUATION]["MMDocIR_annotations.jsonl"]
    with WebServer({"/g/MMDocIR_annotations.jsonl": Served(gold)}) as web:
        done = download("--only", "gold", "--pages", f"{web.address}/g")
    assert done.exit_code == 0, done.output
    assert (tmp_path / "data" / "mmdocir" / "MMDocIR_annotations.jsonl").read_bytes() == gold


def test_a_table_that_the_readers_refuse_is_told(
    download: Download, hub: HubServer, repos: dict[str, dict[str, bytes]]
) -> None:
    short = page_table(repos[MMDOCIR]["MMDocIR_gt_remove.jsonl"], lose=1)
    name = "MMDocIR_doc_passages.parquet"
    hub.repos[MMDOCIR][name], hub.files[path_of(MMDOCIR, name)] = short, Served(short)
    done = download("--only", "questions,pages")
    assert done.exit_code == 2
    assert "off by one" in done.output
    assert name in done.output


def test_a_source_in_trouble_leaves_the_other_parts(download: Download, hub: HubServer, tmp_path: Path) -> None:
    hub.always[path_of(M2KR, "query_images.zip")] = Trouble(status=500)
    done = download("--only", "m2kr")
    assert done.exit_code == 2
    assert "query_images" in done.output
    assert "do:" in done.output
    assert sorted(path.name for path in (tmp_path / "data" / "m2kr").iterdir() if path.suffix != ".download") == [
        "Challenge",
        "challenge_data",
        "challenge_passage",
    ]
    hub.always.clear()
    assert download("--only", "m2kr").exit_code == 0


def test_the_plan_and_the_list_write_nothing(download: Download, tmp_path: Path) -> None:
    listed = download("--only", "list")
    assert [line.split()[1] for line in listed.output.splitlines() if line.startswith("*")][:-1] == [
        part.name for part in PARTS if part.default
    ]
    planned = download("--only", "m2kr", "--dry-run")
    assert planned.exit_code == 0
    assert "to download: 1." in planned.output
    assert not (tmp_path / "data").exists()
    wrong = download("--only", "quest")
    assert wrong.exit_code == 2
    assert "questions" in wrong.output


def test_what_is_there_in_part_is_summed_up_as_far_as_it_goes(root: Path, tmp_path: Path) -> None:
    assert check(tmp_path, tmp_path / "cache") == [f"next: python -m track1_mdr download --data {tmp_path}"]
    sample = root / "data" / "sample"
    for name, line in (
        ("m2kr/challenge_data", "m2kr: 39 queries, no passages yet"),
        ("m2kr/challenge_passage", "m2kr: 120 passages, no queries yet"),
        ("mmdocir/pdfs", "mmdocir: no MMDocIR_gt_remove.jsonl yet: its pages are checked with it"),
    ):
        part = tmp_path / name.replace("/", "-")
        (part / name).parent.mkdir(parents=True)
        (part / name).symlink_to(sample / name)
        assert check(part, tmp_path / "cache")[0] == line
    (tmp_path / "m2kr-challenge_data" / "m2kr" / "challenge_passage").symlink_to(sample / "m2kr" / "challenge_passage")
    lines = check(tmp_path / "m2kr-challenge_data", tmp_path / "cache")
    assert "0 with an image" in lines[0]
    assert any("no folder query_images/" in line for line in lines)
    (tmp_path / "mmdocir").mkdir()
    (tmp_path / "mmdocir" / "MMDocIR_gt_remove.jsonl").write_text("{}\n")
    with pytest.raises(DataError):
        check(tmp_path, tmp_path / "cache")


def test_a_process_of_its_own_shows_the_token_nowhere(hub: HubServer, root: Path, tmp_path: Path) -> None:
    hub.gated.add(MMDOCIR)
    environ = {name: os.environ[name] for name in ("PATH", "HOME", "HF_ENDPOINT")}
    environ |= {"HF_HUB_OFFLINE": "0", "HF_TOKEN": TOKEN}
    hub.always[path_of(MMDOCIR, "MMDocIR_gt_remove.jsonl")] = Trouble(status=403)
    command = [sys.executable, "-m", "track1_mdr", "download", "--data", str(tmp_path / "data"), "--tries", "1"]
    outputs = []
    for more in (["--only", "questions", "--source", "hub"], ["--only", "questions", "--source", "hub", "--debug"]):
        done = subprocess.run([*command, *more], cwd=root, env=environ, capture_output=True, text=True, check=False)
        assert done.returncode in (1, 2)
        assert "accept its conditions" in done.stderr
        outputs.append(done.stdout + done.stderr)
    assert "Traceback" in outputs[1]
    assert hub.gets(path_of(MMDOCIR, "MMDocIR_gt_remove.jsonl"))[0].headers["Authorization"] == f"Bearer {TOKEN}"
    assert all(TOKEN not in output for output in outputs)
    assert all(TOKEN.encode() not in data for data in tree(tmp_path).values())
