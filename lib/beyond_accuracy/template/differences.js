// Show only some rows; without this script every row is shown.
(() => {
  "use strict";
  const form = document.getElementById("filters");
  const shown = document.getElementById("shown");
  const sections = [...document.querySelectorAll("section.ba-diff")];
  if (!form) return;
  form.hidden = false;
  const apply = () => {
    const wanted = Object.fromEntries(new FormData(form));
    let [seen, all] = [0, 0];
    for (const section of sections) {
      const off = wanted.dimension && section.querySelector("h2").id !== wanted.dimension;
      let here = 0;
      for (const row of section.querySelectorAll("tbody tr")) {
        const [pair, verdict] = [row.cells[2].textContent, row.cells[6].textContent];
        row.hidden = (wanted.pair && pair !== wanted.pair) || (wanted.verdict && !verdict.startsWith(wanted.verdict));
        all += 1;
        here += row.hidden ? 0 : 1;
      }
      section.hidden = off || !here;
      seen += section.hidden ? 0 : here;
    }
    shown.textContent = `${seen} of ${all} rows shown.`;
  };
  form.addEventListener("change", apply);
  form.addEventListener("submit", (event) => event.preventDefault());
  apply();
})();
