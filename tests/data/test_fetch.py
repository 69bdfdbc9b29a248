"""Downloads against a server of our own: resume, broken transfers, wrong files, refusals, unsafe archives."""

import gzip
import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import fixtures_datasets as fixtures  # noqa: E402 - the folder of tests is on no import path
from beyond_accuracy.base.errors import DataMissing, InputError
from beyond_accuracy.base.profile import DatasetSpec, load_profile, parse_profile
from beyond_accuracy.cli import main
from beyond_accuracy.data import download as download_module
from beyond_accuracy.data import fetch as fetch_module
from beyond_accuracy.data.download import ATTEMPTS, Download, download, how_to_get, parse_source, sources, unpack
from beyond_accuracy.data.fetch import fetch, make_plan
from beyond_accuracy.data.readers import load_dataset

CONTENT = bytes(range(256)) * 4000


class Server(ThreadingHTTPServer):
    """Serves `files` by path; `break_after` cuts the first answers short, `status` answers with an error instead."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.break_after: list[int] = []
        self.status: list[int] = []
        self.more: dict[str, str | None] = {}  # further headers of every answer; None = that one is left out
        self.ranges = True
        self.seen: list[tuple[str, str]] = []
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def handle_error(self, *_):
        pass  # a client that hangs up is what some tests are about

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{name}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        server, wanted = self.server, self.headers.get("Range", "")
        server.seen.append((self.path, wanted))
        content = server.files.get(self.path.lstrip("/"))
        status = server.status.pop(0) if server.status else 404 if content is None else 200
        if status != 200:
            return self._answer(status, b"", {})
        etag = f'"{hashlib.sha256(content).hexdigest()[:8]}"'
        start = 0
        if server.ranges and wanted and self.headers.get("If-Range") == etag:
            start = int(wanted.removeprefix("bytes=").split("-")[0])
        if start >= len(content) > 0:
            return self._answer(416, b"", {"Content-Range": f"bytes */{len(content)}"})
        headers = {"ETag": etag}
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        return self._answer(206 if start else 200, content[start:], headers)

    def _answer(self, status: int, body: bytes, headers: dict) -> None:
        self.send_response(status)
        headers = {"Content-Length": str(len(body)), **headers, **getattr(self.server, "more", {})}
        self.close_connection = headers["Content-Length"] is None
        for name, value in headers.items():
            if value is not None:
                self.send_header(name, value)
        self.end_headers()
        cut = self.server.break_after.pop(0) if body and self.server.break_after else len(body)
        self.wfile.write(body[:cut])
        if cut < len(body):
            self.close_connection = True

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    found = Server()
    found.files["set.bin"] = CONTENT
    yield found
    found.shutdown()
    found.server_close()


def get(server, folder, name="set.bin", **values):
    return download(Download(server.url(name), **values), folder, wait=lambda _: None)


# ----------------------------------------------------------------------------------------------------------- transfers


def test_a_broken_transfer_is_continued(server, tmp_path):
    server.break_after = [300_000, 400_000]
    path = get(server, tmp_path, md5=hashlib.md5(CONTENT).hexdigest(), bytes=len(CONTENT))
    assert path.read_bytes() == CONTENT
    starts = [int(r.removeprefix("bytes=").rstrip("-")) if r else 0 for _, r in server.seen]
    assert starts[0] == 0 and 0 < starts[1] <= 300_000 and starts[1] < starts[2] <= 700_000
    assert [p.name for p in tmp_path.iterdir()] == ["set.bin"]


def test_an_interrupted_run_is_continued_by_the_next(server, tmp_path):
    server.break_after = [300_000] + [0] * ATTEMPTS
    with pytest.raises(DataMissing, match=r"could not be downloaded .* bytes are kept"):
        get(server, tmp_path)
    kept = (tmp_path / "set.bin.part").stat().st_size
    assert kept > 0
    server.break_after, server.seen = [], []
    assert get(server, tmp_path).read_bytes() == CONTENT
    assert server.seen == [("/set.bin", f"bytes={kept}-")]


def test_a_file_that_changed_meanwhile_is_started_over(server, tmp_path):
    server.break_after = [300_000] + [0] * ATTEMPTS
    with pytest.raises(DataMissing):
        get(server, tmp_path)
    server.break_after = []
    server.files["set.bin"] = CONTENT[::-1]
    assert get(server, tmp_path).read_bytes() == CONTENT[::-1]


def test_a_server_without_ranges(server, tmp_path):
    server.ranges, server.break_after = False, [300_000]
    assert get(server, tmp_path).read_bytes() == CONTENT


def test_a_part_that_is_whole_already(server, tmp_path):
    etag = f'"{hashlib.sha256(CONTENT).hexdigest()[:8]}"'
    (tmp_path / "set.bin.part").write_bytes(CONTENT)
    (tmp_path / "set.bin.part.json").write_text(json.dumps({"url": server.url("set.bin"), "stamp": etag}))
    assert get(server, tmp_path, sha256=hashlib.sha256(CONTENT).hexdigest()).read_bytes() == CONTENT


def test_wrong_checksum_and_wrong_size(server, tmp_path):
    with pytest.raises(InputError, match="md5 .*, expected 0000"):
        get(server, tmp_path, md5="0" * 32)
    with pytest.raises(InputError, match="offers 1,024,000 bytes, expected 7"):
        get(server, tmp_path, bytes=7)
    assert not list(tmp_path.glob("set.bin*"))


@pytest.mark.parametrize(("status", "text"), [(403, "refuses .403"), (401, "refuses .401"), (404, "404.*moved")])
def test_refusals_say_what_helps(server, tmp_path, status, text):
    server.status = [status]
    with pytest.raises(DataMissing, match=text):
        get(server, tmp_path)
    assert len(server.seen) == 1


def test_a_busy_server_is_asked_again(server, tmp_path):
    server.status = [503, 429]
    assert get(server, tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("says", "waits"),
    [("7", [7.0]), ("Wed, 21 Oct 2015 07:28:00 GMT", [1.0]), ("soon", [1.0]), ("0", [1.0])],
)
def test_a_busy_server_says_when_to_come_back(server, tmp_path, says, waits):
    server.status, server.more, waited = [429], {"Retry-After": says}, []
    download(Download(server.url("set.bin")), tmp_path, wait=waited.append)
    assert waited == waits and len(server.seen) == 2


def test_nobody_waits_for_hours(server, tmp_path):
    server.status, server.more = [503], {"Retry-After": "7200"}
    with pytest.raises(DataMissing, match="503 .*run the command again"):
        get(server, tmp_path)
    assert len(server.seen) == 1


@pytest.mark.parametrize("announced", [True, False])
def test_more_than_a_set_can_have_is_not_taken(server, tmp_path, announced):
    server.more = {} if announced else {"Content-Length": None}
    with pytest.raises(InputError, match="offers 1,024,000 bytes, expected at most 500,000|more than 500,000 bytes"):
        download(Download(server.url("set.bin")), tmp_path, most=500_000)
    assert sum(path.stat().st_size for path in tmp_path.glob("*.part")) == 0


@pytest.mark.parametrize("name", ["set.bin", "set.tar.gz"])
def test_a_server_that_compresses_whatever_is_asked_for(server, tmp_path, name):
    """Of a .gz file it only says so: what travels is the file."""
    travels = gzip.compress(CONTENT)
    server.files[name], server.more = travels, {"Content-Encoding": "gzip"}
    expected = travels if name.endswith(".gz") else CONTENT
    assert get(server, tmp_path, name, sha256=hashlib.sha256(expected).hexdigest()).read_bytes() == expected
    assert len(server.seen) == 1


def test_no_server(tmp_path):
    waits = []
    with pytest.raises(DataMissing, match="run the command again"):
        download(Download("http://127.0.0.1:9/x.tar"), tmp_path, wait=waits.append)
    assert len(waits) == ATTEMPTS - 1 and waits == sorted(waits)


# ------------------------------------------------------------------------------------------------------------ archives


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def evil_tar(path: Path, name: str, kind=tarfile.REGTYPE, link: str = "") -> Path:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    content = b"" if link else b"x"
    info.size = len(content)
    with tarfile.open(path, "w:gz") as archive:
        archive.addfile(info, io.BytesIO(content))
    return path


@pytest.mark.parametrize(
    ("name", "kind", "link"),
    [
        ("../outside", tarfile.REGTYPE, ""),
        ("a/../../outside", tarfile.REGTYPE, ""),
        ("link", tarfile.SYMTYPE, "/etc/passwd"),
        ("link", tarfile.SYMTYPE, "../../outside"),
        ("pipe", tarfile.FIFOTYPE, ""),
    ],
)
def test_unsafe_tar_members_are_refused(tmp_path, folder, name, kind, link):
    archive = evil_tar(tmp_path / "evil.tar.gz", name, kind, link)
    with pytest.raises(InputError, match="was not unpacked"):
        unpack(archive, folder)
    assert not list(folder.iterdir()) and not (tmp_path / "outside").exists()


def test_absolute_paths_stay_inside(tmp_path, folder):
    unpack(evil_tar(tmp_path / "a.tar.gz", "/abs/file"), folder)
    assert (folder / "abs" / "file").read_bytes() == b"x"


@pytest.mark.parametrize("name", ["../outside", "/outside", "C:/outside", "a\\..\\..\\outside"])
def test_unsafe_zip_members_are_refused(tmp_path, folder, name):
    archive = fixtures.write_zip(tmp_path / "evil.zip", {"fine/a.jpg": b"x", name: b"x"})
    with pytest.raises(InputError, match="was not unpacked"):
        unpack(archive, folder)
    assert not list(folder.iterdir())


def test_damaged_archives(tmp_path):
    whole = fixtures.write_tar(tmp_path / "w.tar.gz", {"a/b.jpg": CONTENT}, "w:gz").read_bytes()
    (tmp_path / "cut.tar.gz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "no.zip").write_bytes(b"no zip")
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 255
    (tmp_path / "flipped.tar.gz").write_bytes(bytes(flipped))
    for name in ("cut.tar.gz", "no.zip", "flipped.tar.gz"):
        with pytest.raises(InputError, match="was not unpacked"):
            unpack(tmp_path / name, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_a_gz_that_is_not_compressed(tmp_path):
    archive = fixtures.write_tar(tmp_path / "plain.tar.gz", {"a/b.jpg": b"x"}, "w")
    assert unpack(archive, tmp_path / "out") == ["a"]


# --------------------------------------------------------------------------------------------------- the whole command


@pytest.fixture
def catalogue(server, tmp_path, monkeypatch):
    """A profile of two sets whose sources point to the test server."""
    monkeypatch.setenv("BEYOND_ACCURACY_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("BEYOND_ACCURACY_CACHE", str(tmp_path / "cache"))
    staging = tmp_path / "staging"
    labels = fixtures.imagenet_subset_tar(staging, "a")
    fixtures.imagenet_v2(staging)
    members = {str(p.relative_to(staging)): p.read_bytes() for p in (staging).rglob("*.jpeg")}
    fixtures.write_tar(staging / "v2.tar.gz", members, "w:gz")
    server.files["imagenet-a.tar"] = (staging / "imagenet-a.tar").read_bytes()
    server.files["v2.tar.gz"] = (staging / "v2.tar.gz").read_bytes()
    md5 = hashlib.md5(server.files["imagenet-a.tar"]).hexdigest()
    entries = {
        "set_a": {"gigabytes": 0.001, "files": [{"url": server.url("imagenet-a.tar"), "md5": md5}]},
        "set_v2": {"gigabytes": 0.001, "unpack": True, "files": [{"url": server.url("v2.tar.gz")}]},
    }
    found = {name: parse_source(name, entry) for name, entry in entries.items()}
    monkeypatch.setattr(fetch_module, "sources", lambda: found)
    datasets = {
        "set_a": {"reader": "class_folder", "path": "set_a", "options": {"columns": "a"}, "expected": len(labels)},
        "set_v2": {"reader": "imagenet_v2", "path": "set_v2", "expected": 6},
        "set_own": {"reader": "class_folder", "path": "set_own"},
    }
    content = {"name": "test", "datasets": datasets, "dimensions": {"robustness": {"a": "set_a", "v2": "set_v2"}}}
    return parse_profile(content, tmp_path / "test.yaml")


def test_fetch_downloads_verifies_and_unpacks(catalogue, server, tmp_path):
    lines = []
    assert fetch(catalogue, ["robustness"], yes=True, echo=lines.append) == 0
    assert len(load_dataset(catalogue.datasets["set_a"])) == 8
    assert len(load_dataset(catalogue.datasets["set_v2"])) == 6
    assert (tmp_path / "data" / "set_a" / "imagenet-a.tar").is_file()  # read in place
    assert not (tmp_path / "data" / "set_v2" / "v2.tar.gz").exists()  # unpacked, then removed
    record = json.loads((tmp_path / "data" / "set_v2" / ".fetched.json").read_text())
    assert set(record) == {server.url("v2.tar.gz")}
    requests = len(server.seen)
    assert fetch(catalogue, ["robustness"], yes=True, echo=lines.append) == 0
    assert len(server.seen) == requests  # nothing is downloaded twice
    assert any("set_a" in line and line.endswith("here") for line in lines)


def test_fetch_asks_first_and_says_what_has_no_download(catalogue, server):
    lines = []
    assert fetch(catalogue, echo=lines.append) == 3
    assert not server.seen and "add --yes" in lines[-1]
    assert any("set_own" in line and "no download is known" in line for line in lines)
    assert fetch(catalogue, echo=lines.append, ask=lambda _: "n") == 3
    assert not server.seen
    assert fetch(catalogue, ["set_a"], echo=lines.append, ask=lambda _: "y") == 0


def test_one_failure_does_not_stop_the_rest(catalogue, server):
    server.files["imagenet-a.tar"] = b"something else"
    lines = []
    assert fetch(catalogue, ["robustness"], yes=True, echo=lines.append) == 2
    assert any("md5" in line for line in lines)
    assert len(load_dataset(catalogue.datasets["set_v2"])) == 6
    del server.files["imagenet-a.tar"]
    assert fetch(catalogue, ["robustness"], yes=True, echo=lines.append) == 3


def test_a_set_that_was_deleted_is_fetched_again(catalogue, tmp_path):
    assert fetch(catalogue, ["set_a"], yes=True, echo=lambda _: None) == 0
    (tmp_path / "data" / "set_a" / "imagenet-a.tar").unlink()
    assert [spec.name for spec in make_plan(catalogue, ["set_a"]).wanted] == ["set_a"]
    assert fetch(catalogue, ["set_a"], yes=True, echo=lambda _: None) == 0
    assert (tmp_path / "data" / "set_a" / "imagenet-a.tar").is_file()


def test_no_room(catalogue, monkeypatch):
    monkeypatch.setattr(fetch_module, "free_bytes", lambda _: 10)
    with pytest.raises(InputError, match="10|free; choose another --data-dir"):
        fetch(catalogue, ["set_a"], yes=True, echo=lambda _: None)


def test_unknown_name(catalogue):
    with pytest.raises(InputError, match="did you mean set_v2"):
        fetch(catalogue, ["set_v3"])


def test_gated_set_names_page_and_command(monkeypatch, tmp_path):
    import huggingface_hub
    from huggingface_hub.errors import GatedRepoError

    def refuse(*_, **__):
        raise GatedRepoError.__new__(GatedRepoError)  # its constructor wants a response of the hub's own client

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", refuse)
    monkeypatch.setattr(download_module, "hub_reachable", lambda: True)
    source = sources()["imagenet_1k"]
    with pytest.raises(DataMissing) as caught:
        fetch_module.download_hub(source.hub, tmp_path, source.gated)
    assert source.gated in str(caught.value) and "hf auth login" in str(caught.value)
    assert "fetch --profile paper --only imagenet_1k" in how_to_get("imagenet_1k", load_profile("paper"))


def test_every_dataset_of_the_paper_has_a_source():
    profile = load_profile("paper")
    views = {"imagenet_real"}
    assert set(profile.datasets) - views == set(sources())
    for source in sources().values():
        assert source.gigabytes > 0 and (source.hub is None) != (not source.files)
        for file in source.files:
            assert file.url.startswith("https://")


def test_the_command_lists_the_plan_without_downloading(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    code = main(["fetch", "--profile", "paper", "--only", "imagenet_1k,models", "--data-dir", str(tmp_path / "none")])
    out = capsys.readouterr().out
    assert code == 3 and "Nothing was downloaded" in out
    assert "https://huggingface.co/datasets/ILSVRC/imagenet-1k" in out and "hf auth login" in out
    assert "GB are free" in out and not (tmp_path / "none").exists()


# ------------------------------------------------------------------------------------------------------------- the hub


class Hub(Handler):
    """Enough of the hub for one dataset repository: its description, its tree and its files."""

    commit = "0123456789abcdef0123456789abcdef01234567"

    def do_HEAD(self):
        self.do_GET(send=False)

    def do_GET(self, send: bool = True):
        server = self.server
        server.seen.append((self.path, self.headers.get("Range", "")))
        path = self.path.split("?")[0]
        if server.status and "/api/" in path:
            headers = {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access to this dataset is restricted."}
            return self._answer(server.status[0], b"{}", headers)
        if path.startswith("/api/datasets/some/set/tree/"):
            listing = [
                {"type": "file", "path": name, "size": len(body), "oid": "0"} for name, body in server.files.items()
            ]
            return self._answer(200, json.dumps(listing).encode(), {"Content-Type": "application/json"})
        if path.startswith("/api/datasets/some/set"):
            siblings = [{"rfilename": name} for name in server.files]
            about = {"id": "some/set", "sha": self.commit, "siblings": siblings, "private": False, "tags": []}
            return self._answer(200, json.dumps(about).encode(), {"Content-Type": "application/json"})
        content = server.files.get(path.partition("/resolve/")[2].partition("/")[2])
        if content is None:
            return self._answer(404, b"", {"X-Error-Code": "EntryNotFound"})
        etag = hashlib.sha256(content).hexdigest()
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": self.commit, "Content-Length": str(len(content))}
        return self._answer(200, content if send else b"", headers)


HUB_CLIENT = """
import sys
from pathlib import Path
from beyond_accuracy.base.errors import DataMissing, InputError
from beyond_accuracy.data.fetch import fetch_dataset
from beyond_accuracy.base.profile import DatasetSpec
from beyond_accuracy.data.download import parse_source
hub = {"repo": "some/set", "files": ["*.txt", "train/*", "test/*"]}
try:
    fetch_dataset(DatasetSpec("task", "splits", path=sys.argv[1]), parse_source("task", {"gigabytes": 1, "hub": hub}))
except (DataMissing, InputError) as error:
    print(type(error).__name__, error)
"""


@pytest.fixture
def hub(server):
    server.RequestHandlerClass = Hub
    return server


WEIGHTS_CLIENT = """
import sys
from beyond_accuracy.base.profile import ModelSpec
from beyond_accuracy.models.card import fetch_weights, locate
spec = ModelSpec("m", "timm", "hf-hub:some/model")
assert locate(spec).path is None
fetch_weights(spec)
print(locate(spec).path.read_bytes().decode())
"""


def run_hub_client(server, folder: Path, code: str = HUB_CLIENT) -> str:
    """In a process of its own: the hub's client takes its address when it is imported."""
    environment = {**os.environ, "HF_ENDPOINT": server.url("").rstrip("/"), "HF_HUB_DISABLE_XET": "1"}
    environment |= {"HF_HOME": str(folder.parent / "hf"), "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_OFFLINE": "0"}
    command = [sys.executable, "-c", code, str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_hub_repository_is_downloaded_once(hub, tmp_path):
    fixtures.clip_benchmark(tmp_path / "made", {"train": [0, 1], "test": [1]}, ["a", "b"], shards=1)
    made = tmp_path / "made"
    hub.files = {path.relative_to(made).as_posix(): path.read_bytes() for path in made.rglob("*") if path.is_file()}
    hub.files["README.md"] = b"not asked for"
    out = run_hub_client(hub, tmp_path / "task")
    assert "done" in out, out
    dataset = load_dataset(DatasetSpec("task", "splits", path=str(tmp_path / "task"), classes=""))
    assert dataset.metadata["split"].tolist() == ["train", "train", "test"]
    assert not (tmp_path / "task" / "README.md").exists()
    record = json.loads((tmp_path / "task" / ".fetched.json").read_text())
    assert record["some/set"]["revision"] == Hub.commit
    hub.status = [403]
    out = run_hub_client(hub, tmp_path / "gated")
    assert "DataMissing" in out and "hf auth login" in out and "https://huggingface.co/datasets/some/set" in out


def test_weights_go_into_the_hubs_cache(hub, tmp_path):
    hub.files = {"config.json": b"{}", "pytorch_model.bin": b"the weights"}
    assert run_hub_client(hub, tmp_path / "x", WEIGHTS_CLIENT).endswith("the weights\n")
