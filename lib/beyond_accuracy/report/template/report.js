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

  // Open or close all code at once.
  const folds = document.querySelectorAll("details.ba-code");
  const title = document.querySelector("main h1");
  if (folds.length > 1 && title) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "ba-codes";
    const say = (open) => {
      button.textContent = open ? "Hide code" : "Show code";
      button.setAttribute("aria-expanded", String(open));
    };
    say(false);
    button.addEventListener("click", () => {
      const open = button.getAttribute("aria-expanded") !== "true";
      for (const fold of folds) fold.open = open;
      say(open);
    });
    title.after(button);
  }
})();
