"""A page in headless Chromium: runs a script in it and returns what the script found."""

import json
import shutil
import subprocess

import bs4
import pytest

PROBE = """<!doctype html><title>probe</title><iframe id="f" src="{page}" width="{width}" height="900"></iframe>
<script>document.getElementById("f").addEventListener("load", async () => {{
  const frame = document.getElementById("f");
  const page = frame.contentDocument;
  let found;
  try {{ found = await (async () => {{ {script} }})(); }} catch (error) {{ found = {{ error: String(error) }}; }}
  const out = document.createElement("pre");
  out.textContent = JSON.stringify(found);
  document.body.append(out);
}});
</script>"""


def ask(page, script, folder, width=390, fragment=""):
    """Result of `script` (the page is `page`, its window `frame.contentWindow`) and the console's lines."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("Chromium is not installed")
    probe = folder / "probe.html"
    probe.write_text(PROBE.format(page=page.as_uri() + fragment, width=width, script=script), encoding="utf-8")
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-sync", "--no-first-run"]
    command += ["--disable-quic", "--disable-background-networking", "--disable-component-update"]
    command += ["--allow-file-access-from-files", "--enable-logging=stderr", f"--user-data-dir={folder / 'profile'}"]
    command += ["--virtual-time-budget=4000", "--dump-dom", probe.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    found = json.loads(bs4.BeautifulSoup(done.stdout, "html.parser").find_all("pre")[-1].text)
    return found, [line for line in done.stderr.splitlines() if "CONSOLE" in line]
