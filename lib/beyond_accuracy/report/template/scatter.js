// Adds what the plain page lacks: a line of text for the point nearest to the pointer, and a search.
// Without this script the axes still switch (radio buttons and CSS) and points name themselves (SVG titles).
for (const box of document.querySelectorAll(".ba-scatter:not([data-live])")) {
  box.dataset.live = "1";
  const svg = box.querySelector("svg"), out = box.querySelector("output"), search = box.querySelector("input[type=search]");
  const points = [...svg.querySelectorAll(".p")];
  let near = null;
  const show = (event) => {
    let best = null, least = 26 ** 2;
    for (const point of points) {
      const r = point.getBoundingClientRect();
      if (point.classList.contains("out") || !r.width) continue;
      const d = (r.x + r.width / 2 - event.clientX) ** 2 + (r.y + r.height / 2 - event.clientY) ** 2;
      if (d < least) { least = d; best = point; }
    }
    if (best === near) return;
    near?.classList.remove("near");
    near = best;
    near?.classList.add("near");
    if (near) out.textContent = near.querySelector("title").textContent;
  };
  svg.addEventListener("pointermove", show);
  svg.addEventListener("click", show);
  search.parentElement.hidden = false;
  search.addEventListener("input", () => {
    const text = search.value.toLowerCase();
    let found = 0;
    for (const point of points) {
      const hit = point.querySelector("title").textContent.toLowerCase().includes(text);
      point.classList.toggle("out", !hit);
      found += hit;
    }
    out.textContent = text ? found + " models match" : "";
  });
}
