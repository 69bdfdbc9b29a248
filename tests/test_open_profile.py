"""The open profile as a newcomer runs it, against a server of our own that stands for the hub and the other hosts.

Data are tiny in the official layouts, models random and small; names of files and repositories, the commands, the cut
and the pages are those of `profiles/open.yaml`.
"""

import json
import subprocess
import sys

import pandas as pd
import pytest
import yaml

import fixtures_datasets as fixtures  # noqa: E402 - the folder of tests is on no import path
from beyond_accuracy.base.paths import notebooks_dir
from beyond_accuracy.base.profile import load_profile
from beyond_accuracy.data.download import source_of
from hub import Server  # noqa: E402

# Hosts other than the hub have no address to set: their files are asked for at the server.
CLIENT = """
import json, sys
from dataclasses import replace
from beyond_accuracy.cli import main
from beyond_accuracy.data import download
base, arguments = sys.argv[1], sys.argv[2:]
table = download.sources()
for name, source in table.items():
    files = [download.Download(base + file.url.rsplit("/", 1)[-1]) for file in source.files]
    hub = source.hub and replace(source.hub, sha256={})
    table[name] = replace(source, files=tuple(files), hub=hub)
sys.exit(main(arguments))
"""


def packed(root) -> dict[str, bytes]:
    """What lies in a folder, by path below it."""
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """The server with everything the profile asks for, and a folder with a profile that only shrinks it further."""
    root, server = tmp_path_factory.mktemp("open"), Server()
    made, profile = root / "made", load_profile("open")
    repos = {name: source_of(spec).hub for name, spec in profile.datasets.items() if source_of(spec).hub}

    fixtures.imagenet_v2(made / "v2")
    fixtures.write_tar(made / "v2.tar.gz", packed(made / "v2"), "w:gz")
    server.repos[f"datasets/{repos['imagenet_v2'].repo}"] = {
        "imagenetv2-matched-frequency.tar.gz": (made / "v2.tar.gz").read_bytes(),
        "imagenetv2-top-images.tar.gz": b"not asked for",
    }
    fixtures.imagenet_hard(made / "hard", ((1, 5), (7,), (999, 0, 0), (3,), (4, 5), (6,)))
    shard = packed(made / "hard")["data/validation-00000-of-00001-fedcba9876543210.parquet"]
    hard = {f"data/validation-{i:05d}-of-00013.parquet": shard for i in range(13)}
    server.repos[f"datasets/{repos['imagenet_hard'].repo}"] = hard
    fixtures.pug_parquet(made / "pug", shards=8)
    server.repos[f"datasets/{repos['pug_imagenet'].repo}"] = packed(made / "pug")
    server.files["class_to_imagenet_idx.json"] = (made / "pug" / "class_to_imagenet_idx.json").read_bytes()
    fixtures.probe_sets(made / "vtab", profile.dimensions["transfer"]["tasks"])
    for name in profile.dimensions["transfer"]["tasks"]:
        server.repos[f"datasets/{repos[name].repo}"] = packed(made / "vtab" / name)
    for which in "ar":
        fixtures.imagenet_subset_tar(made, which)
        server.files[f"imagenet-{which}.tar"] = (made / f"imagenet-{which}.tar").read_bytes()
    fixtures.cue_conflict(made / "cue", fixtures.cue_names())
    fixtures.write_tar(made / "cue.tar.gz", packed(made / "cue"), "w:gz")
    server.files["cue-conflict.tar.gz"] = (made / "cue.tar.gz").read_bytes()

    models = {}
    for name, entry in fixtures.paper_models(made / "models").items():
        server.repos[f"tiny/{name}"] = packed(made / "models" / name)
        models[name] = {**entry, "name": f"hf-hub:tiny/{name}", "pretrained": ""}
    content = {
        "extends": "open",
        "name": "small-open",
        "settings": {"resamples": 50, "prompts": "a photo of a {c}.", "workers": 0, "chunk": 64},
        "models": models,
        "datasets": {name: {"expected": 0} for name in profile.datasets} | {"imagenet_v2": {"limit": 5, "expected": 6}},
        "dimensions": {"conventions": {"limit": 4}},
    }
    content["datasets"]["imagenet_v2_few"] = {"limit": 3, "expected": 0}
    (root / "small.yaml").write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    yield root, server
    server.shutdown()
    server.server_close()


def run(world, *options: str, kill_after: float = 0.0, **environment: str) -> tuple[int, str]:
    root, server = world
    where = {"BEYOND_ACCURACY_ROOT": str(root / "out"), **environment}
    where |= {"BEYOND_ACCURACY_DATA": str(root / "data"), "BEYOND_ACCURACY_CACHE": str(root / "cache")} | environment
    command = [sys.executable, "-c", CLIENT, server.url(), *options, "--profile", str(root / "small.yaml")]
    home = environment.pop("HOME_OF_HUB", str(root / "hf"))
    running = subprocess.Popen(
        command, env=server.environment(home) | where, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        out, _ = running.communicate(timeout=kill_after or 1500)
    except subprocess.TimeoutExpired:
        running.terminate()
        out, _ = running.communicate()
    return running.returncode, out


def test_without_network_and_data_one_screen_says_what_to_do(world, tmp_path):
    nothing = {"BEYOND_ACCURACY_DATA": str(tmp_path / "data"), "HF_HUB_OFFLINE": "1"}
    code, out = run(world, "report", "--fetch", HOME_OF_HUB=str(tmp_path / "hf"), **nothing)
    assert code == 3 and len(out.splitlines()) < 45, out
    assert "Nothing was downloaded; add --yes to start" in out and "Needs about" in out
    for name in ("imagenet_v2", "pug_imagenet", "convnext_clip"):
        assert name in out
    assert not (tmp_path / "data").exists()


@pytest.mark.slow
def test_fetch_run_interrupt_and_continue(world):
    root, server = world
    server.busy = "resolve"  # the hub asks to wait: told, nothing is called done, the rest arrives
    code, out = run(world, "report", "--fetch", "--yes")
    assert code == 3 and out.count("asks to wait (429") >= 5, out[-3000:]
    assert "imagenet_a: done" in out and "cue_conflict: done" in out and "imagenet_v2: done" not in out
    server.busy, server.seen = "", []
    code, out = run(world, "report", "--fetch", "--yes", "--device", "cpu", kill_after=60)
    assert code != 0
    fetched = len(server.downloaded())
    code, out = run(world, "report", "--fetch", "--yes", "--device", "cpu")
    assert code == 0, out[-5000:]
    assert fetched == 0 or len(server.downloaded()) <= 2 * fetched
    folder = root / "out" / "report" / "small-open"
    states = [json.loads(path.read_text()) for path in sorted((folder / ".state" / "pages").glob("*.json"))]
    built = {state["name"]: state["status"] for state in states}
    pages = [path.stem for path in sorted(notebooks_dir().glob("[0-9]*_*.ipynb"))]
    wanted = [page for page in pages if page.split("_", 1)[1] in {*load_profile("open").dimensions, "overview"}]
    assert built == dict.fromkeys(wanted, "ok")
    assert "5 of 6 images" in (folder / "03_calibration.html").read_text(encoding="utf-8")
    assert "of the release's shards" in (folder / "06_synthetic.html").read_text().replace("&#39;", "'")
    assert "A part of the data" not in (folder / "02_shape_bias.html").read_text(encoding="utf-8")
    results = pd.read_csv(folder / "results.csv")
    clean = results.query("dimension == 'calibration' and dataset == 'imagenet_v2' and metric == 'accuracy'")
    assert clean["n"].tolist() == [5] * 4
    kept = sorted(path.name for path in (root / "data" / "imagenet_hard" / "data").glob("*.parquet"))
    assert kept == ["validation-00000-of-00013.parquet"]
    # A second run, without any network: nothing is asked for, nothing is computed.
    server.seen = []
    code, out = run(world, "report", "--fetch", HF_HUB_OFFLINE="1")
    assert code == 0 and out.count("unchanged") == len(wanted) and not server.seen, out[-2000:]
