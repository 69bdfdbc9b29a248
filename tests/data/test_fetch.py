"""Downloads against a server of our own: resume, broken transfers, wrong files, refusals, unsafe archives."""

import gzip
import hashlib
import io
import json
import re
import shutil
import tarfile
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

import fixtures_datasets as fixtures  # noqa: E402 - the folder of tests is on no import path
from beyond_accuracy.base.errors import DataMissing, InputError
from beyond_accuracy.base.files import locked
from beyond_accuracy.base.profile import DatasetSpec, ModelSpec, available_profiles, load_profile, parse_profile
from beyond_accuracy.cli import main
from beyond_accuracy.data import download as download_module
from beyond_accuracy.data import fetch as fetch_module
from beyond_accuracy.data.download import (
    ATTEMPTS,
    Download,
    download,
    how_to_get,
    parse_source,
    source_of,
    sources,
    unpack,
)
from beyond_accuracy.data.fetch import fetch, fetch_dataset, make_plan, needs_data
from beyond_accuracy.data.readers import load_dataset
from beyond_accuracy.models.card import fetch_weights, locate
from hub import COMMIT, Server  # noqa: E402

CONTENT = bytes(range(256)) * 4000


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


def test_an_interrupted_run_is_continued_by_the_next_while_the_file_is_the_same(server, tmp_path):
    for name, later in (("set.bin", CONTENT), ("changed.bin", CONTENT[::-1])):
        server.files[name], server.break_after = CONTENT, [300_000] + [0] * ATTEMPTS
        with pytest.raises(DataMissing, match=r"could not be downloaded .* bytes are kept"):
            get(server, tmp_path, name)
        kept = (tmp_path / f"{name}.part").stat().st_size
        server.files[name], server.break_after, server.seen = later, [], []
        assert get(server, tmp_path, name).read_bytes() == later
        assert kept > 0 and server.seen == [(f"/{name}", f"bytes={kept}-")]


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


@pytest.mark.parametrize(
    ("status", "asks", "text"),
    [
        (403, None, "refuses .403"),
        (401, None, "refuses .401"),
        (404, None, "404.*moved"),
        (503, "7200", "503 .*run the command again"),  # nobody waits for hours
    ],
)
def test_refusals_say_what_helps(server, tmp_path, status, asks, text):
    server.status, server.more = [status], {"Retry-After": asks}
    with pytest.raises(DataMissing, match=text):
        get(server, tmp_path)
    assert len(server.seen) == 1


@pytest.mark.parametrize("state", [{"ranges": False, "break_after": [300_000]}, {"status": [503, 429]}])
def test_a_server_without_ranges_and_a_busy_one_are_asked_again(server, tmp_path, state):
    vars(server).update(state)
    assert get(server, tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("says", "waits"), [("7", 7.0), ("Wed, 21 Oct 2015 07:28:00 GMT", 1.0), ("soon", 1.0), ("0", 1.0)]
)
def test_a_busy_server_says_when_to_come_back(server, tmp_path, says, waits):
    server.status, server.more, waited = [429], {"Retry-After": says}, []
    download(Download(server.url("set.bin")), tmp_path, wait=waited.append)
    assert waited == [waits] and len(server.seen) == 2


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


def special_tar(path: Path, name: str, kind: bytes, link: str) -> Path:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    with tarfile.open(path, "w:gz") as archive:
        archive.addfile(info)
    return path


LINK, PIPE = tarfile.SYMTYPE, tarfile.FIFOTYPE


@pytest.mark.parametrize(
    "pack",
    [
        *(partial(fixtures.write_tar, members={name: b"x"}, mode="w:gz") for name in ("../outside", "a/../../outside")),
        *(partial(special_tar, name="link", kind=LINK, link=link) for link in ("/etc/passwd", "../../outside")),
        partial(special_tar, name="pipe", kind=PIPE, link=""),
        *(
            partial(fixtures.write_zip, members={"fine/a.jpg": b"x", name: b"x"})
            for name in ("../outside", "/outside", "C:/outside", "a\\..\\..\\outside")
        ),
    ],
)
def test_unsafe_members_are_refused(tmp_path, pack):
    archive = pack(tmp_path / ("evil.zip" if pack.func is fixtures.write_zip else "evil.tar.gz"))
    with pytest.raises(InputError, match="was not unpacked"):
        unpack(archive, tmp_path / "data")
    assert not list((tmp_path / "data").iterdir()) and not (tmp_path / "outside").exists()


def test_damaged_archives(tmp_path):
    whole = fixtures.write_tar(tmp_path / "w.tar.gz", {"a/b.jpg": CONTENT}, "w:gz").read_bytes()
    half = len(whole) // 2
    flipped = whole[:half] + bytes([whole[half] ^ 255]) + whole[half + 1 :]
    for name, content in {"cut.tar.gz": whole[:half], "no.zip": b"no zip", "flipped.tar.gz": flipped}.items():
        with pytest.raises(InputError, match="was not unpacked"):
            unpack(fixtures.write(tmp_path / name, content), tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_odd_archives_that_are_unpacked(tmp_path):
    """An absolute path stays inside; a .gz need not be compressed."""
    for k, (name, mode) in enumerate({"/abs/file": "w:gz", "a/b.jpg": "w"}.items()):
        unpack(fixtures.write_tar(tmp_path / f"{k}.tar.gz", {name: b"x"}, mode), tmp_path / "out")
        assert (tmp_path / "out" / name.lstrip("/")).read_bytes() == b"x"


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
    monkeypatch.setattr(download_module, "sources", lambda: found)
    datasets = {
        "set_a": {"reader": "class_folder", "path": "set_a", "options": {"columns": "a"}, "expected": len(labels)},
        "set_v2": {"reader": "imagenet_v2", "path": "set_v2", "expected": 6},
        "set_own": {"reader": "class_folder", "path": "set_own"},
    }
    content = {"name": "test", "datasets": datasets, "dimensions": {"robustness": {"a": "set_a", "v2": "set_v2"}}}
    return parse_profile(content, tmp_path / "test.yaml")


@pytest.fixture
def run(catalogue):
    """`fetch` of the profile without asking: its exit code, and what it says."""

    def run(*only: str) -> tuple[int, list[str]]:
        said = []
        return fetch(catalogue, only, yes=True, echo=said.append), said

    return run


def test_fetch_downloads_verifies_and_unpacks(catalogue, run, server, tmp_path):
    assert run("robustness")[0] == 0
    assert len(load_dataset(catalogue.datasets["set_a"])) == 8
    assert len(load_dataset(catalogue.datasets["set_v2"])) == 6
    assert (tmp_path / "data" / "set_a" / "imagenet-a.tar").is_file()  # read in place
    assert not (tmp_path / "data" / "set_v2" / "v2.tar.gz").exists()  # unpacked, then removed
    record = json.loads((tmp_path / "data" / "set_v2" / ".fetched.json").read_text())
    assert set(record) == {server.url("v2.tar.gz")}
    requests = len(server.seen)
    code, lines = run("robustness")
    assert code == 0 and len(server.seen) == requests  # nothing is downloaded twice
    assert any("set_a" in line and line.endswith("here") for line in lines)


def test_fetch_asks_first_and_says_what_has_no_download(catalogue, server):
    lines = []
    assert fetch(catalogue, echo=lines.append) == 3
    assert not server.seen and "add --yes" in lines[-1]
    assert any("set_own" in line and "no download is known" in line for line in lines)
    assert fetch(catalogue, echo=lines.append, ask=lambda _: "n") == 3
    assert not server.seen
    assert fetch(catalogue, ["set_a"], echo=lines.append, ask=lambda _: "y") == 0


def test_one_failure_does_not_stop_the_rest(catalogue, run, server):
    server.files["imagenet-a.tar"] = b"something else"
    code, lines = run("robustness")
    assert code == 2 and any("md5" in line for line in lines)
    assert len(load_dataset(catalogue.datasets["set_v2"])) == 6
    del server.files["imagenet-a.tar"]
    assert run("robustness")[0] == 3


@pytest.mark.filterwarnings("error")
def test_a_data_folder_without_locks(run, no_locks, capfd):
    assert run("set_v2")[0] == 0 and capfd.readouterr().err == ""


def test_one_set_that_another_run_fills_and_one_that_cannot_be_written(run, tmp_path):
    with locked(tmp_path / "data" / "set_a" / ".fetch.lock", "downloading"):
        (tmp_path / "data" / "set_v2").write_text("no folder")
        code, said = run("robustness")
    assert code == 2 and f"set_a: another run is downloading to {tmp_path / 'data' / 'set_a'}; wait for it" in said
    assert "set_v2: cannot write" in said[-1] and "of data: --data-dir" in said[-1]


def test_more_than_the_sources_size_allows_is_not_taken(run, monkeypatch):
    known = download_module.sources()
    monkeypatch.setitem(known, "set_v2", replace(known["set_v2"], gigabytes=1e-7))
    code, said = run("set_v2")
    assert code == 2 and "expected at most 200; not taken" in said[-1]


def test_a_set_that_was_deleted_is_fetched_again(catalogue, run, tmp_path):
    assert run("set_a")[0] == 0
    (tmp_path / "data" / "set_a" / "imagenet-a.tar").unlink()
    assert [spec.name for spec in make_plan(catalogue, ["set_a"]).wanted] == ["set_a"]
    assert run("set_a")[0] == 0 and (tmp_path / "data" / "set_a" / "imagenet-a.tar").is_file()


def test_without_a_published_checksum_that_of_the_first_time_holds(catalogue, run, server, tmp_path):
    assert run("set_v2")[0] == 0
    for image in (tmp_path / "data" / "set_v2").rglob("*.jpeg"):
        image.unlink()
    right, server.files["v2.tar.gz"] = server.files["v2.tar.gz"], gzip.compress(b"another archive")
    code, said = run("set_v2")
    expected = f"expected {hashlib.sha256(right).hexdigest()}; it was removed, run the command again"
    assert code == 2 and "v2.tar.gz: the downloaded file has sha256" in said[-1] and said[-1].endswith(expected)
    server.files["v2.tar.gz"] = right
    assert run("set_v2")[0] == 0 and len(load_dataset(catalogue.datasets["set_v2"])) == 6


def test_unknown_name_and_no_room(catalogue, monkeypatch):
    with pytest.raises(InputError, match="did you mean set_v2"):
        fetch(catalogue, ["set_v3"])
    monkeypatch.setattr(fetch_module, "free_bytes", lambda _: 10)
    with pytest.raises(InputError, match="0.0 GB are free; choose another --data-dir"):
        fetch(catalogue, ["set_a"], yes=True, echo=lambda _: None)


def test_every_dataset_of_the_paper_has_a_source():
    profile = load_profile("paper")
    assert all(source_of(spec) for name, spec in profile.datasets.items() if name != "imagenet_real")
    cut = load_profile("open").datasets
    assert {source_of(spec).name for spec in cut.values() if needs_data(spec)} <= {*sources()}
    assert source_of(cut["imagenet_v2_few"]).name == "imagenet_v2"  # by its folder
    assert source_of(cut["pug_imagenet"]).hub.shards == 6 and source_of(cut["pug_imagenet"]).gigabytes == 3
    for source in sources().values():
        assert source.gigabytes > 0 and source.hub or source.files
        assert all(file.url.startswith("https://") for file in source.files)
    gated = how_to_get("imagenet_1k", profile)
    assert sources()["imagenet_1k"].gated in gated and "fetch --profile paper --only imagenet_1k" in gated


def test_the_command_lists_the_plan_without_downloading(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    code = main(["fetch", "--profile", "paper", "--only", "imagenet_1k,models", "--data-dir", str(tmp_path / "none")])
    out = capsys.readouterr().out
    assert code == 3 and "Nothing was downloaded" in out
    assert "https://huggingface.co/datasets/ILSVRC/imagenet-1k" in out and "hf auth login" in out
    assert "GB are free" in out and not (tmp_path / "none").exists()
    if "weights of ViT-B-16 " in out:  # else they are in the hub's cache of this machine
        assert re.search(r"vit_clip +about 0\.6 GB +weights of ViT-B-16 laion400m_e31\n", out)
        assert "Weights need about" in out and "in the hub's cache (HF_HOME)." in out


# ------------------------------------------------------------------------------------------------------------- the hub


@pytest.fixture
def hub_client(server, tmp_path, monkeypatch):
    """The hub's client, sent to the test server; with an empty cache, and without its waits between attempts."""
    from huggingface_hub import close_session, constants

    url = server.url().rstrip("/")
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(download_module, "hub_reachable", lambda: True)
    monkeypatch.setattr("time.sleep", lambda _: None)
    close_session()
    yield
    close_session()


@pytest.fixture
def hub(server, tmp_path, hub_client):
    """A repository of a probe task, as the hub has it; what fetching it into a folder says."""
    made = tmp_path / "made"
    fixtures.clip_benchmark(made, {"train": [0, 1], "test": [1]}, ["a", "b"], shards=1)
    files = {path.relative_to(made).as_posix(): path.read_bytes() for path in made.rglob("*") if path.is_file()}
    server.repos["datasets/some/set"] = {**files, "README.md": b"not asked for"}

    def get(folder: str = "task", **options) -> str:
        source = parse_source("task", {"gigabytes": 1, "hub": {"repo": "some/set", **options}})
        said = []
        try:
            fetch_dataset(DatasetSpec("task", "splits", path=str(tmp_path / folder)), source, said.append)
        except DataMissing as missing:
            said.append(f"DataMissing {missing}")
        return "\n".join(said)

    return get


def test_a_hub_repository_is_downloaded_once(hub, server, tmp_path):
    assert "done" in hub()
    dataset = load_dataset(DatasetSpec("task", "splits", path=str(tmp_path / "task"), classes=""))
    assert dataset.metadata["split"].tolist() == ["train", "train", "test"]
    assert not (tmp_path / "task" / "README.md").exists()
    assert json.loads((tmp_path / "task" / ".fetched.json").read_text())["some/set"]["revision"] == COMMIT
    shutil.rmtree(tmp_path / "task" / "train")
    server.seen = []
    assert "done" in hub("task") and any(path.endswith(f"/revision/{COMMIT}") for _, path in server.seen)  # as before


def test_a_transfer_from_the_hub_that_broke_is_continued(hub, server, tmp_path):
    wanted = [name for name in server.repos["datasets/some/set"] if name != "README.md"]
    texts = sum(name.endswith(".txt") for name in wanted)
    server.break_after = [10**9] * (1 + texts) + [10_000] * 12  # the description and the texts come whole
    assert "DataMissing" in (out := hub()) and "what arrived is kept" in out
    first, server.break_after, server.seen = server.downloaded(), [], []
    assert "done" in hub()
    assert len(first) > texts and len(server.downloaded()) == len(wanted) - texts
    assert len(load_dataset(DatasetSpec("task", "splits", path=str(tmp_path / "task"), classes=""))) == 3


def test_some_files_of_a_repository(server, hub, tmp_path):
    server.repos["datasets/some/set"] |= {f"data/p-{i:05d}-of-00010.parquet": b"x" for i in range(10)}
    assert "done" in hub(files=["data/*"], shards=3)
    kept = sorted(path.name for path in (tmp_path / "task" / "data").iterdir())
    assert kept == [f"p-{i:05d}-of-00010.parquet" for i in (0, 4, 9)]


GATED, LOGIN = {"datasets/some/set"}, ["(403)", "hf auth login", "https://huggingface.co/datasets/some/set"]
WAIT = ["asks to wait (429", "some minutes"]


# Wherever the hub refuses, at its description or at the files, nothing is called done and the way out is named.
@pytest.mark.parametrize(
    ("state", "asked", "says"),
    [
        ({"gated": GATED, "gated_listing": True}, {}, LOGIN),
        ({"gated": GATED, "gated_listing": False}, {}, LOGIN),
        ({"busy": "api"}, {}, WAIT),
        ({"busy": "resolve"}, {}, WAIT),
        ({}, {"revision": "no-such-commit"}, ["no such revision any more (404)"]),
        ({}, {"files": ["data/x-*.parquet"]}, ["no file like data/x-*.parquet any more"]),
        ({"repos": {}}, {}, ["(401)", "check the name"]),
    ],
)
def test_a_hub_that_refuses(server, hub, tmp_path, state, asked, says):
    vars(server).update(state)
    out = hub(**asked)
    assert "DataMissing" in out and "done" not in out and all(words in out for words in says)
    assert not (tmp_path / "task" / ".fetched.json").exists()


def test_weights_go_into_the_hubs_cache(server, hub_client):
    spec = ModelSpec("m", "timm", "hf-hub:some/model")

    def refused(repo: dict, message: str):
        server.repos["some/model"] = repo
        with pytest.raises(DataMissing, match=message):
            fetch_weights(spec)

    refused({"config.json": b"{}", "model-00001.safetensors": b"renamed"}, "holds none of model.safetensors")
    weights = {"config.json": b"{}", "pytorch_model.bin": b"the weights"}
    server.busy = "resolve"
    refused(weights, r"asks to wait \(429")
    server.busy, server.gated = "", {"some/model"}
    refused(weights, "accept the terms at https://huggingface.co/some/model")
    server.gated = set()
    fetch_weights(spec)
    assert locate(spec).path.read_bytes() == b"the weights"

    spec, files = ModelSpec("m", "open_clip", "ViT-B-16-SigLIP", "webli"), ("tokenizer.json", "tokenizer_config.json")
    server.repos["timm/ViT-B-16-SigLIP"] = {
        "open_clip_model.safetensors": b"both",
        **{name: name.encode() for name in files},
    }
    fetch_weights(spec)
    assert locate(spec).path.read_bytes() == b"both"
    assert {path.rpartition("/")[2] for path in server.downloaded()} >= {*files}


def test_the_libraries_ask_for_the_files_that_fetch_gets(server, hub_client):
    """The real loaders of the checkpoints that profiles name, at a hub that has their repositories but no weights."""
    import open_clip
    import timm
    import torch

    repos = ["timm/deit3_base_patch16_224.fb_in22k_ft_in1k", "timm/convnext_base.fb_in22k_ft_in1k"]
    repos += ["timm/vit_base_patch16_clip_224.laion400m_e31", "laion/CLIP-convnext_base-laion400M-s13B-b51K"]
    server.repos = {repo: {"config.json": b"{}"} for repo in repos}
    specs = {s.id: s for name in available_profiles() for s in load_profile(name).models.values()}.values()
    found = [(spec, weights) for spec in specs if (weights := locate(spec)) and weights.repo]
    assert [weights.repo for _, weights in found] == repos
    for spec, weights in found:
        with suppress(Exception), torch.device("meta"):  # what they say of it is test_load's matter
            if spec.source == "timm":
                timm.create_model(spec.id, pretrained=True)
            else:
                open_clip.create_model(spec.id, pretrained=spec.pretrained, require_pretrained=True)
        asked = [path.rpartition("/")[2] for _, path in server.seen if path.startswith(f"{weights.repo}/resolve/")]
        asked = [name for name in asked if not name.endswith(".json")]
        assert asked and asked[0] == weights.files[0] and set(asked) <= set(weights.files), (weights.repo, asked)
