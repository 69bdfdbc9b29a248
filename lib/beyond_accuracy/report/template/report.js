// Small comforts; every page is complete without them.
(() => {
  "use strict";

  // Sort a table by a column: a button in every heading, so that keyboard and screen reader get the same.
  const key = (cell) => (cell.dataset.sort !== undefined ? Number(cell.dataset.sort) : cell.textContent.trim());
  const absent = (cell) => cell.textContent.trim() === "–";
  const compare = (a, b) => {
    if (absent(a) || absent(b)) return absent(a) - absent(b) || 0;
    const [x, y] = [key(a), key(b)];
    return typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(String(y), "en", { numeric: true });
  };
  for (const table of document.querySelectorAll("table[data-sortable]")) {
    const body = table.tBodies[0];
    if (!body || body.rows.length < 3) continue;
    [...table.tHead.rows[0].cells].forEach((heading, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...heading.childNodes);
      heading.append(button);
      button.addEventListener("click", () => {
        const down = heading.getAttribute("aria-sort") === "ascending";
        for (const other of heading.parentNode.cells) other.removeAttribute("aria-sort");
        heading.setAttribute("aria-sort", down ? "descending" : "ascending");
        const rows = [...body.rows].sort((a, b) => {
          const order = compare(a.cells[column], b.cells[column]);
          const gap = absent(a.cells[column]) || absent(b.cells[column]);
          return down && !gap ? -order : order; // missing values stay at the bottom either way
        });
        body.append(...rows);
      });
    });
  }

  // A link to what is folded, and printing, open the folds.
  const reveal = (node) => {
    for (let at = node?.closest("details"); at; at = at.parentElement.closest("details")) at.open = true;
  };
  const follow = () => {
    const target = /^#[\w-]+$/.test(location.hash) && document.getElementById(location.hash.slice(1));
    if (target) { reveal(target); if (target.tagName === "DETAILS") target.open = true; target.scrollIntoView(); }
  };
  addEventListener("hashchange", follow);
  follow();
  let closed = [];
  addEventListener("beforeprint", () => {
    closed = [...document.querySelectorAll("details:not([open]):not(.ba-code):not(.ba-code *)")].filter((fold) => !fold.querySelector(":scope > .ba-code"));
    for (const fold of closed) fold.open = true;
  });
  addEventListener("afterprint", () => { for (const fold of closed) fold.open = false; });

  // Figures to keep: as SVG where the page has it (packed beside heavy ones), as PNG at twice the size.
  const offer = (figure, kind, make) => {
    const link = document.createElement("button");
    link.type = "button";
    link.className = "ba-csv";
    link.textContent = kind;
    link.setAttribute("aria-label", `Download figure ${figure.id.slice(4)} as ${kind}`);
    link.addEventListener("click", async () => {
      const file = document.createElement("a");
      file.href = URL.createObjectURL(await make());
      file.download = `${figure.id.slice(4)}.${kind.toLowerCase()}`;
      file.click();
      setTimeout(() => URL.revokeObjectURL(file.href), 10000);
    });
    figure.querySelector("figcaption").append(" ", link);
  };
  const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const svgOf = async (image) => {
    if (!image.dataset.svg) return new Blob([bytes(image.src.split(",")[1])], { type: "image/svg+xml" });
    const stream = new Blob([bytes(image.dataset.svg)]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Blob([await new Response(stream).arrayBuffer()], { type: "image/svg+xml" });
  };
  const pngOf = async (image) => {
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [image.getAttribute("width") * 2, image.getAttribute("height") * 2];
    const pen = canvas.getContext("2d");
    pen.fillStyle = "#fff";
    pen.fillRect(0, 0, canvas.width, canvas.height);
    pen.drawImage(image, 0, 0, canvas.width, canvas.height);
    return new Promise((done) => canvas.toBlob(done, "image/png"));
  };
  for (const figure of document.querySelectorAll("figure.ba-figure[id^=fig-]")) {
    const image = figure.querySelector("img");
    if (!image) continue;
    offer(figure, "PNG", () => pngOf(image));
    if (image.dataset.svg || image.src.startsWith("data:image/svg")) offer(figure, "SVG", () => svgOf(image));
  }
})();
